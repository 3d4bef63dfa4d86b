"""Which steps made a class likely: integrated gradients, and a picture of them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from exlstm.classify.encoding import Inputs

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, eq=False)
class Attribution:
    """How much each part of each step adds to the logit of a class.

    Attributes:
        parts: (N, T, P), a number for each input of `names`; 0 behind the end of a record.
        names: Of the P inputs: "channel 0", ..., "time", "code". Of a channel, also that a value is
            missing counts.
        target: (N,) the class that is explained.
        difference: (N,) its logit minus that of the record without anything; what the parts of a
            record sum to.
        lengths: (N,) steps of each record.
    """

    parts: NDArray[np.float64]
    names: list[str]
    target: NDArray[Any]
    difference: NDArray[np.float64]
    lengths: NDArray[np.int64]

    @property
    def steps(self) -> NDArray[np.float64]:
        """(N, T): the sum over the parts of each step."""
        return self.parts.sum(2)


def integrated_gradients(
    networks: Iterable[nn.Module],
    inputs: Inputs,
    target: Tensor,
    names_of_targets: NDArray[Any],
    names: list[str],
    num_points: int,
) -> Attribution:
    r"""$x_j \int_0^1 \partial_j f(a x)\, da$ for each input j; f is the mean logit of the target.

    In float64, so that what is left of the sum over j is the error of the integral alone.
    """
    if num_points < 1:
        raise ValueError(f"num_points must be at least 1, got {num_points}")
    nodes, weights = np.polynomial.legendre.leggauss(num_points)
    networks = [_double(network) for network in networks]
    count, time = len(inputs), int(inputs.lengths.max())
    parts = np.zeros((count, time, len(names)))
    difference = np.zeros(count)
    for network in networks:
        for row in torch.arange(count).split(1):
            one = inputs.rows(row)
            ends = [None if part is None else part.detach() for part in _embedded(network, one)]

            def logit(scale: Tensor, one: Inputs = one, ends: list[Any] = ends, row: Tensor = row):
                """The target's logit of scaled copies of the record, and the copies."""
                copies = [
                    None if end is None else (scale[:, None, None] * end).requires_grad_()
                    for end in ends
                ]
                lengths = one.lengths.expand(len(scale))
                return network(*copies, lengths)[:, target[row[0]]], copies

            with torch.no_grad():
                empty, full = logit(torch.tensor([0.0, 1.0], dtype=torch.float64))[0].tolist()
            difference[row] += full - empty
            values, copies = logit(torch.from_numpy((nodes + 1) / 2))
            used = [copy for copy in copies if copy is not None]
            gradients = iter(torch.autograd.grad(values.sum(), used))
            found = [
                None
                if end is None
                else end[0] * torch.einsum(
                    "p,ptx->tx", torch.from_numpy(weights / 2), next(gradients)
                )
                for end in ends
            ]  # fmt: skip
            parts[row, : one.lengths[0]] += _by_part(found, names)
    scale = 1 / len(networks)
    return Attribution(
        parts * scale, names, names_of_targets, difference * scale, inputs.lengths.numpy()
    )


def plot_attribution(attribution: Attribution, record: Any, row: int = 0) -> Figure:
    """Draw a record over its steps, each step in the colour of what it adds to the class.

    Args:
        attribution: From `XLSTMClassifier.attribute`.
        record: The record itself, (T,) or (T, C); what it adds is drawn below.
        row: Its number in the attribution.

    Raises:
        ValueError: There is no such row, or the record has another length.
    """
    from matplotlib.figure import Figure

    if not 0 <= row < len(attribution.parts):
        raise ValueError(f"row must be 0 to {len(attribution.parts) - 1}, got {row}")
    values = np.asarray(record, dtype=np.float64)
    length = int(attribution.lengths[row])
    if values.ndim not in (1, 2) or len(values) != length:
        raise ValueError(f"record must have {length} steps, got shape {values.shape}")
    added = attribution.steps[row, :length]
    largest = float(np.abs(added).max()) or 1.0
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(2, 1))
    for channel in values.reshape(length, -1).T:
        above.plot(channel, color="0.7", linewidth=1)
        drawn = above.scatter(
            np.arange(length), channel, c=added, cmap="coolwarm", s=12, vmin=-largest, vmax=largest
        )
    figure.colorbar(drawn, ax=above, label="adds to the logit")
    above.set_ylabel("value")
    above.set_title(
        f"class {attribution.target[row]}: logit {attribution.difference[row]:+.2f} "
        "against an empty record"
    )
    below.bar(np.arange(length), added, width=1.0, color="0.3")
    below.set(xlabel="step", ylabel="adds")
    return figure


def _double(network: nn.Module) -> Any:
    """A copy in float64."""
    import copy

    return copy.deepcopy(network).double()


def _embedded(network: Any, inputs: Inputs) -> tuple[Tensor | None, Tensor | None]:
    values = None if inputs.values is None else inputs.values.double()
    return values, None if inputs.codes is None else network.codes(inputs.codes)


def _by_part(found: list[Tensor | None], names: list[str]) -> NDArray[np.float64]:
    """(T, P) from what the numbers and the embedded codes add."""
    values, codes = found
    columns: list[Tensor] = []
    if values is not None:
        channels = sum(name.startswith("channel") for name in names)
        both = values[:, :channels] + values[:, channels : 2 * channels]
        columns += [both, values[:, 2 * channels :]]
    if codes is not None:
        columns.append(codes.sum(1, keepdim=True))
    return torch.cat(columns, 1).numpy()
