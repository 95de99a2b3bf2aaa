"""Train a small sentence embedding on a few sentences, and save it for texts of any length."""

import torch
from tokens import TOKENS_MAX, VOCABULARY, tokens_of
from torch import nn

import paceline

TOPICS = [
    ["The dog sleeps in the garden", "My cat is afraid of your dog", "A cat and a kitten play with a ball"],
    ["The train to the city is late", "Take the bus or the train", "A bus stops in the city every hour"],
    ["Bread needs flour and salt", "Bake the bread in a hot oven", "Add salt and butter to the soup"],
]


class Encoder(nn.Module):
    """The mean of the words that are there, of length 1: int64[n, length] -> float32[n, 8]."""

    def __init__(self):
        super().__init__()
        self.words = nn.Embedding(VOCABULARY, 8)
        nn.init.normal_(self.words.weight, std=0.05)  # words that training never sees count little

    def forward(self, input_ids, attention_mask):
        is_there = attention_mask.unsqueeze(2)
        mean = (self.words(input_ids) * is_there).sum(1) / is_there.sum(1)  # what is behind a text never counts
        return nn.functional.normalize(mean, dim=1)


def padded(sentences: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
    """(tokens, where they are), as the server makes them of the requests in a batch."""
    rows = [torch.tensor(tokens_of(sentence)) for sentence in sentences]
    tokens = nn.utils.rnn.pad_sequence(rows, batch_first=True)
    return tokens, tokens > 0


def train(steps: int) -> Encoder:
    """An Encoder for which sentences of one topic are near each other, and others are not."""
    topics = torch.arange(len(TOPICS)).repeat_interleave(len(TOPICS[0]))
    near = (topics[:, None] == topics[None, :]).float()
    tokens, mask = padded([sentence for topic in TOPICS for sentence in topic])
    model = Encoder()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    for _ in range(steps):
        optimizer.zero_grad()
        vectors = model(tokens, mask)
        nn.functional.mse_loss(vectors @ vectors.T, near).backward()
        optimizer.step()
    return model


if __name__ == "__main__":
    torch.manual_seed(0)
    saved = paceline.pytorch.save(
        train(steps=100),
        "encoder",
        signatures={
            "__call__": {
                "batchable": True,
                "batch_dim": 0,
                "pad": {1: {"multiple_of": 16, "value": 0, "max": TOKENS_MAX}},  # requests differ in dim 1
                "mask": "attention_mask",  # callers never send it
            }
        },
        sample_inputs=torch.ones(1, 16, dtype=torch.int64),
    )
    print("saved", saved)
