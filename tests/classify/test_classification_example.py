"""The example of irregular laboratory values runs, and tells the sick by their times."""

import re
import runpy
import sys
from pathlib import Path

PATH = Path(__file__).parents[2] / "examples" / "classification.py"


def test_it_runs(monkeypatch, capsys, tmp_path):
    picture = tmp_path / "why.png"
    told = ["classification.py", "--patients", "120", "--epochs", "12", "--picture", str(picture)]
    monkeypatch.setattr(sys, "argv", told)
    runpy.run_path(str(PATH), run_name="__main__")
    said = capsys.readouterr().out
    assert float(re.search(r"balanced_accuracy ([\d.]+)", said)[1]) > 0.6
    assert len(re.findall(r"after \d visits", said)) == 3
    assert "time adds" in said
    assert picture.stat().st_size > 1000
    assert len(PATH.read_text().splitlines()) < 150
