"""The weights that exist: reading and writing every published format of xLSTM language models."""

from exlstm.convert.convert import FORMATS as FORMATS
from exlstm.convert.convert import OpenedModel as OpenedModel
from exlstm.convert.convert import load as load
from exlstm.convert.convert import load_stack as load_stack
from exlstm.convert.convert import open_model as open_model
from exlstm.convert.convert import write_model as write_model
