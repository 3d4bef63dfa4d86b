"""How good a model is: loss, perplexity, bits per byte."""

from exlstm.evaluate.perplexity import Evaluation as Evaluation
from exlstm.evaluate.perplexity import evaluate_documents as evaluate_documents
