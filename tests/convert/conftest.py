"""Models of ours with random weights, off their initial values."""

from collections.abc import Callable

import pytest
import torch

from exlstm.models import XLSTMConfig, XLSTMLanguageModel

Make = Callable[..., XLSTMLanguageModel]


def off_initial_values(model: torch.nn.Module) -> None:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))


@pytest.fixture
def shake() -> Callable[[torch.nn.Module], None]:
    """Moves weights off their initial values, which hide a gate or norm that is not used."""
    return off_initial_values


@pytest.fixture
def make() -> Make:
    """Makes a model of ours from the fields of its configuration."""

    def model(**fields: object) -> XLSTMLanguageModel:
        torch.manual_seed(0)
        model = XLSTMLanguageModel(XLSTMConfig(**fields)).eval()
        off_initial_values(model)
        return model

    return model
