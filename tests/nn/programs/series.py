"""Numbers over time: forecasts, anomalies, remaining life, worlds."""

import torch
from torch import Tensor, nn, optim
from torch.nn import functional as F


def forecaster(rnn: type[nn.Module]) -> list[float]:
    """Sequence to one: zero states `.detach()`ed, `out[:, -1, :]`, then many steps ahead."""

    class LSTMModel(nn.Module):
        def __init__(self, input_dim: int, hidden_dim: int, num_layers: int) -> None:
            super().__init__()
            self.hidden_dim, self.num_layers = hidden_dim, num_layers
            self.lstm = rnn(input_dim, hidden_dim, num_layers, batch_first=True)
            self.fc = nn.Linear(hidden_dim, 1)

        def forward(self, x: Tensor) -> Tensor:
            h0 = torch.zeros(self.num_layers, x.size(0), self.hidden_dim).requires_grad_()
            c0 = torch.zeros(self.num_layers, x.size(0), self.hidden_dim).requires_grad_()
            out, (_hn, _cn) = self.lstm(x, (h0.detach(), c0.detach()))
            return self.fc(out[:, -1, :])

    series = torch.sin(0.5 * torch.arange(40.0))
    windows = series.unfold(0, 9, 1)
    x, y = windows[:, :-1, None], windows[:, -1:]
    model = LSTMModel(1, 10, 2)
    optimizer = optim.Adam(model.parameters(), lr=0.02)
    losses = []
    for _ in range(30):
        y_pred = model(x)
        loss = F.mse_loss(y_pred, y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())

    model.eval()
    window = x[-1:]
    with torch.no_grad():
        for _ in range(6):
            window = torch.cat([window[:, 1:], model(window).unsqueeze(-1)], dim=1)
    assert window.isfinite().all()
    return losses


def sequential_regressor(rnn: type[nn.Module]) -> list[float]:
    """In `nn.Sequential` with a module that picks the output; float64; weights as one vector."""

    class TakeOutput(nn.Module):
        def forward(self, x) -> Tensor:
            tensor, _ = x
            return tensor

    x = torch.randn(6, 10, 3).double()
    y = x.cumsum(1)[..., :1].tanh()
    model = nn.Sequential(rnn(3, 14, batch_first=True), TakeOutput(), nn.Linear(14, 1)).double()
    optimizer = optim.LBFGS(model.parameters(), lr=0.5, max_iter=4)
    best, lowest, losses = None, float("inf"), []

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.mse_loss(model(x), y)
        loss.backward()
        return loss

    for _ in range(6):
        before = nn.utils.parameters_to_vector(model.parameters()).detach().clone()
        loss = optimizer.step(closure).item()
        losses.append(loss)
        if loss < lowest:
            best, lowest = before, loss
    nn.utils.vector_to_parameters(best, model.parameters())
    assert model(x).dtype == torch.float64
    torch.testing.assert_close(F.mse_loss(model(x), y).item(), lowest)
    return losses


def unbatched_regressor(rnn: type[nn.Module]) -> list[float]:
    """One series of shape `(T, F)`, no batch anywhere; the state of a first half for the second."""

    class Regressor(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm = rnn(2, 11, num_layers=2)
            self.linear = nn.Linear(11, 1)

        def forward(self, x, hx=None):
            output, (h_n, c_n) = self.lstm(x, hx)
            assert h_n.shape == (2, 11)
            return self.linear(output).squeeze(-1), (h_n, c_n)

    x = torch.randn(24, 2)
    y = x[:, 0] + F.pad(x[:-1, 1], (1, 0))
    model = Regressor()
    optimizer = optim.Adam(model.parameters(), lr=0.02)
    losses = []
    for _ in range(30):
        optimizer.zero_grad()
        loss = F.mse_loss(model(x)[0], y)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())

    with torch.no_grad():
        first, hx = model(x[:10])
        second, _ = model(x[10:], hx)
        torch.testing.assert_close(torch.cat([first, second]), model(x)[0], rtol=1e-4, atol=1e-5)
    return losses


def anomaly_autoencoder(rnn: type[nn.Module]) -> list[float]:
    """The last state of two encoders in a row, repeated over time into two decoders."""

    class Encoder(nn.Module):
        def __init__(self, seq_len: int, n_features: int, embedding_dim: int) -> None:
            super().__init__()
            self.seq_len, self.n_features = seq_len, n_features
            self.embedding_dim, self.hidden_dim = embedding_dim, 2 * embedding_dim
            self.rnn1 = rnn(
                input_size=n_features, hidden_size=self.hidden_dim, num_layers=1, batch_first=True
            )
            self.rnn2 = rnn(
                input_size=self.hidden_dim,
                hidden_size=embedding_dim,
                num_layers=1,
                batch_first=True,
            )

        def forward(self, x: Tensor) -> Tensor:
            x = x.reshape((1, self.seq_len, self.n_features))
            x, (_, _) = self.rnn1(x)
            x, (hidden_n, _) = self.rnn2(x)
            return hidden_n.reshape((1, self.embedding_dim))

    class Decoder(nn.Module):
        def __init__(self, seq_len: int, input_dim: int, n_features: int) -> None:
            super().__init__()
            self.seq_len, self.input_dim = seq_len, input_dim
            self.rnn1 = rnn(input_size=input_dim, hidden_size=input_dim, batch_first=True)
            self.rnn2 = rnn(input_size=input_dim, hidden_size=2 * input_dim, batch_first=True)
            self.output_layer = nn.Linear(2 * input_dim, n_features)

        def forward(self, x: Tensor) -> Tensor:
            x = x.repeat(self.seq_len, 1).reshape((1, self.seq_len, self.input_dim))
            x, (_hidden_n, _cell_n) = self.rnn1(x)
            x, (_hidden_n, _cell_n) = self.rnn2(x)
            return self.output_layer(x.reshape((self.seq_len, 2 * self.input_dim)))

    ripple = 0.2 * torch.sin(0.6 * torch.arange(8.0))[:, None]
    beats = [level + ripple for level in (-1.5, 0.5, 1.5)]
    model = nn.Sequential(Encoder(8, 1, 13), Decoder(8, 13, 1))
    optimizer = optim.Adam(model.parameters(), lr=0.01)
    criterion = nn.L1Loss(reduction="sum")
    losses = []
    for _ in range(25):
        total = 0.0
        for beat in beats:
            optimizer.zero_grad()
            loss = criterion(model(beat), beat)
            loss.backward()
            optimizer.step()
            total += loss.item()
        losses.append(total)
    return losses


def world_model(rnn: type[nn.Module]) -> list[float]:
    """A mixture of Gaussians for the next latent; then a dream, one step at a time."""

    class MDNRNN(nn.Module):
        def __init__(self, latents: int, actions: int, hiddens: int, gaussians: int) -> None:
            super().__init__()
            self.latents, self.gaussians = latents, gaussians
            self.rnn = rnn(latents + actions, hiddens)
            self.gmm_linear = nn.Linear(hiddens, (2 * latents + 1) * gaussians)

        def forward(self, actions, latents, hidden=None):
            seq_len, bs = actions.size(0), actions.size(1)
            ins = torch.cat([actions, latents], dim=-1)
            outs, hidden = self.rnn(ins, hidden)
            gmm_outs = self.gmm_linear(outs)
            stride = self.gaussians * self.latents
            mus = gmm_outs[:, :, :stride].view(seq_len, bs, self.gaussians, self.latents)
            sigmas = gmm_outs[:, :, stride : 2 * stride].view_as(mus).exp()
            logpi = gmm_outs[:, :, 2 * stride :].log_softmax(-1)
            return mus, sigmas, logpi, hidden

    T, bs = 12, 4
    actions = torch.randint(0, 2, (T, bs, 1)).float() * 2 - 1
    latents = torch.zeros(T + 1, bs, 2)
    for t in range(T):  # an action acts after one step
        before = actions[t - 1] if t else torch.zeros(bs, 1)
        latents[t + 1] = 0.5 * latents[t] + torch.cat([actions[t], before], dim=1)
    model = MDNRNN(2, 1, 22, 2)
    optimizer = optim.RMSprop(model.parameters(), lr=0.005)
    losses = []
    for _ in range(40):
        optimizer.zero_grad()
        mus, sigmas, logpi, _ = model(actions, latents[:-1])
        normal = torch.distributions.Normal(mus, sigmas + 0.1)
        log_probs = logpi + normal.log_prob(latents[1:].unsqueeze(-2)).sum(-1)
        loss = -torch.logsumexp(log_probs, dim=-1).mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())

    latent, hidden = latents[:1], None
    with torch.no_grad():
        for t in range(5):
            mus, _, logpi, hidden = model(actions[t : t + 1], latent, hidden)
            pick = torch.distributions.Categorical(logits=logpi).sample()
            latent = mus.gather(2, pick[..., None, None].expand(1, bs, 1, 2)).squeeze(2)
    assert latent.isfinite().all()
    return losses
