"""How good a model is: perplexity, bits per byte; by domain, by position, and what it writes."""

from exlstm.evaluate.corpus import read_domains as read_domains
from exlstm.evaluate.domains import Comparison as Comparison
from exlstm.evaluate.domains import Domain as Domain
from exlstm.evaluate.domains import DomainEvaluation as DomainEvaluation
from exlstm.evaluate.domains import compare_domains as compare_domains
from exlstm.evaluate.domains import evaluate_domains as evaluate_domains
from exlstm.evaluate.perplexity import Evaluation as Evaluation
from exlstm.evaluate.perplexity import evaluate_documents as evaluate_documents
from exlstm.evaluate.samples import pick_beginnings as pick_beginnings
from exlstm.evaluate.samples import sample_texts as sample_texts
