"""The ops under `torch.compile`, under autocast, and as registered operators."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from exlstm.ops import linear_onednn, native
from exlstm.ops.linear import linear
from exlstm.testing import OPS, Case, assert_as_accurate, make_inputs, run, to_double

pytestmark = pytest.mark.compile
needs_kernels = pytest.mark.skipif(native.library() is None, reason=str(native.reason()))

CASES = [
    Case(name="compile", T=5, H=2, K=3, V=2, W=3, state=True),
    Case(name="compile-packed", T=5, H=2, K=3, V=2, W=3, mask=True, reset=True, activation="silu"),
]


@pytest.fixture(autouse=True)
def fresh_compiler() -> Iterator[None]:
    torch.compiler.reset()
    yield
    torch.compiler.reset()


# "aot_eager" traces as the default does, forward and backward, but writes no code: it is quick.
@pytest.mark.parametrize(
    ("case", "compiler"), [(CASES[0], "inductor"), (CASES[1], "aot_eager")], ids=str
)
@pytest.mark.parametrize("op", OPS)
def test_compiled_equals_eager(op: str, case: Case, compiler: str) -> None:
    inputs = make_inputs(op, case, torch.float32)
    compiled = torch.compile(OPS[op], fullgraph=True, backend=compiler)
    assert_as_accurate(
        run(compiled, inputs), run(OPS[op], inputs), run(OPS[op], to_double(inputs)), torch.float32
    )


def test_two_ops_and_a_state_between_them_are_one_graph() -> None:
    inputs = make_inputs("mlstm", Case(name="graph", T=6, H=1, K=2, V=2), torch.float32)

    def twice(**arguments: Any) -> tuple[Tensor, Any]:
        first = {n: x[:, :4] if isinstance(x, Tensor) else x for n, x in arguments.items()}
        second = {n: x[:, 4:] if isinstance(x, Tensor) else x for n, x in arguments.items()}
        h, state = OPS["mlstm"](**first)
        return OPS["mlstm"](**second | {"v": second["v"] + h[:, -1:], "state": state})

    assert_as_accurate(
        run(torch.compile(twice, fullgraph=True, backend="aot_eager"), inputs),
        run(twice, inputs),
        run(twice, to_double(inputs)),
        torch.float32,
    )


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
@pytest.mark.parametrize("op", OPS)
def test_autocast_changes_nothing_inside(op: str, compiled: bool) -> None:
    """Under bfloat16 autocast the op still computes and keeps its states in float32."""
    inputs = make_inputs(op, CASES[0], torch.float32)
    function = torch.compile(OPS[op], fullgraph=True, backend="aot_eager") if compiled else OPS[op]

    def autocast(**arguments: Any) -> tuple[Tensor, Any]:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return function(**arguments)

    results = run(autocast, inputs)
    assert all(x.dtype == torch.float32 for name, x in results.items() if name.startswith("state"))
    assert_as_accurate(
        results, run(OPS[op], inputs), run(OPS[op], to_double(inputs)), torch.float32
    )


@pytest.mark.parametrize("forget_gate", ["sigmoid", "exp"])
@pytest.mark.parametrize("flags", [False, True], ids=["plain", "packed"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("name", ["slstm", pytest.param("slstm_native", marks=needs_kernels)])
def test_registered_slstm(name: str, dtype: torch.dtype, flags: bool, forget_gate: Any) -> None:
    forward, backward = (
        getattr(torch.ops.exlstm, f"{name}_{way}") for way in ("forward", "backward")
    )
    case = Case(
        name="opcheck", T=9, V=3, state=True, mask=flags, reset=flags, forget_gate=forget_gate
    )
    inputs = make_inputs("slstm", case, dtype)
    start, flags_ = (
        (inputs["x"], inputs["r"], *inputs["state"]),
        (inputs["mask"], inputs["reset"], forget_gate),
    )
    tests = ("test_schema", "test_faketensor", "test_aot_dispatch_dynamic")
    torch.library.opcheck(forward, (*start, *flags_), test_utils=tests)
    h, _, _, _, *kept = forward(*start, *flags_)
    gradients = (torch.ones_like(h), *(torch.ones_like(s) for s in inputs["state"]))
    arguments = (*start, h, *kept, *flags_, *gradients)
    torch.library.opcheck(backward, arguments, test_utils=tests)


@pytest.mark.parametrize("time", [5, 70])
@pytest.mark.parametrize("normalised", [False, True], ids=["sigmoid", "exp"])
@needs_kernels
def test_registered_mlstm(normalised: bool, time: int) -> None:
    inputs = make_inputs("mlstm", Case(name="opcheck", T=time, V=3, state=True), torch.float32)
    log_gates = (torch.nn.functional.logsigmoid(inputs[name]) for name in "if")
    start = (*(inputs[name] for name in "qkv"), *log_gates, *inputs["state"])
    tests = ("test_schema", "test_faketensor", "test_aot_dispatch_dynamic")
    forward, backward = torch.ops.exlstm.mlstm_forward, torch.ops.exlstm.mlstm_backward
    for keep in (False, True):
        torch.library.opcheck(forward, (*start, normalised, keep), test_utils=tests)
    h, _, _, _, *kept = forward(*start, normalised, True)
    gradients = (torch.ones_like(h), *(torch.ones_like(s) for s in inputs["state"]))
    arguments = (*start, h, *kept, *gradients, normalised)
    torch.library.opcheck(backward, arguments, test_utils=tests)


@pytest.mark.skipif(not linear_onednn._AVAILABLE, reason="this PyTorch has no oneDNN product")
def test_registered_linear() -> None:
    x, weight, bias = torch.randn(2, 3, 5), torch.randn(4, 5), torch.randn(4)
    for each in (bias, None):
        torch.library.opcheck(torch.ops.exlstm.linear_onednn, (x, weight, each))


@pytest.mark.skipif(not linear_onednn._AVAILABLE, reason="this PyTorch has no oneDNN product")
def test_large_linear_maps_compile() -> None:
    """The op that torch has for them is one that torch.compile takes apart, and fails on."""
    x, weight = torch.randn(64, 256), torch.randn(512, 256)
    assert x.numel() * weight.shape[0] >= linear_onednn.SMALL
    compiled = torch.compile(linear, fullgraph=True)

    def call(function: Any, dtype: torch.dtype) -> dict[str, Tensor]:
        leaves = [each.to(dtype).requires_grad_() for each in (x, weight)]
        y = function(leaves[0].tanh(), leaves[1])
        gradients = torch.autograd.grad((y * y.detach().cos()).sum(), leaves)
        return {"y": y.detach(), "dx": gradients[0], "dw": gradients[1]}

    results = call(compiled, torch.float32), call(linear, torch.float32)
    assert_as_accurate(*results, call(linear, torch.float64), torch.float32)


@pytest.mark.parametrize("flags", [False, True], ids=["plain", "packed"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@needs_kernels
def test_registered_conv(dtype: torch.dtype, flags: bool) -> None:
    case = Case(name="opcheck", T=4, V=3, W=3, state=True, mask=flags, reset=flags)
    inputs = make_inputs("causal_conv1d", case, dtype)
    bias = None if flags else inputs["bias"]
    x, state = inputs["x"], inputs["state"]
    arguments = (x, inputs["weight"], bias, state, inputs["mask"], inputs["reset"], True)
    tests = ("test_schema", "test_faketensor", "test_aot_dispatch_dynamic")
    torch.library.opcheck(torch.ops.exlstm.conv_forward, arguments, test_utils=tests)
    d_outputs = (torch.ones_like(x), torch.ones_like(state))
    torch.library.opcheck(
        torch.ops.exlstm.conv_backward, (*arguments, *d_outputs), test_utils=tests
    )
