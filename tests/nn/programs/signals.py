"""Speech, pictures of text and other signals."""

import torch
from torch import Tensor, nn, optim
from torch.nn import functional as F
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence


def speech_recogniser(rnn: type[nn.Module]) -> list[float]:
    """Convolution, three packed bidirectional layers that sum their directions, CTC."""

    class BatchRNN(nn.Module):
        def __init__(self, input_size: int, hidden_size: int, batch_norm: bool) -> None:
            super().__init__()
            self.batch_norm = nn.BatchNorm1d(input_size) if batch_norm else None
            self.rnn = rnn(input_size, hidden_size, bidirectional=True, bias=True)

        def flatten_parameters(self) -> None:
            self.rnn.flatten_parameters()

        def forward(self, x, output_lengths):
            if self.batch_norm is not None:
                t, n = x.size(0), x.size(1)
                x = self.batch_norm(x.view(t * n, -1)).view(t, n, -1)
            x = pack_padded_sequence(x, output_lengths)
            x, _ = self.rnn(x)
            x, _ = pad_packed_sequence(x)
            return x.view(x.size(0), x.size(1), 2, -1).sum(2).view(x.size(0), x.size(1), -1)

    class Recogniser(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Sequential(nn.Conv1d(8, 10, 3, stride=2, padding=1), nn.Hardtanh(0, 20))
            self.rnns = nn.ModuleList(
                [BatchRNN(10, 17, False), BatchRNN(17, 17, True), BatchRNN(17, 17, True)]
            )
            self.fc = nn.Linear(17, 4, bias=False)

        def forward(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
            output_lengths = (lengths + 1) // 2
            x = self.conv(x).permute(2, 0, 1).contiguous()  # TxNxH
            for layer in self.rnns:
                layer.flatten_parameters()
                x = layer(x, output_lengths)
            return self.fc(x).log_softmax(-1), output_lengths

    lengths, target_lengths = torch.tensor([24, 20, 14]), torch.tensor([4, 3, 2])
    targets = torch.tensor([[1, 2, 3, 1], [3, 1, 2, 0], [2, 3, 0, 0]])
    spectrogram = 0.3 * torch.randn(3, 8, 24)
    for row in range(3):
        for n in range(int(target_lengths[row])):
            spectrogram[row, 2 * int(targets[row, n]), 6 * n : 6 * n + 4] += 2.0

    model = Recogniser()
    optimizer = optim.Adam(model.parameters(), lr=0.01)
    criterion = nn.CTCLoss(blank=0, reduction="sum", zero_infinity=True)
    losses = []
    for _ in range(25):
        optimizer.zero_grad()
        out, output_lengths = model(spectrogram, lengths)
        loss = criterion(out.float(), targets, output_lengths, target_lengths) / 3
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 400)
        optimizer.step()
        losses.append(loss.item())
    return losses


def text_line_reader(rnn: type[nn.Module]) -> list[float]:
    """A picture's columns as time: `.view(T * b, h)` on the output, two layers in a Sequential."""

    class BidirectionalLSTM(nn.Module):
        def __init__(self, n_in: int, n_hidden: int, n_out: int) -> None:
            super().__init__()
            self.rnn = rnn(n_in, n_hidden, bidirectional=True)
            self.embedding = nn.Linear(n_hidden * 2, n_out)

        def forward(self, input: Tensor) -> Tensor:
            recurrent, _ = self.rnn(input)
            T, b, h = recurrent.size()
            t_rec = recurrent.view(T * b, h)
            return self.embedding(t_rec).view(T, b, -1)

    cnn = nn.Sequential(nn.Conv2d(1, 6, (4, 3), padding=(0, 1)), nn.ReLU())
    reader = nn.Sequential(BidirectionalLSTM(6, 13, 9), BidirectionalLSTM(9, 13, 4))
    optimizer = optim.Adam([*cnn.parameters(), *reader.parameters()], lr=0.03)
    text = torch.randint(1, 4, (5, 3))
    images = 0.1 * torch.randn(5, 1, 4, 12)
    for n in range(3):
        images[torch.arange(5), 0, text[:, n], 4 * n + 1 : 4 * n + 3] += 1.0
    losses = []
    for _ in range(35):
        optimizer.zero_grad()
        conv = cnn(images).squeeze(2).permute(2, 0, 1)  # [w, b, c]
        preds = reader(conv).log_softmax(2)
        preds_size = torch.IntTensor([preds.size(0)] * 5)
        loss = F.ctc_loss(preds, text, preds_size, torch.IntTensor([3] * 5))
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def voice_detector(rnn: type[nn.Module]) -> list[float]:
    """Chunks of a stream: the states live in the module between calls, `reset_states` first."""

    class Detector(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = nn.Sequential(nn.Conv1d(1, 6, 8, stride=8), nn.ReLU())
            self.decoder = rnn(6, 16, num_layers=2, batch_first=True)
            self.head = nn.Linear(16, 1)
            self.reset_states()

        def reset_states(self, batch_size: int = 1) -> None:
            self._h = torch.zeros(2, batch_size, 16)
            self._c = torch.zeros(2, batch_size, 16)
            self._last_batch_size = 0

        def forward(self, chunk: Tensor) -> Tensor:
            if self._last_batch_size and self._last_batch_size != chunk.size(0):
                self.reset_states(chunk.size(0))
            x = self.encoder(chunk.unsqueeze(1)).permute(0, 2, 1)
            out, (self._h, self._c) = self.decoder(x, (self._h, self._c))
            self._h, self._c = self._h.detach(), self._c.detach()
            self._last_batch_size = chunk.size(0)
            return self.head(out).mean(1).sigmoid()

    speaking = torch.tensor([[0, 0, 1, 1, 1, 0], [0, 1, 1, 0, 0, 1], [1, 1, 0, 0, 1, 1]]).float()
    chunks = torch.randn(3, 6, 32) * (0.1 + speaking[:, :, None])
    model = Detector()
    optimizer = optim.AdamW(model.parameters(), lr=0.02)
    losses = []
    for _ in range(16):
        model.reset_states(batch_size=3)
        total = 0.0
        for n in range(6):
            prob = model(chunks[:, n]).squeeze(1)
            loss = F.binary_cross_entropy(prob, speaking[:, n])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.item()
        losses.append(total)

    model.eval()
    with torch.no_grad():
        model(chunks[:1, 0])  # another batch size: the module resets itself
        assert model._h.shape == (2, 1, 16)
        # A chunk read in two halves is the chunk.
        model.reset_states(3)
        model(chunks[:, 0, :16])
        model(chunks[:, 0, 16:])
        halves = model._h
        model.reset_states(3)
        model(chunks[:, 0])
        torch.testing.assert_close(halves, model._h)
    return losses


def speaker_verifier(rnn: type[nn.Module]) -> list[float]:
    """Utterances to vectors: `proj_size`, `flatten_parameters()`, `hidden[-1]`, centroids."""

    class SpeechEmbedder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm = rnn(9, 24, num_layers=3, batch_first=True, proj_size=10)
            for name, param in self.lstm.named_parameters():
                if "bias" in name:
                    nn.init.constant_(param, 0.0)
                elif param.dim() > 1 and "weight" in name:
                    nn.init.xavier_normal_(param)
            self.projection = nn.Linear(10, 8)

        def forward(self, x: Tensor) -> Tensor:
            self.lstm.flatten_parameters()
            output, (hidden, _) = self.lstm(x)
            assert output.size(2) == 10
            x = self.projection(hidden[-1])
            return x / torch.norm(x, dim=1, keepdim=True)

    speakers, utterances = 3, 4
    voices = torch.randn(speakers, 1, 1, 9)
    mel = (voices + 0.7 * torch.randn(speakers, utterances, 6, 9)).view(-1, 6, 9)
    owner = torch.arange(speakers).repeat_interleave(utterances)
    net = SpeechEmbedder()
    w = nn.Parameter(torch.tensor(5.0))
    optimizer = optim.Adam([{"params": net.parameters()}, {"params": [w]}], lr=0.01)
    losses = []
    for _ in range(20):
        optimizer.zero_grad()
        embeddings = net(mel)
        centroids = embeddings.view(speakers, utterances, -1).mean(1)
        loss = F.cross_entropy(w * embeddings @ centroids.t(), owner)
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 3.0)
        optimizer.step()
        losses.append(loss.item())
    return losses
