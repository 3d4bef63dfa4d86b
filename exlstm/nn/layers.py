"""Small layers without memory of their own: head norm, block-diagonal linear, conv, gated MLP."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from exlstm.nn import init
from exlstm.ops import causal_conv1d
from exlstm.ops.block_linear import block_linear
from exlstm.ops.head_norm import head_norm
from exlstm.ops.linear import linear
from exlstm.shapes import Bool, Float


def round_up(width: float, multiple: int = 64) -> int:
    """The smallest multiple not below a width.

    Example:
        >>> round_up(1.3 * 768)
        1024
    """
    return -int(-width // multiple) * multiple


def check_divides(small_name: str, small: int, large_name: str, large: int) -> None:
    """Check that one size divides another.

    Raises:
        ValueError: It does not, or is not positive; the message names both.
    """
    if small < 1 or large < 1 or large % small:
        raise ValueError(
            f"{small_name}={small} must be positive and divide {large_name}={large} without rest"
        )


def soft_cap(x: Float[Tensor, "*S"], cap: float | None) -> Float[Tensor, "*S"]:
    """`cap * tanh(x / cap)`: nearly x below the cap, never above it. `None` is no cap."""
    return x if cap is None else cap * torch.tanh(x / cap)


def run(function: Callable[..., Any], recompute: bool, *inputs: Any) -> Any:
    """Call a function; with `recompute` keep nothing and call it again in the backward pass."""
    if recompute and torch.is_grad_enabled():
        return checkpoint(function, *inputs, use_reentrant=False, preserve_rng_state=False)
    return function(*inputs)


class Linear(nn.Linear):
    """`nn.Linear` by the fastest product that this machine has; see `exlstm.ops.linear`.

    Example:
        >>> Linear(32, 64, bias=False)(torch.randn(2, 10, 32)).shape
        torch.Size([2, 10, 64])
    """

    def forward(self, input: Float[Tensor, "*S X"]) -> Float[Tensor, "*S Y"]:
        return linear(input, self.weight, self.bias)


class HeadNorm(nn.Module):
    """Layer normalisation of each head's output by itself, then the heads side by side.

    A skip and a gate may follow; see `exlstm.ops.head_norm`.

    Args:
        num_heads: Number of heads, H.
        head_size: Size of each, V.
        eps: Added to the variance.

    Example:
        >>> HeadNorm(4, 8)(torch.randn(2, 10, 4, 8)).shape
        torch.Size([2, 10, 32])
    """

    def __init__(self, num_heads: int, head_size: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.head_size = head_size
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(num_heads * head_size))

    def forward(
        self,
        h: Float[Tensor, "B T H V"],
        *,
        gate: Float[Tensor, "B T H*V"] | None = None,
        activation: Literal["silu", "sigmoid"] = "silu",
        skip: Float[Tensor, "H*V"] | None = None,
        skipped: Float[Tensor, "B T H*V"] | None = None,
    ) -> Float[Tensor, "B T H*V"]:
        return head_norm(
            h, self.weight, eps=self.eps,
            gate=gate, activation=activation, skip=skip, skipped=skipped,
        )  # fmt: skip

    def extra_repr(self) -> str:
        return f"head_size={self.head_size}, eps={self.eps}"


class BlockLinear(nn.Module):
    """A linear map by a block-diagonal matrix: each block of channels maps to its own block.

    Mixers write the results of several into one tensor by `exlstm.ops.block_linear`.

    Args:
        num_blocks: Number of blocks.
        in_size: Channels of each block that go in.
        out_size: Channels of each block that come out.

    Example:
        >>> BlockLinear(4, 8, 16)(torch.randn(2, 10, 32)).shape
        torch.Size([2, 10, 64])
    """

    def __init__(self, num_blocks: int, in_size: int, out_size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(num_blocks, out_size, in_size))

    def forward(self, x: Float[Tensor, "B T X"]) -> Float[Tensor, "B T Y"]:
        return block_linear((x,), (self.weight,), order="parts")

    def extra_repr(self) -> str:
        num_blocks, out_size, in_size = self.weight.shape
        return f"num_blocks={num_blocks}, in_size={in_size}, out_size={out_size}"


class CausalConv1d(nn.Module):
    """The causal depthwise convolution as a layer; see `exlstm.ops.causal_conv1d`.

    Args:
        channels: Number of channels, D.
        width: Steps each output sees, the current one included.
        activation: What is applied to each output, `"silu"` or `None`.

    Example:
        >>> conv = CausalConv1d(8, 4)
        >>> y, state = conv(torch.randn(2, 10, 8))
        >>> y.shape, state.shape
        (torch.Size([2, 10, 8]), torch.Size([2, 3, 8]))
    """

    def __init__(
        self, channels: int, width: int, *, activation: Literal["silu"] | None = None
    ) -> None:
        super().__init__()
        self.activation: Literal["silu"] | None = activation
        self.weight = nn.Parameter(torch.empty(channels, width))
        self.bias = nn.Parameter(torch.empty(channels))
        init.conv_(self.weight, self.bias)

    def forward(
        self,
        x: Float[Tensor, "B T D"],
        state: Float[Tensor, "B _ D"] | None = None,
        *,
        mask: Bool[Tensor, "B T"] | None = None,
        reset: Bool[Tensor, "B T"] | None = None,
    ) -> tuple[Float[Tensor, "B T D"], Float[Tensor, "B _ D"]]:
        return causal_conv1d(
            x, self.weight, self.bias, state, mask=mask, reset=reset, activation=self.activation
        )

    def extra_repr(self) -> str:
        channels, width = self.weight.shape
        return f"channels={channels}, width={width}, activation={self.activation}"


class GatedMLP(nn.Module):
    r"""$W_\mathrm{down}\,(\phi(W_\mathrm{gate} x) \odot W_\mathrm{up} x)$ [Shazeer 2020].

    Args:
        d_model: Width in and out, D.
        d_ff: Width inside, F.
        activation: $\phi$, GELU in the paper's sLSTM block, SiLU in the 7B.
        num_blocks: Blocks in the model, for the initialisation.
        recompute: Compute the product of gate and input again in the backward pass.

    Example:
        >>> GatedMLP(32, 64)(torch.randn(2, 10, 32)).shape
        torch.Size([2, 10, 32])
    """

    def __init__(
        self,
        d_model: int,
        d_ff: int,
        *,
        activation: Callable[[Tensor], Tensor] = F.gelu,
        num_blocks: int = 1,
        recompute: bool = False,
    ) -> None:
        super().__init__()
        self.activation = activation
        self.recompute = recompute
        self.gate = Linear(d_model, d_ff, bias=False)
        self.up = Linear(d_model, d_ff, bias=False)
        self.down = Linear(d_ff, d_model, bias=False)
        init.small_(self.gate.weight, d_model)
        init.small_(self.up.weight, d_model)
        init.wang_(self.down.weight, d_model, num_blocks)

    def forward(self, x: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
        return self.down(run(self._product, self.recompute, self.gate(x), self.up(x)))

    def _product(
        self, gate: Float[Tensor, "B T F"], up: Float[Tensor, "B T F"]
    ) -> Float[Tensor, "B T F"]:
        return self.activation(gate) * up
