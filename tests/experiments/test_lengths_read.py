import numpy as np
import pytest
import torch
from torch.nn import functional as F

from exlstm.experiments import build_model, lengths
from exlstm.experiments.lengths import loss_by_length
from exlstm.tasks.text import Text


@pytest.fixture
def segments():
    return np.random.default_rng(0).integers(1, 257, (3, 25))


@pytest.mark.parametrize("name", ["ms", "MM", "llama", "lstm"])
def test_every_piece_is_read_alone_and_whole(name, segments):
    torch.manual_seed(0)
    model = build_model(name, Text(), 16)
    with torch.no_grad():
        for parameter in model.parameters():  # as drawn, the answers depend on the past too little
            parameter.mul_(3)
    found = loss_by_length(model, segments, [6, 24])
    for part in found:
        length, losses = part["length"], []
        for row in segments:
            for first in range(0, 24, length):
                piece = torch.from_numpy(row[first : first + length + 1])
                with torch.no_grad():
                    losses.append(F.cross_entropy(model(piece[None, :-1])[0], piece[1:]))
        assert part["loss"] == pytest.approx(torch.stack(losses).mean().item(), rel=1e-5)
    assert found[0]["loss"] != pytest.approx(found[1]["loss"], rel=1e-4)


def test_it_does_not_depend_on_how_many_are_read_at_once(segments, monkeypatch):
    model = build_model("m", Text(), 16)
    before = loss_by_length(model, segments, [4, 12])
    monkeypatch.setattr(lengths, "TOKENS", 5)
    for one, other in zip(loss_by_length(model, segments, [4, 12]), before, strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-6)


def test_lengths_that_do_not_fill_a_segment_are_refused(segments):
    with pytest.raises(ValueError, match="pieces of 7 steps do not fill segments of 24"):
        loss_by_length(build_model("m", Text(), 16), segments, [6, 7])
