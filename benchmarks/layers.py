"""Speed of recurrent layers beside `nn.LSTM` of their width, and NX-AI's sLSTM without CUDA."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any

import torch
from ops import rows_of
from record import record, require_green
from torch import nn

from exlstm.nn import MLSTM, SLSTM, SLSTMMixer

LAYER_SHAPES = (
    (1, 1, 128),
    (1, 512, 128),
    (8, 256, 128),
    (32, 128, 256),
    (16, 512, 512),
)  # B T D, 4 heads


def layer_rows() -> list[dict[str, Any]]:
    """Layers of one width beside nn.LSTM: the drop-ins, and the paper's without its convolution."""
    rows = []
    for batch, time, width in LAYER_SHAPES:
        x = torch.randn(batch, time, width, requires_grad=True)
        layers: dict[str, nn.Module] = {
            "SLSTM": SLSTM(width, width, batch_first=True),
            "SLSTM, block-diagonal": SLSTM(width, width, batch_first=True, block_diagonal=True),
            "SLSTMMixer": SLSTMMixer(width, 4, conv_width=0),
            "MLSTM": MLSTM(width, width, batch_first=True),
            "nn.LSTM": nn.LSTM(width, width, batch_first=True),
        }
        runs: dict[str, Callable[[], torch.Tensor]] = {
            name: lambda layer=layer, x=x: layer(x)[0] for name, layer in layers.items()
        }
        size = (batch, time, width)
        leaves = {name: [x, *layer.parameters()] for name, layer in layers.items()}
        rows += rows_of("sLSTM layer", size, runs, leaves)
        if importlib.util.find_spec("xlstm") is None:
            rows.append(
                {"op": "sLSTM layer", "size": size, "what": "xlstm vanilla", "missing": True}
            )
            continue
        from xlstm import sLSTMLayer, sLSTMLayerConfig

        # In rounds of its own: it takes gigabytes and gives them back, and whoever came next in a
        # round would pay for mapping them anew.
        config = sLSTMLayerConfig(
            embedding_dim=width, num_heads=4, conv1d_kernel_size=0, backend="vanilla"
        )
        theirs = sLSTMLayer(config)
        vanilla = {"xlstm vanilla": lambda theirs=theirs, x=x: theirs(x)}
        rows += rows_of("sLSTM layer", size, vanilla, [x, *theirs.parameters()])
    return rows


if __name__ == "__main__":
    require_green("tests/nn/test_rnn.py")
    torch.manual_seed(0)
    record("layers", {"rows": layer_rows()})
