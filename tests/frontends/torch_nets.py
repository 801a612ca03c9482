"""Networks and factories for the tests of the torch frontend."""

from __future__ import annotations

import torch
from torch import nn

from tests.torch_models import randomize


class Net(nn.Module):
    """Conv, BatchNorm with random statistics, dropout, linear."""

    def __init__(self, channels: int = 6) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, channels, 3, 2, 1)
        self.norm = nn.BatchNorm2d(channels)
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(channels, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.relu(self.norm(self.conv(x)))
        return self.head(self.drop(y.mean((2, 3))))


class Embed(nn.Module):
    """Integer and float input, two outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(7, 4)

    def forward(self, ids: torch.Tensor, scale: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        rows = self.table(ids) * scale
        return rows, rows.sum(1)


class Scaled(nn.Module):
    """A plain number among the inputs."""

    def forward(self, x: torch.Tensor, times: int) -> torch.Tensor:
        return x * times + 1


class DataDependent(nn.Module):
    """What no exporter can write down."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.sum().item() > 0:
            return x + 1
        return x - 1


class ListLength(nn.Module):
    """TorchScript that its exporter refuses, after printing the whole graph."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not len(x):
            return x
        return x + 1


class Changing(nn.Module):
    """Gives something else at every call."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("count", torch.ones(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.count += 1
        return x * self.count


def net() -> nn.Module:
    torch.manual_seed(0)
    return randomize(Net())


def wide() -> nn.Module:
    return Net(8)


def broken() -> nn.Module:
    raise RuntimeError("no weights here")


def number() -> int:
    return 3
