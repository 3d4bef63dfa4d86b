"""Block-diagonal maps into one tensor: every backend against `einsum`, and what the op refuses."""

from typing import Any

import pytest
import torch
from torch import Tensor

from exlstm.ops import BackendError, backends, native
from exlstm.ops.block_linear import block_linear
from exlstm.testing import (
    Results,
    assert_agrees,
    assert_as_accurate,
    generator,
    normal,
    strided,
)

BACKENDS = backends("block_linear")
SIZES = (1, 2, 3, 4, 5, 8, 16, 32, 33, 64)
needs_kernels = pytest.mark.skipif(native.library() is None, reason=str(native.reason()))


def make_inputs(
    order: str,
    blocks: int,
    sizes: list[tuple[int, int]],
    *,
    steps: tuple[int, int] = (3, 47),
    same: bool = False,
    bias: bool = True,
) -> dict[str, Any]:
    """Arguments in float64; `sizes` are those in and out of each part's blocks."""
    g = generator(f"{order}/{blocks}/{sizes}")
    inputs = [normal(g, *steps, blocks * size) for size, _ in sizes]
    if same:
        inputs = [inputs[0]] * len(sizes)
    outs = sum(out for _, out in sizes)
    shape = (blocks * outs,) if order == "parts" else (blocks, outs)
    return {
        "inputs": inputs,
        "weights": [normal(g, blocks, out, size) for size, out in sizes],
        "bias": normal(g, *shape) if bias else None,
        "order": order,
    }


def to(inputs: dict[str, Any], dtype: torch.dtype) -> dict[str, Any]:
    """The same in another dtype; what is one tensor stays one."""
    made: dict[int, Tensor] = {}

    def convert(x: Tensor) -> Tensor:
        return made.setdefault(id(x), x.to(dtype, copy=True))

    return {
        "inputs": [convert(x) for x in inputs["inputs"]],
        "weights": [convert(w) for w in inputs["weights"]],
        "bias": None if inputs["bias"] is None else convert(inputs["bias"]),
        "order": inputs["order"],
    }


def run(inputs: dict[str, Any], backend: str | None, function: Any = block_linear) -> Results:
    """The output and the gradients of everything, through a random linear functional."""
    leaves: dict[int, Tensor] = {}

    def leaf(x: Tensor) -> Tensor:
        return leaves.setdefault(id(x), x.detach().requires_grad_())

    y = function(
        [leaf(x) for x in inputs["inputs"]],
        [leaf(w) for w in inputs["weights"]],
        None if inputs["bias"] is None else leaf(inputs["bias"]),
        order=inputs["order"],
        backend=backend,
    )
    weights = torch.randn(y.shape, generator=generator("y")).to(y.dtype)
    gradients = torch.autograd.grad(y, list(leaves.values()), weights)
    return {"y": y.detach(), **{f"grad.{n}": grad for n, grad in enumerate(gradients)}}


def check(inputs: dict[str, Any], dtype: torch.dtype, backend: str) -> None:
    narrow = to(inputs, dtype)
    truth = run(to(narrow, torch.float64), "reference")
    assert_as_accurate(run(narrow, backend), run(narrow, "reference"), truth, dtype)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("order", ["parts", "blocks"])
@pytest.mark.parametrize("size", SIZES)
def test_square_blocks(size: int, order: str, dtype: torch.dtype, backend: str) -> None:
    for parts, blocks, same in ((1, 1, False), (2, 7, True), (3, 5, False), (3, 32, True)):
        check(make_inputs(order, blocks, [(size, size)] * parts, same=same), dtype, backend)
    for steps in ((1, 1), (3, 1), (1, 9), (5, 130)):
        check(make_inputs(order, 3, [(size, size)], steps=steps, bias=False), dtype, backend)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("order", ["parts", "blocks"])
def test_other_blocks(order: str, dtype: torch.dtype, backend: str) -> None:
    for sizes in ([(4, 8), (8, 4)], [(1, 33), (64, 5), (2, 2)], [(32, 64)] * 2, [(17, 150)]):
        for steps in ((1, 1), (2, 50), (1, 300)):
            check(make_inputs(order, 4, sizes, steps=steps), dtype, backend)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("size", [4, 24])
def test_strided_inputs(size: int, dtype: torch.dtype, backend: str) -> None:
    """Halves of one tensor, steps of another, axes in any order."""
    inputs = make_inputs("parts", 6, [(size, size)] * 4)
    first, second, third, fourth = (x.to(dtype) for x in inputs["inputs"])
    wide = torch.cat((first, second), dim=-1)
    longer = torch.cat((third, third), dim=1)
    views = [*wide.chunk(2, dim=-1), longer[:, : third.shape[1]], strided(fourth)]
    plain = {**to(inputs, dtype), "inputs": [first, second, third, fourth]}
    for name in ("weights", "bias"):
        inputs[name] = plain[name]
    inputs["weights"] = [strided(w) for w in inputs["weights"]]
    got = run({**inputs, "inputs": views}, backend)
    want = run(plain, backend)
    truth = run(to(plain, torch.float64), "reference")
    assert_as_accurate(got, want, truth, dtype)


@needs_kernels
def test_halves_of_a_wider_tensor_are_not_copied() -> None:
    for size in ((3, 5), (1, 5), (3, 1)):
        half = torch.zeros(*size, 16).chunk(2, dim=-1)[1]
        rows, step = native.steps(half)
        assert rows is half
        assert step == 16 or size[0] == size[1] == 1


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("order", ["parts", "blocks"])
@pytest.mark.parametrize("sizes", [[(4, 4)] * 3, [(3, 2), (5, 1)]], ids=["small", "large"])
def test_gradcheck(sizes: list[tuple[int, int]], order: str, backend: str) -> None:
    inputs = make_inputs(order, 2, sizes, steps=(2, 3), same=sizes[0] == sizes[-1])
    leaves = [*inputs["inputs"], *inputs["weights"], inputs["bias"]]
    parts = len(sizes)

    def function(*tensors: Tensor) -> Tensor:
        xs, ws = tensors[:parts], tensors[parts:-1]
        if sizes[0] == sizes[-1]:
            xs = (xs[0], xs[0], xs[2])
        return block_linear(xs, ws, tensors[-1], order=order, backend=backend)  # pyright: ignore

    assert torch.autograd.gradcheck(function, [x.clone().requires_grad_() for x in leaves])


@pytest.mark.parametrize("order", ["parts", "blocks"])
def test_is_the_definition(order: str) -> None:
    """Output by output, without einsum."""
    inputs = make_inputs(order, 3, [(2, 4), (3, 1)], steps=(1, 2))
    y = block_linear(**inputs, backend="reference")
    for t in range(2):
        parts = [
            [[sum(w[n, o] * x[0, t, n * w.shape[2] :][: w.shape[2]]) for o in range(w.shape[1])]
             for n in range(3)]
            for x, w in zip(inputs["inputs"], inputs["weights"], strict=True)
        ]  # fmt: skip
        if order == "parts":
            want = torch.stack([o for part in parts for block in part for o in block])
        else:
            want = torch.stack([torch.stack([*a, *b]) for a, b in zip(*parts, strict=True)])
        assert_agrees({"y": y[0, t]}, {"y": want + inputs["bias"]})


@needs_kernels
@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize(
    ("order", "blocks", "size"), [("parts", 64, (4, 4)), ("blocks", 4, (64, 128))], ids=str
)
def test_any_number_of_threads_gives_the_same_bits(
    order: str, blocks: int, size: tuple[int, int], dtype: torch.dtype
) -> None:
    inputs = to(make_inputs(order, blocks, [size] * 2, steps=(5, 131), same=True), dtype)
    results = []
    for count in (1, 2, 3, 1):
        torch.set_num_threads(count)
        results.append(run(inputs, "native"))
    for other in results[1:]:
        for name, tensor in results[0].items():
            assert torch.equal(tensor, other[name]), name


@needs_kernels
def test_gradients_change_no_bit() -> None:
    inputs = to(make_inputs("parts", 8, [(4, 4)] * 3, same=True), torch.float32)
    assert torch.equal(block_linear(**inputs, backend="native"), run(inputs, "native")["y"])


@needs_kernels
@pytest.mark.parametrize("size", [4, 24])
def test_nan_stays_in_its_block(size: int) -> None:
    inputs = make_inputs("blocks", 3, [(size, size)] * 2, bias=False)
    inputs["inputs"][1][0, 4, size] = torch.nan
    nan = block_linear(**inputs, backend="native").isnan()
    assert nan[0, 4, 1, size:].all()
    assert nan.sum() == size


@needs_kernels
def test_what_the_kernels_refuse() -> None:
    x, w = torch.zeros(1, 2, 8), torch.zeros(2, 4, 4)

    def refused(*tensors: Tensor) -> str:
        x, w = tensors
        with pytest.raises(BackendError) as error:
            block_linear([x], [w], order="parts", backend="native")
        return str(error.value)

    assert "bfloat16" in refused(x.bfloat16(), w.bfloat16())
    assert "float64" in refused(x, w.double())
    assert "meta" in refused(x.to("meta"), w.to("meta"))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert "autocast" in refused(x, w)
        assert block_linear([x], [w], order="parts").dtype == torch.bfloat16
        bias = torch.zeros(2, 4)
        assert block_linear([x], [w], bias, order="blocks").dtype == torch.float32


BAD: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "no parts": ({"inputs": [], "weights": []}, ("0 and 0",)),
    "a part too few": ({"inputs": [torch.zeros(2, 3, 8)]}, ("1 and 2",)),
    "width": (
        {"inputs": [torch.zeros(2, 3, 8), torch.zeros(2, 3, 9)]},
        ("inputs[1]", "(2, 3, 9)", "(2, 4, 4)"),
    ),
    "time": (
        {"inputs": [torch.zeros(2, 3, 8), torch.zeros(2, 4, 8)]},
        ("inputs[1]", "(2, 4, 8)"),
    ),
    "rank": ({"inputs": [torch.zeros(3, 8), torch.zeros(3, 8)]}, ("inputs[0]", "(3, 8)")),
    "blocks": (
        {"weights": [torch.zeros(2, 4, 4), torch.zeros(4, 4, 2)]},
        ("weights[1]", "(4, 4, 2)"),
    ),
    "no steps": (
        {"inputs": [torch.zeros(2, 0, 8), torch.zeros(2, 0, 8)]},
        ("inputs[0]", "(2, 0, 8)"),
    ),
    "bias": ({"bias": torch.zeros(2, 8)}, ("bias", "(2, 8)", "(16,)")),
    "order": ({"order": "heads"}, ("order", "heads", "parts", "blocks")),
    "backend": ({"backend": "fast"}, ("fast", "reference")),
}


@pytest.mark.parametrize("name", BAD)
def test_errors(name: str) -> None:
    change, named = BAD[name]
    arguments = {
        "inputs": [torch.zeros(2, 3, 8)] * 2,
        "weights": [torch.zeros(2, 4, 4)] * 2,
        "order": "parts",
    }
    with pytest.raises(ValueError) as error:  # noqa: PT011 - what it says is checked below
        block_linear(**arguments | change)
    message = str(error.value)
    assert "\n" not in message
    assert all(word in message for word in named), message


@needs_kernels
@pytest.mark.compile
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_registered_ops(dtype: torch.dtype) -> None:
    inputs = to(make_inputs("blocks", 2, [(3, 2), (3, 5)], steps=(2, 3), same=True), dtype)
    xs, ws = inputs["inputs"][:1], inputs["weights"]
    tests = ("test_schema", "test_faketensor", "test_aot_dispatch_dynamic")
    ops = torch.ops.exlstm
    arguments = (xs, [0, 0], ws, inputs["bias"], "blocks")
    torch.library.opcheck(ops.block_linear_forward, arguments, test_utils=tests)
    dy = torch.ones_like(ops.block_linear_forward(*arguments))
    arguments = (xs, [0, 0], ws, dy, "blocks")
    torch.library.opcheck(ops.block_linear_backward, arguments, test_utils=tests)


@pytest.mark.compile
@pytest.mark.parametrize("order", ["parts", "blocks"])
def test_compiled_equals_eager(order: str) -> None:
    torch.compiler.reset()
    inputs = to(make_inputs(order, 4, [(4, 4)] * 3, same=True), torch.float32)
    compiled = torch.compile(block_linear, fullgraph=True, backend="aot_eager")
    assert_as_accurate(
        run(inputs, None, compiled),
        run(inputs, None),
        run(to(inputs, torch.float64), None),
        torch.float32,
    )
