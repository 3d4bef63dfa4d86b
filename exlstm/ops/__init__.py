"""Functions on tensors: no modules, no configuration. The letters are in `exlstm.shapes`."""

from exlstm.ops.backend import BackendError as BackendError
from exlstm.ops.backend import backends as backends
from exlstm.ops.backend import explain as explain
from exlstm.ops.backend import use_backend as use_backend
from exlstm.ops.conv import causal_conv1d as causal_conv1d
from exlstm.ops.mlstm import mlstm as mlstm
from exlstm.ops.mlstm_reference import MLSTMState as MLSTMState
from exlstm.ops.sequence_parallel import sequence_parallel as sequence_parallel
from exlstm.ops.slstm import slstm as slstm
from exlstm.ops.slstm_reference import SLSTMState as SLSTMState
