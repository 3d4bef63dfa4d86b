import json
import math
from dataclasses import asdict, replace

import pytest
from stand_in import short_run

from exlstm.claims import CLAIMS, Condition, decide
from exlstm.claims.claim import (
    ACCURACY,
    BITS_PER_BYTE,
    SQUARED_ERROR,
    scores,
    standard_errors,
)
from exlstm.claims.mechanism import MECHANISMS, look_into, train_model
from exlstm.claims.report import write_report
from exlstm.claims.state_tracking import BOTH, MLSTM, SLSTM
from exlstm.cli import main
from exlstm.experiments.sweep import check

PROFILES = ("quick", "full")


def measured(value, lengths):
    """What `evaluate` returns, with one number for whatever is compared."""
    kinds = dict.fromkeys(("scaled_accuracy", "accuracy", "mse"), value)
    kinds["loss"] = value * math.log(2)
    parts = [{"lengths": [end, end + 9], **kinds} for end in (lengths[0], lengths[1] - 9)]
    return {**kinds, "by_length": parts}


def made_up(run, value, validation=None):
    result = {
        "validation": measured(value if validation is None else validation, run.lengths),
        "test": measured(value, run.test_lengths),
        "solved": False, "steps": 7, "cpu_seconds": 1.5, "num_params": 1234, "note": "",
    }  # fmt: skip
    return {"identity": run.identity, "run": asdict(run), "result": result}


def failed(run):
    return {"identity": run.identity, "run": asdict(run), "error": "FloatingPointError: nan"}


def records(name, values, otherwise=0.0):
    """Of the quick profile; values of three seeds by model, and by task or width where given."""
    made = []
    for run in CLAIMS[name].runs("quick"):
        for key in ((run.model, run.task), (run.model, run.d_model), run.model):
            if key in values:
                value = values[key][run.seed]
                break
        else:
            value = otherwise
        made.append(failed(run) if value is None else made_up(run, value))
    return made


def outcome(name, values, otherwise=0.0):
    return CLAIMS[name].verdict(records(name, values, otherwise), "quick").outcome


S, SM, M = SLSTM, BOTH, MLSTM
ONES = [1.0] * 3
FEW, SOME, MANY = (
    f"multi_query_associative_recall,num_pairs={n},vocab_size=256" for n in (4, 8, 16)
)
GOOD_RECALL = {
    "xlstm[1:0]": ONES, "xlstm[1:1]": ONES, "llama": [0.99] * 3,
    ("xlstm[0:1]", FEW): [0.9] * 3, ("xlstm[0:1]", SOME): [0.7] * 3,
    ("xlstm[0:1]", MANY): [0.4] * 3,
    ("lstm", FEW): [0.5] * 3, ("lstm", SOME): [0.3] * 3, ("lstm", MANY): [0.1] * 3,
}  # fmt: skip
GOOD_WIDTH = {
    "xlstm[1:0]": ONES,
    ("xlstm[0:1]", 16): [0.2] * 3, ("xlstm[0:1]", 64): [0.9] * 3,
    ("lstm", 16): [0.1] * 3, ("lstm", 64): [0.2] * 3,
}  # fmt: skip
RUNGS = ("lstm,num_blocks=8", "xlstm[0:1],num_blocks=8", "xlstm[7:1]")


@pytest.mark.parametrize(
    ("name", "values", "otherwise", "expected"),
    [
        ("parity", {S: ONES, SM: ONES}, 0.0, "holds"),
        ("parity", {S: [0.99, 0.2, 0.99], SM: ONES}, 0.1, "holds"),
        ("parity", {S: [0.99, 0.989, 0.2], SM: ONES}, 0.0, "holds partly"),
        ("parity", {S: ONES, SM: ONES, M: [0.0, 0.0, 0.101]}, 0.0, "holds partly"),
        ("parity", {S: ONES, SM: ONES, "llama": [0.2, 0.0, 0.0]}, 0.0, "holds partly"),
        ("parity", {}, 0.0, "not shown"),
        ("parity", {}, 0.5, "not shown"),
        ("parity", {S: [None] * 3, SM: [None] * 3}, 0.0, "not shown"),
        ("parity", {S: [1.0, 1.0, None], SM: ONES}, 0.0, "holds"),
        ("cycle_navigation", {S: ONES, M: [0.86] * 3}, 0.0, "holds"),
        ("cycle_navigation", {S: ONES, M: ONES}, 0.0, "holds partly"),
        ("cycle_navigation", {S: [0.9] * 3}, 0.0, "holds partly"),
        ("cycle_navigation", {}, 0.0, "not shown"),
        ("s3", {S: ONES}, 0.1, "holds"),
        ("s3", {S: ONES}, 0.11, "holds partly"),
        ("s3", {}, 0.0, "not shown"),
        ("even_pairs", {}, 0.99, "holds"),
        ("even_pairs", {"llama": [0.98] * 3}, 1.0, "holds partly"),
        ("even_pairs", {}, 0.98, "not shown"),
        ("recall_pairs", GOOD_RECALL, 0.0, "holds"),
        ("recall_pairs", {**GOOD_RECALL, ("lstm", MANY): [0.5] * 3}, 0.0, "holds partly"),
        ("recall_pairs", {**GOOD_RECALL, ("xlstm[1:1]", MANY): [0.9] * 3}, 0.0, "holds partly"),
        ("recall_pairs", {**GOOD_RECALL, "llama": [0.9] * 3}, 0.0, "holds partly"),
        ("recall_pairs", {}, 0.9, "not shown"),
        ("recall_width", GOOD_WIDTH, 0.0, "holds"),
        ("recall_width", {**GOOD_WIDTH, ("xlstm[0:1]", 64): ONES}, 0.0, "holds partly"),
        ("recall_width", {**GOOD_WIDTH, ("lstm", 16): [0.3] * 3}, 0.0, "holds partly"),
        ("recall_width", {}, 0.5, "not shown"),
        ("nearest_neighbor", {"lstm": [0.02] * 3}, 0.01, "holds"),
        ("nearest_neighbor", {"lstm": [0.02, 0.02, 0.01]}, 0.01, "holds partly"),
        ("nearest_neighbor", {}, 0.01, "not shown"),
        ("convolution", {"mmmm,conv_width=1": [2.1, 2.2, 2.3]}, 2.0, "holds"),
        ("convolution", {"mmmm,conv_width=1": [2.0, 2.1, 2.2]}, 2.0, "not shown"),
        ("gates", {"mm,input_gate=sigmoid": [2.1] * 3}, 2.0, "holds"),
        ("gates", {}, 2.0, "holds partly"),
        ("gates", {"mm,forget_gate=exp": [2.04] * 3, "ss": [2.1] * 3}, 2.0, "not shown"),
        ("ladder", dict(zip(RUNGS, ([3.0] * 3, [2.0] * 3, [1.0] * 3), strict=True)), 9.0, "holds"),
        ("ladder", dict(zip(RUNGS, ([3.0] * 3, ONES, ONES), strict=True)), 9.0, "holds partly"),
        ("ladder", dict(zip(RUNGS, (ONES, [2.0] * 3, [3.0] * 3), strict=True)), 9.0, "not shown"),
    ],
)  # fmt: skip
def test_a_verdict_follows_from_the_numbers(name, values, otherwise, expected):
    assert outcome(name, values, otherwise) == expected


def test_recall_in_longer_rows_is_compared_with_that_of_the_training():
    claim = CLAIMS["recall_extrapolation"]

    def verdict(trained, longer):
        made = [made_up(run, longer, trained) for run in claim.runs("quick")]
        return claim.verdict(made, "quick").outcome

    assert verdict(1.0, 0.985) == "holds"
    assert verdict(1.0, 0.97) == "not shown"
    assert verdict(0.98, 0.98) == "not shown"
    made = [
        made_up(run, 1.0 if run.model != "xlstm[1:1]" else 0.5, 1.0) for run in claim.runs("quick")
    ]
    assert claim.verdict(made, "quick").outcome == "holds partly"


def test_a_verdict_waits_for_every_run():
    made = records("parity", {S: ONES, SM: ONES})
    claim = CLAIMS["parity"]
    assert claim.verdict(made[1:], "quick").outcome == "not run"
    assert (
        claim.verdict(made[1:], "quick").because == f"{len(made) - 1} of {len(made)} runs are done"
    )
    assert claim.verdict([], "quick").outcome == "not run"
    assert claim.verdict(made, "full").outcome == "not run"
    other = [made_up(replace(run, steps=run.steps + 1), 1.0) for run in claim.runs("quick")]
    assert claim.verdict(other, "quick").outcome == "not run"  # of another definition


@pytest.mark.parametrize("name", CLAIMS)
def test_a_verdict_gives_the_numbers(name):
    verdict = CLAIMS[name].verdict(records(name, {}, 0.123), "quick")
    assert "0.123" in verdict.because
    assert verdict.because.endswith((": yes", ": no"))


def test_controls_alone_carry_nothing():
    control = Condition("another fails", True, carries=False)
    assert decide([Condition("it works", False), control]).outcome == "not shown"
    assert decide([Condition("it works", True), control]).outcome == "holds"
    assert decide([Condition("a", True), Condition("b", False)]).outcome == "holds partly"
    assert decide([Condition("a", True), Condition("b", False)]).because == "a: yes; b: no"


def test_the_learning_rate_is_chosen_by_validation_in_the_sense_of_the_metric():
    run = CLAIMS["convolution"].runs("full")[0]
    made = [
        made_up(replace(run, lr=lr, seed=seed), test, validation)
        for seed in (0, 1, 2)
        for lr, validation, test in ((1e-2, 0.3, 0.9), (1e-3, 0.2, 0.1))
    ]
    (high,), (low,) = scores(made, ACCURACY).values(), scores(made, SQUARED_ERROR).values()
    assert (high.lr, high.median, high.validation) == (1e-2, 0.9, [0.3] * 3)
    assert (low.lr, low.median) == (1e-3, 0.1)
    (bits,) = scores(made, BITS_PER_BYTE).values()
    assert bits.lr == 1e-3
    assert bits.median == pytest.approx(0.1)
    made.append(failed(replace(run, lr=1e-2, seed=4)))
    (high,) = scores(made, ACCURACY).values()
    assert (high.lr, high.failed) == (1e-3, 1)


def test_standard_errors():
    assert standard_errors([2.0, 2.0], [1.0, 1.0]) == math.inf
    assert standard_errors([1.0, 1.0], [1.0, 1.0]) == 0.0
    assert standard_errors([1.0, 3.0], [1.0, 1.0]) == pytest.approx(1.0)
    assert math.isnan(standard_errors([], [1.0, 1.0]))


@pytest.mark.parametrize("name", CLAIMS)
def test_every_model_has_the_same_learning_rates_and_seeds(name):
    for profile in PROFILES:
        tried = {}
        for run in CLAIMS[name].runs(profile):
            setting = (run.task, run.model, run.d_model)
            tried.setdefault(setting, []).append((run.lr, run.seed))
        assert len({tuple(sorted(pairs)) for pairs in tried.values()}) == 1
        first = next(iter(tried.values()))
        assert len(first) == len(set(first))
        assert {seed for _, seed in first} == {0, 1, 2}


@pytest.mark.parametrize("name", CLAIMS)
def test_quick_is_not_larger_than_full(name):
    quick, full = (CLAIMS[name].runs(profile) for profile in PROFILES)
    assert len(quick) <= len(full)
    assert {run.model for run in quick} <= {run.model for run in full}
    for size in ("steps", "batch_size", "d_model", "eval_rows"):
        assert max(getattr(run, size) for run in quick) <= max(getattr(run, size) for run in full)
    for run in quick:
        same = [one for one in full if one.model == run.model]
        assert run.lengths in {one.lengths for one in same}
        assert run.test_lengths in {one.test_lengths for one in same}


def test_the_models_and_tasks_of_all_runs_are_there():
    runs = [run for claim in CLAIMS.values() for name in PROFILES for run in claim.runs(name)]
    for run in {(run.task, run.model, run.d_model): run for run in runs}.values():
        check(run)


def test_labels_name_every_model():
    for claim in CLAIMS.values():
        assert {run.model for run in claim.runs("full")} <= set(claim.labels)


def tiny(monkeypatch, *names):
    """Claims of these names whose runs take less than a second."""
    for name in names:
        runs = [
            replace(short_run(steps=2, eval_every=2), model=model, lr=lr, seed=seed)
            for seed in (0, 1)
            for model, lr in (("s", 1e-2), ("s", 1e30), ("lstm", 1e-2), ("lstm", 1e30))
        ]
        conditions = [Condition("it ran (0.5)", True)]
        claim = replace(
            CLAIMS[name],
            labels={"s": "an sLSTM"},
            make_runs=lambda _, runs=runs: runs,
            conditions=lambda _, conditions=conditions: conditions,
        )
        monkeypatch.setitem(CLAIMS, name, claim)
    for module in ("command", "report"):
        monkeypatch.setattr(f"exlstm.claims.{module}.MECHANISMS", ())


def test_run_does_it_once_and_the_report_has_it(tmp_path, monkeypatch, capsys):
    tiny(monkeypatch, "parity", "even_pairs")
    out = tmp_path / "results"
    command = ["claims", "run", "parity", "even_pairs", "--out", str(out), "--jobs", "1"]
    assert main(command) == 1  # a learning rate of 1e30 fails
    assert "parity: holds. it ran (0.5): yes" in capsys.readouterr().out
    files = {path.name: path.read_text() for path in out.iterdir()}
    parts = ("jsonl", "origins.jsonl")
    names = {f"{name}.quick.{part}" for name in ("parity", "even_pairs") for part in parts}
    assert set(files) == names
    assert len(files["parity.quick.jsonl"].splitlines()) == 8
    origin = json.loads(files["parity.quick.origins.jsonl"])
    assert origin["command"] == "exlstm claims run parity --profile quick --jobs 1"
    assert set(origin) == {"command", "commit", "date", "machine", "versions"}

    assert main(command) == 1
    assert {path.name: path.read_text() for path in out.iterdir()} == files
    capsys.readouterr()

    page, images = tmp_path / "docs" / "claims.md", tmp_path / "docs" / "images"
    report = ["claims", "report", str(out), "--page", str(page), "--images", str(images)]
    assert main(report) == 0
    text = page.read_text()
    for name, claim in CLAIMS.items():
        done = "holds" if name in ("parity", "even_pairs") else "not run"
        assert f"| [{claim.title}](#{name}) | {claim.paper} | {done} | not run |" in text
        assert f'<a id="{name}"></a>{claim.title}' in text
        assert claim.criterion in text
    assert "| an sLSTM `s` |" in text
    assert "| lstm `lstm` |" in text
    assert "![Parity: scaled accuracy](images/claim-parity-quick.svg)" in text
    assert origin["commit"] in text
    assert str(tmp_path) not in text
    pictures = {path.name: path.read_bytes() for path in images.iterdir()}
    assert set(pictures) == {"claim-parity-quick.svg", "claim-even_pairs-quick.svg"}
    assert all(len(picture) < 100_000 for picture in pictures.values())

    assert main(report) == 0  # the same page, byte for byte
    assert page.read_text() == text
    assert {path.name: path.read_bytes() for path in images.iterdir()} == pictures


def test_every_claim_has_a_picture_and_a_table(tmp_path):
    for name, claim in CLAIMS.items():
        made = records(name, {}, 0.123)
        (tmp_path / f"{name}.quick.jsonl").write_text(
            "".join(json.dumps(record) + "\n" for record in made)
        )
        assert claim.figure(made, "quick").axes[0].get_title() == claim.title
    page = tmp_path / "claims.md"
    write_report(list(CLAIMS.values()), tmp_path, page, tmp_path / "images")
    text = page.read_text()
    assert len(list((tmp_path / "images").iterdir())) == len(CLAIMS)
    assert text.count("| 0.123 | 0.123 | 0.123 | 3 |") == sum(
        len({(run.task, run.model, run.d_model) for run in claim.runs("quick")})
        for claim in CLAIMS.values()
    )


def test_list_names_the_claims(capsys):
    assert main(["claims", "list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(CLAIMS)


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["run", "chess"], "exlstm: there is no claim 'chess'; there are: parity, "),
        (["run", "gates", "--data", "no/such"], "exlstm: lengths: data: there is no no/such; "),
        (["report", "no/such"], "exlstm: there is no folder no/such"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_nothing(tmp_path, monkeypatch, capsys, command, message):
    monkeypatch.chdir(tmp_path)
    assert main(["claims", *command]) == 2
    error = capsys.readouterr().err
    assert error.startswith(message)
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_text_of_ones_own_takes_the_place_of_the_standard_library():
    claim = CLAIMS["gates"]
    own = claim.runs("quick", "a.txt")
    assert {run.task for run in own} == {"text,data=a.txt"}
    assert CLAIMS["parity"].runs("quick", "a.txt") == CLAIMS["parity"].runs("quick")
    made = [made_up(run, 2.0) for run in own]
    assert claim.verdict(made, "quick").outcome == "holds partly"
    mixed = [*made, made_up(claim.runs("quick")[0], 2.0)]
    with pytest.raises(ValueError, match="of several texts"):
        claim.verdict(mixed, "quick")


@pytest.mark.parametrize("number", range(len(MECHANISMS)))
def test_a_trained_model_is_kept_and_looked_into(tmp_path, number):
    short = replace(MECHANISMS[number].run, steps=2, eval_every=1, eval_rows=8, batch_size=8)
    mechanism = replace(MECHANISMS[number], run=short)
    path = tmp_path / f"{mechanism.claim}.safetensors"
    steps = []
    train_model(short, path, progress=lambda: steps.append(1))
    assert len(steps) == 2
    finding = look_into(mechanism, path)
    assert f"`{short.model}` of width {short.d_model}, trained for 2 steps" in finding.text
    assert len(finding.figure.axes) >= 2
    with pytest.raises(ValueError, match="trained otherwise than today"):
        look_into(replace(mechanism, run=replace(short, seed=1)), path)

    write_report([CLAIMS[mechanism.claim]], tmp_path / "empty", tmp_path / "a.md", tmp_path)
    assert "### How" not in (tmp_path / "a.md").read_text()


def test_a_model_that_solves_its_task_is_trained_no_further(tmp_path):
    run = short_run(model="s,conv_width=0", stop_at=-1.0, eval_every=2)
    steps = []
    train_model(run, tmp_path / "a.safetensors", progress=lambda: steps.append(1))
    assert len(steps) == 2
