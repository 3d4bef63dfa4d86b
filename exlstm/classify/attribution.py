"""Which steps made a class likely: integrated gradients, and a picture of them."""

from __future__ import annotations

import copy
import warnings
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


_FEWEST, _MOST = 16, 512  # points of the integral
_AT_ONCE = 64


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
    tolerance: float,
) -> Attribution:
    r"""$x_j \int_0^1 \partial_j f(a x)\, da$ for each input j; f is the mean logit of the target.

    In float64, so that what the sum over j lacks of the difference is the error of the integral
    alone. It is taken at more and more points until this is small.
    """
    if not tolerance > 0:
        raise ValueError(f"tolerance must be above 0, got {tolerance}")
    copies = [copy.deepcopy(network).double() for network in networks]
    count, time = len(inputs), int(inputs.lengths.max())
    parts, difference = np.zeros((count, time, len(names))), np.zeros(count)
    for row in range(count):
        one = inputs.rows(torch.tensor([row]))
        for network in copies:
            found, total = _one_record(network, one, int(target[row]), tolerance)
            parts[row, : one.lengths[0]] += _by_part(found, names) / len(copies)
            difference[row] += total / len(copies)
    return Attribution(parts, names, names_of_targets, difference, inputs.lengths.numpy())


def _one_record(
    network: Any, one: Inputs, target: int, tolerance: float
) -> tuple[dict[str, Tensor], float]:
    """What each number and each part of an embedded code adds, (T, X) and (T, D), and the sum."""
    record: dict[str, Tensor] = {}
    if one.values is not None:
        record["values"] = one.values.double()
    if one.codes is not None:
        record["codes"] = network.codes(one.codes).detach()

    def logits(scale: Tensor) -> tuple[Tensor, list[Tensor]]:
        scaled = [(scale[:, None, None] * part).requires_grad_() for part in record.values()]
        return network(**dict(zip(record, scaled, strict=True)))[:, target], scaled

    empty, full = logits(torch.tensor([0.0, 1.0], dtype=torch.float64))[0].tolist()

    def integral(num_points: int) -> dict[str, Tensor]:
        nodes, weights = map(torch.from_numpy, np.polynomial.legendre.leggauss(num_points))
        found = {name: torch.zeros_like(part[0]) for name, part in record.items()}
        for some, weight in zip(nodes.split(_AT_ONCE), weights.split(_AT_ONCE), strict=True):
            answers, scaled = logits((some + 1) / 2)
            gradients = torch.autograd.grad(answers.sum(), scaled)
            for (name, part), gradient in zip(record.items(), gradients, strict=True):
                found[name] += part[0] * torch.einsum("p,ptx->tx", weight / 2, gradient)
        return found

    num_points = _FEWEST
    while True:
        found = integral(num_points)
        gap = sum(part.sum().item() for part in found.values()) - (full - empty)
        if abs(gap) <= tolerance * max(1.0, abs(full - empty)):
            break
        if num_points >= _MOST:
            warnings.warn(
                f"attributions miss the logits' difference, {full - empty:.3g}, by {gap:.3g} at "
                f"{num_points} points",
                stacklevel=4,
            )
            break
        num_points *= 2
    return found, full - empty


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
    channels = values.reshape(length, -1)
    above.plot(channels, color="0.7", linewidth=1)
    drawn = above.scatter(
        np.indices(channels.shape)[0], channels, c=np.repeat(added, channels.shape[1]), s=12,
        cmap="coolwarm", vmin=-largest, vmax=largest,
    )  # fmt: skip
    figure.colorbar(drawn, ax=above, label="adds to the logit")
    above.set_ylabel("value")
    above.set_title(
        f"class {attribution.target[row]}: logit {attribution.difference[row]:+.2f} "
        "against an empty record"
    )
    below.bar(np.arange(length), added, width=1.0, color="0.3")
    below.set(xlabel="step", ylabel="adds")
    return figure


def _by_part(found: dict[str, Tensor], names: list[str]) -> NDArray[np.float64]:
    """(T, P) from what the numbers and the embedded codes add."""
    columns: list[Tensor] = []
    if "values" in found:
        channels = sum(name.startswith("channel") for name in names)
        numbers, missing, rest = found["values"].tensor_split((channels, 2 * channels), dim=1)
        columns += [numbers + missing, rest]
    if "codes" in found:
        columns.append(found["codes"].sum(1, keepdim=True))
    return torch.cat(columns, 1).numpy()
