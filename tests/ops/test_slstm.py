"""The sLSTM: every backend against the reference, and all of them against the definition."""

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from exlstm.ops import SLSTMState, backends, native, slstm, slstm_native
from exlstm.testing import (
    CASES,
    DTYPES,
    EMPTY_BELOW,
    Case,
    assert_agrees,
    check_contract,
    generator,
    make_inputs,
    run,
    strided,
)

# "triton" has no float64: tests/ops/test_slstm_triton.py.
BACKENDS = [name for name in backends("slstm") if name != "triton"]
needs_kernels = pytest.mark.skipif(native.library() is None, reason=str(native.reason()))
FORGET = ("sigmoid", "exp")


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", CASES["slstm"], ids=str)
def test_outputs_states_and_gradients(case: Case, dtype: torch.dtype, backend: str) -> None:
    check_contract("slstm", case, dtype, backend)


def definition(
    x: Tensor,
    r: Tensor,
    state: SLSTMState | None,
    *,
    reset: Tensor | None,
    mask: Tensor | None,
    forget_gate: str,
) -> tuple[Tensor, SLSTMState]:
    """Equations 8-18 of the paper, head by head, step by step, without any stabiliser.

    The m of the returned state follows its own recurrence, which the rest does not look at.
    """
    B, T, H, _, V = x.shape
    forget = torch.sigmoid if forget_gate == "sigmoid" else torch.exp
    log_forget = torch.nn.functional.logsigmoid if forget_gate == "sigmoid" else (lambda pre: pre)
    zeros = x.new_zeros(V)
    outputs, finals = [], []
    for b, a in itertools.product(range(B), range(H)):
        h, c, n, m = zeros, zeros, zeros, None
        if state is not None:
            h, m = state.h[b, a], state.m[b, a]
            c, n = state.c[b, a] * m.exp(), state.n[b, a] * m.exp()
        for t in range(T):
            if reset is not None and reset[b, t]:
                h, c, n, m = zeros, zeros, zeros, None
            if mask is not None and not mask[b, t]:
                outputs.append(zeros)
                continue
            i, f, z, o = (x[b, t, a, gate] + h @ r[a, :, gate] for gate in range(4))
            c = forget(f) * c + i.exp() * z.tanh()
            n = forget(f) * n + i.exp()
            h = o.sigmoid() * c / n
            outputs.append(h)
            older = i if m is None else log_forget(f) + m
            m = torch.where(older >= i, older, i)
        scale = 1.0 if m is None else m.exp()
        finals.append(
            (h, c / scale, n / scale, x.new_full((V,), 2 * EMPTY_BELOW) if m is None else m)
        )
    output = torch.stack(outputs).view(B, H, T, V).transpose(1, 2)
    parts = (torch.stack(part).view(B, H, V) for part in zip(*finals, strict=True))
    return output, SLSTMState(*parts)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("forget_gate", FORGET)
@pytest.mark.parametrize(
    "size",
    [
        pytest.param({"T": 9, "H": 2, "V": 5, "state": True}, id="state"),
        pytest.param({"T": 9, "H": 1, "V": 1}, id="fresh"),
        pytest.param(
            {"T": 12, "B": 3, "V": 3, "state": True, "mask": True, "reset": True}, id="packed"
        ),
        pytest.param({"T": 71, "B": 1, "H": 1, "V": 3, "state": True, "mask": True}, id="long"),
    ],
)
def test_is_the_definition(size: dict[str, Any], forget_gate: Any, backend: str) -> None:
    inputs = make_inputs(
        "slstm", Case(name="definition", forget_gate=forget_gate, **size), torch.float64
    )
    assert_agrees(run(slstm, inputs, backend=backend), run(definition, inputs))


@pytest.mark.parametrize("backend", BACKENDS)
def test_is_the_definition_at_90(backend: str) -> None:
    inputs = make_inputs("slstm", Case(name="90", T=9, state=True, mask=True), torch.float64)
    extreme = 90.0 * torch.randint(-1, 2, inputs["x"].shape, generator=generator("which"))
    inputs["x"] = torch.where(extreme == 0.0, inputs["x"], extreme)
    assert_agrees(run(slstm, inputs, backend=backend), run(definition, inputs))


@pytest.mark.parametrize("backend", BACKENDS)
def test_empty_rows_and_ties(backend: str) -> None:
    """A row masked throughout, a row reset where it is masked, and equal candidates for m."""
    inputs = make_inputs("slstm", Case(name="empty", B=4, T=6, state=True), torch.float64)
    inputs["mask"] = torch.ones(4, 6, dtype=torch.bool)
    inputs["mask"][0] = False
    inputs["mask"][1, 3:] = False
    inputs["mask"][2] = False
    inputs["reset"] = torch.zeros(4, 6, dtype=torch.bool)
    inputs["reset"][1, 4] = inputs["reset"][2, 2] = True
    inputs["forget_gate"] = "exp"
    inputs["r"][:, :, :2] = 0.0  # gates that are exactly what x says
    inputs["x"][3, :, :, 0] = torch.tensor([1.0, 0.0, 0.0, 1.0, 1.0, -1.0])[:, None, None]
    inputs["x"][3, :, :, 1] = torch.tensor([0.0, -1.0, 0.0, 1.0, 0.0, -2.0])[:, None, None]
    inputs["state"].m[3] = 1.0
    want = run(definition, inputs)
    assert want["empty"][:, 0, 0].tolist() == [0, 1, 1, 0]
    assert want["grad.state.m"][3].abs().min() > 0
    assert_agrees(run(slstm, inputs, backend=backend), want)


@pytest.mark.parametrize("backend", [name for name in BACKENDS if name != "reference"])
@pytest.mark.parametrize("case", CASES["slstm"], ids=str)
def test_all_forms_agree_in_float64(case: Case, backend: str) -> None:
    inputs = make_inputs("slstm", case, torch.float64)
    assert_agrees(run(slstm, inputs, backend=backend), run(slstm, inputs, backend="reference"))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("forget_gate", FORGET)
@pytest.mark.parametrize("packed", [False, True], ids=["plain", "packed"])
@pytest.mark.parametrize("state", [False, True], ids=["fresh", "state"])
def test_gradcheck(state: bool, packed: bool, forget_gate: Any, backend: str) -> None:
    case = Case(
        name="gradcheck",
        B=1 + packed,
        T=5,
        H=2,
        V=2,
        state=state,
        mask=packed,
        reset=packed,
        forget_gate=forget_gate,
    )
    inputs = make_inputs("slstm", case, torch.float64)
    if packed:  # ends with a real step: an empty memory's m has no finite difference
        inputs["mask"][:, -1] = True
    fixed = {name: inputs[name] for name in ("mask", "reset", "forget_gate")}

    def function(x, r, *states):
        h, last = slstm(x, r, SLSTMState(*states) if state else None, **fixed, backend=backend)
        return (h, *last)

    variables = [inputs["x"], inputs["r"], *(inputs["state"] or ())]
    assert torch.autograd.gradcheck(
        function, [x.requires_grad_() for x in variables], atol=1e-7, rtol=1e-6
    )


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("forget_gate", FORGET)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("i", [-1000.0, -90.0, 90.0, 1000.0])
def test_constant_extreme_gates_are_finite(
    i: float, dtype: torch.dtype, forget_gate: Any, backend: str
) -> None:
    """All of one kind, which random extremes never are."""
    for f in (-1000.0, -90.0, 90.0, 1000.0):
        inputs = make_inputs("slstm", Case(name="constant", T=30, forget_gate=forget_gate), dtype)
        inputs["x"][:, :, :, 0], inputs["x"][:, :, :, 1] = i, f
        for name, tensor in run(slstm, inputs, backend=backend).items():
            assert tensor.isfinite().all(), f"{name} at f = {f}"


@pytest.mark.parametrize("backend", BACKENDS)
def test_first_step_is_o_tanh_z(backend: str) -> None:
    """From the empty memory c / n is z, whatever the gates are."""
    inputs = make_inputs("slstm", Case(name="limit", T=1, gates="extreme"), torch.float64)
    h, state = slstm(**inputs, backend=backend)
    i, _, z, o = inputs["x"].unbind(3)
    torch.testing.assert_close(h, o.sigmoid() * z.tanh(), rtol=1e-14, atol=0.0)
    torch.testing.assert_close(state.m, i[:, 0], rtol=0.0, atol=0.0)
    torch.testing.assert_close(state.n, torch.ones_like(state.n), rtol=0.0, atol=0.0)


LAYOUTS = {
    "contiguous": Tensor.contiguous,
    "gates first": lambda x: x.transpose(2, 3).contiguous().transpose(2, 3),
    "strided": strided,
}


def op_arguments(name: str, layout: str, **options: Any) -> tuple[list[Any], list[Any]]:
    """What the registered forward and backward passes are called with."""
    case = Case(name="op", H=3, V=5, state=True, **options)
    inputs = make_inputs("slstm", case, torch.float32)
    start = [LAYOUTS[layout](inputs["x"]), inputs["r"], *inputs["state"]]
    flags = [inputs["mask"], inputs["reset"], "sigmoid"]
    h, _, _, _, *kept = getattr(torch.ops.exlstm, f"{name}_forward")(*start, *flags)
    gradients = [torch.randn_like(h), *(torch.randn_like(s) for s in inputs["state"])]
    return [*start, *flags], [*start, h, *kept, *flags, *gradients]


class Large(TorchDispatchMode):
    """Collects the memory, of at least so many numbers, that operations return."""

    def __init__(self, least: int) -> None:
        super().__init__()
        self.least, self.found = least, []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple | list) else (result,):
            if isinstance(tensor, Tensor) and tensor.untyped_storage().nbytes() >= 4 * self.least:
                self.found.append(tensor)
        return result

    def places(self) -> set[int]:
        return {tensor.untyped_storage().data_ptr() for tensor in self.found}


@needs_kernels
@pytest.mark.parametrize("layout", LAYOUTS)
def test_x_is_copied_only_if_it_must_be(layout: str) -> None:
    forward, backward = op_arguments("slstm_native", layout, T=70, mask=True, reset=True)
    x, copies = forward[0], int(layout == "strided")
    known = {x.untyped_storage().data_ptr()}
    with Large(x.numel()) as large:
        slstm_native._forward(*forward)
    assert len(large.places() - known) == copies
    with Large(x.numel()) as large:
        dx, *_ = slstm_native._backward(*backward)
    assert len(large.places() - known - {dx.untyped_storage().data_ptr()}) == copies
    assert (dx.stride() == x.stride()) == (not copies)


@needs_kernels
@pytest.mark.parametrize("by_rows", [False, True], ids=["strided", "by rows"])
def test_a_step_does_not_copy_weights_by_rows(by_rows: bool) -> None:
    (x, r, *others), _ = op_arguments("slstm_native", "contiguous", T=1)
    r = r.permute(2, 0, 3, 1).contiguous().permute(1, 3, 0, 2) if by_rows else strided(r)
    with Large(r.numel()) as large:
        slstm_native._forward(x, r, *others, keep=False)
    assert len(large.places() - {r.untyped_storage().data_ptr()}) == (not by_rows)


@pytest.mark.compile
@pytest.mark.parametrize("layout", ["gates first", "strided"])
@pytest.mark.parametrize("name", ["slstm", pytest.param("slstm_native", marks=needs_kernels)])
def test_registered_in_any_layout(name: str, layout: str) -> None:
    """That what is said of dx to the compiler, its strides included, is so."""
    tests = ("test_schema", "test_faketensor", "test_aot_dispatch_dynamic")
    for way, arguments in zip(
        ("forward", "backward"), op_arguments(name, layout, T=9), strict=True
    ):
        op = getattr(torch.ops.exlstm, f"{name}_{way}")
        torch.library.opcheck(op, tuple(arguments), test_utils=tests)
