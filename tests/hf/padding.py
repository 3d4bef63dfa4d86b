import torch


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
