"""Settings for the tests of the ops."""

from collections.abc import Iterator

import pytest
import torch

from exlstm.ops import native


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


def forget_library() -> None:
    native._find.cache_clear()
    native._kernel.cache_clear()


@pytest.fixture(params=[level for level in native.LEVELS if native._path(level)])
def level(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A level whose library is the one that is called."""
    forget_library()
    monkeypatch.setenv("EXLSTM_ISA", request.param)
    if (library := native.library()) is None:
        pytest.skip(str(native.reason()))
    assert f"_{request.param}." in library._name
    yield request.param
    forget_library()


@pytest.fixture
def threads() -> Iterator[None]:
    """The test may set the number of threads."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)
