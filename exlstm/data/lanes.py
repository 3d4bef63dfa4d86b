"""Lanes of a token file: samples that go on where those of the step before ended."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch

from exlstm.data.windows import Windows, keyed_hash, permuted


@dataclass(frozen=True)
class Lanes(Windows):
    """Training samples by arithmetic, as `Windows`, of which sample g + `lanes` follows sample g.

    A step of `lanes` samples is a row from each lane. An epoch opens the file, taken as a ring, at
    a place of its own, cuts it into `lanes` equal stretches, and gives each row one of them in an
    order of its own. So the memory after row b of a step is what row b of the next step begins
    with, but for the first step of an epoch, where `reset` says that it is to be emptied.

    Raises:
        ValueError: if the file is too short for a window in each lane.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from exlstm.data import ByteTokenizer, Document, write_token_files
        >>> documents = [Document("a", "to be or not to be")]
        >>> files = write_token_files(
        ...     Path(tempfile.mkdtemp()), {"train": documents}, ByteTokenizer()
        ... )
        >>> lanes = Lanes(files["train"], context=4, seed=0, lanes=2)
        >>> [lanes.start(sample) for sample in range(8)]
        [9, 17, 13, 2, 4, 12, 8, 16]
    """

    lanes: int

    def __post_init__(self) -> None:
        super().__post_init__()
        tokens = len(self.file.tokens)
        if self.per_lane == 0:
            raise ValueError(
                f"batch_size: {self.lanes:,} lanes are too many for {tokens:,} tokens of training "
                f"data and a context of {self.context:,}; up to {tokens // self.context:,} would do"
            )

    @property
    def per_lane(self) -> int:
        """Number of windows in a lane, so of steps in an epoch."""
        return len(self.file.tokens) // (self.lanes * self.context)

    @property
    def per_epoch(self) -> int:
        """Number of windows in an epoch; fewer tokens than a step has are left out."""
        return self.lanes * self.per_lane

    def start(self, sample: int) -> int:
        """Return where in the file the window of `sample` begins."""
        step, row = divmod(sample, self.lanes)
        epoch, position = divmod(step, self.per_lane)
        lane = permuted(row, self.lanes, (self.seed, epoch))
        opened = keyed_hash(self.seed, epoch, 0, 0)
        place = opened + self.context * (lane * self.per_lane + position)
        return place % len(self.file.tokens)

    def row(self, sample: int) -> np.ndarray:
        """Return the tokens of a sample and the one after them; the first follows the last."""
        row = super().row(sample)
        rest = self.context + 1 - len(row)
        return np.concatenate([row, self.file.tokens[:rest]]) if rest else row

    def batch(self, samples: Iterable[int]) -> dict[str, torch.Tensor]:
        """Return `inputs`, `targets` and `reset` of some samples, each `(B, context)`."""
        samples = list(samples)
        batch = super().batch(samples)
        begins = [sample // self.lanes % self.per_lane == 0 for sample in samples]
        batch["reset"][:, 0] |= torch.tensor(begins)
        return batch
