"""Settings shared by all tests."""

import os

from hypothesis import settings

# The compiler's caches on disk know an op by its name: after a change of what an op keeps for its
# backward pass they would give the graph of before.
os.environ["TORCHINDUCTOR_FX_GRAPH_CACHE"] = os.environ["TORCHINDUCTOR_AUTOGRAD_CACHE"] = "0"

# The same examples on every machine; no time limit for one, since a shared runner may pause.
settings.register_profile("exlstm", derandomize=True, deadline=None, max_examples=25)
settings.load_profile("exlstm")
