"""xLSTM (extended LSTM: sLSTM and mLSTM) for everyone who has a sequence.

`exlstm.ops` are functions on tensors, `exlstm.nn` layers, `exlstm.models` complete models.
Importing the package costs torch, numpy and safetensors and has no side effects.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import os

    from exlstm.models import XLSTMLanguageModel

__version__ = "0.1.0.dev0"


def load(path: str | os.PathLike[str]) -> XLSTMLanguageModel:
    """Load a language model of any published xLSTM format, in evaluation mode.

    These are what `exlstm.models.save_model` writes, the state dicts of NX-AI's `xlstm` package
    (the paper's blocks and xLSTM Large), and transformers' `model_type: xlstm`, such as
    NX-AI/xLSTM-7b. The weights become float32.

    Args:
        path: A folder, a safetensors file, a torch file that holds tensors only, or, where there
            is none of that name, a model of the Hugging Face Hub as `"owner/name"`.

    Raises:
        ValueError: There is no model, it is damaged, or exlstm has none like it; the message names
            the file, and the tensor or the field.

    Example:
        >>> import tempfile
        >>> from exlstm.models import XLSTMConfig, XLSTMLanguageModel, save_model
        >>> model = XLSTMLanguageModel(XLSTMConfig(vocab_size=257, d_model=32, pattern="ms"))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save_model(folder, model)
        ...     load(folder).config.pattern
        'ms'
    """
    from exlstm.convert import load as load_any

    return load_any(path)
