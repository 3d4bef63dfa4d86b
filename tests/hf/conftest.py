import pytest
import torch
from transformers.utils import logging

from exlstm.hf import ExlstmConfig, ExlstmForCausalLM

logging.disable_progress_bar()


@pytest.fixture
def config() -> ExlstmConfig:
    return ExlstmConfig(vocab_size=13, d_model=16, pattern="msM", num_heads=2)


@pytest.fixture
def model(config: ExlstmConfig) -> ExlstmForCausalLM:
    """With weights large enough that the greedy text is no constant."""
    torch.manual_seed(3)
    model = ExlstmForCausalLM(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model.requires_grad_(False)


def pad(prompts: list[list[int]], side: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Prompts as a batch and its mask. The padding is a token of the vocabulary as any other."""
    longest = max(map(len, prompts))
    tokens, mask = [], []
    for prompt in prompts:
        absent = longest - len(prompt)
        if side == "left":
            tokens.append([7] * absent + prompt)
            mask.append([0] * absent + [1] * len(prompt))
        else:
            tokens.append(prompt + [7] * absent)
            mask.append([1] * len(prompt) + [0] * absent)
    return torch.tensor(tokens), torch.tensor(mask)
