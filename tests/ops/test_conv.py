"""The causal convolution against its definition."""

from typing import Any

import pytest
import torch
from torch import Tensor

from exlstm.ops import causal_conv1d
from exlstm.testing import (
    CASES,
    DTYPES,
    Case,
    assert_agrees,
    assert_as_accurate,
    make_inputs,
    run,
    to_double,
)


def definition(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    state: Tensor | None,
    *,
    reset: Tensor | None,
    mask: Tensor | None,
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
            outputs.append(y if bias is None else y + bias.to(dtype))
            window = window[1:]
        windows.append(torch.stack(window) if window else wide.new_zeros(0, D))
    return torch.stack(outputs).view(B, T, D).to(x.dtype), torch.stack(windows)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", CASES["causal_conv1d"], ids=str)
def test_outputs_states_and_gradients(case: Case, dtype: torch.dtype) -> None:
    inputs = make_inputs("causal_conv1d", case, dtype)
    plain, truth = run(definition, inputs), run(definition, to_double(inputs))
    assert_as_accurate(run(causal_conv1d, inputs), plain, truth, dtype)


@pytest.mark.parametrize("T", [1, 2, 3, 5])
@pytest.mark.parametrize("W", [1, 2, 4, 7])
@pytest.mark.parametrize("bias", [False, True], ids=["no-bias", "bias"])
def test_is_the_definition(bias: bool, W: int, T: int) -> None:
    """Sequences shorter than the window too, where the old window is part of the new one."""
    case = Case(name="definition", B=6, T=T, H=1, V=3, W=W, state=True, mask=True, reset=True)
    inputs = make_inputs("causal_conv1d", case, torch.float64)
    inputs["bias"] = inputs["bias"] if bias else None
    inputs["reset"][0, 0] = True
    inputs["mask"][1] = False
    assert_agrees(run(causal_conv1d, inputs), run(definition, inputs))


@pytest.mark.parametrize("flags", [False, True], ids=["plain", "packed"])
@pytest.mark.parametrize("state", [False, True], ids=["fresh", "state"])
def test_gradcheck(state: bool, flags: bool) -> None:
    case = Case(name="gradcheck", T=5, H=1, V=2, W=3, state=state, mask=flags, reset=flags)
    inputs = make_inputs("causal_conv1d", case, torch.float64)

    def function(x: Tensor, weight: Tensor, bias: Tensor, window: Any = None) -> Any:
        return causal_conv1d(x, weight, bias, window, mask=inputs["mask"], reset=inputs["reset"])

    variables = [
        inputs[name] for name in ("x", "weight", "bias", "state") if inputs[name] is not None
    ]
    assert torch.autograd.gradcheck(function, [x.requires_grad_() for x in variables])


def test_equals_torch_conv1d() -> None:
    inputs = make_inputs("causal_conv1d", Case(name="torch", T=9, W=4), torch.float64)
    y, state = causal_conv1d(**inputs)
    x = inputs["x"].mT
    want = torch.nn.functional.conv1d(
        torch.nn.functional.pad(x, (3, 0)),
        inputs["weight"][:, None],
        inputs["bias"],
        groups=x.shape[1],
    )
    torch.testing.assert_close(y, want.mT, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(state, inputs["x"][:, -3:], rtol=0.0, atol=0.0)
