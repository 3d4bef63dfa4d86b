"""From padded records to what the network reads: standardised numbers, and numbers for codes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from exlstm.classify.records import Padded, describe
from exlstm.shapes import Float, Int

_SHOWN = 5  # names in a message


@dataclass(frozen=True)
class Inputs:
    """What the network reads: N rows, padded on the right.

    Attributes:
        values: For each channel its number and whether it is missing, then the time since the step
            before; `None` if there is none of them.
        codes: From 1, 0 is none; `None` if there are none.
        lengths: Steps of each row.
    """

    values: Float[Tensor, "N T X"] | None
    codes: Int[Tensor, "N T"] | None
    lengths: Int[Tensor, " N"]

    def __len__(self) -> int:
        return len(self.lengths)

    def rows(self, index: Tensor) -> Inputs:
        """Some of the rows, no longer than the longest of them."""
        lengths = self.lengths[index]
        longest = int(lengths.max())
        values = None if self.values is None else self.values[index, :longest]
        codes = None if self.codes is None else self.codes[index, :longest]
        return Inputs(values, codes, lengths)


@dataclass(frozen=True)
class Encoding:
    """What `fit` learnt of the records themselves.

    A record is encoded without the others, and a step without those after it.

    Attributes:
        mean: Of each channel's values in training.
        scale: Their standard deviation, 1 for a constant channel.
        time_scale: Median of the time differences above 0; `None` for records without times.
        vocabulary: The codes, in the order of their numbers from 1; `None` for records without.
    """

    mean: tuple[float, ...]
    scale: tuple[float, ...]
    time_scale: float | None
    vocabulary: tuple[int | str, ...] | None

    @classmethod
    def of(cls, padded: Padded) -> Encoding:
        """Learn from training records.

        Raises:
            ValueError: A channel is missing in all of them, or there is no code in any.
        """
        mean: tuple[float, ...] = ()
        scale: tuple[float, ...] = ()
        time_scale = vocabulary = None
        if padded.values is not None:
            seen = (~np.isnan(padded.values)).any((0, 1))
            if not seen.all():
                raise ValueError(f"channel {int(np.argmin(seen))} is missing in all records")
            deviation = np.nanstd(padded.values, axis=(0, 1))
            mean = tuple(np.nanmean(padded.values, axis=(0, 1)).tolist())
            scale = tuple(np.where(deviation > 1e-12 * np.abs(mean), deviation, 1.0).tolist())
        if padded.times is not None:
            gaps = _gaps(padded)
            time_scale = float(np.median(gaps[gaps > 0])) if (gaps > 0).any() else 1.0
        if padded.codes is not None:
            found = _codes(padded)
            if not found:
                raise ValueError("codes are missing at all steps of all records")
            vocabulary = tuple(sorted(found, key=lambda one: (isinstance(one, str), one)))
        return cls(mean, scale, time_scale, vocabulary)

    @property
    def num_inputs(self) -> int:
        """Numbers a step, X."""
        return 2 * len(self.mean) + (self.time_scale is not None)

    @property
    def num_codes(self) -> int:
        """Different codes."""
        return 0 if self.vocabulary is None else len(self.vocabulary)

    @property
    def names(self) -> list[str]:
        """What each step's inputs are called, as `Attribution.names` has them."""
        channels = [f"channel {number}" for number in range(len(self.mean))]
        return channels + ["time"] * (self.time_scale is not None) + ["code"] * bool(self.num_codes)

    def encode(self, padded: Padded, unseen: Literal["error", "ignore"]) -> Inputs:
        """Turn records into what the network reads.

        Args:
            padded: Records.
            unseen: What happens to codes that training has not seen: they are refused, or read as
                no code.

        Raises:
            ValueError: The records have other parts than those in training, or unseen codes.
        """
        here = describe(
            0 if padded.values is None else padded.values.shape[2],
            padded.times is not None,
            padded.codes is not None,
        )
        there = describe(len(self.mean), self.time_scale is not None, self.vocabulary is not None)
        if here != there:
            raise ValueError(f"records have {here}, but those in fit had {there}")
        parts: list[np.ndarray[Any, Any]] = []
        if padded.values is not None:
            missing = np.isnan(padded.values)
            standard = (padded.values - np.array(self.mean)) / np.array(self.scale)
            parts += [np.where(missing, 0.0, standard), missing]
        if padded.times is not None:
            parts.append(np.log1p(_gaps(padded) / self.time_scale)[..., None])
        values = None
        if parts:
            values = torch.from_numpy(np.concatenate(parts, axis=2).astype(np.float32))
        codes = None
        if padded.codes is not None and self.vocabulary is not None:
            numbers = {code: number for number, code in enumerate(self.vocabulary, start=1)}
            found = _codes(padded)
            if unseen == "error" and not found <= numbers.keys():
                raise ValueError(
                    f"codes that fit has not seen: {_listed(found - numbers.keys())}; it has seen "
                    f"{_listed(self.vocabulary)} (unseen_codes='ignore' reads them as no code)"
                )
            codes = torch.tensor([[numbers.get(one, 0) for one in row] for row in padded.codes])
        return Inputs(values, codes, torch.from_numpy(padded.lengths))


def _codes(padded: Padded) -> set[int | str]:
    assert padded.codes is not None
    return {one for one in padded.codes.ravel().tolist() if one is not None}


def _gaps(padded: Padded) -> np.ndarray[Any, Any]:
    """(N, T) time since the step before; 0 at the first and behind the end."""
    assert padded.times is not None
    gaps = np.diff(padded.times, axis=1, prepend=padded.times[:, :1])
    return np.where(np.arange(gaps.shape[1]) < padded.lengths[:, None], gaps, 0.0)


def _listed(codes: Sequence[int | str] | set[int | str]) -> str:
    names = sorted(map(repr, codes))
    rest = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {rest} more" if rest > 0 else "")
