"""Settings shared by all tests."""

from hypothesis import settings

# The same examples on every machine; no time limit for one, since a shared runner may pause.
settings.register_profile("exlstm", derandomize=True, deadline=None, max_examples=25)
settings.load_profile("exlstm")
