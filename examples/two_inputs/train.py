"""Train a model that takes two tensors, users and films, and save it."""

import torch
from torch import nn

import paceline

USERS, FILMS, STYLES = 20, 30, 3


class Taste(nn.Module):
    """How much each user likes the film beside it: two int64[n] in, float32[n] out."""

    def __init__(self):
        super().__init__()
        self.users = nn.Embedding(USERS, STYLES)
        self.films = nn.Embedding(FILMS, STYLES)

    def forward(self, user, film):
        return (self.users(user) * self.films(film)).sum(1)


def train(steps: int) -> Taste:
    """A Taste of users who like the films of their own style: user 0 likes the films 0, 3, 6, ..."""
    user, film = torch.cartesian_prod(torch.arange(USERS), torch.arange(FILMS)).unbind(1)
    likes = (user % STYLES == film % STYLES).float()
    model = Taste()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    for _ in range(steps):
        optimizer.zero_grad()
        nn.functional.mse_loss(model(user, film), likes).backward()
        optimizer.step()
    return model


if __name__ == "__main__":
    torch.manual_seed(0)
    saved = paceline.pytorch.save(
        train(steps=300),
        "taste",
        signatures={"__call__": {"batchable": True, "batch_dim": 0}},  # both inputs are joined along dim 0
        metadata={"users": USERS, "films": FILMS},  # the service reads them back
        sample_inputs=(torch.tensor([0]), torch.tensor([0])),  # in the order of forward's parameters
    )
    print("saved", saved)
