"""The sLSTM's Triton kernels, interpreted on the CPU: `TRITON_INTERPRET=1 pytest` on this file.

By name it runs float32 only there: products of bfloat16 are wrong in Triton's interpreter.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.func import vmap

from exlstm.ops import BackendError, SLSTMState, explain, slstm, use_backend
from exlstm.ops.slstm_reference import empty_slstm_state
from exlstm.ops.slstm_triton import slstm_triton
from exlstm.ops.triton_support import INSTALLED, interprets
from exlstm.testing import (
    CASES,
    Case,
    Results,
    assert_as_accurate,
    check_contract,
    make_inputs,
    run,
    strided,
    to_double,
)

needs_interpreter = pytest.mark.skipif(
    not (INSTALLED and interprets()), reason="needs triton and TRITON_INTERPRET=1"
)
PACKED = Case(name="packed", B=3, T=6, H=1, V=18, state=True, mask=True, reset=True)
# More cells than a tile and more rows than a program; a gradient for each of both.
WIDE = (
    PACKED,
    Case(name="tiles", B=2, T=5, H=1, V=33, state=True),
    Case(name="rows", B=18, T=4, H=1, V=20, mask=True, reset=True, strided=True),
    Case(name="wide-extreme", B=2, T=6, H=2, V=18, reset=True, gates="extreme"),
    Case(name="wide-exp", B=2, T=5, H=1, V=17, state=True, forget_gate="exp"),
    Case(name="wide-step", B=2, T=1, H=1, V=20, state=True),
)


@pytest.fixture(params=["on chip", "streamed"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Which kernels run: as on a GPU where a head's weights fit, and as on one where not."""
    from exlstm.ops import slstm_triton_launch

    room = 2**30 if request.param == "on chip" else 0
    monkeypatch.setattr(slstm_triton_launch, "_shared_memory", lambda device: room)
    return request.param


def as_accurate(inputs: dict[str, Any]) -> Results:
    results = run(slstm, inputs, backend="triton")
    assert_as_accurate(
        results,
        run(slstm, inputs, backend="reference"),
        run(slstm, to_double(inputs), backend="reference"),
        torch.float32,
    )
    return results


@needs_interpreter
@pytest.mark.parametrize("case", CASES["slstm"], ids=str)
def test_outputs_states_and_gradients(case: Case, way: str) -> None:
    """In some of the steps: to these kernels each is like any other."""
    check_contract("slstm", replace(case, T=min(case.T, 8)), torch.float32, "triton")


@needs_interpreter
@pytest.mark.parametrize("case", WIDE, ids=str)
def test_more_cells_and_rows_than_a_tile(case: Case, way: str) -> None:
    check_contract("slstm", case, torch.float32, "triton")


@needs_interpreter
def test_empty_rows_and_ties(way: str) -> None:
    """A row masked throughout, a row reset where it is masked, and equal candidates for m."""
    inputs = make_inputs("slstm", Case(name="empty", B=4, T=6, H=1, state=True), torch.float32)
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
    assert as_accurate(inputs)["empty"][:, 0, 0].tolist() == [0, 1, 1, 0]


@needs_interpreter
@pytest.mark.parametrize("forget_gate", ["sigmoid", "exp"])
@pytest.mark.parametrize("i", [-1000.0, 1000.0])
def test_constant_extreme_gates_are_finite(i: float, forget_gate: Any, way: str) -> None:
    case = Case(name="constant", B=1, T=8, H=1, forget_gate=forget_gate)
    for f in (-1000.0, 1000.0):
        inputs = make_inputs("slstm", case, torch.float32)
        inputs["x"][:, :, :, 0], inputs["x"][:, :, :, 1] = i, f
        for name, tensor in run(slstm, inputs, backend="triton").items():
            assert tensor.isfinite().all(), f"{name} at f = {f}"


@needs_interpreter
def test_runs_and_pieces_are_the_same_to_the_bit(way: str) -> None:
    inputs = make_inputs("slstm", PACKED, torch.float32)
    one, other = (run(slstm, inputs, backend="triton") for _ in range(2))
    assert all(torch.equal(one[name], other[name]) for name in one)

    pieces, state = [], inputs["state"]
    for steps in (slice(0, 1), slice(1, 4), slice(4, 6)):
        timed = {name: inputs[name][:, steps] for name in ("x", "mask", "reset")}
        h, state = slstm(**inputs | timed | {"state": state}, backend="triton")
        pieces.append(h)
    assert torch.equal(torch.cat(pieces, 1), one["output"])
    for name, part in state._asdict().items():
        assert torch.equal(part.masked_fill(part < -1e8, 0.0), one[f"state.{name}"]), name


@needs_interpreter
@pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning")  # numpy's, of a branch
def test_rows_are_apart_and_padding_is_not_read(way: str) -> None:
    inputs = make_inputs("slstm", PACKED, torch.float32)
    whole = run(slstm, inputs, backend="triton")
    inputs["x"][~inputs["mask"]] = 1e6
    padded = run(slstm, inputs, backend="triton")
    assert all(torch.equal(padded[name], whole[name]) for name in whole)
    inputs["mask"][1, 2], inputs["x"][1, 2] = True, torch.nan
    bad, _ = slstm(**inputs, backend="triton")
    assert bad[1].isnan().any()
    assert torch.equal(bad[::2], whole["output"][::2])


@needs_interpreter
def test_float16_rounds_what_enters_a_product_alone(way: str) -> None:
    """The path of narrow dtypes, which by name needs a GPU; float16 alone is right here."""

    def triton(
        x: Tensor, r: Tensor, state: SLSTMState, mask: Tensor, reset: Tensor, forget_gate: str
    ) -> tuple[Tensor, SLSTMState]:
        h, last = slstm_triton(x, r, state, mask, reset, forget_gate)
        assert h.dtype == x.dtype
        return h.masked_fill(~mask[..., None, None], 0.0), last

    inputs = make_inputs("slstm", PACKED, torch.float16)
    assert_as_accurate(
        run(triton, inputs),
        run(slstm, inputs, backend="reference"),
        run(slstm, to_double(inputs), backend="reference"),
        torch.bfloat16,
    )


LAYOUTS = {
    "contiguous": Tensor.contiguous,
    "gates first": lambda x: x.transpose(2, 3).contiguous().transpose(2, 3),
    "strided": strided,
}


@needs_interpreter
@pytest.mark.compile
@pytest.mark.parametrize("layout", LAYOUTS)
def test_registered(layout: str) -> None:
    inputs = make_inputs("slstm", replace(PACKED, B=2, T=3, V=3), torch.float32)
    x, r, state = LAYOUTS[layout](inputs["x"]), inputs["r"], inputs["state"]
    flags = (inputs["mask"], inputs["reset"])
    tests = ("test_schema", "test_faketensor", "test_aot_dispatch_dynamic")
    forward = torch.ops.exlstm.slstm_triton_forward
    for keep in (False, True):
        arguments = (x, r, *state, *flags, "sigmoid", keep)
        torch.library.opcheck(forward, arguments, test_utils=tests)
    h, _, _, _, *kept = forward(x, r, *state, *flags, "sigmoid", True)
    gradients = (torch.ones_like(h), *map(torch.ones_like, state))
    gates_first = layout == "gates first"
    torch.library.opcheck(
        torch.ops.exlstm.slstm_triton_backward,
        (r, state.h, h, *kept, *flags, gates_first, *gradients),
        test_utils=tests,
    )


@needs_interpreter
@pytest.mark.compile
def test_compiled_equals_eager() -> None:
    inputs = make_inputs("slstm", replace(PACKED, T=3, V=3), torch.float32)
    with use_backend("triton"):
        compiled = run(torch.compile(slstm, fullgraph=True, backend="aot_eager"), inputs)
        eager = run(slstm, inputs)
    assert all(torch.equal(compiled[name], eager[name]) for name in eager)


@needs_interpreter
def test_vmap_means_one_by_one() -> None:
    inputs = make_inputs("slstm", Case(name="vmap", B=4, T=3, H=1, V=3), torch.float32)
    x, r = inputs["x"].unflatten(0, (2, 2)), inputs["r"]

    def loss(x: Tensor) -> Tensor:
        return slstm(x, r, backend="triton")[0].square().sum()

    got = vmap(torch.func.grad(loss))(x)
    assert torch.equal(got, torch.stack([torch.func.grad(loss)(one) for one in x]))


@pytest.mark.skipif(not INSTALLED, reason="triton is not installed")
def test_it_says_what_it_cannot_run() -> None:
    x, r = torch.zeros(1, 2, 1, 4, 3), torch.zeros(1, 3, 4, 3)
    assert "float64" in explain("slstm", x.double(), r.double())["triton"]
    expected = "runs by name only" if interprets() else "it is for CUDA, not cpu"
    assert expected in explain("slstm", x, r)["triton"]
    with pytest.raises(BackendError, match="float64"):
        slstm(x.double(), r.double(), backend="triton")


def test_states_in_effect_are_those_of_the_reference() -> None:
    """The kernels' empty memory is the reference's, though they cannot import it."""
    if not INSTALLED:
        pytest.skip("triton is not installed")
    from exlstm.ops.slstm_triton_cell import LOWEST

    assert empty_slstm_state(torch.zeros(1)).m.item() == LOWEST.value
