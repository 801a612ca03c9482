"""A small classifier and samples that it can learn, for tests of training."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from edgec.compress.torch_module import to_torch
from edgec.compress.train.store import Store, collect
from edgec.ir.graph import Graph
from tests.models import Builder

CLASSES = 4


@dataclass(frozen=True)
class Sample:
    feeds: dict[str, np.ndarray]
    label: object


def samples(count: int = 64, seed: int = 0) -> list[Sample]:
    """Pictures with a bright quarter, which is their class."""
    random = np.random.default_rng(seed)
    found = []
    for i in range(count):
        label = i % CLASSES
        picture = 0.3 * random.standard_normal((1, 3, 8, 8)).astype(np.float32)
        y, x = divmod(label, 2)
        picture[:, :, 4 * y:4 * y + 4, 4 * x:4 * x + 4] += 1
        found.append(Sample({"x": picture}, label))
    return found


def store(count: int = 64, seed: int = 0) -> Store:
    return collect(samples(count, seed))


def classifier(seed: int = 0, *, normalized: bool = False, width: int = 8) -> Graph:
    b = Builder(seed)
    y = b.conv(b.input("x", 1, 3, 8, 8), width, 3)
    y = b("Relu", b.batch_norm(y) if normalized else y)
    y = b("Relu", b.conv(y, width, 3, stride=2))
    y = b("Flatten", y)
    return b.output(b("Gemm", y, b.weight(CLASSES, 16 * width), b.weight(CLASSES), transB=1))


def accuracy(graph: Graph, data: Store) -> float:


    feeds, labels = data.batch(range(data.count))
    with torch.no_grad():
        (logits,) = to_torch(graph).eval()(**{n: torch.from_numpy(a) for n, a in feeds.items()}).values()
    return float((logits.argmax(1).numpy() == labels).mean())
