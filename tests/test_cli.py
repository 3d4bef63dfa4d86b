"""The command line: exit codes, and mistakes in one line."""

import subprocess
import sys

import pytest

from exlstm.cli import main

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


@pytest.mark.parametrize("argv", [["--help"], ["train", "--help"]])
def test_help(argv, capsys):
    assert main(argv) == 0
    assert "train" in capsys.readouterr().out


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
    assert done.stderr == "exlstm: the command line needs more: pip install 'exlstm[lm]'\n"
