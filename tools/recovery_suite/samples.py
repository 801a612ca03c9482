"""The pictures of CIFAR-10: 50,000 that train, read once, and 5,000 that only measure."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgec.compress.train.store import Store
from edgec.data.dataset import Sample, open_data
from edgec.frontends import LoadedModel, load
from edgec.interchange.batch import batched
from edgec.interchange.onnx_export import to_model
from edgec.interchange.session import open_session, run_session
from edgec.ir.graph import Graph

ROOT = Path(__file__).resolve().parents[2]
DATA = Path(os.environ.get("EDGEC_DATA", ROOT.parent / "shared" / "data")) / "cifar10"
PREPROCESS = "scale=1/255 mean=.485,.456,.406 std=.229,.224,.225"
TRAINING, TEST = DATA / "cifar10_train_jpeg.zip", DATA / "cifar10_test_jpeg.zip"
_AT_ONCE = 100  # pictures in one run of a session


def reference() -> LoadedModel:
    """ResNet-20: what is made smaller, what teaches, and what results are compared with."""
    return load(DATA / "resnet20_cifar10.onnx", inputs={"input": (1, 3, 32, 32)})


@dataclass(frozen=True)
class Pictures:
    """Prepared pictures and their classes. Shapes: arrays [count, 1, 3, 32, 32], labels [count]."""

    name: str
    arrays: np.ndarray
    labels: np.ndarray

    def some(self, count: int) -> Store:
        """As many of them as samples of a stage, spread evenly over all, so that all classes occur alike."""
        chosen = np.arange(count) * len(self.labels) // count
        arrays = self.arrays if count == len(self.labels) else np.array(self.arrays[chosen])
        return Store({self.name: arrays}, self.labels[chosen], count, None)

    def samples(self, count: int) -> list[Sample]:
        """The same one by one, for the stages that want no labels."""
        store = self.some(count)
        return [Sample(str(i), {self.name: np.array(a)}) for i, a in enumerate(store.arrays[self.name])]


def read(source: Path, model: LoadedModel, folder: Path) -> Pictures:
    """The pictures of an archive, from `folder` where they were read before."""
    folder.mkdir(parents=True, exist_ok=True)
    arrays, labels = folder / f"{source.stem}.npy", folder / f"{source.stem}-labels.npy"
    name = model.graph.inputs[0].name
    if not labels.exists():
        data = open_data(source, model.graph.inputs, preprocess=PREPROCESS)
        assert data.count is not None
        stored = np.lib.format.open_memmap(arrays, "w+", np.float32, (data.count, *model.graph.inputs[0].shape))
        found = np.zeros(data.count, np.int64)
        for index, sample in enumerate(data):
            stored[index], found[index] = sample.feeds[name], sample.label
        stored.flush()
        np.save(labels, found)
    return Pictures(name, np.load(arrays, mmap_mode="r"), np.load(labels))


def top1(graph: Graph, pictures: Pictures) -> float:
    """Percent of the pictures that ONNX Runtime classifies rightly with the graph as it would be exported."""
    wide = batched(graph, _AT_ONCE)
    assert wide is not None, "the classifier takes several pictures at once"
    session = open_session(to_model(wide).SerializeToString())
    output, right = graph.outputs[0].name, 0
    for start in range(0, len(pictures.labels), _AT_ONCE):
        block = np.array(pictures.arrays[start:start + _AT_ONCE, 0])
        given = len(block)
        feeds: Mapping[str, np.ndarray] = {
            pictures.name: np.concatenate([block, np.zeros((_AT_ONCE - given, *block.shape[1:]), np.float32)])}
        answers = run_session(session, feeds)[output][:given].argmax(-1)
        right += int((answers == pictures.labels[start:start + given]).sum())
    return 100 * right / len(pictures.labels)
