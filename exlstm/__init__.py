"""xLSTM (extended LSTM: sLSTM and mLSTM) for everyone who has a sequence.

`exlstm.ops` are functions on tensors, `exlstm.nn` layers, `exlstm.models` complete models.
Importing the package costs torch, numpy and safetensors and has no side effects.
"""

__version__ = "0.1.0.dev0"
