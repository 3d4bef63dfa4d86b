"""What all Triton kernels of the mLSTM share: products, and the weights D of a tile of steps.

The sequence is cut into chunks, at whose starts the memory is kept, and a chunk into tiles, which
is what a program works on. A sum of log f from a step of one tile to a step of another is the sum
of three: to the end of the first tile, over the tiles between, from the start of the second. All
are sums as they stand, never differences of running sums (docs/math/mlstm.md).
"""
# pyright: basic, reportMissingImports=false, reportGeneralTypeIssues=false

from __future__ import annotations

import triton
import triton.language as tl

EMPTY_M = tl.constexpr(-3.4028234663852886e38)
"""The stabiliser of an empty memory: minus infinity in effect, but finite."""

NONE = tl.constexpr(-2)
"""In place of the step with the largest weight, -1 being the chunk's start: there is none."""


@triton.jit
def product(a, b, total):
    """`total + a @ b` in float32, on tensor cores where an operand is narrower than that.

    Beside a bfloat16 input what is computed in float32 goes as a sum of two bfloat16: rounded to
    one, rows of dS that sum to zero no longer would, and dq is 10 times as far from the truth as
    the contract allows. Beside a float16 input both are widened: memories and gradients may leave
    its range.
    """
    if a.dtype == b.dtype:
        return tl.dot(a, b, total, input_precision="ieee")
    elif a.dtype == tl.bfloat16:
        high = b.to(tl.bfloat16)
        return tl.dot(a, high, tl.dot(a, (b - high.to(tl.float32)).to(tl.bfloat16), total))
    elif b.dtype == tl.bfloat16:
        high = a.to(tl.bfloat16)
        return tl.dot(high, b, tl.dot((a - high.to(tl.float32)).to(tl.bfloat16), b, total))
    else:
        return tl.dot(a.to(tl.float32), b.to(tl.float32), total, input_precision="tf32")


@triton.jit
def load_block(base, rows, columns, row_step, column_step, row_count, column_count):
    """A block of a matrix, zeros outside of it."""
    inside = (rows[:, None] < row_count) & (columns[None, :] < column_count)
    return tl.load(
        base + rows[:, None] * row_step + columns[None, :] * column_step, mask=inside, other=0.0
    )


@triton.jit
def load_gate(gate, start, T, H, TILE: tl.constexpr, after: tl.constexpr):
    """The logarithm of a gate at the steps of a tile; `after` stands for what is past the end."""
    t = start + tl.arange(0, TILE)
    return tl.load(gate + t * H, mask=t < T, other=after)


@triton.jit
def log_weights_to_end(log_i, log_f, start, T, H, TILE: tl.constexpr):
    """The weights of the steps of a tile at its end: log i of each, and log f of all after it."""
    inner = tl.arange(0, TILE)
    t = start + inner
    opened = tl.load(log_i + t * H, mask=t < T, other=-float("inf"))
    later = (t + 1 < T) & (inner < TILE - 1)
    return tl.cumsum(tl.load(log_f + (t + 1) * H, mask=later, other=0.0), 0, reverse=True) + opened


@triton.jit
def sum_between(log_f, start, end, T, H, CHUNK: tl.constexpr):
    """The sum of log f from step `start` to before `end`, which are of one chunk."""
    t = start + tl.arange(0, CHUNK)
    return tl.sum(tl.load(log_f + t * H, mask=(t < end) & (t < T), other=0.0), 0)


@triton.jit
def log_weights_inside(own_i, own_f, TILE: tl.constexpr):
    """The log D between the steps of one tile: [t, j], minus infinity for j > t."""
    inner = tl.arange(0, TILE)
    later = inner[:, None] > inner[None, :]
    sums = tl.cumsum(tl.where(later, own_f[:, None], 0.0), 0)
    return tl.where(inner[:, None] >= inner[None, :], sums + own_i[None, :], -float("inf"))


@triton.jit
def log_weights_inside_turned(own_i, own_f, TILE: tl.constexpr):
    """The same as [j, t]."""
    inner = tl.arange(0, TILE)
    later = inner[None, :] > inner[:, None]
    sums = tl.cumsum(tl.where(later, own_f[None, :], 0.0), 1)
    return tl.where(inner[None, :] >= inner[:, None], sums + own_i[:, None], -float("inf"))


@triton.jit
def older_max(m, winner, new, new_winner):
    """The larger exponent, the older at a tie, and the step it is from."""
    larger = tl.where(m >= new, m, new)
    winner = tl.where(m >= new, winner, new_winner)
    return tl.maximum(larger, EMPTY_M), tl.where(larger < EMPTY_M, NONE, winner)


@triton.jit
def lower_bound(m):
    """The smallest denominator: exp(-m), between the smallest normal number and overflow."""
    return tl.maximum(tl.exp(tl.minimum(-m, 88.0)), 1.1754943508222875e-38)
