"""The command line: exit codes, and mistakes in one line."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from exlstm.cli import main
from exlstm.ops import backends

SMALL = ["--pattern=m", "--d-model=16", "--num-heads=2", "--context=8", "--batch-size=2"]
SMALL += ["--steps=2", "--threads=1"]


@pytest.fixture
def text(tmp_path):
    (tmp_path / "text.txt").write_text("It was a bright cold day in April. " * 20)
    return str(tmp_path / "text.txt")


def test_a_run_and_its_resume_need_no_flag_twice(tmp_path, text, capsys):
    out = str(tmp_path / "run")
    assert main(["train", "--data", text, "--out", out, *SMALL]) == 0
    assert "2 steps in " in capsys.readouterr().out
    assert main(["train", "--resume", "--out", out]) == 0
    assert main(["train", "--resume", "--out", out, "--steps", "3"]) == 2
    assert capsys.readouterr().err.startswith("exlstm: steps: 3 is not what the run in ")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--data", "missing.txt"], "exlstm: data: there is no missing.txt; give a file,"),
        (["--steps", "0"], "exlstm: steps: 0 is not possible, it must be at least 1"),
        (["--resume"], "exlstm: out: "),
    ],
)
def test_a_mistake_is_one_line_and_makes_no_folder(tmp_path, capsys, flags, message):
    assert main(["train", "--out", str(tmp_path / "run"), *flags]) == 2
    error = capsys.readouterr().err
    assert error.startswith(message)
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "argv", [[], ["fly"], ["train"], ["train", "--out", "x", "--colour", "red"]]
)
def test_a_wrong_command_line_is_explained(argv, capsys):
    assert main(argv) == 2
    assert capsys.readouterr().err


@pytest.mark.parametrize("argv", [["--help"], ["train", "--help"], ["tasks", "run", "--help"]])
def test_help(argv, capsys):
    assert main(argv) == 0
    assert "train" in capsys.readouterr().out


def test_doctor_names_every_backend_and_why_one_does_not_run():
    def doctor(isa):
        command = [sys.executable, "-m", "exlstm.cli", "doctor"]
        environment = {**os.environ, "EXLSTM_ISA": isa}
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
        return done.stdout

    text = doctor("none")
    for op in ("mlstm", "slstm"):
        section = text.split(f"{op} on cpu:\n")[1]
        for backend in backends(op):
            assert f"  {backend} " in section
    assert "compiled kernels: EXLSTM_ISA=none" in text
    assert re.search(r"  native +EXLSTM_ISA=none\n", text)


def test_a_run_that_breaks_off_is_no_mistake_of_the_user(tmp_path, text, capsys):
    flags = ["--learning-rate", "1e30", "--grad-clip", "0"]
    assert main(["train", "--data", text, "--out", str(tmp_path / "run"), *SMALL, *flags]) == 1
    assert capsys.readouterr().err.startswith("exlstm: the ")


def test_ctrl_c_has_its_own_exit_code(tmp_path, monkeypatch):
    def interrupted(arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr("exlstm.train.train", interrupted)
    assert main(["train", "--out", str(tmp_path / "run")]) == 130


def test_without_its_packages_it_says_what_to_install():
    code = "import sys; sys.modules['tyro'] = None; import exlstm.cli"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == "exlstm: the command line needs tyro: pip install 'exlstm[lm]'\n"


@pytest.fixture
def run(tmp_path, text, capsys):
    out = str(tmp_path / "run")
    assert main(["train", "--data", text, "--out", out, *SMALL]) == 0
    capsys.readouterr()
    return out


def test_generate_continues_the_prompt_and_repeats_with_a_seed(run, capsys):
    texts = []
    for seed in ("1", "1", "2"):
        assert main(["generate", run, "--prompt", "It", "--max-tokens", "30", "--seed", seed]) == 0
        texts.append(capsys.readouterr().out)
    assert texts[0] == texts[1] != texts[2]
    assert texts[0].startswith("It")


def test_generate_stops_at_a_string(run, capsys):
    flags = ["--prompt", "It", "--max-tokens", "40", "--seed", "2", "--threads", "1"]
    assert main(["generate", run, *flags]) == 0
    text = capsys.readouterr().out
    stop = text[5]
    assert main(["generate", run, *flags, "--stop", stop]) == 0
    assert capsys.readouterr().out == text[: text.index(stop, 2)] + "\n"


def test_evaluate_measures_the_runs_validation_text_and_any_other(run, text, capsys):
    assert main(["evaluate", run, "--json"]) == 0
    own = json.loads(capsys.readouterr().out)["results"][0]
    assert own["num_bytes"] == 35  # 5 % of 700
    assert main(["evaluate", run, "--data", text, "--json", "--context", "4"]) == 0
    whole, short = json.loads(capsys.readouterr().out)["results"]
    assert whole["num_bytes"] == whole["num_tokens"] == 700
    assert (whole["context"], short["context"]) == (None, 4)
    assert main(["evaluate", run, "--data", text]) == 0
    assert f"{whole['bits_per_byte']:.4f}" in capsys.readouterr().out


def test_weights_are_rounded_on_demand(run, capsys):
    bits, texts = {}, {}
    for weights in ("float32", "bfloat16", "int8"):
        flags = ["--prompt", "It", "--max-tokens", "9", "--seed", "2", "--weights", weights]
        assert main(["generate", run, *flags]) == 0
        texts[weights] = capsys.readouterr().out
        assert main(["evaluate", run, "--json", "--weights", weights]) == 0
        bits[weights] = json.loads(capsys.readouterr().out)["results"][0]["bits_per_byte"]
    assert all(text.startswith("It") for text in texts.values())
    assert main(["generate", run, *flags[:-2]]) == 0
    assert capsys.readouterr().out == texts["float32"]
    assert len(set(bits.values())) == 3
    assert max(bits.values()) == pytest.approx(min(bits.values()), rel=0.01)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["generate", "nowhere"], "nowhere is neither a checkpoint nor a run that has one"),
        (["evaluate", "nowhere"], "nowhere is neither a checkpoint nor a run that has one"),
        (["generate", "RUN", "--temperature", "-1"], "temperature must be at least 0, got -1.0"),
        (["generate", "RUN", "--stop", ""], "stop: '' is empty"),
        (["generate", "RUN", "--threads", "0"], "threads: 0 is not possible"),
        (["evaluate", "RUN", "--data", "missing.txt"], "data: there is no missing.txt"),
        (["evaluate", "RUN", "--context", "0"], "context must be at least 1 or None, got 0"),
    ],
)
def test_mistakes_of_the_other_verbs_are_one_line(run, capsys, argv, message):
    assert main([run if word == "RUN" else word for word in argv]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"exlstm: {message}")
    assert error.count("\n") == 1


def test_a_damaged_checkpoint_is_one_line(run, capsys):
    weights = Path(run, "checkpoint-000002", "model.safetensors")
    weights.write_bytes(weights.read_bytes()[:100])
    assert main(["generate", run]) == 2
    error = capsys.readouterr().err
    assert "model.safetensors is damaged" in error
    assert error.count("\n") == 1


def test_convert_says_what_it_found_and_the_way_back_generates_the_same(run, tmp_path, capsys):
    checkpoint, theirs, back = next(Path(run).glob("checkpoint-*")), tmp_path / "a", tmp_path / "b"
    assert main(["convert", str(checkpoint), str(theirs), "--to", "nxai-vanilla"]) == 0
    assert main(["convert", str(theirs), str(back)]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0] == f"{checkpoint}: exlstm, 10,788 parameters"
    assert said[1] == "pattern m, width 16, 2 heads, vocabulary 257"
    assert said[2] == f"{theirs}: NX-AI xLSTM blocks, sLSTM in the vanilla layout"
    assert said[-1] == f"{back}: exlstm"
    texts = []
    for model in (checkpoint, back):
        assert main(["generate", str(model), "--max-tokens", "20", "--seed", "1"]) == 0
        texts.append(capsys.readouterr().out)
    assert texts[0] == texts[1]


def test_convert_offers_every_format():
    from typing import get_args, get_type_hints

    from exlstm.cli import ConvertArguments
    from exlstm.convert import FORMATS

    assert get_args(get_type_hints(ConvertArguments)["to"]) == tuple(FORMATS)
