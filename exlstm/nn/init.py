"""Every initialisation, with its source.

Sources: [xlstm] Beck et al. 2024, https://arxiv.org/abs/2405.04517, and the authors' package;
[7b] Beck et al. 2025, https://arxiv.org/abs/2503.13427; [small] Nguyen & Salazar 2019,
https://arxiv.org/abs/1910.05895; [wang] Wang & Komatsuzaki 2021, GPT-J.

| parameter                                  | function                | source  |
|--------------------------------------------|-------------------------|---------|
| embedding, head, up, q, k, v, sLSTM gates  | `small_`                | [small] |
| down (into the residual stream)            | `wang_`                 | [wang]  |
| mLSTM gate weights, 7B output gate         | zeros                   | [xlstm] |
| mLSTM forget bias                          | `forget_bias_`          | [xlstm] |
| mLSTM input bias                           | N(0, 0.1); -10 in the 7B | [xlstm], [7b] |
| sLSTM forget bias                          | `power_law_forget_bias_` | [xlstm] |
| sLSTM other biases                         | zeros                   | [xlstm] |
| sLSTM recurrent weights                    | zeros, or `recurrent_uniform_` | [xlstm] |
| norms, skip                                | ones                    | [xlstm] |
| convolution                                | `conv_`                 | PyTorch |
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


def small_(weight: Tensor, d_model: int) -> None:
    r"""$\mathcal N(0, \sigma)$, $\sigma = \sqrt{2 / (5 D)}$, D the width of the model [small]."""
    nn.init.normal_(weight, std=math.sqrt(2 / (5 * d_model)))


def wang_(weight: Tensor, d_model: int, num_blocks: int) -> None:
    r"""$\mathcal N(0, \sigma)$ with $\sigma = 2 / (\mathrm{blocks} \sqrt D)$ [wang]."""
    nn.init.normal_(weight, std=2 / (num_blocks * math.sqrt(d_model)))


def forget_bias_(bias: Tensor) -> None:
    """From 3 for the first head to 6 for the last: heads forget at different speeds [xlstm]."""
    with torch.no_grad():
        bias.copy_(torch.linspace(3.0, 6.0, len(bias)))


def power_law_forget_bias_(bias: Tensor, block_index: int, num_blocks: int) -> None:
    r"""For cell j of V in a head: $5 - 12\, (j / (V-1))^{0.3 + 1.3\, l / (L-1)}$ [xlstm].

    From +5 (remember) to -7 (forget); the deeper the block l of L, the more cells remember. `bias`
    is (..., V). A single cell gets 5.
    """
    cells = bias.shape[-1]
    depth = block_index / (num_blocks - 1) if num_blocks > 1 else 0.0
    position = torch.arange(cells) / max(cells - 1, 1)
    with torch.no_grad():
        bias.copy_((5 - 12 * position ** (0.3 + 1.3 * depth)).expand_as(bias))


def recurrent_uniform_(r: Tensor, width: int) -> None:
    r"""$U(-1/\sqrt{D}, 1/\sqrt{D})$, D the width of all heads together [xlstm, "standard"]."""
    nn.init.uniform_(r, -1 / math.sqrt(width), 1 / math.sqrt(width))


def conv_(weight: Tensor, bias: Tensor) -> None:
    r"""$U(-1/\sqrt{W}, 1/\sqrt{W})$: what `nn.Conv1d` does for one input channel a filter."""
    bound = 1 / math.sqrt(weight.shape[-1])
    nn.init.uniform_(weight, -bound, bound)
    nn.init.uniform_(bias, -bound, bound)
