"""The head norm with its skip and gate: every backend against the definition."""

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from exlstm.ops import BackendError, backends, explain, native
from exlstm.ops.head_norm import head_norm
from exlstm.testing import Results, assert_agrees, assert_as_accurate, generator, normal, strided

BACKENDS = backends("head_norm")
KINDS = ("plain", "silu", "sigmoid", "skip", "silu-skip", "sigmoid-skip")
SIZES = [
    (1, 1, 1, 1),
    (2, 1, 3, 5),
    (1, 7, 2, 3),
    (3, 5, 1, 17),
    (2, 33, 4, 64),
    (1, 2, 2, 384),
    (1, 300, 1, 4),
]
DTYPES = (torch.float64, torch.float32)
needs_kernels = pytest.mark.skipif(native.library() is None, reason=str(native.reason()))


def make(kind: str, size: tuple[int, ...], dtype: torch.dtype = torch.float64) -> dict[str, Any]:
    g = generator(f"head_norm/{kind}/{size}")
    B, T, H, V = size
    inputs: dict[str, Any] = {"h": 0.3 + normal(g, *size), "weight": normal(g, H * V)}
    if kind.startswith(("silu", "sigmoid")):
        inputs["gate"] = 3.0 * normal(g, B, T, H * V)
        inputs["activation"] = kind.removesuffix("-skip")
    if kind.endswith("skip"):
        inputs["skip"], inputs["skipped"] = normal(g, H * V), normal(g, B, T, H * V)
    return {n: x.to(dtype) if isinstance(x, Tensor) else x for n, x in inputs.items()}


def double(inputs: dict[str, Any]) -> dict[str, Any]:
    return {n: x.double() if isinstance(x, Tensor) else x for n, x in inputs.items()}


def run(op: Callable[..., Tensor], inputs: dict[str, Any], **options: Any) -> Results:
    """The output and the gradients of a random linear functional of it."""
    leaves = {n: x.detach().requires_grad_() for n, x in inputs.items() if isinstance(x, Tensor)}
    y = op(**{**inputs, **leaves}, **{"eps": 1e-5, **options})
    dy = normal(generator("dy"), *y.shape).bfloat16().to(y.dtype)
    gradients = torch.autograd.grad(y, list(leaves.values()), dy)
    named = {f"grad.{name}": d for name, d in zip(leaves, gradients, strict=True)}
    return {"output": y.detach(), **named}


def check(inputs: dict[str, Any], dtype: torch.dtype, backend: str, **options: Any) -> None:
    plain = run(head_norm, inputs, backend="reference", **options)
    truth = run(head_norm, double(inputs), backend="reference", **options)
    assert_as_accurate(run(head_norm, inputs, backend=backend, **options), plain, truth, dtype)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_output_and_gradients(
    kind: str, size: tuple[int, ...], dtype: torch.dtype, backend: str
) -> None:
    check(make(kind, size, dtype), dtype, backend)


def definition(
    h: Tensor,
    weight: Tensor,
    *,
    eps: float,
    gate: Tensor | None = None,
    activation: str = "silu",
    skip: Tensor | None = None,
    skipped: Tensor | None = None,
) -> Tensor:
    mean = h.mean(-1, keepdim=True)
    variance = (h - mean).square().mean(-1, keepdim=True)
    y = ((h - mean) / (variance + eps).sqrt()).flatten(2) * weight
    y = y if skip is None else y + skip * skipped
    if gate is None:
        return y
    return y / (1 + (-gate).exp()) * (gate if activation == "silu" else 1)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kind", KINDS)
def test_is_the_definition(kind: str, backend: str) -> None:
    inputs = make(kind, (2, 5, 3, 7))
    want = run(definition, inputs, eps=0.1)
    assert_agrees(run(head_norm, inputs, eps=0.1, backend=backend), want)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kind", KINDS)
def test_gradcheck(kind: str, backend: str) -> None:
    inputs = make(kind, (2, 3, 2, 5))
    names = [name for name, x in inputs.items() if isinstance(x, Tensor)]

    def function(*tensors: Tensor) -> Tensor:
        changed = dict(zip(names, tensors, strict=True))
        return head_norm(**inputs | changed, eps=1e-3, backend=backend)

    assert torch.autograd.gradcheck(function, [inputs[name].requires_grad_() for name in names])


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kind", ["silu-skip", "sigmoid-skip"])
def test_extreme_gates(kind: str, dtype: torch.dtype, backend: str) -> None:
    inputs = make(kind, (2, 9, 2, 19), dtype)
    extremes = torch.tensor([-1000.0, -90.0, 90.0, 1000.0], dtype=dtype)
    inputs["gate"] = extremes[torch.arange(inputs["gate"].numel()) % 4].view_as(inputs["gate"])
    check(inputs, dtype, backend)
    for gate in extremes:
        results = run(head_norm, inputs | {"gate": gate.expand_as(inputs["gate"])}, backend=backend)
        assert all(tensor.isfinite().all() for tensor in results.values())


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kind", ["plain", "silu-skip"])
@pytest.mark.parametrize("size", [(2, 5, 2, 17), (1, 4, 3, 192)], ids=str)
@pytest.mark.parametrize("backend", [name for name in BACKENDS if name != "reference"])
def test_a_large_offset(size: tuple[int, ...], kind: str, dtype: torch.dtype, backend: str) -> None:
    """An offset changes nothing but what it rounds away from h."""
    inputs = make(kind, size, dtype)
    inputs["h"] += 1e4
    plain = run(head_norm, inputs, backend="reference")
    centred = double(inputs) | {"h": inputs["h"].double() - 1e4}
    truth = run(head_norm, centred, backend="reference")
    assert_as_accurate(run(head_norm, inputs, backend=backend), plain, truth, dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("offset", [0.0, 0.1, -1e4])
@pytest.mark.parametrize("backend", [name for name in BACKENDS if name != "reference"])
def test_no_variance(offset: float, dtype: torch.dtype, backend: str) -> None:
    """Equal values are their mean: what comes out is the skip, and dh only what eps leaves."""
    inputs = make("skip", (2, 3, 2, 19), dtype)
    inputs["h"] = torch.full_like(inputs["h"], offset)
    results = run(head_norm, inputs, backend=backend)
    assert torch.equal(results["output"], inputs["skip"] * inputs["skipped"])
    assert not results["grad.weight"].any()
    zero = inputs | {"h": torch.zeros_like(inputs["h"])}
    truth = run(head_norm, double(zero), backend="reference")
    assert_as_accurate(results, run(head_norm, zero, backend="reference"), truth, dtype)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("size", [(2, 5, 3, 7), (3, 1, 2, 9), (1, 4, 1, 1)], ids=str)
def test_strided_inputs(size: tuple[int, ...], backend: str) -> None:
    """Any strides, halves of something wider, and expanded gradients."""
    inputs = make("silu-skip", size)
    want = run(head_norm, inputs, backend=backend)
    reversed_axes = {n: strided(x) if isinstance(x, Tensor) else x for n, x in inputs.items()}
    assert_agrees(run(head_norm, reversed_axes, backend=backend), want)

    gate, skipped = torch.cat((inputs["gate"], inputs["skipped"]), -1).chunk(2, -1)
    halves = inputs | {"gate": gate, "skipped": skipped}
    assert_agrees(run(head_norm, halves, backend=backend), want)

    later = torch.cat((inputs["gate"], inputs["gate"]), 1)[:, size[1] :]
    assert_agrees(run(head_norm, inputs | {"gate": later}, backend=backend), want)

    h = inputs["h"].requires_grad_()
    y = head_norm(**inputs, eps=1e-5, backend=backend)
    for dy in (torch.ones(1, 1, 1).expand_as(y), torch.cat((gate, skipped), -1).chunk(2, -1)[1]):
        pair = (torch.autograd.grad(y, h, d.to(y), retain_graph=True)[0] for d in (dy, dy.clone()))
        torch.testing.assert_close(*pair, rtol=0.0, atol=0.0)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_row_with_nan_or_infinity_spoils_no_other(backend: str) -> None:
    inputs = make("silu-skip", (1, 3, 2, 19))
    want = head_norm(**inputs, eps=1e-5, backend=backend)
    inputs["h"][0, 1, 0, 18], inputs["h"][0, 2, 1, 0] = torch.nan, torch.inf
    y = head_norm(**inputs, eps=1e-5, backend=backend).view(3, 2, 19)
    assert y[1, 0].isnan().all()
    assert y[2, 1].isnan().all()
    same = torch.tensor([[True, True], [False, True], [True, False]])
    torch.testing.assert_close(y[same], want.view(3, 2, 19)[same], rtol=0.0, atol=0.0)


@needs_kernels
@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_any_number_of_threads_gives_the_same_bits(dtype: torch.dtype) -> None:
    inputs = make("silu-skip", (3, 133, 3, 37), dtype)
    results = []
    for count in (1, 2, 3, 1):
        torch.set_num_threads(count)
        results.append(run(head_norm, inputs, backend="native"))
    for other in results[1:]:
        for name, tensor in results[0].items():
            assert torch.equal(tensor, other[name]), name


@needs_kernels
@pytest.mark.compile
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_registered(dtype: torch.dtype, kind: str) -> None:
    inputs = make(kind, (2, 3, 2, 5), dtype)
    tensors = [inputs.get(name) for name in ("h", "weight", "gate", "skip", "skipped")]
    activation = inputs.get("activation", "silu")
    tests = ("test_schema", "test_faketensor", "test_aot_dispatch_dynamic")
    forward, backward = torch.ops.exlstm.head_norm_forward, torch.ops.exlstm.head_norm_backward
    torch.library.opcheck(forward, (*tensors, 1e-5, activation), test_utils=tests)
    y, kept = forward(*tensors, 1e-5, activation)
    torch.library.opcheck(
        backward, (*tensors, kept, torch.ones_like(y), activation), test_utils=tests
    )


@pytest.mark.compile
@pytest.mark.parametrize("kind", ["plain", "silu-skip"])
def test_compiled_equals_eager(kind: str) -> None:
    inputs = make(kind, (2, 64, 4, 64), torch.float32)
    torch.compiler.reset()
    compiled = torch.compile(head_norm, fullgraph=True)
    results, plain = run(compiled, inputs), run(head_norm, inputs)
    assert_as_accurate(results, plain, run(head_norm, double(inputs)), torch.float32)
    torch.compiler.reset()


@needs_kernels
@pytest.mark.parametrize(("time", "runs"), [(1, "reference"), (64, "native")])
def test_little_data_is_left_to_pytorch(time: int, runs: str) -> None:
    inputs = make("silu-skip", (1, time, 4, 128), torch.float32)
    reasons = explain("head_norm", *(x for x in inputs.values() if isinstance(x, Tensor)))
    assert next(name for name, reason in reasons.items() if reason == "ok") == runs
    want = head_norm(**inputs, eps=1e-5, backend=runs)
    assert torch.equal(head_norm(**inputs, eps=1e-5), want)


@needs_kernels
def test_what_the_kernels_refuse_runs_as_pytorch_decides() -> None:
    inputs = make("silu-skip", (2, 64, 4, 64), torch.float32)
    half = inputs | {"h": inputs["h"].bfloat16()}
    assert head_norm(**half, eps=1e-5).dtype == torch.float32
    with pytest.raises(BackendError, match="bfloat16"):
        head_norm(**half, eps=1e-5, backend="native")
    with pytest.raises(BackendError, match="float64"):
        head_norm(**inputs | {"skip": inputs["skip"].double()}, eps=1e-5, backend="native")
    meta = {n: x.to("meta") if isinstance(x, Tensor) else x for n, x in inputs.items()}
    with pytest.raises(BackendError, match="meta"):
        head_norm(**meta, eps=1e-5, backend="native")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        want = head_norm(**inputs, eps=1e-5, backend="reference")
        assert torch.equal(head_norm(**inputs, eps=1e-5), want)
        with pytest.raises(BackendError, match="autocast"):
            head_norm(**inputs, eps=1e-5, backend="native")


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda a: {"h": a["h"][0]}, ("h", "(3, 2, 5)")),
        (lambda a: {"h": a["h"][:, :0]}, ("T", "0")),
        (lambda a: {"h": a["h"].long()}, ("h", "int64")),
        (lambda a: {"weight": a["weight"][:5]}, ("weight", "(5,)", "(10,)")),
        (lambda a: {"gate": a["gate"][:1]}, ("gate", "(1, 3, 10)", "(2, 3, 10)")),
        (lambda a: {"gate": a["h"]}, ("gate", "(2, 3, 2, 5)", "(2, 3, 10)")),
        (lambda a: {"skip": a["weight"][None]}, ("skip", "(1, 10)", "(10,)")),
        (lambda a: {"skipped": a["gate"][:, 1:]}, ("skipped", "(2, 2, 10)", "(2, 3, 10)")),
        (lambda a: {"skip": None}, ("skip is missing",)),
        (lambda a: {"skipped": None}, ("skipped is missing",)),
        (lambda a: {"activation": "tanh"}, ("activation", "tanh", "silu", "sigmoid")),
        (lambda a: {"backend": "fast"}, ("fast", "native", "reference")),
    ],
)
def test_errors(change: Callable[[dict[str, Any]], dict[str, Any]], named: tuple[str, ...]) -> None:
    inputs = make("silu-skip", (2, 3, 2, 5))
    with pytest.raises(ValueError, match=re.escape(named[0])) as error:
        head_norm(**inputs | change(inputs), eps=1e-5)
    message = str(error.value)
    assert "\n" not in message
    assert all(word in message for word in named), message
