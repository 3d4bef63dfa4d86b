"""Language models, translation and captions: programs that write."""

import torch
from safetensors.torch import load, save
from torch import Tensor, nn, optim
from torch.nn import functional as F
from torch.nn.utils.rnn import pack_padded_sequence


def word_language_model(rnn: type[nn.Module]) -> list[float]:
    """Truncated BPTT: `new_zeros` states, a recursive detach, tied weights, clipped gradients."""

    class RNNModel(nn.Module):
        def __init__(self, ntoken: int, ninp: int, nhid: int, nlayers: int) -> None:
            super().__init__()
            self.drop = nn.Dropout(0.1)
            self.encoder = nn.Embedding(ntoken, ninp)
            self.rnn = rnn(ninp, nhid, nlayers, dropout=0.1)
            self.decoder = nn.Linear(nhid, ntoken)
            self.decoder.weight = self.encoder.weight
            nn.init.uniform_(self.encoder.weight, -0.3, 0.3)
            nn.init.zeros_(self.decoder.bias)
            self.ntoken, self.nhid, self.nlayers = ntoken, nhid, nlayers

        def forward(self, input, hidden):
            emb = self.drop(self.encoder(input))
            output, hidden = self.rnn(emb, hidden)
            decoded = self.decoder(self.drop(output)).view(-1, self.ntoken)
            return F.log_softmax(decoded, dim=1), hidden

        def init_hidden(self, bsz: int):
            weight = next(self.parameters())
            return (
                weight.new_zeros(self.nlayers, bsz, self.nhid),
                weight.new_zeros(self.nlayers, bsz, self.nhid),
            )

    def repackage_hidden(h):
        if isinstance(h, torch.Tensor):
            return h.detach()
        return tuple(repackage_hidden(v) for v in h)

    def batchify(data: Tensor, bsz: int) -> Tensor:
        nbatch = data.size(0) // bsz
        return data.narrow(0, 0, nbatch * bsz).view(bsz, -1).t().contiguous()

    bptt, ntokens, lr = 5, 6, 2.0
    train_data = batchify(torch.tensor([0, 1, 2, 0, 3, 4, 5]).repeat(18), 3)
    model = RNNModel(ntokens, 25, 25, 2)
    criterion = nn.NLLLoss()
    losses = []
    for _ in range(15):
        model.train()
        total_loss = 0.0
        hidden = model.init_hidden(3)
        for i in range(0, train_data.size(0) - 1, bptt):
            seq_len = min(bptt, len(train_data) - 1 - i)
            data, targets = train_data[i : i + seq_len], train_data[i + 1 : i + 1 + seq_len]
            model.zero_grad()
            hidden = repackage_hidden(hidden)
            output, hidden = model(data, hidden)
            loss = criterion(output, targets.reshape(-1))
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 0.25)
            for p in model.parameters():
                p.data.add_(p.grad, alpha=-lr)
            total_loss += len(data) * loss.item()
        losses.append(total_loss)

    model.eval()
    hidden = model.init_hidden(1)
    word = torch.zeros(1, 1, dtype=torch.long)
    with torch.no_grad():
        for _ in range(5):
            output, hidden = model(word, hidden)
            word.fill_(torch.multinomial(output.squeeze().exp(), 1)[0])
    return losses


def char_rnn(rnn: type[nn.Module]) -> list[float]:
    """Letters: `weight.new(...).zero_()`, `tuple([each.data for each in h])`, sampling with one."""
    text = "hello world, " * 12
    chars = tuple(sorted(set(text)))
    char2int = {ch: i for i, ch in enumerate(chars)}
    encoded = torch.tensor([char2int[ch] for ch in text])

    class CharRNN(nn.Module):
        def __init__(self, n_hidden: int = 33, n_layers: int = 2) -> None:
            super().__init__()
            self.n_hidden, self.n_layers = n_hidden, n_layers
            self.lstm = rnn(len(chars), n_hidden, n_layers, dropout=0.1, batch_first=True)
            self.dropout = nn.Dropout(0.1)
            self.fc = nn.Linear(n_hidden, len(chars))

        def forward(self, x, hidden):
            r_output, hidden = self.lstm(x, hidden)
            out = self.dropout(r_output)
            out = out.contiguous().view(-1, self.n_hidden)
            return self.fc(out), hidden

        def init_hidden(self, batch_size: int):
            weight = next(self.parameters()).data
            return (
                weight.new(self.n_layers, batch_size, self.n_hidden).zero_(),
                weight.new(self.n_layers, batch_size, self.n_hidden).zero_(),
            )

    net = CharRNN()
    opt = optim.Adam(net.parameters(), lr=0.01)
    criterion = nn.CrossEntropyLoss()
    batch_size, seq_length = 2, 13
    rows = encoded.view(batch_size, -1)
    losses = []
    for _ in range(6):
        h = net.init_hidden(batch_size)
        for n in range(0, rows.size(1) - seq_length, seq_length):
            x, y = rows[:, n : n + seq_length], rows[:, n + 1 : n + seq_length + 1]
            h = tuple([each.data for each in h])
            net.zero_grad()
            output, h = net(F.one_hot(x, len(chars)).float(), h)
            loss = criterion(output, y.reshape(batch_size * seq_length))
            loss.backward()
            nn.utils.clip_grad_norm_(net.parameters(), 5)
            opt.step()
            losses.append(loss.item())

    net.eval()
    h = net.init_hidden(1)
    char = "h"
    for _ in range(8):
        h = tuple([each.data for each in h])
        out, h = net(F.one_hot(torch.tensor([[char2int[char]]]), len(chars)).float(), h)
        char = chars[int(F.softmax(out, dim=1).data.topk(3)[1][0, 0])]
    return losses


def textbook_language_model(rnn: type[nn.Module]) -> list[float]:
    """A textbook's: `for s in state: s.detach_()`, and the forget bias through `_all_weights`."""

    class RNNModel(nn.Module):
        def __init__(self, rnn_layer, vocab_size: int) -> None:
            super().__init__()
            self.rnn = rnn_layer
            self.vocab_size = vocab_size
            self.num_hiddens = self.rnn.hidden_size
            self.num_directions = 2 if self.rnn.bidirectional else 1
            self.linear = nn.Linear(self.num_directions * self.num_hiddens, vocab_size)

        def forward(self, inputs, state):
            X = F.one_hot(inputs.T.long(), self.vocab_size).to(torch.float32)
            Y, state = self.rnn(X, state)
            return self.linear(Y.reshape((-1, Y.shape[-1]))), state

        def begin_state(self, batch_size: int = 1):
            shape = (self.num_directions * self.rnn.num_layers, batch_size, self.num_hiddens)
            return torch.zeros(shape), torch.zeros(shape)

    lstm_layer = rnn(5, 20)
    for names in lstm_layer._all_weights:
        for name in filter(lambda n: "bias" in n, names):
            bias = getattr(lstm_layer, name)
            n = bias.size(0)
            bias.data[n // 4 : n // 2].fill_(1.0)
    net = RNNModel(lstm_layer, 5)
    updater = optim.SGD(net.parameters(), lr=0.5, momentum=0.9)
    loss_fn = nn.CrossEntropyLoss()
    corpus = torch.tensor([0, 1, 1, 2, 3, 4]).repeat(9)[:49].repeat(4, 1)
    losses = []
    state = None
    for n in [0, 6, 12, 18, 24, 30, 36, 42] * 5:
        X, Y = corpus[:, n : n + 6], corpus[:, n + 1 : n + 7]
        if state is None or n == 0:
            state = net.begin_state(batch_size=X.shape[0])
        else:
            for s in state:
                s.detach_()
        y_hat, state = net(X, state)
        loss = loss_fn(y_hat, Y.T.reshape(-1)).mean()
        updater.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        updater.step()
        losses.append(loss.item())
    return losses


def translator(rnn: type[nn.Module]) -> list[float]:
    """The top layer's states, `cell[-1:]`, start a decoder of one token a call; uniform weights."""

    class Encoder(nn.Module):
        def __init__(self, vocab: int, emb: int, hid: int, n_layers: int) -> None:
            super().__init__()
            self.embedding = nn.Embedding(vocab, emb)
            self.rnn = rnn(emb, hid, n_layers, dropout=0.1)

        def forward(self, src):
            _, (hidden, cell) = self.rnn(self.embedding(src))
            return hidden[-1:], cell[-1:]  # the decoder has one layer

    class Decoder(nn.Module):
        def __init__(self, vocab: int, emb: int, hid: int) -> None:
            super().__init__()
            self.embedding = nn.Embedding(vocab, emb)
            self.rnn = rnn(emb, hid)
            self.fc_out = nn.Linear(hid, vocab)

        def forward(self, input, hidden, cell):
            embedded = self.embedding(input.unsqueeze(0))
            output, (hidden, cell) = self.rnn(embedded, (hidden, cell))
            return self.fc_out(output.squeeze(0)), hidden, cell

    vocab = 5
    src = torch.cartesian_prod(*[torch.arange(1, vocab)] * 2).t()  # (2, 16)
    trg = torch.cat([torch.zeros(1, 16, dtype=torch.long), src.flip(0)])  # <sos>, reversed
    encoder, decoder = Encoder(vocab, 8, 18, 2), Decoder(vocab, 6, 18)
    model = nn.ModuleDict({"encoder": encoder, "decoder": decoder})

    def init_weights(m: nn.Module) -> None:
        for _, param in m.named_parameters():
            nn.init.uniform_(param.data, -0.2, 0.2)

    model.apply(init_weights)
    optimizer = optim.Adam(model.parameters(), lr=0.04)
    losses = []
    for _ in range(50):
        optimizer.zero_grad()
        hidden, cell = encoder(src)
        outputs = torch.zeros(len(trg), 16, vocab)
        for t in range(1, len(trg)):
            outputs[t], hidden, cell = decoder(trg[t - 1], hidden, cell)
        loss = F.cross_entropy(outputs[1:].view(-1, vocab), trg[1:].view(-1))
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1)
        optimizer.step()
        losses.append(loss.item())
    return losses


def beam_search(rnn: type[nn.Module]) -> list[float]:
    """Beams: a state repeated from one row, then reordered by `index_select(1, ...)`; its twin."""

    class Writer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(6, 7)
            self.lstm = rnn(7, 12, num_layers=2, batch_first=True)
            self.proj = nn.Linear(12, 6)

        def forward(self, tokens, state=None):
            out, state = self.lstm(self.embed(tokens), state)
            return self.proj(out), state

    def search(model: Writer, first: int, beams: int, steps: int) -> Tensor:
        tokens = torch.tensor([[first]])
        logits, (h, c) = model(tokens)
        scores, words = logits[0, -1].log_softmax(-1).topk(beams)
        rows = torch.zeros(beams, dtype=torch.long)
        h, c = h.index_select(1, rows), c.index_select(1, rows)
        tokens = torch.cat([tokens.expand(beams, 1), words[:, None]], dim=1)
        for _ in range(steps - 1):
            logits, (h, c) = model(tokens[:, -1:], (h, c))
            total = scores[:, None] + logits[:, -1].log_softmax(-1)
            scores, best = total.view(-1).topk(beams)
            beam_idx, words = best // 6, best % 6
            h, c = h.index_select(1, beam_idx), c.index_select(1, beam_idx)
            tokens = torch.cat([tokens.index_select(0, beam_idx), words[:, None]], dim=1)
        # The states followed their beams: reading the sentences again gives the same scores.
        again = model(tokens[:, :-1])[0].log_softmax(-1).gather(2, tokens[:, 1:, None])
        torch.testing.assert_close(again.sum((1, 2)), scores, rtol=1e-4, atol=1e-4)
        return tokens[0]

    model = Writer()
    optimizer = optim.Adam(model.parameters(), lr=0.02)
    song = torch.tensor([0, 1, 0, 2, 0, 3, 4, 5]).repeat(3)
    losses = []
    for _ in range(25):
        optimizer.zero_grad()
        logits, _ = model(song[None, :-1])
        loss = F.cross_entropy(logits[0], song[1:])
        loss.backward()
        optimizer.step()
        losses.append(loss.item())

    model.eval()
    twin = Writer()
    twin.load_state_dict(load(save(model.state_dict())))
    twin.eval()
    with torch.no_grad():
        best = search(model, first=3, beams=3, steps=6)
        assert torch.equal(best, search(twin, first=3, beams=3, steps=6))
    return losses


def image_captioner(rnn: type[nn.Module]) -> list[float]:
    """The picture as the first word; `hiddens[0]` of a packed output; sampling from no state."""

    class DecoderRNN(nn.Module):
        def __init__(self, embed_size: int, hidden_size: int, vocab_size: int) -> None:
            super().__init__()
            self.embed = nn.Embedding(vocab_size, embed_size)
            self.lstm = rnn(embed_size, hidden_size, 1, batch_first=True)
            self.linear = nn.Linear(hidden_size, vocab_size)

        def forward(self, features, captions, lengths):
            embeddings = self.embed(captions)
            embeddings = torch.cat((features.unsqueeze(1), embeddings), 1)
            packed = pack_padded_sequence(embeddings, lengths, batch_first=True)
            hiddens, _ = self.lstm(packed)
            return self.linear(hiddens[0])

        def sample(self, features, states=None):
            sampled_ids = []
            inputs = features.unsqueeze(1)
            for _ in range(5):
                hiddens, states = self.lstm(inputs, states)
                outputs = self.linear(hiddens.squeeze(1))
                _, predicted = outputs.max(1)
                sampled_ids.append(predicted)
                inputs = self.embed(predicted).unsqueeze(1)
            return torch.stack(sampled_ids, 1)

    images = torch.randn(3, 20)
    captions = torch.tensor([[1, 2, 3, 4, 5], [3, 4, 5, 6, 0], [2, 6, 5, 0, 0]])
    lengths = [5, 4, 3]
    targets = pack_padded_sequence(captions, lengths, batch_first=True)[0]
    encoder, decoder = nn.Linear(20, 8), DecoderRNN(8, 25, 7)
    params = list(decoder.parameters()) + list(encoder.parameters())
    optimizer = optim.Adam(params, lr=0.02)
    losses = []
    for _ in range(25):
        outputs = decoder(encoder(images), captions, lengths)
        loss = F.cross_entropy(outputs, targets)
        decoder.zero_grad()
        encoder.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert decoder.sample(encoder(images)).shape == (3, 5)
    return losses
