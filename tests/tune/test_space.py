"""What is tried, in one string."""

import optuna
import pytest

from exlstm.tune.space import Choice, Range, parse_space


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("x=1..8", Range(1, 8)),
        ("x=32..128/32", Range(32, 128, step=32)),
        ("x=log:1e-4..1e-2", Range(1e-4, 1e-2, log=True)),
        ("x=log:2..64", Range(2, 64, log=True)),
        ("x=-1.5..2", Range(-1.5, 2)),
        ("x=ms,mmms", Choice(("ms", "mmms"))),
        ("x=1,2.5,true,none", Choice((1, 2.5, True, "none"))),
    ],
)
def test_a_text_is_what_it_prints(text, what):
    assert parse_space([text]) == {"x": what}
    assert parse_space([f"x={what}"]) == {"x": what}


@pytest.mark.parametrize("what", [Range(1, 7, step=3), Range(0.5, 2.0, log=True), Choice((1, "a"))])
def test_what_is_suggested_is_inside(what):
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    drawn = {what.suggest(study.ask(), "x") for _ in range(40)}
    if isinstance(what, Choice):
        assert drawn == set(what.values)
    elif isinstance(what.low, int):
        assert drawn == {1, 4, 7}
    else:
        assert min(drawn) >= 0.5
        assert max(drawn) <= 2.0
        assert len(drawn) == 40


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["x"], "'x' is no space: write name=low..high, name=log:low..high or name=a,b,c"),
        (["=1..2"], "is no space"),
        (["x=2..1"], "'x=2..1': a range goes from a number to a larger one"),
        (["x=log:0..1"], "a range by factors begins above 0, not at 0"),
        (["x=0.5..1/2"], "steps are between whole numbers"),
        (["x=1..8/3"], "steps of 3 do not lead from 1 to 8"),
        (["x=a..b"], "a range is low..high, low..high/step or log:low..high, of numbers"),
        (["x=1"], "a choice needs two or more different values, not '1'"),
        (["x=a,a"], "a choice needs two or more different values"),
        (["x-y=1..2", "x_y=1,2"], "x_y is to be tried twice"),
    ],
)
def test_bad_spaces_are_named(texts, message):
    with pytest.raises(ValueError, match=message):
        parse_space(texts)
