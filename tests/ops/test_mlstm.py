"""The mLSTM: every backend against the reference, and all of them against the definition."""

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

from exlstm.ops import MLSTMState, backends, mlstm
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
)

# "triton" has no float64: tests/ops/test_mlstm_triton.py.
BACKENDS = [name for name in backends("mlstm") if name != "triton"]
NOT_REFERENCE = [name for name in BACKENDS if name != "reference"]
GATES = [
    pytest.param({"input_gate": i, "forget_gate": f}, id=f"{i}-{f}")
    for i, f in itertools.product(("exp", "sigmoid"), ("sigmoid", "exp"))
]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", CASES["mlstm"], ids=str)
def test_outputs_states_and_gradients(case: Case, dtype: torch.dtype, backend: str) -> None:
    check_contract("mlstm", case, dtype, backend)


def definition(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    i: Tensor,
    f: Tensor,
    state: MLSTMState | None,
    *,
    reset: Tensor | None,
    mask: Tensor | None,
    input_gate: str,
    forget_gate: str,
) -> tuple[Tensor, MLSTMState]:
    """Equations 19-27 of the paper, head by head, step by step, without any stabiliser.

    The memory itself needs none in float64 while gates are moderate. The m of the returned state
    follows its own recurrence, which the rest does not look at.
    """
    B, T, H, K = q.shape
    V = v.shape[-1]
    normalised = input_gate == "exp"
    forget = torch.sigmoid if forget_gate == "sigmoid" else torch.exp
    log_forget = torch.nn.functional.logsigmoid if forget_gate == "sigmoid" else (lambda x: x)
    outputs, cs, ns, ms = [], [], [], []
    for b, a in itertools.product(range(B), range(H)):
        C, n, m = q.new_zeros(K, V), q.new_zeros(K), None
        if state is not None:
            scale = state.m[b, a].exp()
            C, n, m = state.c[b, a] * scale, state.n[b, a] * scale, state.m[b, a]
        for t in range(T):
            if reset is not None and reset[b, t]:
                C, n, m = q.new_zeros(K, V), q.new_zeros(K), None
            if mask is not None and not mask[b, t]:
                outputs.append(q.new_zeros(V))
                continue
            open_ = (torch.exp if normalised else torch.sigmoid)(i[b, t, a])
            keep = forget(f[b, t, a])
            C = keep * C + open_ * torch.outer(k[b, t, a], v[b, t, a])
            n = keep * n + open_ * k[b, t, a]
            query = q[b, t, a] / K**0.5
            h = C.T @ query
            outputs.append(h / (n @ query).abs().clamp(min=1.0) if normalised else h)
            older = None if m is None else m + log_forget(f[b, t, a])
            m = i[b, t, a] if older is None or older < i[b, t, a] else older
        if normalised:
            cs.append(C if m is None else C / m.exp())
            ns.append(n if m is None else n / m.exp())
            ms.append(q.new_tensor(2 * EMPTY_BELOW) if m is None else m)
        else:
            cs.append(C)
            ns.append(torch.zeros_like(n))
            ms.append(q.new_zeros(()))
    h = torch.stack(outputs).view(B, H, T, V).transpose(1, 2)
    c, n, m = (torch.stack(parts).unflatten(0, (B, H)) for parts in (cs, ns, ms))
    return h, MLSTMState(c, n, m)


def generic_inputs(name: str, case: Case, spread: float = 1.0) -> dict[str, Any]:
    """Float64 inputs with nothing arranged: n.q changes sign, the state is any state."""
    inputs = make_inputs("mlstm", case, torch.float64)
    g = generator(name)
    for key in ("q", "k", "v", "i"):
        inputs[key] = torch.randn(inputs[key].shape, generator=g, dtype=torch.float64) * (
            spread if key == "i" else 1.0
        )
    if inputs["state"] is not None and case.input_gate == "exp":
        inputs["state"] = MLSTMState(
            *(torch.randn(s.shape, generator=g, dtype=torch.float64) for s in inputs["state"])
        )
    return inputs


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("gates", GATES)
@pytest.mark.parametrize(
    "size",
    [
        pytest.param({"T": 9, "H": 2, "K": 3, "V": 5, "state": True}, id="state"),
        pytest.param({"T": 9, "H": 1, "K": 4, "V": 2}, id="fresh"),
        pytest.param({"T": 12, "B": 3, "state": True, "mask": True, "reset": True}, id="packed"),
        pytest.param(
            {"T": 71, "B": 1, "H": 1, "K": 2, "V": 3, "state": True, "mask": True}, id="long"
        ),
    ],
)
def test_is_the_definition(size: dict[str, Any], gates: dict[str, str], backend: str) -> None:
    inputs = generic_inputs("definition", Case(name="definition", **size, **gates))
    assert_agrees(run(mlstm, inputs, backend=backend), run(definition, inputs))


@pytest.mark.parametrize("backend", BACKENDS)
def test_is_the_definition_at_90(backend: str) -> None:
    inputs = generic_inputs("90", Case(name="90", T=9, state=True, mask=True))
    g = generator("which")
    for gate in ("i", "f"):
        extreme = 90.0 * torch.randint(-1, 2, inputs[gate].shape, generator=g)
        inputs[gate] = torch.where(extreme == 0.0, inputs[gate], extreme)
    assert_agrees(run(mlstm, inputs, backend=backend), run(definition, inputs))


@pytest.mark.parametrize("backend", BACKENDS)
def test_empty_rows_and_ties(backend: str) -> None:
    """A row masked throughout, a row reset where it is masked, and equal candidates for m."""
    inputs = generic_inputs("empty", Case(name="empty", B=4, T=6, state=True))
    inputs["mask"] = torch.ones(4, 6, dtype=torch.bool)
    inputs["mask"][0] = False
    inputs["mask"][1, 3:] = False
    inputs["mask"][2] = False
    inputs["reset"] = torch.zeros(4, 6, dtype=torch.bool)
    inputs["reset"][1, 4] = inputs["reset"][2, 2] = True
    inputs["forget_gate"] = "exp"
    inputs["f"][3] = torch.tensor([0.0, -1.0, 0.0, 1.0, 0.0, -2.0])[:, None]
    inputs["i"][3] = torch.tensor([1.0, 0.0, 0.0, 1.0, 1.0, -1.0])[:, None]
    inputs["state"].m[3] = 1.0
    want = run(definition, inputs)
    assert want["empty"].tolist() == [[0, 0], [1, 1], [1, 1], [0, 0]]
    assert want["grad.state.m"][3].abs().min() > 0
    assert_agrees(run(mlstm, inputs, backend=backend), want)


@pytest.mark.parametrize("backend", NOT_REFERENCE)
@pytest.mark.parametrize("case", CASES["mlstm"], ids=str)
def test_all_forms_agree_in_float64(case: Case, backend: str) -> None:
    """Sharper than the contract: nothing is arranged, gates of +-1000 among moderate ones."""
    inputs = make_inputs("mlstm", case, torch.float64)
    generic = generic_inputs("agree", case)
    inputs |= {name: generic[name] for name in ("q", "k", "v", "state")}
    inputs["i"] = torch.where(inputs["i"].abs() == 90.0, inputs["i"].sign() * 1000.0, inputs["i"])
    assert_agrees(run(mlstm, inputs, backend=backend), run(mlstm, inputs, backend="reference"))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("gates", GATES)
@pytest.mark.parametrize("packed", [False, True], ids=["plain", "packed"])
@pytest.mark.parametrize("T", [5, 66])
def test_gradcheck(T: int, packed: bool, gates: dict[str, str], backend: str) -> None:
    size = {"K": 2, "V": 3} if T == 5 else {"K": 1, "V": 1}
    case = Case(
        name="gradcheck",
        B=1 + packed,
        T=T,
        H=1,
        state=True,
        mask=packed,
        reset=packed,
        **size,
        **gates,
    )
    inputs = make_inputs("mlstm", case, torch.float64)
    if packed:  # ends with a real step: an empty memory's m has no finite difference
        inputs["mask"][:, -1] = True
    fixed = {name: inputs[name] for name in ("mask", "reset", "input_gate", "forget_gate")}

    def function(q, k, v, i, f, c, n, m):
        if gates["input_gate"] == "sigmoid":  # its n and m are zeros, not variables
            n, m = n.detach(), m.detach()
        h, state = mlstm(q, k, v, i, f, MLSTMState(c, n, m), **fixed, backend=backend)
        return (h, state.c) if gates["input_gate"] == "sigmoid" else (h, *state)

    variables = [*(inputs[name] for name in "qkvif"), *inputs["state"]]
    assert torch.autograd.gradcheck(
        function, [x.requires_grad_() for x in variables], fast_mode=T > 5, atol=1e-7, rtol=1e-6
    )


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("forget_gate", ["sigmoid", "exp"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("q", ["zero", "normal"])
@pytest.mark.parametrize("i", [-1000.0, -90.0, 90.0, 1000.0])
def test_constant_extreme_gates_are_finite(
    i: float, q: str, dtype: torch.dtype, forget_gate: str, backend: str
) -> None:
    """All of one kind, as random ones never are. Where n.q is 0 a gradient may be infinite."""
    for f in (-1000.0, -90.0, 90.0, 1000.0):
        inputs = make_inputs("mlstm", Case(name="constant", T=66, forget_gate=forget_gate), dtype)
        inputs["i"], inputs["f"] = torch.full_like(inputs["i"], i), torch.full_like(inputs["f"], f)
        if q == "zero":
            inputs["q"] = torch.zeros_like(inputs["q"])
        for name, tensor in run(mlstm, inputs, backend=backend).items():
            if q == "normal" or not name.startswith("grad"):
                assert tensor.isfinite().all(), f"{name} at f = {f}"


@pytest.mark.parametrize("backend", BACKENDS)
def test_extreme_gates_mean_their_limits(backend: str) -> None:
    """f = -1000 empties the memory, i = -1000 writes nothing, i = 1000 replaces the memory."""
    case = Case(name="limits", B=1, T=70)
    inputs = make_inputs("mlstm", case, torch.float64)
    h, state = mlstm(**inputs, backend=backend)

    forgotten = {**inputs, "f": inputs["f"].clone(), "reset": torch.zeros(1, 70, dtype=torch.bool)}
    forgotten["f"][:, 40] = -1000.0
    restarted = {**inputs, "reset": torch.zeros(1, 70, dtype=torch.bool)}
    restarted["reset"][:, 40] = True
    for one, other in zip(
        mlstm(**forgotten, backend=backend)[1], mlstm(**restarted, backend=backend)[1], strict=True
    ):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)

    closed = {**inputs, "i": inputs["i"].clone(), "f": inputs["f"].clone()}
    closed["i"][:, 40], closed["f"][:, 40] = -1000.0, 1000.0
    dropped = {**inputs, "mask": torch.ones(1, 70, dtype=torch.bool)}
    dropped["mask"][:, 40] = False
    for one, other in zip(
        mlstm(**closed, backend=backend)[1], mlstm(**dropped, backend=backend)[1], strict=True
    ):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)

    replaced = {**inputs, "i": inputs["i"].clone(), "f": inputs["f"].clone()}
    replaced["i"][:, -1], replaced["f"][:, -1] = 1000.0, 0.0
    h, state = mlstm(**replaced, backend=backend)
    torch.testing.assert_close(state.n, inputs["k"][:, -1], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(state.m, torch.full_like(state.m, 1000.0))
    sign = (inputs["q"] * inputs["k"]).sum(-1, keepdim=True).sign()
    torch.testing.assert_close(h[:, -1], (sign * inputs["v"])[:, -1], rtol=1e-12, atol=1e-12)
