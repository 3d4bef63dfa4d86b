"""How the tensors of one format are made of those of another: names, order, layout, offset."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from exlstm.convert.tensors import LazyTensor, Tensors

Maps = Callable[[list[Tensor]], list[Tensor]]


@dataclass(frozen=True)
class Link:
    """Tensors of ours and the tensors of another format that hold the same weights.

    Attributes:
        ours: Names of ours.
        theirs: Their names.
        to_ours: From their tensors to ours.
        to_theirs: The inverse.
    """

    ours: tuple[str, ...]
    theirs: tuple[str, ...]
    to_ours: Maps
    to_theirs: Maps


def same(ours: str, theirs: str) -> Link:
    """Another name only."""
    return changed(ours, theirs, lambda x: x, lambda x: x)


def changed(
    ours: str,
    theirs: str,
    to_ours: Callable[[Tensor], Tensor],
    to_theirs: Callable[[Tensor], Tensor],
) -> Link:
    """One tensor, laid out or counted in another way."""
    return Link(
        (ours,), (theirs,), lambda parts: [to_ours(*parts)], lambda parts: [to_theirs(*parts)]
    )


def joined(ours: str, theirs: Sequence[str], dim: int = 0) -> Link:
    """Ours is theirs side by side, all of one size."""
    return Link(
        (ours,),
        tuple(theirs),
        lambda parts: [torch.cat(parts, dim)],
        lambda parts: list(parts[0].chunk(len(theirs), dim)),
    )


def split(ours: Sequence[str], theirs: str, rows: Sequence[int]) -> Link:
    """Theirs is ours on top of each other, with so many rows each."""
    return Link(
        tuple(ours),
        (theirs,),
        lambda parts: list(parts[0].split(list(rows))),
        lambda parts: [torch.cat(parts)],
    )


def to_ours(tensors: Tensors, links: Iterable[Link]) -> Tensors:
    """Their tensors under our names, still unread."""
    converted: dict[str, LazyTensor] = {}
    for link in links:
        converted.update(_through(tensors, link.theirs, link.ours, link.to_ours))
    return converted


def to_theirs(tensors: Tensors, links: Iterable[Link]) -> Tensors:
    """Our tensors under their names, still unread."""
    converted: dict[str, LazyTensor] = {}
    for link in links:
        converted.update(_through(tensors, link.ours, link.theirs, link.to_theirs))
    return converted


def _through(
    tensors: Tensors, sources: Sequence[str], targets: Sequence[str], function: Maps
) -> Tensors:
    shapes = [torch.empty(tensors[name].shape, device="meta") for name in sources]

    def reader(index: int) -> Callable[[], Tensor]:
        return lambda: function([tensors[name].read() for name in sources])[index]

    return {
        name: LazyTensor(tuple(result.shape), reader(index))
        for index, (name, result) in enumerate(zip(targets, function(shapes), strict=True))
    }
