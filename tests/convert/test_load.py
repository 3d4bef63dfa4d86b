"""Where `exlstm.load` looks: here first, and on the Hub for what is not here."""

import sys
from pathlib import Path

import pytest
import torch

import exlstm
from exlstm.convert import open_model, write_model
from exlstm.models import save_model

huggingface_hub = pytest.importorskip("huggingface_hub")

FIELDS = {"vocab_size": 11, "d_model": 16, "pattern": "M", "num_heads": 2, "logit_soft_cap": 30.0}


def test_what_is_here_is_not_downloaded(make, tmp_path: Path, monkeypatch) -> None:
    model = make(**FIELDS)
    save_model(tmp_path, model)
    write_model(tmp_path / "hub", open_model(tmp_path), "hf")
    asked = []

    def download(name: str, allow_patterns: list[str]) -> str:
        asked.append(name)
        assert "*.safetensors" in allow_patterns
        assert not [pattern for pattern in allow_patterns if pattern.endswith((".bin", "*"))]
        return str(tmp_path / "hub")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    monkeypatch.chdir(tmp_path)
    tokens = torch.tensor([[1, 2, 3]])
    for name in ("owner/name", "hub", tmp_path / "hub"):
        assert torch.equal(exlstm.load(name)(tokens)[0], model(tokens)[0])
    assert asked == ["owner/name"]


@pytest.mark.parametrize("name", ["nowhere", "a/b/c", "/no/where", "./nowhere", "nowhere/"])
def test_what_can_be_no_name_of_the_hub_is_not_asked_for(name: str, monkeypatch) -> None:
    monkeypatch.setattr(huggingface_hub, "snapshot_download", None)
    with pytest.raises(ValueError, match="there is no"):
        exlstm.load(name)


def test_without_a_network_or_the_package_it_says_so(monkeypatch) -> None:
    def offline(*arguments: object, **options: object) -> None:
        raise OSError("no network\nand no more lines")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
    with pytest.raises(ValueError, match=r"there is no owner/name here, .*: no network$"):
        exlstm.load("owner/name")
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ValueError, match="pip install huggingface_hub"):
        exlstm.load("owner/name")


def test_what_is_loaded_can_be_trained_and_saved(make, tmp_path: Path) -> None:
    """No parameter shares its memory with another or with the file."""
    save_model(tmp_path, make(**FIELDS))
    write_model(tmp_path / "theirs", open_model(tmp_path), "nxai-large-fused")
    model = exlstm.load(tmp_path / "theirs")
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert all(parameter.is_contiguous() for parameter in model.parameters())
    pointers = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    assert len(pointers) == len(list(model.parameters()))
    before = (tmp_path / "theirs" / "model.safetensors").read_bytes()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    assert (tmp_path / "theirs" / "model.safetensors").read_bytes() == before
