"""The search itself, on functions that are known."""

import json
import shutil

import pytest

from exlstm.tune.space import Choice, Range
from exlstm.tune.study import tune

SPACE = {"x": Range(-3.0, 3.0), "kind": Choice(("near", "far"))}


def score(values, report):
    return (values["x"] - 1) ** 2 + (4 if values["kind"] == "far" else 0)


def test_it_finds_what_is_good_and_says_what_mattered(tmp_path):
    study = tune(score, SPACE, tmp_path / "s", trials=30)
    assert study.best_value < 0.3
    best = json.loads((tmp_path / "s" / "best.json").read_text())
    assert best == {"score": study.best_value, "trial": study.best_trial.number} | study.best_params
    page = (tmp_path / "s" / "report.md").read_text()
    assert page.startswith("# 30 trials\n\n30 to the end, 0 stopped early, 0 not possible.")
    assert "| kind | 0." in page
    assert (tmp_path / "s" / "history.png").read_bytes().startswith(b"\x89PNG")


def test_an_interrupted_study_goes_on_and_repeats_nothing(tmp_path):
    seen = []

    def interrupted(values, report):
        seen.append(values)
        if len(seen) == 4:
            raise KeyboardInterrupt
        return score(values, report)

    with pytest.raises(KeyboardInterrupt):
        tune(interrupted, SPACE, tmp_path / "s", trials=8)
    study = tune(interrupted, SPACE, tmp_path / "s", trials=8)
    assert seen[4] == seen[3]  # the one under way, first
    assert len(seen) == 9
    assert len({tuple(values.items()) for values in seen}) == 8
    assert len([trial for trial in study.trials if trial.state.name == "COMPLETE"]) == 8
    tune(interrupted, SPACE, tmp_path / "s", trials=8)
    assert len(seen) == 9


def test_a_killed_study_does_the_trial_under_way_again(tmp_path):
    seen = []

    def killed(values, report):
        seen.append(values)
        if len(seen) == 3:  # what is on the disk now is what a kill leaves
            shutil.copytree(tmp_path / "s", tmp_path / "killed")
        return score(values, report)

    tune(killed, SPACE, tmp_path / "s", trials=3)
    tune(killed, SPACE, tmp_path / "killed", trials=3)
    assert seen[3] == seen[2]
    assert len(seen) == 4


def test_bad_trials_are_stopped_early(tmp_path):
    steps = []

    def slow(values, report):
        for step in range(1, 11):
            steps.append(values["x"])
            report(step, values["x"])
        return values["x"]

    study = tune(slow, {"x": Range(0.0, 1.0)}, tmp_path / "s", trials=20)
    pruned = [trial for trial in study.trials if trial.state.name == "PRUNED"]
    assert pruned
    assert all(trial.params["x"] > study.best_value for trial in pruned)
    assert len(steps) == 10 * (20 - len(pruned)) + sum(
        len(trial.intermediate_values) for trial in pruned
    )
    assert f"{len(pruned)} stopped early" in (tmp_path / "s" / "report.md").read_text()


def test_values_that_do_not_do_are_listed(tmp_path):
    def picky(values, report):
        if values["kind"] == "far":
            raise ValueError("far is too far")
        return score(values, report)

    tune(picky, SPACE, tmp_path / "s", trials=10)
    assert "far is too far" in (tmp_path / "s" / "report.md").read_text()

    def never(values, report):
        raise FloatingPointError("loss nan")

    with pytest.raises(ValueError, match="no trial came to an end: loss nan"):
        tune(never, SPACE, tmp_path / "never", trials=2)


def test_another_study_in_the_folder_is_refused_by_name(tmp_path):
    tune(score, SPACE, tmp_path / "s", trials=1, what={"data": "a"})
    with pytest.raises(ValueError, match='holds a study with data "a", not "b"'):
        tune(score, SPACE, tmp_path / "s", trials=1, what={"data": "b"})
    with pytest.raises(ValueError, match=r'holds a study with space \{"x": '):
        tune(score, {"x": Range(0, 1)}, tmp_path / "s", trials=1, what={"data": "a"})
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "mine.txt").touch()
    with pytest.raises(ValueError, match="is not empty and holds no study"):
        tune(score, SPACE, tmp_path / "other", trials=1)
    with pytest.raises(ValueError, match="trials must be at least 1, got 0"):
        tune(score, SPACE, tmp_path / "s", trials=0)
    with pytest.raises(ValueError, match="nothing is to be tried"):
        tune(score, {}, tmp_path / "s", trials=1)
