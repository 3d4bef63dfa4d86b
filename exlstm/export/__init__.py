"""Models as files for other runtimes; ONNX needs `pip install 'exlstm[export]'`."""

from exlstm.export.language import export_language_model as export_language_model
from exlstm.export.onnx import Exported as Exported
from exlstm.export.onnx import to_onnx as to_onnx
