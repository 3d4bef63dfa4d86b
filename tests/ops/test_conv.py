"""The causal convolution: every backend against the reference and against the definition."""

from typing import Any

import pytest
import torch
from torch import Tensor

from exlstm.ops import backends, causal_conv1d
from exlstm.testing import (
    CASES,
    DTYPES,
    Case,
    assert_agrees,
    check_contract,
    generator,
    make_inputs,
    normal,
    run,
)

BACKENDS = backends("causal_conv1d")
FAST = [name for name in BACKENDS if name != "reference"]
ACTIVATIONS = (None, "silu")
# More channels than a task of the kernel has, and more steps than it sums at once.
LARGE = Case(name="large", T=530, H=2, V=301, state=True, mask=True, reset=True, activation="silu")


def definition(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    state: Tensor | None,
    *,
    reset: Tensor | None,
    mask: Tensor | None,
    activation: str | None,
) -> tuple[Tensor, Tensor]:
    """A list of the last W - 1 real inputs per row, summed as the letters say."""
    B, T, D = x.shape
    W = weight.shape[1]
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    wide = x.to(dtype)
    outputs, windows = [], []
    for b in range(B):
        window = [wide.new_zeros(D)] * (W - 1) if state is None else list(state[b].unbind())
        for t in range(T):
            if reset is not None and reset[b, t]:
                window = [wide.new_zeros(D)] * (W - 1)
            if mask is not None and not mask[b, t]:
                outputs.append(wide.new_zeros(D))
                continue
            window.append(wide[b, t])
            y = sum(old * weight[:, w].to(dtype) for w, old in enumerate(window))
            y = y if bias is None else y + bias.to(dtype)
            outputs.append(y if activation is None else y / (1 + (-y).exp()))
            window = window[1:]
        windows.append(torch.stack(window) if window else wide.new_zeros(0, D))
    return torch.stack(outputs).view(B, T, D).to(x.dtype), torch.stack(windows)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", [*CASES["causal_conv1d"], LARGE], ids=str)
def test_outputs_states_and_gradients(case: Case, dtype: torch.dtype, backend: str) -> None:
    check_contract("causal_conv1d", case, dtype, backend)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("T", [1, 2, 3, 5])
@pytest.mark.parametrize("W", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("bias", [False, True], ids=["no-bias", "bias"])
def test_is_the_definition(bias: bool, W: int, T: int, activation: Any, backend: str) -> None:
    """Sequences shorter than the window too, where the old window is part of the new one."""
    case = Case(
        name="definition", B=6, T=T, H=1, V=3, W=W, state=True, mask=True, reset=True,
        activation=activation,
    )  # fmt: skip
    inputs = make_inputs("causal_conv1d", case, torch.float64)
    inputs["bias"] = inputs["bias"] if bias else None
    inputs["reset"][0, 0] = True
    inputs["mask"][1] = False
    assert_agrees(run(causal_conv1d, inputs, backend=backend), run(definition, inputs))


@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize("case", [*CASES["causal_conv1d"], LARGE], ids=str)
def test_all_forms_agree_in_float64(case: Case, backend: str) -> None:
    inputs = make_inputs("causal_conv1d", case, torch.float64)
    want = run(causal_conv1d, inputs, backend="reference")
    assert_agrees(run(causal_conv1d, inputs, backend=backend), want)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("flags", [False, True], ids=["plain", "packed"])
@pytest.mark.parametrize("state", [False, True], ids=["fresh", "state"])
def test_gradcheck(state: bool, flags: bool, activation: Any, backend: str) -> None:
    case = Case(name="gradcheck", T=5, H=1, V=2, W=3, state=state, mask=flags, reset=flags)
    inputs = make_inputs("causal_conv1d", case, torch.float64)
    fixed = {"mask": inputs["mask"], "reset": inputs["reset"], "activation": activation}

    def function(x: Tensor, weight: Tensor, bias: Tensor, window: Any = None) -> Any:
        return causal_conv1d(x, weight, bias, window, **fixed, backend=backend)

    variables = [
        inputs[name] for name in ("x", "weight", "bias", "state") if inputs[name] is not None
    ]
    assert torch.autograd.gradcheck(function, [x.requires_grad_() for x in variables])


@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_part_of_a_wider_tensor_gives_the_same_bits(dtype: torch.dtype, backend: str) -> None:
    """Inputs and gradients whose steps lie apart, the channels of each side by side."""
    inputs = make_inputs("causal_conv1d", Case(name="wide", T=9, V=21, activation="silu"), dtype)
    x, dy = inputs.pop("x"), normal(generator("dy"), 2, 9, 42).to(dtype)
    results = []
    for part in (lambda s: s, lambda s: torch.cat((s, s + 1.0), dim=-1).chunk(2, dim=-1)[0]):
        leaves = [part(x).requires_grad_(), inputs["weight"].requires_grad_()]
        y, _ = causal_conv1d(leaves[0], **inputs, backend=backend)
        results.append((y, *torch.autograd.grad(y, leaves, part(dy))))
    for whole, part in zip(*results, strict=True):
        assert torch.equal(whole, part)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_silu_of_large_numbers_is_finite(dtype: torch.dtype, backend: str) -> None:
    """Where the exponential overflows or is nothing, the SiLU is its argument or zero."""
    inputs = make_inputs("causal_conv1d", Case(name="far", T=30, activation="silu"), dtype)
    inputs["x"] *= 1000.0
    inputs["weight"][:] = 1.0
    results = run(causal_conv1d, inputs, backend=backend)
    for name, tensor in results.items():
        assert tensor.isfinite().all(), name
    linear, _ = causal_conv1d(**inputs | {"activation": None}, backend=backend)
    far = linear.abs() > 800.0
    assert far.sum() > far.numel() / 2
    assert torch.equal(results["output"][far], linear.relu()[far])


@pytest.mark.parametrize("backend", BACKENDS)
def test_equals_torch_conv1d(backend: str) -> None:
    inputs = make_inputs("causal_conv1d", Case(name="torch", T=9, W=4), torch.float64)
    y, state = causal_conv1d(**inputs, backend=backend)
    x = inputs["x"].mT
    want = torch.nn.functional.conv1d(
        torch.nn.functional.pad(x, (3, 0)),
        inputs["weight"][:, None],
        inputs["bias"],
        groups=x.shape[1],
    )
    torch.testing.assert_close(y, want.mT, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(state, inputs["x"][:, -3:], rtol=0.0, atol=0.0)
