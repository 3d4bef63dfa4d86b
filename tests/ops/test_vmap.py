"""The ops under `torch.func`: `vmap`, with gradients inside and around it, and `jacrev`."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.func import grad, jacrev, vmap
from torch.utils import _pytree as pytree

from exlstm.ops import causal_conv1d, mlstm, native, slstm
from exlstm.ops.backend import backends, explain
from exlstm.ops.block_linear import block_linear
from exlstm.ops.head_norm import head_norm
from exlstm.ops.linear import linear
from exlstm.ops.linear_native import linear_rows
from exlstm.testing import assert_as_accurate, generator, normal

ENTRIES = 3


@dataclass(frozen=True)
class Call:
    """An op as a function of tensors, and the shape of each."""

    function: Callable[..., Any]
    shapes: tuple[tuple[int, ...], ...]
    dtype: torch.dtype = torch.float64


# Chunks of the mLSTM have 32 and 64 steps, and of the sLSTM every eighth state is kept.
CALLS = {
    "mlstm": Call(mlstm, ((2, 66, 2, 2), (2, 66, 2, 2), (2, 66, 2, 3), (2, 66, 2), (2, 66, 2))),
    "slstm": Call(slstm, ((2, 9, 2, 4, 3), (2, 3, 4, 3))),
    "causal_conv1d": Call(causal_conv1d, ((2, 5, 6), (6, 3), (6,))),
    "head_norm": Call(
        lambda h, weight, gate, skip, skipped, backend: head_norm(
            h, weight, eps=1e-5, gate=gate, skip=skip, skipped=skipped, backend=backend
        ),
        ((2, 5, 2, 3), (6,), (2, 5, 6), (6,), (2, 5, 6)),
    ),
    "block_linear": Call(
        lambda x, other, w, w_other, bias, backend: block_linear(
            (x, x, other), (w, w_other, w_other), bias, order="parts", backend=backend
        ),
        ((2, 5, 6), (2, 5, 6), (2, 4, 3), (2, 5, 3), (28,)),
    ),
    "linear": Call(linear, ((2, 5, 6), (4, 6), (4,)), torch.float32),
}


def able(op: str) -> Iterator[Any]:
    """Each backend of an op that runs its call here."""
    tensors = [torch.zeros(shape, dtype=CALLS[op].dtype) for shape in CALLS[op].shapes]
    for backend in backends(op):
        reason = explain(op, *tensors)[backend]
        missing = backend == "triton" or (backend == "native" and native.library() is None)
        yield pytest.param(op, backend, marks=pytest.mark.skipif(missing, reason=reason))


each_backend = pytest.mark.parametrize(("op", "backend"), [p for op in CALLS for p in able(op)])


def functional(results: Any) -> Tensor:
    """A linear functional of all tensors; no random numbers, which `vmap` does not allow."""
    return sum(
        (x * torch.arange(1.0, x.numel() + 1, dtype=x.dtype).cos().view(x.shape)).sum()
        for x in pytree.tree_leaves(results)
    )


def one_by_one(function: Callable[..., Any], dims: tuple[int | None, ...]) -> Callable[..., Any]:
    """What `vmap(function, dims)` means."""

    def loop(*tensors: Tensor) -> Any:
        results = [
            function(*(x if d is None else x[n] for x, d in zip(tensors, dims, strict=True)))
            for n in range(ENTRIES)
        ]
        return pytree.tree_map(lambda *parts: torch.stack(parts), *results)

    return loop


def assert_same(got: Any, want: Any, dtype: torch.dtype) -> None:
    got, want = ({str(n): x for n, x in enumerate(pytree.tree_leaves(y))} for y in (got, want))
    assert_as_accurate(got, want, want, dtype)


@each_backend
def test_vmap_means_one_by_one(op: str, backend: str) -> None:
    """With each tensor alone having entries, and all of them."""
    call = CALLS[op]
    number = len(call.shapes)
    places = tuple(range(number))
    values = [
        normal(generator(f"vmap/{op}/{n}"), ENTRIES, *shape).to(call.dtype)
        for n, shape in enumerate(call.shapes)
    ]

    def function(*tensors: Tensor) -> Any:
        return call.function(*tensors, backend=backend)

    def loss(*tensors: Tensor) -> Tensor:
        return functional(function(*tensors))

    alone = [tuple(0 if m == n else None for m in range(number)) for n in range(number)]
    for dims in [(0,) * number, *alone]:
        tensors = [x if d == 0 else x[0] for x, d in zip(values, dims, strict=True)]
        loop = one_by_one(function, dims)
        assert_same(vmap(function, dims)(*tensors), loop(*tensors), call.dtype)
        each = grad(loss, places)
        assert_same(vmap(each, dims)(*tensors), one_by_one(each, dims)(*tensors), call.dtype)
        leaves = [x.clone().requires_grad_() for x in tensors]
        want = torch.autograd.grad(functional(loop(*leaves)), leaves)
        got = torch.autograd.grad(functional(vmap(function, dims)(*leaves)), leaves)
        assert_same(got, want, call.dtype)
        around = grad(lambda *x, d=dims: functional(vmap(function, d)(*x)), places)
        assert_same(around(*tensors), want, call.dtype)


@each_backend
def test_jacrev(op: str, backend: str) -> None:
    call = CALLS[op]
    tensors = [
        normal(generator(f"jacrev/{op}/{n}"), *shape).to(call.dtype)
        for n, shape in enumerate(call.shapes)
    ]

    def last_step(*tensors: Tensor) -> Tensor:
        return pytree.tree_leaves(call.function(*tensors, backend=backend))[0][0, -1]

    got = jacrev(last_step, tuple(range(len(tensors))))(*tensors)
    assert_same(got, torch.autograd.functional.jacobian(last_step, tuple(tensors)), call.dtype)


@pytest.mark.skipif(native.library() is None, reason=str(native.reason()))
def test_narrow_weights_too() -> None:
    x, weight = torch.randn(ENTRIES, 2, 8), torch.randn(5, 8)
    got = vmap(linear_rows, (0, None))(x, weight)
    assert torch.equal(got, one_by_one(linear_rows, (0, None))(x, weight))
