"""Who runs an op, and what an op refuses."""

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from exlstm.ops import BackendError, backends, causal_conv1d, explain, mlstm, slstm, use_backend
from exlstm.testing import OPS, Case, make_inputs, map_state

CASE = Case(name="backend", B=2, T=5, H=3, K=6, V=7, W=4, state=True, mask=True, reset=True)
BACKENDS = {
    "mlstm": ("chunkwise", "parallel", "reference", "scan"),
    "slstm": ("sequential", "reference", "scan"),
    "causal_conv1d": ("reference",),
}
FIRST = {"mlstm": ("q", "k", "v", "i", "f"), "slstm": ("x", "r"), "causal_conv1d": ("x", "weight")}


def inputs_of(op: str, dtype: torch.dtype = torch.float32) -> dict[str, Any]:
    return make_inputs(op, CASE, dtype)


def tensors_of(op: str) -> list[Tensor]:
    inputs = inputs_of(op)
    return [inputs[name] for name in FIRST[op]]


def one_line(error: pytest.ExceptionInfo[ValueError]) -> str:
    message = str(error.value)
    assert message
    assert "\n" not in message
    return message


@pytest.mark.parametrize("op", BACKENDS)
def test_backends_and_reasons(op: str) -> None:
    assert set(BACKENDS[op]) <= set(backends(op))
    reasons = explain(op, *tensors_of(op))
    assert tuple(reasons) == backends(op)
    assert all(isinstance(reason, str) for reason in reasons.values())
    assert {reasons[name] for name in BACKENDS[op]} == {"ok"}


@pytest.mark.parametrize("op", BACKENDS)
def test_none_takes_the_first_that_can(op: str) -> None:
    reasons = explain(op, *tensors_of(op))
    first = next(name for name, reason in reasons.items() if reason == "ok")
    chosen, _ = OPS[op](**inputs_of(op), backend=None)
    named, _ = OPS[op](**inputs_of(op), backend=first)
    assert torch.equal(chosen, named)


class RanError(Exception):
    """Raised in place of running, to see who would have run."""


@pytest.fixture
def running(monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Which backend runs a call: each is replaced by one that says its name."""
    from exlstm.ops import backend as module

    def stand_in(implementation: Any) -> Any:
        def run(*arguments: Any) -> None:
            raise RanError(implementation.name)

        return type(implementation)(implementation.name, run, implementation.refuse)

    table = {op: tuple(map(stand_in, rows)) for op, rows in module._IMPLEMENTATIONS.items()}
    monkeypatch.setattr(module, "_IMPLEMENTATIONS", table)

    def who(op: str, **options: Any) -> str:
        with pytest.raises(RanError) as ran:
            OPS[op](**inputs_of(op), **options)
        return str(ran.value)

    return who


@pytest.mark.parametrize("op", BACKENDS)
def test_a_name_runs_that_one(op: str, running: Callable[..., str]) -> None:
    for name in BACKENDS[op]:
        assert running(op, backend=name) == name


def test_use_backend(running: Callable[..., str]) -> None:
    before = {op: running(op) for op in BACKENDS}
    with use_backend("reference"):
        assert {running(op) for op in BACKENDS} == {"reference"}
        assert running("mlstm", backend="parallel") == "parallel"
        with use_backend("chunkwise"):
            assert running("mlstm") == "chunkwise"
            assert running("slstm") == before["slstm"]  # the sLSTM has none of that name
        assert running("mlstm") == "reference"
    with use_backend("scan", "reference"):  # each op's first of these
        assert [running(op) for op in BACKENDS] == ["scan", "scan", "reference"]
        with use_backend():
            assert {op: running(op) for op in BACKENDS} == before
    with pytest.raises(ZeroDivisionError), use_backend("reference"):
        _ = 1 / 0
    assert {op: running(op) for op in BACKENDS} == before


@pytest.mark.parametrize("op", BACKENDS)
def test_unknown_backend(op: str) -> None:
    with pytest.raises(BackendError) as error:
        OPS[op](**inputs_of(op), backend="nonesuch")
    message = one_line(error)
    assert "nonesuch" in message
    assert all(name in message for name in backends(op))
    with pytest.raises(BackendError) as error, use_backend("nonesuch"):
        pass
    assert "nonesuch" in one_line(error)
    with pytest.raises(BackendError, match="nonesuch"), use_backend("reference", "nonesuch"):
        pass


def test_scan_is_never_chosen(running: Callable[..., str]) -> None:
    """It is for exports only: all that it could run runs by one above it."""
    for op in ("mlstm", "slstm"):
        assert backends(op)[-2:] == ("reference", "scan")
        assert running(op) != "scan"


def test_a_backend_of_the_other_op_is_unknown() -> None:
    with pytest.raises(BackendError, match="sequential"):
        mlstm(**inputs_of("mlstm"), backend="sequential")


@pytest.mark.parametrize("function", [backends, explain])
def test_unknown_op(function: Callable[[str], Any]) -> None:
    with pytest.raises(ValueError, match="gru") as error:
        function("gru")
    one_line(error)


def test_a_named_backend_refuses_with_the_reason_and_none_goes_on() -> None:
    """A T x T matrix of 40 GB is refused. Nothing large exists here: the tensors are expanded."""
    T = 100_000
    q = k = v = torch.zeros(1, 1, 1, 4).expand(1, T, 1, 4)
    i = f = torch.zeros(1, 1, 1).expand(1, T, 1)
    reasons = explain("mlstm", q, k, v, i, f)
    assert reasons["parallel"] != "ok"
    assert reasons["chunkwise"] == reasons["reference"] == "ok"
    with pytest.raises(BackendError) as error:
        mlstm(q, k, v, i, f, backend="parallel")
    assert reasons["parallel"] in one_line(error)
    with use_backend("parallel"), pytest.raises(BackendError):
        mlstm(q, k, v, i, f)


def bad_shape(x: Tensor) -> Tensor:
    return x.new_zeros(*x.shape[:-1], x.shape[-1] + 10)


# What is changed, and what the message must name: the argument and the value.
ERRORS: dict[str, dict[str, tuple[Callable[[dict[str, Any]], dict[str, Any]], tuple[str, ...]]]] = {
    "mlstm": {
        "no steps": (
            lambda a: {n: a[n][:, :0] for n in ("q", "k", "v", "i", "f", "mask", "reset")},
            ("T", "0"),
        ),
        "q": (lambda a: {"q": bad_shape(a["q"])}, ("16", "6")),
        "k heads": (lambda a: {"k": a["k"][:, :, :2]}, ("k", "(2, 5, 2, 6)")),
        "v time": (lambda a: {"v": a["v"][:, :4]}, ("v", "(2, 4, 3, 7)")),
        "i rank": (lambda a: {"i": a["i"][..., None]}, ("i", "(2, 5, 3, 1)")),
        "f batch": (lambda a: {"f": a["f"][:1]}, ("f", "(1, 5, 3)")),
        "q dtype": (lambda a: {"q": a["q"].double()}, ("float64", "float32")),
        "v dtype": (lambda a: {"v": a["v"].double()}, ("v", "float64", "float32")),
        "i dtype": (lambda a: {"i": a["i"].double()}, ("i", "float64", "float32")),
        "integer v": (lambda a: {"v": a["v"].int()}, ("v", "int32")),
        "integer all": (
            lambda a: {n: a[n].long() for n in ("q", "k", "v", "i", "f")},
            ("q", "int64"),
        ),
        "complex q": (lambda a: {"q": a["q"].cfloat()}, ("q", "complex64")),
        "not a tensor": (lambda a: {"k": a["k"].tolist()}, ("k", "list")),
        "state c": (
            lambda a: {"state": a["state"]._replace(c=a["state"].c.mT)},
            ("c", "(2, 3, 7, 6)"),
        ),
        "state n": (
            lambda a: {"state": a["state"]._replace(n=bad_shape(a["state"].n))},
            ("n", "(2, 3, 16)"),
        ),
        "state m": (
            lambda a: {"state": a["state"]._replace(m=a["state"].m[..., None])},
            ("m", "(2, 3, 1)"),
        ),
        "state rows": (
            lambda a: {"state": map_state(lambda s: s[:1], a["state"])},
            ("c", "(1, 3, 6, 7)"),
        ),
        "state dtype": (
            lambda a: {"state": map_state(Tensor.double, a["state"])},
            ("float64", "float32"),
        ),
        "mask dtype": (lambda a: {"mask": a["mask"].float()}, ("mask", "float32", "bool")),
        "mask shape": (lambda a: {"mask": a["mask"][:, :4]}, ("mask", "(2, 4)", "(2, 5)")),
        "reset dtype": (lambda a: {"reset": a["reset"].int()}, ("reset", "int32", "bool")),
        "reset shape": (
            lambda a: {"reset": a["reset"][..., None]},
            ("reset", "(2, 5, 1)", "(2, 5)"),
        ),
        "input gate": (lambda a: {"input_gate": "tanh"}, ("input_gate", "tanh", "exp", "sigmoid")),
        "forget gate": (
            lambda a: {"forget_gate": "relu"},
            ("forget_gate", "relu", "exp", "sigmoid"),
        ),
        "backend": (lambda a: {"backend": "fast"}, ("fast", "chunkwise", "reference")),
    },
    "slstm": {
        "no steps": (lambda a: {n: a[n][:, :0] for n in ("x", "mask", "reset")}, ("T", "0")),
        "x gates": (lambda a: {"x": a["x"][:, :, :, :3]}, ("x", "(2, 5, 3, 3, 7)", "4")),
        "x flat": (lambda a: {"x": a["x"].flatten(3)}, ("x", "(2, 5, 3, 28)")),
        "r heads": (lambda a: {"r": a["r"][:2]}, ("r", "(2, 7, 4, 7)")),
        "r gates": (lambda a: {"r": a["r"].transpose(1, 2)}, ("r", "(3, 4, 7, 7)")),
        "r dtype": (lambda a: {"r": a["r"].double()}, ("r", "float64", "float32")),
        "integer x": (lambda a: {"x": a["x"].long()}, ("x", "int64")),
        "state h": (
            lambda a: {"state": a["state"]._replace(h=bad_shape(a["state"].h))},
            ("h", "(2, 3, 17)"),
        ),
        "state m": (
            lambda a: {"state": a["state"]._replace(m=a["state"].m[..., 0])},
            ("m", "(2, 3)"),
        ),
        "state dtype": (
            lambda a: {"state": map_state(Tensor.bfloat16, a["state"])},
            ("bfloat16", "float32"),
        ),
        "mask dtype": (lambda a: {"mask": a["mask"].long()}, ("mask", "int64", "bool")),
        "reset shape": (lambda a: {"reset": a["reset"][:1]}, ("reset", "(1, 5)", "(2, 5)")),
        "forget gate": (
            lambda a: {"forget_gate": "tanh"},
            ("forget_gate", "tanh", "exp", "sigmoid"),
        ),
        "backend": (lambda a: {"backend": "chunkwise"}, ("chunkwise", "sequential", "reference")),
    },
    "causal_conv1d": {
        "no steps": (lambda a: {n: a[n][:, :0] for n in ("x", "mask", "reset")}, ("T", "0")),
        "no width": (lambda a: {"weight": a["weight"][:, :0], "state": None}, ("W", "0")),
        "x rank": (lambda a: {"x": a["x"][0]}, ("x", "(5, 21)")),
        "weight": (lambda a: {"weight": a["weight"].T}, ("weight", "(4, 21)")),
        "weight dtype": (
            lambda a: {"weight": a["weight"].double()},
            ("weight", "float64", "float32"),
        ),
        "bias": (lambda a: {"bias": bad_shape(a["bias"])}, ("bias", "(31,)")),
        "bias dtype": (lambda a: {"bias": a["bias"].double()}, ("bias", "float64", "float32")),
        "integer x": (lambda a: {"x": a["x"].int()}, ("x", "int32")),
        "state": (lambda a: {"state": a["state"][:, 1:]}, ("state", "(2, 2, 21)", "3")),
        "state dtype": (lambda a: {"state": a["state"].double()}, ("state", "float64", "float32")),
        "state of width 1": (
            lambda a: {"weight": a["weight"][:, :1]},
            ("state", "(2, 3, 21)", "0"),
        ),
        "mask dtype": (lambda a: {"mask": a["mask"].float()}, ("mask", "float32", "bool")),
        "reset shape": (lambda a: {"reset": a["reset"].T}, ("reset", "(5, 2)", "(2, 5)")),
        "activation": (lambda a: {"activation": "gelu"}, ("activation", "gelu", "silu")),
        "backend": (lambda a: {"backend": "sequential"}, ("sequential", "native", "reference")),
    },
}


@pytest.mark.parametrize(
    ("op", "change", "named"),
    [
        pytest.param(op, *error, id=f"{op}-{name}")
        for op, table in ERRORS.items()
        for name, error in table.items()
    ],
)
def test_errors(
    op: str, change: Callable[[dict[str, Any]], dict[str, Any]], named: tuple[str, ...]
) -> None:
    inputs = inputs_of(op)
    with pytest.raises(ValueError, match=re.escape(named[0])) as error:
        OPS[op](**inputs | change(inputs))
    message = one_line(error)
    assert all(word in message for word in named), message


@pytest.mark.parametrize(
    ("op", "dtype", "wide"),
    [
        (op, dtype, torch.float64 if dtype == torch.float64 else torch.float32)
        for op in (mlstm, slstm, causal_conv1d)
        for dtype in (torch.float64, torch.float32, torch.bfloat16, torch.float16)
    ],
)
def test_dtypes_of_outputs_and_states(
    op: Callable[..., Any], dtype: torch.dtype, wide: torch.dtype
) -> None:
    inputs = inputs_of(op.__name__, dtype)
    for state in (None, inputs["state"]):
        output, last = op(**inputs | {"state": state})
        assert output.dtype == dtype
        assert {part.dtype for part in ([last] if isinstance(last, Tensor) else last)} == {wide}


@pytest.mark.parametrize(
    ("op", "backend"), [(op, name) for op in OPS for name in backends(op) if name != "triton"]
)
@pytest.mark.parametrize("time", [1, 5])
def test_final_states_are_tensors_of_their_own(op: str, backend: str, time: int) -> None:
    """Not views of larger ones, which would stay in memory and cannot be detached in place."""
    case = Case(name="own", T=time, state=True, mask=True, reset=True)
    _, state = OPS[op](**make_inputs(op, case, torch.float32), backend=backend)
    parts = [state] if isinstance(state, torch.Tensor) else state
    assert not any(part._is_view() for part in parts)
