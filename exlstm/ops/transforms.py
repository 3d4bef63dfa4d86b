"""What a registered op needs under `torch.func` and in graphs of open sizes.

Each op of this package is two registered ops, its forward and its backward pass, in an
`autograd.Function`. That one has `generate_vmap_rule`, which asks the rules of the two.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

_Class = TypeVar("_Class", bound=type[tuple])


def exportable(state: _Class) -> _Class:
    """A class of states, a named tuple of tensors, that `torch.export` can save and load."""
    name = f"{state.__module__}.{state.__name__}"
    pytree._register_namedtuple(state, serialized_type_name=name)
    torch.serialization.add_safe_globals([state])
    return state


def needs_gradient(*tensors: Tensor | None) -> bool:
    """Whether a gradient may be asked of what is computed from these tensors."""
    if not torch.is_grad_enabled():
        return False
    # Inside `vmap` a tensor does not say whether what is around it, such as `grad`, follows it.
    return torch._C._are_functorch_transforms_active() or any(
        tensor is not None and tensor.requires_grad for tensor in tensors
    )


def room(numbers: int) -> tuple[Any]:
    """The shape of a tensor for so many numbers, but at least two.

    A graph of a size that may be 0 or 1 holds for those alone: it would be compiled again.
    """
    return (torch.sym_max(2, numbers),)


def fill_spare(rooms: Sequence[Tensor]) -> None:
    """Write to the numbers that `room` may have added: nothing else does."""
    for tensor in rooms:
        if tensor.numel() == 2:
            tensor.zero_()


def register_vmap(name: str) -> None:
    """Let `torch.vmap` call the op `exlstm::<name>` once for each entry, and stack the results.

    That is exact for every op, also for the gradient of a shared weight, which is one an entry.
    """
    op = getattr(torch.ops.exlstm, name)

    def loop(info: Any, in_dims: Any, *arguments: Any) -> tuple[Any, Any]:
        leaves, structure = pytree.tree_flatten(arguments)
        columns = [
            [leaf] * info.batch_size if dim is None else leaf.unbind(dim)
            for leaf, dim in zip(leaves, pytree.tree_leaves(in_dims), strict=True)
        ]
        results = [
            op(*pytree.tree_unflatten(entry, structure)) for entry in zip(*columns, strict=True)
        ]
        stacked = pytree.tree_map(lambda *parts: torch.stack(parts), *results)
        return stacked, pytree.tree_map(lambda _: 0, stacked)

    torch.library.register_vmap(f"exlstm::{name}", loop)
