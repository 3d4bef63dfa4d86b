"""Complete models: frozen configurations, presets as functions, saving and loading."""

from exlstm.models.checkpoint import load_model as load_model
from exlstm.models.checkpoint import quantize_checkpoint as quantize_checkpoint
from exlstm.models.checkpoint import save_model as save_model
from exlstm.models.config import PRESETS as PRESETS
from exlstm.models.config import XLSTMConfig as XLSTMConfig
from exlstm.models.config import xlstm_1b3 as xlstm_1b3
from exlstm.models.config import xlstm_7b as xlstm_7b
from exlstm.models.config import xlstm_125m as xlstm_125m
from exlstm.models.config import xlstm_350m as xlstm_350m
from exlstm.models.config import xlstm_760m as xlstm_760m
from exlstm.models.generation import generate as generate
from exlstm.models.language import XLSTMLanguageModel as XLSTMLanguageModel
from exlstm.models.quantization import quantize as quantize
