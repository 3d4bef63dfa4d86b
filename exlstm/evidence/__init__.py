"""xLSTM beside Llama and the LSTM on real text: equal parameters, tokens and tuning."""

from exlstm.evidence.comparison import COMPARISON, Comparison, Model, Score, criteria

__all__ = ["COMPARISON", "Comparison", "Model", "Score", "criteria"]
