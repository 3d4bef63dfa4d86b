"""What mixes over time: projections, gates, the op, the head norm.

All mixers have one signature, that of `SequenceLayer.forward`, so a block does not care which it
holds. x and y are (B, T, D).
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from exlstm.nn import init
from exlstm.nn.layers import (
    BlockLinear,
    CausalConv1d,
    HeadNorm,
    Linear,
    check_divides,
    run,
    soft_cap,
)
from exlstm.nn.sequences import SequenceLayer
from exlstm.ops import mlstm, slstm
from exlstm.ops.block_linear import block_linear
from exlstm.ops.checks import check_choice, compute_dtype
from exlstm.ops.mlstm_reference import ForgetGate, InputGate
from exlstm.shapes import Bool, Float


class MixerState(NamedTuple):
    """What a mixer remembers.

    Attributes:
        cell: The state of the op, `MLSTMState` or `SLSTMState`.
        conv: The window of the convolution before it; of length 0 where the mixer has none.
    """

    cell: Any
    conv: Float[Tensor, "B _ X"]


class MLSTMMixer(SequenceLayer):
    r"""The mLSTM layer of the xLSTM paper: at twice the model's width, with a convolution in front.

    $$
    \begin{aligned}
    u, g &= W_\mathrm{up}\, x &
    u' &= \mathrm{SiLU}(\mathrm{conv}(u)) \\
    q, k &= W_q u',\ W_k u' & v &= W_v u \\
    (i, f) &= W_{if}\,[q, k, v] + b_{if} &
    y &= W_\mathrm{down} \left( (\mathrm{norm}(\mathrm{mLSTM}(q,k,v,i,f)) + s \odot u') \odot
    \mathrm{SiLU}(g) \right)
    \end{aligned}
    $$

    with block-diagonal $W_q, W_k, W_v$ and a learnt skip $s$.

    Args:
        d_model: Width in and out, D.
        num_heads: Number of heads, H.
        d_inner: Width inside; a multiple of `num_heads` and of `qkv_block_size`. `None` is `2 * D`.
        conv_width: Steps the convolution sees, W.
        qkv_block_size: Size of the blocks of the q, k and v projections.
        input_gate: See `exlstm.ops.mlstm`.
        forget_gate: See `exlstm.ops.mlstm`.
        num_blocks: Blocks in the model, for the initialisation.
        recompute: Keep only the dense projections' results for the backward pass, and compute what
            lies between them again.

    Raises:
        ValueError: A width is not divisible as above.

    Example:
        >>> mixer = MLSTMMixer(32, 4)
        >>> y, state = mixer(torch.randn(2, 10, 32))
        >>> y_next, state = mixer(torch.randn(2, 1, 32), state)
        >>> y.shape, state.cell.c.shape
        (torch.Size([2, 10, 32]), torch.Size([2, 4, 16, 16]))

    Reference:
        Beck et al. 2024, https://arxiv.org/abs/2405.04517, appendix A.4, figure 11.
    """

    def __init__(
        self,
        d_model: int,
        num_heads: int,
        *,
        d_inner: int | None = None,
        conv_width: int = 4,
        qkv_block_size: int = 4,
        input_gate: InputGate = "exp",
        forget_gate: ForgetGate = "sigmoid",
        num_blocks: int = 1,
        recompute: bool = False,
    ) -> None:
        super().__init__()
        self.recompute = recompute
        d_inner = 2 * d_model if d_inner is None else d_inner
        check_divides("num_heads", num_heads, "d_inner", d_inner)
        check_divides("qkv_block_size", qkv_block_size, "d_inner", d_inner)
        check_conv_width(conv_width)
        check_gates(input_gate, forget_gate)
        self.num_heads = num_heads
        self.input_gate: InputGate = input_gate
        self.forget_gate: ForgetGate = forget_gate

        self.up = Linear(d_model, 2 * d_inner, bias=False)
        self.conv = CausalConv1d(d_inner, conv_width, activation="silu")
        blocks = d_inner // qkv_block_size
        self.q = BlockLinear(blocks, qkv_block_size, qkv_block_size)
        self.k = BlockLinear(blocks, qkv_block_size, qkv_block_size)
        self.v = BlockLinear(blocks, qkv_block_size, qkv_block_size)
        self.gates = Linear(3 * d_inner, 2 * num_heads)
        self.norm = HeadNorm(num_heads, d_inner // num_heads)
        self.skip = nn.Parameter(torch.ones(d_inner))
        self.down = Linear(d_inner, d_model, bias=False)

        for layer in (self.up, self.q, self.k, self.v):
            init.small_(layer.weight, d_model)
        nn.init.zeros_(self.gates.weight)
        nn.init.normal_(self.gates.bias[:num_heads], std=0.1)
        init.forget_bias_(self.gates.bias[num_heads:])
        init.wang_(self.down.weight, d_model, num_blocks)

    def steps(
        self,
        x: Float[Tensor, "B T D"],
        state: MixerState | None,
        mask: Bool[Tensor, "B T"] | None,
        reset: Bool[Tensor, "B T"] | None,
    ) -> tuple[Float[Tensor, "B T D"], MixerState]:
        u, g = self.up(x).chunk(2, dim=-1)
        y, after = run(self._mix, self.recompute, u, g, state, mask, reset)
        return self.down(y), after

    def _mix(
        self,
        u: Float[Tensor, "B T X"],
        g: Float[Tensor, "B T X"],
        state: MixerState | None,
        mask: Bool[Tensor, "B T"] | None,
        reset: Bool[Tensor, "B T"] | None,
    ) -> tuple[Float[Tensor, "B T X"], MixerState]:
        cell, conv = (None, None) if state is None else state
        u_conv, conv = self.conv(u, conv, mask=mask, reset=reset)
        weights = (self.q.weight, self.k.weight, self.v.weight)
        qkv = block_linear((u_conv, u_conv, u), weights, order="parts")
        i, f = gate_values(self.gates, qkv).chunk(2, dim=-1)
        q, k, v = (_heads(part, self.num_heads) for part in qkv.chunk(3, dim=-1))
        h, cell = mlstm(
            q, k, v, i, f, cell,
            mask=mask, reset=reset, input_gate=self.input_gate, forget_gate=self.forget_gate,
        )  # fmt: skip
        return self.norm(h, gate=g, skip=self.skip, skipped=u_conv), MixerState(cell, conv)


class MLSTMMixer7B(SequenceLayer):
    r"""The mLSTM layer of xLSTM 7B: at the model's width, dense projections, no convolution.

    $$
    q, k, v = W_q x,\ W_k x,\ W_v x \qquad (i, f) = \mathrm{cap}(W_{if}\, x + b_{if}) \qquad
    y = W_\mathrm{out} \left( \sigma(W_o x) \odot \mathrm{norm}(\mathrm{mLSTM}(q,k,v,i,f)) \right)
    $$

    Args:
        d_model: Width in and out, D; also the width of the values.
        num_heads: Number of heads, H.
        d_qk: Width of queries and of keys; a multiple of `num_heads`. `None` is `D / 2`.
        gate_soft_cap: Cap on i and f; `None` is no cap.
        input_gate: See `exlstm.ops.mlstm`.
        forget_gate: See `exlstm.ops.mlstm`.
        num_blocks: Blocks in the model, for the initialisation.
        recompute: Keep only the dense projections' results for the backward pass, and compute what
            lies between them again.

    Raises:
        ValueError: A width is not divisible as above.

    Example:
        >>> mixer = MLSTMMixer7B(32, 4)
        >>> y, state = mixer(torch.randn(2, 10, 32))
        >>> y.shape, state.cell.c.shape
        (torch.Size([2, 10, 32]), torch.Size([2, 4, 4, 8]))

    Reference:
        Beck et al. 2025, https://arxiv.org/abs/2503.13427, section 3.
    """

    def __init__(
        self,
        d_model: int,
        num_heads: int,
        *,
        d_qk: int | None = None,
        gate_soft_cap: float | None = 15.0,
        input_gate: InputGate = "exp",
        forget_gate: ForgetGate = "sigmoid",
        num_blocks: int = 1,
        recompute: bool = False,
    ) -> None:
        super().__init__()
        self.recompute = recompute
        d_qk = d_model // 2 if d_qk is None else d_qk
        check_divides("num_heads", num_heads, "d_model", d_model)
        check_divides("num_heads", num_heads, "d_qk", d_qk)
        check_gates(input_gate, forget_gate)
        self.num_heads = num_heads
        self.gate_soft_cap = gate_soft_cap
        self.input_gate: InputGate = input_gate
        self.forget_gate: ForgetGate = forget_gate

        self.q = Linear(d_model, d_qk, bias=False)
        self.k = Linear(d_model, d_qk, bias=False)
        self.v = Linear(d_model, d_model, bias=False)
        self.gates = Linear(d_model, 2 * num_heads)
        self.o = Linear(d_model, d_model, bias=False)
        self.norm = HeadNorm(num_heads, d_model // num_heads, eps=1e-6)
        self.out = Linear(d_model, d_model, bias=False)

        for layer in (self.q, self.k, self.v):
            init.small_(layer.weight, d_model)
        nn.init.zeros_(self.gates.weight)
        nn.init.constant_(self.gates.bias[:num_heads], -10.0)
        init.forget_bias_(self.gates.bias[num_heads:])
        nn.init.zeros_(self.o.weight)
        init.wang_(self.out.weight, d_model, num_blocks)

    def steps(
        self,
        x: Float[Tensor, "B T D"],
        state: MixerState | None,
        mask: Bool[Tensor, "B T"] | None,
        reset: Bool[Tensor, "B T"] | None,
    ) -> tuple[Float[Tensor, "B T D"], MixerState]:
        cell = None if state is None else state[0]
        q, k, v = (_heads(layer(x), self.num_heads) for layer in (self.q, self.k, self.v))
        gates, o = gate_values(self.gates, x), self.o(x)
        y, cell = run(self._mix, self.recompute, q, k, v, gates, o, cell, mask, reset)
        return self.out(y), MixerState(cell, _no_conv(x))

    def _mix(
        self,
        q: Float[Tensor, "B T H K"],
        k: Float[Tensor, "B T H K"],
        v: Float[Tensor, "B T H V"],
        gates: Float[Tensor, "B T X"],
        o: Float[Tensor, "B T D"],
        cell: Any,
        mask: Bool[Tensor, "B T"] | None,
        reset: Bool[Tensor, "B T"] | None,
    ) -> tuple[Float[Tensor, "B T D"], Any]:
        i, f = soft_cap(gates, self.gate_soft_cap).chunk(2, dim=-1)
        h, cell = mlstm(
            q, k, v, i, f, cell,
            mask=mask, reset=reset, input_gate=self.input_gate, forget_gate=self.forget_gate,
        )  # fmt: skip
        return self.norm(h, gate=o, activation="sigmoid"), cell


class SLSTMMixer(SequenceLayer):
    r"""The sLSTM layer of the xLSTM paper.

    $$
    u = \mathrm{SiLU}(\mathrm{conv}(x)) \qquad
    (i, f)_t = W_{if}\, u_t + R_{if}\, h_{t-1} + b_{if} \qquad
    (z, o)_t = W_{zo}\, x_t + R_{zo}\, h_{t-1} + b_{zo} \qquad
    y = \mathrm{norm}(\mathrm{sLSTM}(i, f, z, o))
    $$

    All W and R are block-diagonal, a block a head: heads do not see each other.

    Args:
        d_model: Width in and out, D; a multiple of `num_heads`.
        num_heads: Number of heads, H.
        conv_width: Steps the convolution sees, W; 0 is no convolution, u = x.
        forget_gate: See `exlstm.ops.slstm`.
        recurrent_init: R at the start: `"zeros"` (the paper's language models) or `"uniform"` (its
            formal languages).
        block_index: Position of the block in the model, for the initialisation.
        num_blocks: Blocks in the model, for the initialisation.
        recompute: Keep only the dense projections' results for the backward pass, and compute what
            lies between them again.

    Raises:
        ValueError: The width is not divisible by the heads, or an option is not as above.

    Example:
        >>> mixer = SLSTMMixer(32, 4)
        >>> y, state = mixer(torch.randn(2, 10, 32))
        >>> y.shape, state.cell.c.shape
        (torch.Size([2, 10, 32]), torch.Size([2, 4, 8]))

    Reference:
        Beck et al. 2024, https://arxiv.org/abs/2405.04517, appendix A.4, figure 10.
    """

    def __init__(
        self,
        d_model: int,
        num_heads: int,
        *,
        conv_width: int = 4,
        forget_gate: ForgetGate = "sigmoid",
        recurrent_init: Literal["zeros", "uniform"] = "zeros",
        block_index: int = 0,
        num_blocks: int = 1,
        recompute: bool = False,
    ) -> None:
        super().__init__()
        self.recompute = recompute
        check_divides("num_heads", num_heads, "d_model", d_model)
        check_conv_width(conv_width, least=0)
        check_gates("exp", forget_gate)
        check_choice("recurrent_init", recurrent_init, ("zeros", "uniform"))
        self.num_heads = num_heads
        self.forget_gate: ForgetGate = forget_gate

        cells = d_model // num_heads
        self.conv = CausalConv1d(d_model, conv_width, activation="silu") if conv_width else None
        self.if_gates = BlockLinear(num_heads, cells, 2 * cells)
        self.zo_gates = BlockLinear(num_heads, cells, 2 * cells)
        self.r = nn.Parameter(torch.zeros(num_heads, cells, 4, cells))  # H V G V
        self.bias = nn.Parameter(torch.zeros(num_heads, 4, cells))  # H G V
        self.norm = HeadNorm(num_heads, cells)

        init.small_(self.if_gates.weight, d_model)
        init.small_(self.zo_gates.weight, d_model)
        if recurrent_init == "uniform":
            init.recurrent_uniform_(self.r, d_model)
        init.power_law_forget_bias_(self.bias[:, 1], block_index, num_blocks)

    def steps(
        self,
        x: Float[Tensor, "B T D"],
        state: MixerState | None,
        mask: Bool[Tensor, "B T"] | None,
        reset: Bool[Tensor, "B T"] | None,
    ) -> tuple[Float[Tensor, "B T D"], MixerState]:
        return run(self._mix, self.recompute, x, state, mask, reset)

    def _mix(
        self,
        x: Float[Tensor, "B T D"],
        state: MixerState | None,
        mask: Bool[Tensor, "B T"] | None,
        reset: Bool[Tensor, "B T"] | None,
    ) -> tuple[Float[Tensor, "B T D"], MixerState]:
        cell, conv = (None, None) if state is None else state
        if self.conv is None:
            u, conv = x, _no_conv(x)
        else:
            u, conv = self.conv(x, conv, mask=mask, reset=reset)
        weights = (self.if_gates.weight, self.zo_gates.weight)
        gates = block_linear((u, x), weights, self.bias.flatten(1), order="blocks")
        gates = gates.unflatten(-1, (4, -1))  # B T H G V
        h, cell = slstm(gates, self.r, cell, mask=mask, reset=reset, forget_gate=self.forget_gate)
        return self.norm(h), MixerState(cell, conv)


def gate_values(gates: nn.Linear, x: Float[Tensor, "B T X"]) -> Float[Tensor, "B T Y"]:
    """The gates' linear map in the precision of its weights, also under autocast.

    A gate sits in an exponent and is summed over time, and so would be its rounding in bfloat16.
    """
    with torch.autocast(x.device.type, enabled=False):
        return gates(x.to(gates.weight.dtype))


def check_conv_width(width: int, least: int = 1) -> None:
    """Check the width of a convolution.

    Raises:
        ValueError: It is below `least`.
    """
    if width < least:
        raise ValueError(f"conv_width must be at least {least}, got {width}")


def check_gates(input_gate: str, forget_gate: str) -> None:
    """Check the kinds of gate at construction, not at the first call.

    Raises:
        ValueError: One is unknown.
    """
    check_choice("input_gate", input_gate, ("exp", "sigmoid"))
    check_choice("forget_gate", forget_gate, ("sigmoid", "exp"))


def _heads(x: Float[Tensor, "B T X"], num_heads: int) -> Float[Tensor, "B T H S"]:
    return x.unflatten(-1, (num_heads, -1))


def _no_conv(x: Float[Tensor, "B T D"]) -> Float[Tensor, "B 0 D"]:
    """The state of a convolution that is not there: a tensor, as all that a state holds."""
    return x.new_zeros(x.shape[0], 0, x.shape[2], dtype=compute_dtype(x))
