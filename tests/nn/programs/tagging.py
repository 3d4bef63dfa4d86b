"""Taggers, classifiers and other readers of whole sentences."""

import torch
from torch import Tensor, nn, optim
from torch.nn import functional as F
from torch.nn.utils.rnn import (
    PackedSequence,
    pack_padded_sequence,
    pack_sequence,
    pad_packed_sequence,
    pad_sequence,
)


def sentence_tagger(rnn: type[nn.Module]) -> list[float]:
    """A first tagger, one sentence at a time: `view(len(sentence), 1, -1)`, no state passed."""
    data = [
        (["a", "cat", "saw", "the", "bird"], ["DET", "NOUN", "VERB", "DET", "NOUN"]),
        (["nobody", "knew", "the", "old", "song"], ["NOUN", "VERB", "DET", "ADJ", "NOUN"]),
    ]
    words = {word: n for n, word in enumerate(sorted({w for s, _ in data for w in s}))}
    tags = {tag: n for n, tag in enumerate(sorted({t for _, ts in data for t in ts}))}

    class Tagger(nn.Module):
        def __init__(self, embedding_dim: int, hidden_dim: int) -> None:
            super().__init__()
            self.word_embeddings = nn.Embedding(len(words), embedding_dim)
            self.lstm = rnn(embedding_dim, hidden_dim)
            self.hidden2tag = nn.Linear(hidden_dim, len(tags))

        def forward(self, sentence: Tensor) -> Tensor:
            embeds = self.word_embeddings(sentence)
            lstm_out, _ = self.lstm(embeds.view(len(sentence), 1, -1))
            tag_space = self.hidden2tag(lstm_out.view(len(sentence), -1))
            return F.log_softmax(tag_space, dim=1)

    model = Tagger(7, 10)
    loss_function = nn.NLLLoss()
    optimizer = optim.SGD(model.parameters(), lr=0.3)
    losses = []
    for _ in range(40):
        total = 0.0
        for sentence, target in data:
            model.zero_grad()
            scores = model(torch.tensor([words[w] for w in sentence]))
            loss = loss_function(scores, torch.tensor([tags[t] for t in target]))
            loss.backward()
            optimizer.step()
            total += loss.item()
        losses.append(total)
    return losses


def packed_tagger(rnn: type[nn.Module]) -> list[float]:
    """A padded batch in any order: packed, two bidirectional layers with dropout, padded again."""

    class Tagger(nn.Module):
        def __init__(self, vocab: int, tags: int) -> None:
            super().__init__()
            self.embed = nn.Embedding(vocab + 1, 9, padding_idx=0)
            self.lstm = rnn(9, 25, num_layers=2, bidirectional=True, batch_first=True, dropout=0.1)
            self.fc = nn.Linear(2 * 25, tags)

        def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
            packed = pack_padded_sequence(
                self.embed(x), lengths, batch_first=True, enforce_sorted=False
            )
            packed_out, _ = self.lstm(packed)
            out, _ = pad_packed_sequence(packed_out, batch_first=True, total_length=x.size(1))
            return self.fc(out)

    lengths = torch.tensor([4, 9, 1, 7])
    x = torch.randint(1, 6, (4, 9))
    after = F.pad(x, (0, 1))[:, 1:]  # a tag needs the word to the right: the other direction
    inside = torch.arange(9) < lengths[:, None]
    y = ((x > 3).long() + 2 * (after > 3).long()).masked_fill(~inside, -100)
    x = x.masked_fill(~inside, 0)

    model = Tagger(6, 4)
    criterion = nn.CrossEntropyLoss(ignore_index=-100)
    optimizer = optim.Adam(model.parameters(), lr=0.02)
    losses = []
    for _ in range(25):
        optimizer.zero_grad()
        loss = criterion(model(x, lengths).view(-1, 4), y.view(-1))
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def sentiment_classifier(rnn: type[nn.Module]) -> list[float]:
    """Sorted packing in time order, and `cat((h_n[-2], h_n[-1]))` of the two directions."""

    class Classifier(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = nn.Embedding(12, 8, padding_idx=0)
            self.rnn = rnn(8, 15, num_layers=2, bidirectional=True, dropout=0.2)
            self.fc = nn.Linear(15 * 2, 1)
            self.dropout = nn.Dropout(0.2)

        def forward(self, text: Tensor, text_lengths: Tensor) -> Tensor:
            embedded = self.dropout(self.embedding(text))
            packed_embedded = pack_padded_sequence(embedded, text_lengths.to("cpu"))
            _, (hidden, _) = self.rnn(packed_embedded)
            hidden = self.dropout(torch.cat((hidden[-2, :, :], hidden[-1, :, :]), dim=1))
            return self.fc(hidden)

    text_lengths = torch.tensor([8, 6, 6, 5, 3, 2])
    label = torch.tensor([0.0, 1.0, 1.0, 0.0, 0.0, 1.0])
    text = torch.randint(3, 12, (8, 6))
    text[0] = 1 + label.long()  # the first word decides
    text[torch.arange(8)[:, None] >= text_lengths] = 0

    model = Classifier()
    optimizer = optim.Adam(model.parameters(), lr=0.02)
    criterion = nn.BCEWithLogitsLoss()
    losses = []
    for _ in range(20):
        optimizer.zero_grad()
        loss = criterion(model(text, text_lengths).squeeze(1), label)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def entity_recogniser(rnn: type[nn.Module]) -> list[float]:
    """Words from their letters: sorted by hand, `h_n[:, unsort]`, transposed and flattened."""

    class Recogniser(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.letters = nn.Embedding(10, 5, padding_idx=0)
            self.char_lstm = rnn(5, 6, batch_first=True, bidirectional=True)
            self.word_lstm = rnn(12, 11, bidirectional=True)
            self.out = nn.Linear(22, 2)

        def forward(self, chars: Tensor, char_lengths: Tensor) -> Tensor:
            char_lengths, perm = char_lengths.sort(descending=True)
            _, unsort = perm.sort()
            packed = pack_padded_sequence(
                self.letters(chars[perm]), char_lengths.tolist(), batch_first=True
            )
            _, (h_n, _) = self.char_lstm(packed)
            h_n = h_n[:, unsort]
            words = h_n.transpose(0, 1).contiguous().view(chars.size(0), -1)
            out, _ = self.word_lstm(words.unsqueeze(1))
            return self.out(out.squeeze(1))

    char_lengths = torch.tensor([3, 6, 1, 5, 2, 4, 6])
    chars = torch.randint(2, 10, (7, 6))
    label = torch.tensor([1, 0, 0, 1, 1, 0, 1])
    chars[:, 0] = 2 + label  # a capital
    chars[torch.arange(6) >= char_lengths[:, None]] = 0

    model = Recogniser()
    for name, param in model.named_parameters():
        if param.dim() > 1:
            nn.init.xavier_normal_(param)
        elif "bias" in name:
            nn.init.zeros_(param)
    optimizer = optim.Adam(model.parameters(), lr=0.02)
    losses = []
    for _ in range(20):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(chars, char_lengths), label)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def knowledge_tracing(rnn: type[nn.Module]) -> list[float]:
    """`pack_sequence` of ragged lists, and a `PackedSequence` built by hand around its data."""

    class Tracer(nn.Module):
        def __init__(self, skills: int) -> None:
            super().__init__()
            self.interaction = nn.Embedding(2 * skills, 14)
            self.lstm = rnn(14, 21)
            self.out = nn.Linear(21, skills)

        def forward(self, interactions: list[Tensor]) -> Tensor:
            packed = pack_sequence(interactions, enforce_sorted=False)
            embedded = PackedSequence(
                self.interaction(packed.data),
                packed.batch_sizes,
                packed.sorted_indices,
                packed.unsorted_indices,
            )
            output, _ = self.lstm(embedded)
            padded, _ = pad_packed_sequence(output, batch_first=True)
            return self.out(padded)

    skills = 3
    students = [torch.randint(0, skills, (n,)) for n in (6, 11, 3, 8, 9)]
    # A pupil knows a skill from the second time it is asked.
    correct = [
        torch.stack([(asked[:t] == skill).any().long() for t, skill in enumerate(asked)])
        for asked in students
    ]
    pairs = list(zip(students, correct, strict=True))
    past = [(asked + skills * right)[:-1] for asked, right in pairs]
    following = pad_sequence([asked[1:] for asked in students], batch_first=True)
    target = pad_sequence([r[1:] for r in correct], batch_first=True, padding_value=-1)

    model = Tracer(skills)
    optimizer = optim.Adam(model.parameters(), lr=0.03)
    losses = []
    for _ in range(25):
        optimizer.zero_grad()
        logits = model(past).gather(2, following.unsqueeze(2)).squeeze(2)
        keep = target >= 0
        loss = F.binary_cross_entropy_with_logits(logits[keep], target[keep].float())
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def siamese_similarity(rnn: type[nn.Module]) -> list[float]:
    """One reader for both sentences; h_n viewed as (layers, directions, batch, hidden)."""

    class Siamese(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = nn.Embedding(8, 6)
            self.lstm = rnn(input_size=6, hidden_size=10, batch_first=True)

        def encode(self, sentence: Tensor) -> Tensor:
            _, (hidden, _) = self.lstm(self.embedding(sentence))
            return hidden.view(self.lstm.num_layers, 1, len(sentence), -1)[-1, 0]

        def forward(self, left: Tensor, right: Tensor) -> Tensor:
            return torch.exp(-torch.norm(self.encode(left) - self.encode(right), p=1, dim=1))

    left = torch.randint(0, 8, (10, 5))
    same = torch.arange(10) % 2 == 0
    right = torch.where(same[:, None], left, torch.randint(0, 8, (10, 5)))
    right[:, 0] = 7 - left[:, 0]  # the first word means nothing

    model = Siamese()
    optimizer = optim.Adam(model.parameters(), lr=0.02)
    losses = []
    for _ in range(40):
        optimizer.zero_grad()
        loss = F.mse_loss(model(left, right), same.float())
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
    return losses
