"""Fitted estimators on disk."""

import json

import pytest
import torch

from exlstm.estimators import Saved, read, write

SAVED = Saved("Thing", {"horizon": 3}, {"names": ["a", "b"]}, {"w": torch.arange(6.0).view(2, 3).T})


def test_what_is_written_is_read(tmp_path):
    write(tmp_path / "thing", SAVED)
    back = read(tmp_path / "thing", "Thing")
    assert (back.kind, back.parameters, back.fitted) == ("Thing", {"horizon": 3}, SAVED.fitted)
    assert torch.equal(back.tensors["w"], SAVED.tensors["w"])
    names = {file.name for file in (tmp_path / "thing").iterdir()}
    assert names == {"estimator.json", "model.safetensors"}


def test_nothing_is_overwritten_and_no_half_is_left(tmp_path):
    write(tmp_path / "thing", SAVED)
    with pytest.raises(ValueError, match="exists already"):
        write(tmp_path / "thing", SAVED)
    with pytest.raises(TypeError):
        write(tmp_path / "other", Saved("Thing", {"a": torch.ones(1)}, {}, {}))
    assert [file.name for file in tmp_path.iterdir()] == ["thing"]


def test_what_cannot_be_read_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"holds no saved estimator: .*estimator\.json is missing"):
        read(tmp_path, "Thing")
    write(tmp_path / "thing", SAVED)
    with pytest.raises(ValueError, match="holds Thing of format 1, not Other of format 1"):
        read(tmp_path / "thing", "Other")
    weights = tmp_path / "thing" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:40])
    with pytest.raises(ValueError, match="is damaged"):
        read(tmp_path / "thing", "Thing")
    file = tmp_path / "thing" / "estimator.json"
    file.write_text(json.dumps({"format": 2, "kind": "Thing"})[:-2])
    with pytest.raises(ValueError, match="is damaged"):
        read(tmp_path / "thing", "Thing")
