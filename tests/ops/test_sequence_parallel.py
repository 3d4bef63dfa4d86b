"""The time axis over processes: values, states and gradients of one process that has all steps."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import torch.nn.functional as F
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils.checkpoint import CheckpointError

from exlstm.nn import MLSTM, MLSTMBlock, XLSTMStack
from exlstm.ops import sequence_parallel, slstm
from exlstm.testing import (
    CASES,
    OPS,
    TIMED,
    Case,
    Results,
    assert_agrees,
    assert_as_accurate,
    generator,
    make_inputs,
    map_state,
    normal,
    run,
    to_double,
)

PAGE = Path(__file__).parents[2] / "docs" / "sequence-parallel.md"
# Parts shorter than the convolution's window; of a row all masked; resets at borders and at masked
# steps.
GAPS = Case(name="gaps", B=4, T=9, W=5, state=True, mask=True, reset=True)
# What four processes are tried on, beside it: they take long where there are fewer cores.
FEW = {"small", "packed", "extreme", "exp-mixed", "sig"}


class Part(NamedTuple):
    """This process's part of the time axis."""

    rank: int
    processes: int
    group: dist.ProcessGroup | None = None

    def of(self, x: Any) -> Any:
        return x if x is None else x.tensor_split(self.processes, dim=1)[self.rank]

    def in_place(self, part: Tensor, whole: Tensor) -> Tensor:
        """A part among zeros: the sum over the processes is the whole."""
        parts = whole.tensor_split(self.processes, dim=1)
        before = sum(p.shape[1] for p in parts[: self.rank])
        after = whole.shape[1] - before - part.shape[1]
        return F.pad(part, (0, 0) * (part.ndim - 2) + (before, after))

    def once(self, x: Tensor) -> Tensor:
        """What all have alike: of one of them."""
        if self.processes == 1:
            return x
        every = [torch.empty_like(x) for _ in range(self.processes)]
        dist.all_gather(every, x.detach(), group=self.group)
        assert all(torch.equal(other, x) for other in every)
        return x if self.rank == 0 else 0.0 * x

    def total(self, results: Results) -> Results:
        flat = torch.cat([tensor.flatten().double() for tensor in results.values()])
        dist.all_reduce(flat, group=self.group)
        sums = flat.split([tensor.numel() for tensor in results.values()])
        return {
            name: total.view(tensor.shape).to(tensor.dtype)
            for (name, tensor), total in zip(results.items(), sums, strict=True)
        }

    def split(self, op: Callable[..., Any], **options: Any) -> Callable[..., Any]:
        """The op over this process's part, as one over the whole: the rest of the output is zero.

        The gradients of its linear functionals are this process's part of the whole's.
        """

        def call(**inputs: Any) -> tuple[Tensor, Any]:
            mine = {name: self.of(x) if name in TIMED else x for name, x in inputs.items()}
            with sequence_parallel(self.group):
                output, state = op(**mine, **options)
            whole = inputs["v"] if "v" in inputs else inputs["x"]
            return self.in_place(output, whole), map_state(self.once, state)

        return call


def inputs_of(op: str, case: Case, dtype: torch.dtype) -> dict[str, Any]:
    inputs = make_inputs(op, case, dtype)
    if case is GAPS:
        inputs["mask"][0, 2:7] = False
        inputs["mask"][1, 1:] = False
        inputs["reset"][0] = False
        inputs["reset"][1:3, 5] = True
        inputs["mask"][3], inputs["reset"][3] = True, False
    return inputs


def check_op(op: str, cases: Sequence[Case], part: Part) -> None:
    for case in (case for case in cases if part.processes <= case.T):
        for dtype in (torch.float64, torch.float32):
            inputs = inputs_of(op, case, dtype)
            got = part.total(run(part.split(OPS[op]), inputs))
            if part.rank == 0:
                try:
                    if dtype == torch.float64:
                        assert_agrees(got, run(OPS[op], inputs))
                    plain = run(OPS[op], inputs, backend="reference")
                    truth = run(OPS[op], to_double(inputs), backend="reference")
                    assert_as_accurate(got, plain, truth, dtype)
                except AssertionError as error:
                    raise AssertionError(f"{op} {case} {dtype}") from error


def check_backends(part: Part) -> None:
    inputs = inputs_of("mlstm", GAPS, torch.float64)
    for backend in ("native", "chunkwise", "parallel", "reference"):
        got = part.total(run(part.split(OPS["mlstm"], backend=backend), inputs))
        assert_agrees(got, run(OPS["mlstm"], inputs, backend=backend))


def stack_of(kept: str | None) -> XLSTMStack:
    """A stack whose gates are not at their start: there the inputs have no say in them."""
    torch.manual_seed(0)
    stack = XLSTMStack(
        16, "mMm", num_heads=2, qkv_block_size=2, activation_checkpointing=kept
    ).double()
    g = generator("stack")
    with torch.no_grad():
        for parameter in stack.parameters():
            parameter += 0.3 * normal(g, *parameter.shape)
    return stack


def run_stack(stack: XLSTMStack, part: Part) -> Results:
    """Outputs, states, and the gradients of the input, the initial state and all parameters."""
    g = generator("steps")
    x, weights = normal(g, 2, 25, 16).requires_grad_(), normal(g, 2, 25, 16)
    mask, reset = torch.rand(2, 25, generator=g) < 0.8, torch.rand(2, 25, generator=g) < 0.1
    with torch.no_grad():
        start, tree = pytree.tree_flatten(stack(normal(g, 2, 6, 16))[1])
    for tensor in start:
        tensor.requires_grad_()

    def results() -> Results:
        before = pytree.tree_unflatten(start, tree)
        y, after = stack(part.of(x), before, mask=part.of(mask), reset=part.of(reset))
        ends = {f"end.{j}": part.once(end) for j, end in enumerate(pytree.tree_leaves(after))}
        loss = (y * part.of(weights)).sum()
        for name, end in ends.items():
            loss = loss + (end * normal(generator(name), *end.shape)).sum()
        loss.backward()
        outputs = {"y": part.in_place(y, x), **ends}
        leaves = {f"start.{j}": tensor for j, tensor in enumerate(start)}
        leaves = {"x": x, **leaves, **dict(stack.named_parameters())}
        zero = torch.zeros(())  # the place of the convolution that the M block does not have
        gradients = {
            f"grad.{name}": leaf.grad if leaf.grad is not None else zero.expand(leaf.shape).clone()
            for name, leaf in leaves.items()
        }
        return {name: tensor.detach() for name, tensor in {**outputs, **gradients}.items()}

    if part.processes == 1:
        return results()
    with sequence_parallel(part.group):
        return part.total(results())


def check_stack(part: Part) -> None:
    want = run_stack(stack_of(None), Part(0, 1))
    for kept in (None, "cheap", "blocks") if part.processes == 2 else (None,):
        assert_agrees(run_stack(stack_of(kept), part), want)


def check_errors(part: Part) -> None:
    inputs = make_inputs("slstm", Case(name="serial", T=3), torch.float32)
    with sequence_parallel(), pytest.raises(ValueError, match="slstm: the time axis cannot be sp"):
        slstm(**inputs)
    slstm(**inputs)  # the block is left
    x, layer, block = torch.randn(1, 3, 16), MLSTM(16, 16, batch_first=True), MLSTMBlock(16, 4)
    for name, call in (
        ("MLSTM", lambda: layer(x)),
        ("lengths", lambda: block(x, lengths=[2])),
        ("cu_seqlens", lambda: block(x, cu_seqlens=torch.tensor([0, 1, 3]))),
    ):
        with sequence_parallel(), pytest.raises(ValueError, match=f"^{name}: not possible inside"):
            call()
        call()
    stack = stack_of("cheap")
    with sequence_parallel():
        y, _ = stack(torch.ones(1, 2, 16, dtype=torch.float64))
    with pytest.raises(CheckpointError):  # computed again, but not in the block
        y.sum().backward()
    alone = dist.new_group([0])
    if part.rank > 0:
        with pytest.raises(ValueError, match="this process is not in the group"):
            sequence_parallel(alone).__enter__()


def check_page() -> None:
    """The page's example in this group, in place of its own."""
    code = PAGE.read_text().split("```python\n")[1].split("```")[0]
    printed: list[Any] = []
    with (
        mock.patch.object(dist, "init_process_group"),
        mock.patch.object(dist, "destroy_process_group"),
    ):
        exec(code, {"print": printed.append})
    assert printed == [True]


def work(rank: int, store: str) -> None:
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)  # `torch.empty` is NaN, as in the other tests
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=4)
    pairs = [dist.new_group([0, 1]), dist.new_group([2, 3])]
    pair, all_four = Part(rank % 2, 2, pairs[rank // 2]), Part(rank, 4)
    op = ("mlstm", "causal_conv1d")[rank // 2]  # at the same time, since each op has many cases
    check_op(op, (*CASES[op], GAPS), pair)
    for op in ("mlstm", "causal_conv1d"):
        check_op(op, (*(case for case in CASES[op] if case.name in FEW), GAPS), all_four)
    check_backends(all_four)
    for part in (pair, all_four):
        check_stack(part)
    check_errors(all_four)
    check_page()
    dist.destroy_process_group()


def test_processes_compute_what_one_does(tmp_path: Path) -> None:
    """Four processes: first two groups of two, each with work of its own, then one of four."""
    # Forked from a process that has imported what they need: four imports take longest.
    mp.get_context("forkserver").set_forkserver_preload(["exlstm.nn", "exlstm.testing"])
    mp.start_processes(work, (f"file://{tmp_path}/store",), 4, start_method="forkserver")


def test_a_process_group_is_needed() -> None:
    with pytest.raises(ValueError, match="needs a process group: init_process_group makes one"):
        sequence_parallel().__enter__()
