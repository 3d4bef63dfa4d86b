"""Programs that begin with a cell of their own, which no xLSTM can read as its memory."""

import torch
from torch import Tensor, nn, optim
from torch.nn import functional as F


def random_start(rnn: type[nn.Module]) -> list[float]:
    """A tutorial's tagger: `init_hidden` draws both states from a normal distribution."""

    class Tagger(nn.Module):
        def __init__(self, hidden_dim: int) -> None:
            super().__init__()
            self.hidden_dim = hidden_dim
            self.word_embeds = nn.Embedding(6, 5)
            self.lstm = rnn(5, hidden_dim // 2, num_layers=1, bidirectional=True)
            self.hidden2tag = nn.Linear(hidden_dim, 2)

        def init_hidden(self) -> tuple[Tensor, Tensor]:
            return (
                torch.randn(2, 1, self.hidden_dim // 2),
                torch.randn(2, 1, self.hidden_dim // 2),
            )

        def forward(self, sentence: Tensor) -> Tensor:
            hidden = self.init_hidden()
            embeds = self.word_embeds(sentence).view(len(sentence), 1, -1)
            lstm_out, hidden = self.lstm(embeds, hidden)
            return self.hidden2tag(lstm_out.view(len(sentence), self.hidden_dim))

    sentence, tags = torch.tensor([0, 1, 2, 3, 4, 5]), torch.tensor([0, 1, 1, 0, 1, 0])
    model = Tagger(12)
    optimizer = optim.SGD(model.parameters(), lr=0.5, weight_decay=1e-4)
    losses = []
    for _ in range(40):
        model.zero_grad()
        loss = F.cross_entropy(model(sentence), tags)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def learned_start(rnn: type[nn.Module]) -> list[float]:
    """A trained first state: `nn.Parameter`s expanded to the batch, one for h and one for c."""

    class Learner(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm = rnn(3, 19, num_layers=2)
            self.h_0 = nn.Parameter(torch.zeros(2, 1, 19))
            self.c_0 = nn.Parameter(torch.zeros(2, 1, 19))
            self.out = nn.Linear(19, 1)

        def forward(self, x: Tensor) -> Tensor:
            h_0 = self.h_0.expand(-1, x.size(1), -1).contiguous()
            c_0 = self.c_0.expand(-1, x.size(1), -1).contiguous()
            output, _ = self.lstm(x, (h_0, c_0))
            return self.out(output).squeeze(2)

    x = torch.randn(7, 5, 3)
    y = x[..., 0] + F.pad(x[:-1, :, 1], (0, 0, 1, 0), value=2.0)
    model = Learner()
    optimizer = optim.Adam(model.parameters(), lr=0.02)
    losses = []
    for _ in range(40):
        optimizer.zero_grad()
        loss = F.mse_loss(model(x), y)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses
