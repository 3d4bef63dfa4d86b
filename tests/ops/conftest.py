"""Settings for the tests of the ops."""

from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(autouse=True)
def poisoned_memory(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fill what `torch.empty` returns with NaN: no test passes on memory that happens to be 0."""
    if request.node.get_closest_marker("compile"):  # generated code allocates its own memory
        yield
        return
    # `torch.utils.deterministic.fill_uninitialized_memory`, on by default, acts only with this.
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)
