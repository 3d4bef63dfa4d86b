"""Cases, input makers and the tolerance table: what tests and benchmarks of the ops share.

The rule, for each tensor separately (each output, state and gradient): the truth is the float64
reference on the same rounded inputs, the plain result is the reference in the dtype under test, and
a backend may be twice as far from the truth as the plain result (four times for the largest single
error) plus a floor. Absolute caps keep a bad reference from excusing a bad backend. Nobody passes a
tolerance of their own.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, Literal, NamedTuple, TypeGuard

import torch
from torch import Tensor

from exlstm.ops import MLSTMState, SLSTMState, causal_conv1d, mlstm, slstm

Op = Callable[..., Any]
Results = dict[str, Tensor]
OPS: dict[str, Op] = {"mlstm": mlstm, "slstm": slstm, "causal_conv1d": causal_conv1d}
DTYPES = (torch.float64, torch.float32, torch.bfloat16)

# Arguments with a time axis, and those shared by all rows; the others (states) have a batch axis.
TIMED = ("q", "k", "v", "i", "f", "x", "mask", "reset")
SHARED = ("r", "weight", "bias")

EXTREMES = (-1000.0, 1000.0, -90.0, 90.0)
# A stabiliser below this is of an empty memory, whatever a backend takes for minus infinity.
EMPTY_BELOW = -1e8


class Tolerance(NamedTuple):
    """One row of the table, all relative to rms(truth).

    Attributes:
        floor: An error that is always allowed.
        cap: An error that is never allowed.
        smallest: A truth with a smaller rms counts as this large: below it the dtype underflows.
    """

    floor: float
    cap: float
    smallest: float


TOLERANCES = {
    torch.float64: Tolerance(floor=1e-12, cap=1e-10, smallest=1e-290),
    torch.float32: Tolerance(floor=1e-6, cap=1e-4, smallest=1e-30),
    torch.bfloat16: Tolerance(floor=4e-3, cap=5e-2, smallest=1e-30),
}
FACTOR_RMS = 2.0
FACTOR_MAX = 4.0
# Two ways to compute the same thing in float64: largest difference over rms.
AGREEMENT = 1e-9
# As large is what rounding leaves of a zero: a query that reads a single step has no gradient.
ROUNDING = 1e-14


@dataclass(frozen=True, kw_only=True)
class Case:
    """A named size and situation.

    For the convolution `D = H * V`; it has no `K` and no gates, and it alone has an activation.
    """

    name: str
    B: int = 2
    T: int
    H: int = 2
    K: int = 4
    V: int = 4
    W: int = 4
    state: bool = False
    mask: bool = False
    reset: bool = False
    strided: bool = False
    gates: Literal["normal", "mixed", "extreme"] = "normal"
    input_gate: Literal["exp", "sigmoid"] = "exp"
    forget_gate: Literal["sigmoid", "exp"] = "sigmoid"
    activation: Literal["silu"] | None = None

    def __str__(self) -> str:
        """The name, which is also the pytest id."""
        return self.name


_COMMON = (
    Case(name="first-step", T=1, K=8, V=5),
    Case(name="step", T=1, H=3, K=5, V=8, state=True),
    Case(name="small", B=1, T=7, H=1, K=2, V=1, state=True),
    Case(name="odd", T=63, H=3, K=17, V=9, state=True),
    Case(name="chunk", T=64, K=8, V=16),
    Case(name="chunk+1", T=65, H=1, K=4, V=12, W=3, state=True, mask=True),
    Case(name="two-chunks+1", B=1, T=129, K=8, V=4, W=2, state=True, reset=True),
    Case(name="packed", B=3, T=70, state=True, mask=True, reset=True),
    Case(name="packed-fresh", T=67, H=1, W=1, mask=True, reset=True),
    Case(name="strided", T=66, H=3, K=6, V=5, state=True, mask=True, reset=True, strided=True),
)
_GATED = (
    Case(name="mixed", T=70, gates="mixed", state=True, mask=True, reset=True),
    Case(name="extreme", T=67, gates="extreme", state=True),
    Case(name="extreme-fresh", T=67, H=3, gates="extreme"),
    Case(name="exp", T=67, state=True, mask=True, reset=True, forget_gate="exp"),
    Case(name="exp-mixed", T=66, gates="mixed", state=True, forget_gate="exp"),
    Case(name="exp-extreme", T=66, gates="extreme", forget_gate="exp"),
)
# No extreme gates for sigmoid with exp: without a stabiliser that memory overflows by definition.
_SIGMOID_INPUT = (
    Case(name="sig", T=66, K=5, state=True, mask=True, reset=True, input_gate="sigmoid"),
    Case(name="sig-exp", T=66, K=5, state=True, input_gate="sigmoid", forget_gate="exp"),
    Case(name="sig-mixed", T=65, gates="mixed", state=True, input_gate="sigmoid"),
    Case(name="sig-extreme", T=65, gates="extreme", state=True, reset=True, input_gate="sigmoid"),
)
_SILU = tuple(replace(case, name=f"{case}-silu", activation="silu") for case in _COMMON)
CASES: dict[str, tuple[Case, ...]] = {
    "mlstm": _COMMON + _GATED + _SIGMOID_INPUT,
    "slstm": _COMMON + _GATED,
    "causal_conv1d": _COMMON + _SILU,
}


def generator(name: str) -> torch.Generator:
    """A generator for each name, so that nothing depends on the order of tests."""
    return torch.Generator().manual_seed(zlib.crc32(name.encode()))


def make_inputs(op: str, case: Case, dtype: torch.dtype) -> dict[str, Any]:
    """Keyword arguments for `OPS[op]`: states in float32 or float64, everything else in `dtype`.

    Queries and keys have a fixed sign per head, which keeps n.q away from zero: near it the output
    is a division by rounding noise, and no two correct programs agree. Both signs, and both sides
    of the maximum in the denominator, occur.
    """
    g = generator(f"{op}/{case}")
    B, T, H, K, V = case.B, case.T, case.H, case.K, case.V
    state: Any
    if op == "mlstm":
        sign = (-1.0) ** torch.arange(H, dtype=torch.float64)
        i, f = _gates(g, case, B, T, H)
        q, k = (_positive(g, B, T, H, K) for _ in range(2))
        i = torch.where(i.abs() < 90.0, i + 2.0 * sign, i)
        values = {"q": q, "k": k * sign[:, None], "v": normal(g, B, T, H, V), "i": i, "f": f}
        n = _positive(g, B, H, K) * sign[:, None]
        state = MLSTMState(c=normal(g, B, H, K, V), n=n, m=_exponents(g, case, B, H))
        if case.input_gate == "sigmoid":
            state = state._replace(n=torch.zeros_like(state.n), m=torch.zeros_like(state.m))
        options = {"input_gate": case.input_gate, "forget_gate": case.forget_gate}
    elif op == "slstm":
        cells = (B, T, H, V)
        x = torch.stack((*_gates(g, case, *cells), normal(g, *cells), normal(g, *cells)), dim=3)
        values = {"x": x, "r": 0.5 * normal(g, H, V, 4, V) / math.sqrt(V)}
        if case.gates != "normal" and case.forget_gate == "exp":  # as for `_exponents`
            values["r"][:, :, :2] = 0.0
        h, z, n = normal(g, B, H, V), normal(g, B, H, V), _positive(g, B, H, V)
        state = SLSTMState(h=h.tanh(), c=n * z.tanh(), n=n, m=_exponents(g, case, B, H, V))
        options = {"forget_gate": case.forget_gate}
    else:
        D, W = H * V, case.W
        values = {"x": normal(g, B, T, D), "weight": normal(g, D, W), "bias": normal(g, D)}
        state = normal(g, B, W - 1, D)
        options = {"activation": case.activation}

    wide = torch.float64 if dtype == torch.float64 else torch.float32
    values = {name: tensor.to(dtype) for name, tensor in values.items()}
    return {
        **({name: strided(x) for name, x in values.items()} if case.strided else values),
        "state": map_state(lambda s: s.to(wide), state) if case.state else None,
        "mask": torch.rand(B, T, generator=g) < 0.7 if case.mask else None,
        "reset": torch.rand(B, T, generator=g) < 0.1 if case.reset else None,
        **options,
    }


def normal(g: torch.Generator, *shape: int) -> Tensor:
    """Standard normal numbers in float64."""
    return torch.randn(*shape, generator=g, dtype=torch.float64)


def _positive(g: torch.Generator, *shape: int) -> Tensor:
    return 0.25 + 1.5 * torch.rand(*shape, generator=g, dtype=torch.float64)


def _exponents(
    g: torch.Generator, case: Case, *shape: int, mean: float = 0.0, width: float = 1.0
) -> Tensor:
    x = mean + width * normal(g, *shape)
    # Sums of exp gates reach thousands, which float32 rounds by 1e-4, each form in its own way. In
    # eighths the sums are exact, and what is left is a form's own error.
    return (8.0 * x).round() / 8.0 if (case.gates, case.forget_gate) == ("mixed", "exp") else x


def _gates(g: torch.Generator, case: Case, *shape: int) -> list[Tensor]:
    # An exponential forget gate above one on average would grow the memory without bound.
    forget = (2.0, 2.0) if case.forget_gate == "sigmoid" else (-0.4, 0.5)
    share = {"normal": 0.0, "mixed": 0.2, "extreme": 1.0}[case.gates]
    # For the same reason input gates of 1000 come with extreme ones only, which are whole numbers.
    lowest = 2 if case.gates == "mixed" else 0
    gates = []
    for mean, width, start in ((-1.0, 2.0, lowest), (*forget, 0)):
        which = torch.randint(start, 4, shape, generator=g)
        extreme = torch.tensor(EXTREMES, dtype=torch.float64)[which]
        moderate = _exponents(g, case, *shape, mean=mean, width=width)
        gates.append(torch.where(torch.rand(shape, generator=g) < share, extreme, moderate))
    return gates


def strided(tensor: Tensor) -> Tensor:
    """The same values with the axes stored in reverse order and a gap after each element."""
    storage = torch.full((*tensor.shape[::-1], 2), torch.nan, dtype=tensor.dtype)
    view = storage[..., 0].permute(*reversed(range(tensor.dim())))
    view.copy_(tensor)
    return view


def map_state(function: Callable[[Tensor], Tensor], state: Any) -> Any:
    """Apply `function` to every tensor of a state: `None`, a tensor, or a NamedTuple of tensors."""
    if state is None:
        return None
    return function(state) if isinstance(state, Tensor) else type(state)(*map(function, state))


def to_double(inputs: dict[str, Any]) -> dict[str, Any]:
    """The same, already rounded, inputs in float64."""
    double = {n: x.double() for n, x in inputs.items() if _is_float(x)}
    return {**inputs, **double, "state": map_state(Tensor.double, inputs["state"])}


def _is_float(value: Any) -> TypeGuard[Tensor]:
    return isinstance(value, Tensor) and value.is_floating_point()


def _named(prefix: str, value: Any) -> dict[str, Tensor]:
    if value is None or isinstance(value, Tensor):
        return {} if value is None else {prefix: value}
    return {f"{prefix}.{field}": tensor for field, tensor in value._asdict().items()}


def run(op: Op, inputs: dict[str, Any], **options: Any) -> Results:
    """Outputs, final states and the gradients of everything that went in.

    The gradients are those of a random linear functional of all outputs and states. Its weights
    depend on names and shapes only and are exact in bfloat16, so that every dtype and every backend
    differentiates the same function.

    Args:
        op: An op, or anything with its signature that returns `(output, state)`.
        inputs: Its keyword arguments. They are used as they are: not copied, strides kept.
        **options: More keyword arguments, such as `backend="reference"`.

    Returns:
        Tensors by name: `"output"`, `"state.c"`, `"grad.q"`, `"grad.state.c"`, ... Where a memory
        is empty, `"state.m"` is zero and `"empty"` is one.
    """
    leaves: dict[str, Tensor] = {}

    def leaf(name: str, tensor: Tensor) -> Tensor:
        leaves[name] = tensor.detach().requires_grad_()
        return leaves[name]

    arguments = dict(inputs)
    # With the sigmoid input gate n and m are zeros that fill a place, not variables.
    fixed = ("n", "m") if inputs.get("input_gate") == "sigmoid" else ()
    for name, value in inputs.items():
        if name == "state" and value is not None and not isinstance(value, Tensor):
            parts: dict[str, Tensor] = value._asdict()
            arguments[name] = type(value)(
                *(s if n in fixed else leaf(f"state.{n}", s) for n, s in parts.items())
            )
        elif _is_float(value):
            arguments[name] = leaf(name, value)

    output, state = op(**arguments, **options)
    results = {"output": output, **_named("state", state)}
    if "state.m" in results:
        empty = results["state.m"] < EMPTY_BELOW
        results["state.m"] = results["state.m"].masked_fill(empty, 0.0)
        results["empty"] = empty.to(results["state.m"].dtype)
    loss = torch.zeros((), dtype=torch.float64)
    for name, tensor in results.items():
        weights = torch.randn(tensor.shape, generator=generator(name)).bfloat16().double()
        loss = loss + (tensor.double() * weights).sum()
    gradients = torch.autograd.grad(loss, list(leaves.values()), materialize_grads=True)
    results = {name: tensor.detach() for name, tensor in results.items()}
    return results | {f"grad.{name}": grad for name, grad in zip(leaves, gradients, strict=True)}


class Errors(NamedTuple):
    """Distance to the truth, relative to its root mean square."""

    rms: float
    max: float


def errors(got: Tensor, truth: Tensor, dtype: torch.dtype) -> Errors:
    """How far `got` is from `truth`. From a truth of zeros, all else is infinitely far."""
    assert got.shape == truth.shape, f"shape {tuple(got.shape)}, truth {tuple(truth.shape)}"
    difference = (got.double() - truth.double()).abs()
    if not difference.any():
        return Errors(0.0, 0.0)
    if not difference.isfinite().all() or not truth.any():
        return Errors(math.inf, math.inf)
    scale = max(_rms(truth.double()), TOLERANCES[dtype].smallest)
    return Errors(_rms(difference) / scale, difference.max().item() / scale)


def _rms(tensor: Tensor) -> float:
    # The largest is factored out: near the ends of the range squares do not fit.
    largest = tensor.abs().max().item()
    return largest * (tensor / largest).square().mean().sqrt().item() if largest else 0.0


def assert_as_accurate(fast: Results, plain: Results, truth: Results, dtype: torch.dtype) -> None:
    """Assert the tolerance rule for every tensor of three runs on the same inputs."""
    assert list(fast) == list(plain) == list(truth)
    tolerance = TOLERANCES[dtype]
    broken = []
    for name in truth:
        assert fast[name].dtype == plain[name].dtype, f"{name} is {fast[name].dtype}"
        mine, theirs = (errors(x[name], truth[name], dtype) for x in (fast, plain))
        rms_limit = min(FACTOR_RMS * theirs.rms + tolerance.floor, tolerance.cap)
        max_limit = FACTOR_MAX * (theirs.max + tolerance.floor)
        if not (mine.rms <= rms_limit and mine.max <= max_limit):
            broken.append(
                f"{name}: rms {mine.rms:.2e} (limit {rms_limit:.2e}, plain {theirs.rms:.2e}), "
                f"max {mine.max:.2e} (limit {max_limit:.2e}, plain {theirs.max:.2e})"
            )
    assert not broken, "\n".join(broken)


def assert_agrees(got: Results, want: Results) -> None:
    """Assert that two ways to compute the same thing in float64 agree, tensor by tensor."""
    assert list(got) == list(want)
    found = {name: errors(got[name], want[name], torch.float64).max for name in want}
    broken = {
        name: f"{error:.2e}"
        for name, error in found.items()
        if not (error <= AGREEMENT or (got[name] - want[name]).abs().max() <= ROUNDING)
    }
    assert not broken, f"differ by more than {AGREEMENT}: {broken}"


@cache
def _reference(op: str, case: Case, dtype: torch.dtype, wide: bool) -> Results:
    inputs = make_inputs(op, case, dtype)
    return run(OPS[op], to_double(inputs) if wide else inputs, backend="reference")


def check_contract(op: str, case: Case, dtype: torch.dtype, backend: str) -> None:
    """Assert the rule for a backend on a case: for tests, and for a benchmark before it times."""
    fast = run(OPS[op], make_inputs(op, case, dtype), backend=backend)
    plain, truth = _reference(op, case, dtype, False), _reference(op, case, dtype, True)
    assert_as_accurate(fast, plain, truth, dtype)
