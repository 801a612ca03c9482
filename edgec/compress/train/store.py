"""Samples on disk as they enter the net, so that every epoch can read them in another order without decoding again."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from edgec.errors import UserError
from edgec.progress import Progress, silent

_REPORTED = 1000  # samples between two reports


class Labelled(Protocol):
    """One sample: `edgec.data.Sample` is one."""

    @property
    def feeds(self) -> Mapping[str, np.ndarray]:
        """One array per input, for one run of the model."""
        ...

    @property
    def label(self) -> Any:
        """A number or an array of numbers, None without labels."""
        ...


@dataclass
class Store:
    """arrays: by input, all samples along the first axis (memory that lives on disk). labels: None, or one per sample.

    The temporary folder goes with the object.
    """

    arrays: Mapping[str, np.ndarray]
    labels: np.ndarray | None
    count: int
    folder: Any  # tempfile.TemporaryDirectory

    def batch(self, indices: Sequence[int] | np.ndarray) -> tuple[dict[str, np.ndarray], np.ndarray | None]:
        """Copies of some samples, stacked along the first axis, and their labels."""
        picked = np.asarray(indices)
        feeds = {name: array[picked].reshape(-1, *array.shape[2:]) for name, array in self.arrays.items()}
        return feeds, None if self.labels is None else self.labels[picked]

    def take(self, most: int) -> Store:
        """At most `most` of the samples, every n-th, without reading or copying any. Raises ValueError below 1."""
        if most < 1:
            raise ValueError(f"a store has at least one sample, not {most}")
        step = -(-self.count // most)
        labels = None if self.labels is None else self.labels[::step]
        return Store({name: array[::step] for name, array in self.arrays.items()}, labels, -(-self.count // step),
                     self.folder)


def collect(samples: Iterable[Labelled] | Store, progress: Progress = silent) -> Store:
    """Read all samples once; those of a Store are read already. Shapes of an array on disk: [samples, *shape of the
    input].

    Raises UserError for no sample, samples of different shapes, or labels that are not numbers of one shape.
    """
    if isinstance(samples, Store):
        return samples
    folder = tempfile.TemporaryDirectory(prefix="edgec-samples-")
    kinds: dict[str, tuple[np.dtype, tuple[int, ...]]] = {}
    labels: list[Any] = []
    with ExitStack() as stack:
        files: dict[str, Any] = {}
        for count, sample in enumerate(samples):
            for name, array in sample.feeds.items():
                if name not in kinds:
                    kinds[name] = (array.dtype, array.shape)
                    files[name] = stack.enter_context(open(Path(folder.name, str(len(files))), "wb"))
                if kinds[name] != (array.dtype, array.shape):
                    raise UserError(f"a sample has {name} as {array.dtype}{list(array.shape)}",
                                    where=f"sample {count}", expected="{}{}".format(*kinds[name]))
                files[name].write(np.ascontiguousarray(array).tobytes())
            labels.append(sample.label)
            if count % _REPORTED == 0:
                progress("samples", None, f"{count} read")
    progress("samples", 1.0, f"{len(labels)} read")
    if not labels:
        raise UserError("there is no sample to learn from", expected="at least one")
    arrays = {name: np.memmap(files[name].name, dtype, "r", shape=(len(labels), *shape))
              for name, (dtype, shape) in kinds.items()}
    return Store(arrays, _stacked(labels), len(labels), folder)


def _stacked(labels: list[Any]) -> np.ndarray | None:
    if all(label is None for label in labels):
        return None
    arrays = [np.asarray(label) for label in labels if label is not None]
    numbers = all(a.dtype.kind in "biuf" for a in arrays)
    if len(arrays) < len(labels) or len({a.shape for a in arrays}) > 1 or not numbers:
        raise UserError("the labels are not numbers of one shape for every sample",
                        expected="a class, or an array of numbers, for each",
                        hint="boxes and the like need no label here: learn from the float model with --loss match")
    return np.stack(arrays)
