"""A corpus and a run small enough to train in a second."""

import multiprocessing

import pytest
import torch

from exlstm.train import TrainArguments, train

# A model and a run of a few steps; with dropout, so that the random state matters.
SMALL = {
    "pattern": "ms", "d_model": 16, "num_heads": 2, "dropout": 0.1, "context": 16, "batch_size": 2,
    "steps": 10, "eval_every": 5, "eval_windows": 4, "save_every": 4, "keep": 1, "threads": 1,
}  # fmt: skip


@pytest.fixture(autouse=True)
def _threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def processes():
    """Processes of their own that need not import anything any more."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["exlstm.train.trainer"])
    return context


@pytest.fixture(scope="session")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    for number in range(12):
        text = "".join(f"line {n} of {number}: {n * number}\n" for n in range(20))
        (folder / f"{number}.txt").write_text(text)
    return str(folder)


@pytest.fixture(scope="session")
def small_values(corpus):
    return {"data": corpus, **SMALL}


@pytest.fixture
def small(small_values, tmp_path):
    """Arguments of a small run, some of them changed."""

    def make(**changes):
        return TrainArguments(**{"out": tmp_path / "run", **small_values, **changes})

    return make


@pytest.fixture
def train_up_to(monkeypatch):
    """Train, and break off before a step is logged."""

    def train_up_to(step, arguments):
        from exlstm.train.trainer import LanguageModelTrainer

        log = LanguageModelTrainer.log

        def stop(self, *rest):
            if self.state.global_step == step:
                raise InterruptedError
            log(self, *rest)

        with monkeypatch.context() as patch:
            patch.setattr(LanguageModelTrainer, "log", stop)
            with pytest.raises(InterruptedError):
                train(arguments)

    return train_up_to
