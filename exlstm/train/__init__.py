"""The one training engine: a thin subclass of `transformers.Trainer`, loaded when it runs."""

from exlstm.train.arguments import TrainArguments
from exlstm.train.run import TrainResult, train

__all__ = ["TrainArguments", "TrainResult", "train"]
