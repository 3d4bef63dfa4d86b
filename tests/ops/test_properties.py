"""What must hold for any input: each property is the op written in another way and compared.

`run` takes the other way in place of the op, so outputs, states and gradients are all compared.
"""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from torch import Tensor

from exlstm.ops import backends
from exlstm.testing import (
    OPS,
    SHARED,
    TIMED,
    Case,
    assert_agrees,
    make_inputs,
    map_state,
    run,
    strided,
)

WAYS = [
    pytest.param(op, {"backend": name}, id=f"{op}-{name}")
    for op in OPS
    for name in backends(op)
    if name != "triton"  # it has no float64: tests/ops/test_mlstm_triton.py
]
ALL_OPS = pytest.mark.parametrize(("op", "backend"), WAYS)
LENGTHS = st.one_of(st.integers(1, 12), st.sampled_from([63, 64, 65, 66]))


@st.composite
def situations(draw: st.DrawFn, **fixed: Any) -> Case:
    """Any small case: sizes, gates and flags."""
    flags = {name: draw(st.booleans()) for name in ("state", "mask", "reset")} | fixed
    sizes = {name: draw(st.integers(1, 3)) for name in "BHVW"} | {"K": draw(st.integers(2, 4))}
    name = f"property-{draw(st.integers(0, 99))}"
    forget_gate = draw(st.sampled_from(["sigmoid", "exp"]))
    input_gate = draw(st.sampled_from(["exp", "exp", "sigmoid"]))
    options = {"forget_gate": forget_gate, "input_gate": input_gate}
    activation = draw(st.sampled_from([None, "silu"]))
    return Case(name=name, T=draw(LENGTHS), activation=activation, **options, **sizes, **flags)


def float64_inputs(op: str, case: Case) -> dict[str, Any]:
    return make_inputs(op, case, torch.float64)


def steps(arguments: dict[str, Any], index: Any) -> dict[str, Any]:
    """The arguments at some of the steps."""
    return {n: x[:, index] if n in TIMED and x is not None else x for n, x in arguments.items()}


def row(arguments: dict[str, Any], b: int) -> dict[str, Any]:
    """The arguments of one batch row, as a batch of one."""
    alone = {
        n: x[b : b + 1] if isinstance(x, Tensor) and n not in SHARED else x
        for n, x in arguments.items()
    }
    return {**alone, "state": map_state(lambda s: s[b : b + 1], arguments["state"])}


def row_by_row(op: Callable[..., Any]) -> Callable[..., Any]:
    def wrapped(**arguments: Any) -> tuple[Tensor, Any]:
        rows = next(arguments[name] for name in ("v", "x") if name in arguments).shape[0]
        outputs, states = zip(*(op(**row(arguments, b)) for b in range(rows)), strict=True)
        if isinstance(states[0], Tensor):
            return torch.cat(outputs), torch.cat(states)
        return torch.cat(outputs), type(states[0])(*map(torch.cat, zip(*states, strict=True)))

    return wrapped


def in_pieces(op: Callable[..., Any], cuts: list[int]) -> Callable[..., Any]:
    def wrapped(*, state: Any, **arguments: Any) -> tuple[Tensor, Any]:
        outputs = []
        for start, end in zip([None, *cuts], [*cuts, None], strict=True):
            output, state = op(**steps(arguments, slice(start, end)), state=state)
            outputs.append(output)
        return torch.cat(outputs, dim=1), state

    return wrapped


def without_masked_steps(op: Callable[..., Any]) -> Callable[..., Any]:
    """For one row, its last step real: masked steps left out, their resets at the next real one."""

    def wrapped(*, mask: Tensor, reset: Tensor | None, **arguments: Any) -> tuple[Tensor, Any]:
        kept = mask[0].nonzero()[:, 0]
        if reset is not None:
            spans = torch.tensor_split(reset[0], (kept + 1).cpu())[:-1]
            reset = torch.stack([span.any() for span in spans])[None]
        output, state = op(**steps(arguments, kept), reset=reset)
        full = output.new_zeros(1, mask.shape[1], *output.shape[2:])
        return full.index_copy(1, kept, output), state

    return wrapped


def separately(op: Callable[..., Any]) -> Callable[..., Any]:
    """For one row: every sequence that starts at a reset by a call of its own, with no state."""

    def wrapped(*, reset: Tensor, state: Any, **arguments: Any) -> tuple[Tensor, Any]:
        starts = [t for t in reset[0].nonzero()[:, 0].tolist() if t > 0]
        outputs = []
        for start, end in zip([0, *starts], [*starts, reset.shape[1]], strict=True):
            output, state = op(
                **steps(arguments, slice(start, end)),
                state=None if reset[0, start] else state,
                reset=None,
            )
            outputs.append(output)
        return torch.cat(outputs, dim=1), state

    return wrapped


@ALL_OPS
@given(case=situations(), data=st.data())
def test_pieces_equal_the_whole(
    op: str, backend: dict[str, str], case: Case, data: st.DataObject
) -> None:
    cuts = (
        sorted(data.draw(st.sets(st.integers(1, max(1, case.T - 1)), max_size=4)))
        if case.T > 1
        else []
    )
    inputs = float64_inputs(op, case)
    assert_agrees(run(in_pieces(OPS[op], cuts), inputs, **backend), run(OPS[op], inputs, **backend))


@ALL_OPS
def test_single_steps_equal_the_whole(op: str, backend: dict[str, str]) -> None:
    inputs = float64_inputs(op, Case(name="steps", T=66, state=True, mask=True, reset=True))
    one_by_one = in_pieces(OPS[op], list(range(1, 66)))
    assert_agrees(run(one_by_one, inputs, **backend), run(OPS[op], inputs, **backend))


@ALL_OPS
@given(case=situations(), data=st.data())
def test_no_output_depends_on_later_inputs(
    op: str, backend: dict[str, str], case: Case, data: st.DataObject
) -> None:
    t = data.draw(st.integers(1, case.T))
    inputs = float64_inputs(op, case)

    def only_until_t(**arguments: Any) -> tuple[Tensor, None]:
        return OPS[op](**arguments)[0][:, :t], None

    results = run(only_until_t, inputs, **backend)
    changed = dict(inputs)
    for name in TIMED:
        if isinstance(inputs.get(name), Tensor):
            later = inputs[name][:, t:]
            later = ~later if later.dtype == torch.bool else 3.0 - 2.0 * later
            changed[name] = torch.cat([inputs[name][:, :t], later], dim=1)
            assert not results.get(f"grad.{name}", inputs[name][:, :0])[:, t:].any(), name
    assert_agrees(
        {"output": run(only_until_t, changed, **backend)["output"]}, {"output": results["output"]}
    )


@ALL_OPS
@given(case=situations())
def test_rows_do_not_depend_on_each_other(op: str, backend: dict[str, str], case: Case) -> None:
    inputs = float64_inputs(op, case)
    assert_agrees(run(row_by_row(OPS[op]), inputs, **backend), run(OPS[op], inputs, **backend))


@ALL_OPS
def test_a_bad_row_leaves_the_others_alone(op: str, backend: dict[str, str]) -> None:
    inputs = float64_inputs(op, Case(name="bad", B=3, T=66, state=True))
    output, state = OPS[op](**inputs, **backend)
    poisoned = {
        n: x.clone() if isinstance(x, Tensor) and n in TIMED else x for n, x in inputs.items()
    }
    for name in TIMED:
        if isinstance(poisoned.get(name), Tensor):
            poisoned[name][1, 5] = torch.nan
    bad_output, bad_state = OPS[op](**poisoned, **backend)
    assert bad_output[1].isnan().any()
    good = torch.tensor([0, 2])
    torch.testing.assert_close(bad_output[good], output[good], rtol=1e-12, atol=1e-12)
    for bad, want in zip(
        [bad_state] if op == "causal_conv1d" else bad_state,
        [state] if op == "causal_conv1d" else state,
        strict=True,
    ):
        torch.testing.assert_close(bad[good], want[good], rtol=1e-12, atol=1e-12)


@ALL_OPS
@given(case=situations(mask=True))
def test_masked_steps_are_as_if_absent(op: str, backend: dict[str, str], case: Case) -> None:
    inputs = float64_inputs(op, case)
    inputs["mask"][:, -1] = True
    whole = run(OPS[op], inputs, **backend)
    assert_agrees(run(row_by_row(without_masked_steps(OPS[op])), inputs, **backend), whole)
    assert not whole["output"][~inputs["mask"]].any()
    for name in TIMED:
        if f"grad.{name}" in whole:
            assert not whole[f"grad.{name}"][~inputs["mask"]].any(), name


@ALL_OPS
def test_what_stands_at_masked_steps_does_not_matter(op: str, backend: dict[str, str]) -> None:
    """Padding may hold anything finite: results are equal to the bit."""
    inputs = float64_inputs(op, Case(name="padding", B=3, T=66, state=True, mask=True, reset=True))
    whole = run(OPS[op], inputs, **backend)
    for name in TIMED:
        if isinstance(inputs.get(name), Tensor) and inputs[name].is_floating_point():
            inputs[name][~inputs["mask"]] = 1e6
    padded = run(OPS[op], inputs, **backend)
    for name in whole:
        assert torch.equal(padded[name], whole[name]), name


@ALL_OPS
@given(case=situations(reset=True))
@example(case=Case(name="every-step", T=3))
def test_packed_sequences_equal_separate_ones(op: str, backend: dict[str, str], case: Case) -> None:
    inputs = float64_inputs(op, case)
    if inputs["reset"] is None:
        inputs["reset"] = torch.ones(case.B, case.T, dtype=torch.bool)
    assert_agrees(
        run(row_by_row(separately(OPS[op])), inputs, **backend), run(OPS[op], inputs, **backend)
    )


@pytest.mark.parametrize(
    ("op", "backend"), [way for way in WAYS if way.values[0] != "causal_conv1d"]
)
@given(case=situations(state=True), a=st.floats(-20.0, 20.0))
def test_the_scale_of_a_state_does_not_matter(
    op: str, backend: dict[str, str], case: Case, a: float
) -> None:
    """(c e^a, n e^a, m - a) is the same memory: what it means, c e^m, comes out the same."""
    inputs = float64_inputs(op, case)
    scale = torch.tensor(a, dtype=torch.float64)
    if inputs.get("input_gate") == "sigmoid":  # has no scale: nothing may be added to its m
        scale = torch.zeros_like(scale)

    def meaning(rescale: bool) -> Callable[..., Any]:
        def wrapped(*, state: Any, **arguments: Any) -> tuple[Tensor, Any]:
            if rescale:
                state = state._replace(
                    c=state.c * scale.exp(), n=state.n * scale.exp(), m=state.m - scale
                )
            output, last = OPS[op](**arguments, state=state)
            return output, last._replace(
                c=last.c * last.m.exp()[(...,) + (None,) * (last.c.dim() - last.m.dim())],
                n=last.n * last.m.exp()[(...,) + (None,) * (last.n.dim() - last.m.dim())],
                m=torch.zeros_like(last.m),
            )

        return wrapped

    assert_agrees(run(meaning(True), inputs, **backend), run(meaning(False), inputs, **backend))


@ALL_OPS
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_inputs_are_not_written_to(op: str, backend: dict[str, str], dtype: torch.dtype) -> None:
    inputs = make_inputs(op, Case(name="pure", T=66, state=True, mask=True, reset=True), dtype)
    flat = {n: x for n, x in inputs.items() if isinstance(x, Tensor)}
    if op != "causal_conv1d":
        flat |= inputs["state"]._asdict()
    before = {name: (x.clone(), x._version) for name, x in flat.items()}
    run(OPS[op], inputs, **backend)
    for name, x in flat.items():
        assert torch.equal(x, before[name][0]), name
        assert x._version == before[name][1], name


@ALL_OPS
def test_results_do_not_share_memory_with_inputs(op: str, backend: dict[str, str]) -> None:
    """Writing to a returned state must not change the one that went in, even if no step is real."""
    inputs = float64_inputs(op, Case(name="alias", T=3, state=True))
    inputs["mask"] = torch.zeros(2, 3, dtype=torch.bool)
    parts = [inputs["state"]] if op == "causal_conv1d" else list(inputs["state"])
    before = [part.clone() for part in parts]
    _, state = OPS[op](**inputs, **backend)
    for last in [state] if op == "causal_conv1d" else state:
        last.fill_(7.0)
    for part, want in zip(parts, before, strict=True):
        assert torch.equal(part, want)


@ALL_OPS
@given(case=situations())
def test_strides_do_not_matter(op: str, backend: dict[str, str], case: Case) -> None:
    inputs = float64_inputs(op, case)
    spread = {
        n: strided(x) if isinstance(x, Tensor) and x.numel() else x for n, x in inputs.items()
    }
    spread["state"] = map_state(lambda s: strided(s) if s.numel() else s, inputs["state"])
    assert_agrees(run(OPS[op], spread, **backend), run(OPS[op], inputs, **backend))


@ALL_OPS
def test_expanded_inputs_and_gradients(op: str, backend: dict[str, str]) -> None:
    """Stride 0 in what goes in, and in the gradient that comes back from a plain sum."""
    inputs = float64_inputs(op, Case(name="expanded", B=1, T=66, state=True))
    expand = lambda x: x.expand(3, *x.shape[1:])  # noqa: E731
    wide = {n: expand(x) if isinstance(x, Tensor) and n in TIMED else x for n, x in inputs.items()}
    wide["state"] = map_state(expand, inputs["state"])
    full = {n: x.contiguous() if isinstance(x, Tensor) else x for n, x in wide.items()}
    full["state"] = map_state(Tensor.contiguous, wide["state"])
    assert_agrees(run(OPS[op], wide, **backend), run(OPS[op], full, **backend))

    def gradients(weigh: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
        names = [n for n in inputs if n in TIMED and inputs[n] is not None]
        leaves = {n: inputs[n].clone().requires_grad_() for n in names}
        output, _ = OPS[op](**inputs | leaves, **backend)
        return dict(
            zip(names, torch.autograd.grad(weigh(output).sum(), list(leaves.values())), strict=True)
        )

    assert_agrees(gradients(lambda h: h), gradients(lambda h: h * torch.ones_like(h)))


@ALL_OPS
def test_only_part_of_the_results_is_used(op: str, backend: dict[str, str]) -> None:
    """Gradients through the output alone and the state alone add up to those through both."""
    inputs = float64_inputs(op, Case(name="parts", T=66, state=True))

    def keep(*, output: bool) -> Callable[..., Any]:
        def wrapped(**arguments: Any) -> tuple[Tensor, Any]:
            h, state = OPS[op](**arguments)
            return (
                (h, map_state(torch.zeros_like, state)) if output else (torch.zeros_like(h), state)
            )

        return wrapped

    both = run(OPS[op], inputs, **backend)
    parts = [run(keep(output=flag), inputs, **backend) for flag in (True, False)]
    total = {name: parts[0][name] + parts[1][name] for name in both if name.startswith("grad")}
    assert_agrees(total, {name: both[name] for name in total})
