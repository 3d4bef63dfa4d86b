"""Models as files for other runtimes; ONNX needs `pip install 'exlstm[export]'`."""

from exlstm.export.onnx import Exported as Exported
from exlstm.export.onnx import to_onnx as to_onnx
