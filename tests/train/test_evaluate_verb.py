"""`exlstm evaluate` with several models, domains and a report."""

import json
import re
from pathlib import Path

import pytest
import torch

from exlstm.cli import main
from exlstm.data import ByteTokenizer, FileTokenizer
from exlstm.models import XLSTMConfig, XLSTMLanguageModel, save_model

TEXT = "it was a bright cold day in april and the clocks were striking thirteen"
WORDS = TEXT.split()


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Three models without training, two of bytes and one of words, and three domains."""
    folder = tmp_path_factory.mktemp("evaluate")
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = Tokenizer(models.WordLevel({w: n for n, w in enumerate([*WORDS, "?"])}, unk_token="?"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.save(str(folder / "words.json"))
    tokenizers = {"one": ByteTokenizer(), "two": ByteTokenizer()}
    for seed, (name, tokenizer) in enumerate(
        {**tokenizers, "words": FileTokenizer(folder / "words.json")}.items()
    ):
        torch.manual_seed(seed)
        config = XLSTMConfig(vocab_size=tokenizer.vocab_size, d_model=16, pattern="m", num_heads=2)
        (folder / name).mkdir()
        save_model(folder / name, XLSTMLanguageModel(config))
        tokenizer.save(folder / name)
    for name, number in {"data/news/a.txt": 3, "data/news/b.txt": 30, "data/code.txt": 9}.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(" ".join(WORDS[:number]))
    rows = [json.dumps({"text": " ".join(WORDS[start:])}) for start in (0, 3, 9)]
    (folder / "data" / "chat.jsonl").write_text("\n".join(rows))
    return folder


@pytest.fixture
def run(folder, monkeypatch, capsys):
    def run(*argv: str) -> str:
        monkeypatch.chdir(folder)
        assert main(["evaluate", *argv, "--threads", "1"]) == 0
        return capsys.readouterr().out

    return run


def test_two_models_are_compared_domain_by_domain(folder, run) -> None:
    flags = ["--data", "data", "--context", "8", "--samples", "2", "--out", "report"]
    printed = run("one", "two", *flags)
    report = json.loads((folder / "report" / "results.json").read_text())
    one, two = report["models"]
    assert [one["name"], two["name"]] == ["one", "two"]
    whole, short = one["results"]
    assert (whole["context"], short["context"]) == (None, 8)
    assert whole["num_documents"] == 6
    assert whole["num_bytes"] == sum(part["num_bytes"] for part in whole["domains"].values())
    (comparison,) = report["comparisons"]
    pairs = [
        (part["perplexity"], two["results"][0]["domains"][name]["perplexity"])
        for name, part in whole["domains"].items()
    ]
    assert list(whole["domains"]) == ["chat.jsonl", "code.txt", "news"]
    assert comparison["won"] == sum(first < second for first, second in pairs)
    assert comparison["metric"] == "perplexity"
    assert len(one["samples"]["texts"]) == len(one["samples"]["beginnings"]) == 2
    page = (folder / "report" / "report.md").read_text()
    for number in (pairs[0][0], pairs[0][1], short["macro"]["perplexity"]):
        assert f"{number:.4f}" in page
        assert f"{number:.4f}" in printed
    for name in re.findall(r"\]\((\S+)\)", page):
        assert (folder / "report" / name).read_text().startswith("<?xml")
    assert one["samples"]["beginnings"][0]["continuation"] in page
    names = {path.name for path in (folder / "report").iterdir()}
    assert names == {"results.json", "report.md", "domains.svg", "positions.svg"}


def test_the_batch_size_and_the_text_on_disk_decide_nothing_else(run) -> None:
    one, four = (
        json.loads(run("one", "--data", "data", "--json", "--batch-size", size))
        for size in ("1", "4")
    )
    for name, part in one["results"][0]["domains"].items():
        assert part == pytest.approx(four["results"][0]["domains"][name], rel=1e-6)
    assert one["name"] == "one"


def test_models_of_different_tokenizers_are_compared_by_bits_per_byte(run) -> None:
    printed = run("one", "words", "--data", "data")
    assert "the tokenizers differ" in printed
    assert "Compared by bits per byte" in printed
    assert " perplexity" not in printed.replace("losses and perplexities", "")
    report = json.loads(run("one", "words", "--data", "data", "--json"))
    assert report["comparisons"][0]["metric"] == "bits_per_byte"
    one, words = (model["results"][0] for model in report["models"])
    assert one["num_tokens"] == one["num_bytes"] == words["num_bytes"]
    assert words["num_tokens"] == 3 + 14 + 9 + 14 + 11 + 5


def test_many_domains_are_cut_on_the_terminal_only(run, folder, tmp_path) -> None:
    for number in range(40):
        (tmp_path / f"{number}.txt").write_text("it was a day")
    printed = run("one", "--data", str(tmp_path), "--out", "many")
    assert "and 10 more: --out writes all" in printed
    assert len(re.findall(r"^\| \d+\.txt", (folder / "many/report.md").read_text(), re.M)) == 40


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "models: give at least one checkpoint or run"),
        (["one", "one", "--data", "data"], "models: one is given twice in one one"),
        (["one"], "data: give the text to read; one is not of a run that has some"),
        (["one", "two"], "data: give the text that the models are compared on"),
        (["one", "--data", "data", "--samples", "-1"], "samples: -1 is not possible"),
        (["one", "--data", "data", "--samples", "99"], "samples: 99 is not possible, there are 6"),
        (["one", "--data", "data", "--context", "0"], "context must be at least 1 or None, got 0"),
        (["one", "--data", "data", "--position-width", "0"], "position_width: 0 is not possible"),
        (["one", "--data", "data", "--batch-size", "0"], "batch_size must be at least 1, got 0"),
        (["one", "--data", "empty"], "data: empty has no domains"),
        (["one", "--data", "hollow"], "data: the domain inside is empty"),
        (["one", "--data", "broken"], "broken/inside/a.txt, byte 1: not UTF-8"),
        (["one", "--data", "data", "--text-field", "body"], "data/chat.jsonl, byte 0: there is no"),
        (["one", "--data", "data", "--out", "data/new"], "out: data/new lies inside the data"),
        (["one", "--data", "data", "--out", "two"], "two exists already"),
        (["nowhere", "--data", "data"], "nowhere is neither a checkpoint nor a run"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_no_report(
    folder, monkeypatch, capsys, argv, message
) -> None:
    monkeypatch.chdir(folder)
    (folder / "empty").mkdir(exist_ok=True)
    for name, text in {"hollow": b"", "broken": b"a\xff"}.items():
        (folder / name / "inside").mkdir(parents=True, exist_ok=True)
        (folder / name / "inside" / "a.txt").write_bytes(text)
        (folder / name / "b.txt").write_text("text")
    before = sorted(folder.rglob("*"))
    out = [] if "--out" in argv else ["--out", "new"]
    assert main(["evaluate", *argv, *out]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"exlstm: {message}")
    assert error.count("\n") == 1
    assert sorted(folder.rglob("*")) == before
