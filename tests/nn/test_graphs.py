"""Layers under PyTorch's transforms: compile, export, vmap, grad, autocast, checkpoint."""

import contextlib
import copy
import io
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend
from torch.export import Dim
from torch.func import functional_call, grad, jacrev, stack_module_state, vmap
from torch.utils import _pytree as pytree
from torch.utils.checkpoint import checkpoint

from exlstm.nn import MLSTM, SLSTM, XLSTM, XLSTMStack
from exlstm.ops.backend import use_backend
from exlstm.testing import Results, assert_agrees, assert_as_accurate, generator, normal

SIZE = 8
LAYERS: dict[str, Callable[[], nn.Module]] = {
    "XLSTMStack": lambda: XLSTMStack(SIZE, "sm", num_heads=2, d_ff=8),
    "SLSTM": lambda: SLSTM(SIZE, SIZE, num_layers=2, num_heads=2, batch_first=True),
    "MLSTM": lambda: MLSTM(SIZE, SIZE, num_heads=2, bidirectional=True, batch_first=True),
    "XLSTM": lambda: XLSTM(
        SIZE, SIZE, num_heads=2, pattern="M", d_ff=8, proj_size=4, batch_first=True
    ),
}
each_layer = pytest.mark.parametrize("name", LAYERS)


@pytest.fixture(autouse=True)
def fresh_compiler(request: pytest.FixtureRequest) -> Iterator[None]:
    compiles = request.node.get_closest_marker("compile") is not None
    if compiles:
        torch.compiler.reset()
    yield
    if compiles:
        torch.compiler.reset()


def make(name: str) -> nn.Module:
    """A layer whose parameters are all random: some are initialised with zeros."""
    torch.manual_seed(0)
    layer, g = LAYERS[name](), generator(name)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(0.1 * normal(g, *parameter.shape))
    return layer


def inputs(batch: int, time: int) -> Tensor:
    return normal(generator(f"{batch} {time}"), batch, time, SIZE).float()


def functional(results: Any) -> Tensor:
    """A linear functional of all tensors; no random numbers, which `vmap` does not allow."""
    return sum(
        (x.double() * torch.arange(1.0, x.numel() + 1).cos().view(x.shape)).sum()
        for x in pytree.tree_leaves(results)
    )


def run(layer: nn.Module, call: Callable[..., Any], x: Tensor, *state: Any) -> Results:
    """Output, state and the gradients of input and parameters of `call`, which runs `layer`."""
    x = x.detach().requires_grad_()
    leaves = pytree.tree_leaves(call(x, *state))
    variables = [x, *layer.parameters()]
    gradients = torch.autograd.grad(functional(leaves), variables, materialize_grads=True)
    results = [leaf.detach() for leaf in leaves]
    return {str(number): tensor for number, tensor in enumerate((*results, *gradients))}


def double(value: Any) -> Any:
    return pytree.tree_map(Tensor.double, value)


@pytest.mark.compile
@each_layer
def test_three_graphs_serve_all_batches_and_lengths(name: str) -> None:
    """One for the first sizes, one for all others, and one for a single step."""
    layer = make(name).double()
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(layer, fullgraph=True, backend=counter)
    sizes = ((4, 16), (3, 40), (2, 300), (4, 1), (2, 1), (8, 70), (5, 2), (2, 33), (9, 65), (3, 8))
    for size in sizes:
        x = inputs(*size).double()
        assert_agrees(run(layer, compiled, x), run(layer, layer, x))
    assert counter.frame_count <= 3


@pytest.mark.compile
@pytest.mark.parametrize("name", ["SLSTM", "XLSTM"])
def test_compiled_with_state_and_mask(name: str) -> None:
    layer = make(name).double()
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    state = pytree.tree_map(Tensor.detach, layer(inputs(3, 4).double())[1])
    mask = torch.tensor([[True] * 5, [True, False] * 2 + [True], [False] * 5])
    got, want = (
        run(layer, lambda x, f=call: f(x, state, mask=mask), inputs(3, 5).double())
        for call in (compiled, layer)
    )
    assert_agrees(got, want)


@pytest.mark.compile
@pytest.mark.parametrize("strict", [False, True], ids=["traced", "strict"])
@each_layer
def test_exported_with_open_sizes_saved_and_loaded(name: str, strict: bool) -> None:
    layer = make(name).eval()
    state = layer(inputs(3, 4))[1]
    batch = Dim("batch")
    if isinstance(state[0], Tensor):  # as `nn.LSTM`: h_n has its batch second, and c_n is a Memory
        rows = {1: batch}, [pytree.tree_map(lambda _: {0: batch}, entry) for entry in state[1]]
    else:
        rows = pytree.tree_map(lambda _: {0: batch}, state)
    shapes = {0: batch, 1: Dim("time")}, rows
    names = ("x", "state") if name == "XLSTMStack" else ("input", "hx")
    program = torch.export.export(
        layer,
        (inputs(3, 17), state),
        dynamic_shapes=dict(zip(names, shapes, strict=True)),
        strict=strict,
    )
    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    loaded = torch.export.load(file).module()
    truth = copy.deepcopy(layer).double()
    for size in ((2, 1), (1, 5), (4, 33), (2, 300)):
        x, state = inputs(*size), layer(inputs(size[0], 3))[1]
        calls = loaded(x, state), layer(x, state), truth(x.double(), double(state))
        assert_as_accurate(*(named(call) for call in calls), torch.float32)


def named(results: Any) -> Results:
    return {str(number): x for number, x in enumerate(pytree.tree_leaves(results))}


@pytest.mark.compile
# Raised by torch when it copies the graph it was given.
@pytest.mark.filterwarnings("ignore:`isinstance.treespec, LeafSpec.` is deprecated:FutureWarning")
def test_packaged_ahead_of_time(tmp_path: Any) -> None:
    layer = make("XLSTMStack").eval()
    shapes = ({0: Dim("batch"), 1: Dim("time", min=2)},)
    with torch.no_grad():
        program = torch.export.export(layer, (inputs(3, 17),), dynamic_shapes=shapes)
        path = torch._inductor.aoti_compile_and_package(
            program, package_path=str(tmp_path / "layer.pt2")
        )
        loaded = torch._inductor.aoti_load_package(path)
        truth = copy.deepcopy(layer).double()
        for size in ((2, 7), (4, 65)):
            x = inputs(*size)
            calls = loaded(x), layer(x), truth(x.double())
            assert_as_accurate(*(named(call) for call in calls), torch.float32)


@pytest.mark.compile
def test_training_compiled_is_training() -> None:
    """Five steps of SGD by the compiler's default: the same losses, and they fall."""
    losses = {}
    for kind in ("compiled", "plain", "truth"):
        layer = make("XLSTMStack")
        x, target = inputs(4, 12), inputs(4, 13)[:, 1:]
        if kind == "truth":
            layer, x, target = layer.double(), x.double(), target.double()
        call = torch.compile(layer, fullgraph=True) if kind == "compiled" else layer
        optimizer = torch.optim.SGD(layer.parameters(), lr=0.01)
        losses[kind] = []
        for _ in range(5):
            loss = (call(x)[0] - target).square().mean()
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            losses[kind].append(loss.detach())
        assert losses[kind][-1] < losses[kind][0]
    assert_as_accurate(*({"loss": torch.stack(each)} for each in losses.values()), torch.float32)


@pytest.mark.compile
# RMSNorm's weight stays in float32, and torch says that it has no single kernel for that.
@pytest.mark.filterwarnings("ignore:Mismatch dtype between input and weight:UserWarning")
@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@each_layer
def test_autocast_keeps_states_in_float32(name: str, dtype: torch.dtype, compiled: bool) -> None:
    layer = make(name)
    truth = copy.deepcopy(layer).double()
    call = torch.compile(layer, fullgraph=True, backend="aot_eager") if compiled else layer

    def autocast(x: Tensor, call: Any = call) -> Any:
        with torch.autocast("cpu", dtype):
            return call(x)

    x = inputs(2, 9)
    # h_n of the layers that stand for `nn.LSTM` is in the output's dtype; what is kept is not.
    memory = autocast(x)[1] if name == "XLSTMStack" else autocast(x)[1][1]
    assert {part.dtype for part in pytree.tree_leaves(memory)} == {torch.float32}
    fast = run(layer, autocast, x)
    with use_backend("reference"):
        plain = run(layer, lambda x: autocast(x, layer), x)
    # float16 has more digits than bfloat16, whose row this is.
    assert_as_accurate(fast, plain, run(truth, truth, x.double()), torch.bfloat16)


@each_layer
def test_checkpointed_with_state(name: str) -> None:
    layer = make(name)
    state = pytree.tree_map(Tensor.detach, layer(inputs(3, 4))[1])
    want = run(layer, layer, inputs(3, 5), state)
    got = run(
        layer,
        lambda x, state: checkpoint(layer, x, state, use_reentrant=False),
        inputs(3, 5),
        state,
    )
    assert all(torch.equal(got[key], want[key]) for key in want)


each_backend = pytest.mark.parametrize("backend", [None, "reference"], ids=["fastest", "reference"])


def assert_same(got: Any, want: Any) -> None:
    assert_as_accurate(named(got), named(want), named(want), torch.float64)


@each_backend
@each_layer
def test_ensembles_and_gradients_of_each_sample(name: str, backend: str | None) -> None:
    layer = make(name).double()
    other = copy.deepcopy(layer)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(1.5)
    x = inputs(3, 9).double()

    def call(parameters: dict[str, Tensor], x: Tensor) -> Any:
        return functional_call(layer, parameters, (x,))

    def loss(parameters: dict[str, Tensor], row: Tensor) -> Tensor:
        return functional(call(parameters, row[None]))

    def stacked(results: Any) -> Any:
        return pytree.tree_map(lambda *parts: torch.stack(parts), *results)

    parameters = {key: value.detach() for key, value in layer.named_parameters()}
    rows = x[:, None]
    backend_ = use_backend(backend) if backend else contextlib.nullcontext()
    with backend_:
        assert_same(vmap(layer)(rows), stacked([layer(row) for row in rows]))
        members = stack_module_state([layer, other])[0]
        assert_same(
            vmap(call, (0, None))(members, x), stacked([each(x) for each in (layer, other)])
        )
        got = vmap(grad(loss), (None, 0))(parameters, x)
        assert_same(got, stacked([grad(loss)(parameters, row) for row in x]))
        # That gradient is autograd's.
        want = torch.autograd.grad(functional(layer(x[:1])), list(layer.parameters()))
        assert_same([got[key][0] for key, _ in layer.named_parameters()], want)


@each_layer
def test_jacobian_of_the_last_output(name: str) -> None:
    layer = make(name).double()
    x = inputs(2, 5).double()
    last = lambda x: layer(x)[0][:, -1]  # noqa: E731
    assert_same(jacrev(last)(x), torch.autograd.functional.jacobian(last, x))
