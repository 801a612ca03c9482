"""Data: the samples of one source as feeds of one model, in a fixed order, one at a time."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from edgec.data import preprocess as recipes
from edgec.data.labels import read_labels
from edgec.data.pictures import Placement, apply, normalize
from edgec.data.preprocess import Preprocess
from edgec.data.sources import Raw, Source, find_source
from edgec.errors import UserError
from edgec.ir.types import TensorType

_NAMED = 5  # broken samples that a message names; after so many it stops looking


class Input(Protocol):
    """What is known of a model's input: a Value of a graph, or a Port of a bundle."""

    @property
    def name(self) -> str:
        """Its name."""
        ...

    @property
    def type(self) -> TensorType:
        """Element type and shape."""
        ...


@dataclass(frozen=True)
class Sample:
    """feeds: one array per input, in the input's own shape and type. label: a class (int), boxes [n, 5], a mask, or
    whatever a function gives; None without labels. placement: where a picture lies in the input.
    """

    name: str
    feeds: Mapping[str, np.ndarray]
    label: Any = None
    placement: Placement | None = None


@dataclass(frozen=True)
class Data:
    """Samples that can be read as often as needed, always in the same order. One sample is in memory at a time.

    chosen: indices of the samples that count, None for all; limit: the first so many, for a source that does not know
    its length.
    """

    source: Source
    where: str
    inputs: tuple[Input, ...]
    preprocess: Preprocess | None
    chosen: tuple[int, ...] | None = None
    limit: int | None = None

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes by index, where they are known."""
        return self.source.classes

    @property
    def labelled(self) -> bool:
        """True if samples have labels; for a function, that is known when it has run."""
        return self.source.labelled

    @property
    def count(self) -> int | None:
        """How many samples there are, None if only reading tells."""
        if self.chosen is not None:
            return len(self.chosen)
        return None if self.source.names is None else len(self.source.names)

    def __iter__(self) -> Iterator[Sample]:
        """The samples. Raises UserError that names all broken ones (up to five) at the first that cannot be read."""
        broken: list[tuple[str, UserError]] = []
        wanted = None if self.chosen is None else frozenset(self.chosen)
        items = (item for index, item in enumerate(self.source.read()) if wanted is None or index in wanted)
        count = 0
        for name, load in islice(items, self.limit):
            count += 1
            try:
                sample = self._sample(name, load())
            except UserError as error:
                broken.append((name, error))
                if len(broken) == _NAMED:
                    break
                continue
            if not broken:
                yield sample
        if broken:
            raise _broken(broken, self.where)
        if not count:
            raise UserError("there is no sample", where=self.where, expected="at least one",
                            hint="random numbers would not do: give samples like those that the device will see")

    def feeds(self) -> Iterator[Mapping[str, np.ndarray]]:
        """The inputs of the samples, for one run of the model each."""
        return (sample.feeds for sample in self)

    def batches(self, size: int) -> Iterator[list[Sample]]:
        """The samples in lists of `size`; the last may be shorter. Raises ValueError for a size below 1."""
        if size < 1:
            raise ValueError(f"a batch has at least one sample, not {size}")
        samples = iter(self)
        while batch := list(islice(samples, size)):
            yield batch

    def take(self, count: int) -> Data:
        """At most `count` samples, spread evenly over all, so that sorted classes all occur.

        A function's length is not known: of it, the first ones. Raises UserError for a count below 1.
        """
        if count < 1:
            raise UserError(f"{count} samples are asked for", where=self.where, expected="at least 1")
        if self.count is None:
            return replace(self, limit=count if self.limit is None else min(count, self.limit))
        if self.count <= count:
            return self
        known = self._indices()
        return replace(self, chosen=tuple(known[i * len(known) // count] for i in range(count)))

    def split(self, share: float) -> tuple[Data, Data]:
        """Two parts without a common sample; the first has `share` of them, at least one, as the other has.

        Which part a sample belongs to follows from a hash of its name, not from its place, so that both parts have
        all classes. Raises UserError for a share outside 0..1, one sample, or a function, whose length is not known.
        """
        if not 0 < share < 1:
            raise UserError(f"the share of a part is {share}", where=self.where, expected="between 0 and 1")
        if self.source.names is None:
            raise UserError("samples of a function cannot be split", where=self.where,
                            hint="give a function for each part")
        known, names = self._indices(), self.source.names
        if len(known) < 2:
            raise UserError("there are too few samples to split", where=self.where, expected="at least 2")
        order = sorted(known, key=lambda i: hashlib.blake2b(names[i].encode(), digest_size=8).digest())
        first = frozenset(order[:min(max(1, round(share * len(known))), len(known) - 1)])
        return (replace(self, chosen=tuple(i for i in known if i in first)),
                replace(self, chosen=tuple(i for i in known if i not in first)))

    def facts(self) -> dict[str, Any]:
        """What a manifest says of the samples, fit for JSON; no path of this machine."""
        return {"name": Path(self.where).name, "kind": self.source.kind, "samples": self.count or self.limit,
                "labelled": self.labelled, "preprocess": self.preprocess.to_json() if self.preprocess else None}

    def _indices(self) -> tuple[int, ...]:
        return self.chosen if self.chosen is not None else tuple(range(self.count or 0))

    def _sample(self, name: str, raw: Raw) -> Sample:
        arrays = dict(raw.arrays)
        if set(arrays) == {""} and len(self.inputs) == 1:
            arrays = {self.inputs[0].name: arrays[""]}
        if arrays.keys() != {i.name for i in self.inputs}:
            raise UserError(f"the sample has {', '.join(arrays) or 'nothing'}", where=name,
                            expected="an array for each input: " + ", ".join(i.name for i in self.inputs))
        feeds, placement = {}, None
        for port in self.inputs:
            array = arrays[port.name]
            if self.preprocess is not None:
                array, placement = _prepared(self.preprocess, port, array)
            feeds[port.name] = _fitted(array, port, name)
        return Sample(name, feeds, raw.label, placement)


def open_data(source: str | Path | Callable[[], Any], inputs: Sequence[Input], *,
              preprocess: str | Path | Mapping[str, Any] | Preprocess | None = None,
              labels: str | Path | None = None) -> Data:
    """The samples of `source` for a model with these inputs.

    source: a folder or zip of pictures (sub-folders are classes) or of array files, a .npz or .npy file with samples
    along the first axis (`FILE.npz:KEY` takes that array; `y` or `labels` beside it are labels), a function, or its
    name `package.module:function`; it yields dicts by input name or (dict, label).
    preprocess: see `edgec.data.preprocess.parse`; pictures need one unless the input takes 8-bit pixels. Arrays of
    8-bit pixels [H, W], [H, W, 1] or [H, W, 3] are treated as pictures if there is one; other arrays are only scaled.
    labels: a .csv or .json file or a folder of masks, see `edgec.data.labels`.
    Raises UserError for anything that is not there or does not fit. Nothing but names is read yet.
    """
    known = read_labels(Path(labels)) if labels is not None else None
    found = find_source(source, {i.name: i.type.shape for i in inputs}, known)
    where = source.__name__ if callable(source) and hasattr(source, "__name__") else str(source)
    recipe = recipes.settle(preprocess, [(i.name, i.type) for i in inputs])
    if found.kind == "pictures":
        if len(inputs) != 1:
            raise UserError(f"the model has {len(inputs)} inputs, so pictures alone are not enough", where=where,
                            expected="array files, a .npz, or a function that yields all inputs")
        if recipe is None:
            recipe, reason = recipes.recommend(inputs[0].name, inputs[0].type)
            if recipe is None:
                raise UserError("pictures need a stated preprocessing", where=where, expected=reason,
                                hint="state it as the model was trained, such as --preprocess "
                                     "'resize=stretch scale=1/255', or imagenet")
        recipe = recipes.bind(recipe, inputs[0].name, inputs[0].type)
    return Data(found, where, tuple(inputs), recipe)


def _prepared(recipe: Preprocess, port: Input, array: np.ndarray) -> tuple[np.ndarray, Placement | None]:
    """A picture made an input, or numbers that are scaled."""
    flat = array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (1, 3))
    if array.dtype == np.uint8 and flat and port.type.rank == 4 and recipe.layout:
        return apply(recipe, array)
    if not replace(recipe, layout="").only_scales:
        raise UserError(f"{port.name} is no picture but {array.dtype}{list(array.shape)}",
                        expected="uint8 [H, W, 3], [H, W, 1] or [H, W]",
                        hint="for other arrays the preprocessing can only state scale, mean and std, one number each")
    return normalize(recipe, array), None


def _fitted(array: np.ndarray, port: Input, where: str) -> np.ndarray:
    """The array in the input's type and shape; dimensions of 1 may be missing or too many."""
    wanted = port.type
    if not np.can_cast(array.dtype, wanted.dtype.numpy, "same_kind"):
        whole = array.dtype.kind == "f" and wanted.dtype.value == "uint8"  # pixels that went through `apply`
        if not (whole and np.array_equal(array, np.rint(array).clip(0, 255))):
            raise UserError(f"{port.name} has dtype {array.dtype}", where=where, expected=str(wanted))
    core = [d for d in array.shape if d != 1]
    if len(core) != len([d for d in wanted.shape if d != 1]) or any(
            w not in (None, h) for w, h in zip((d for d in wanted.shape if d != 1), core, strict=True)):
        raise UserError(f"{port.name} has shape {list(array.shape)}", where=where, expected=str(wanted),
                        hint="pictures need --preprocess" if array.dtype == np.uint8 and array.ndim == 3 else "")
    shape = array.shape if not wanted.is_static else wanted.dims
    return np.ascontiguousarray(array.reshape(shape).astype(wanted.dtype.numpy))


def _broken(broken: Sequence[tuple[str, UserError]], where: str) -> UserError:
    if len(broken) == 1:
        return broken[0][1]
    text = "; ".join(f"{name}: {error.what}" for name, error in broken)
    more = "at least " * (len(broken) == _NAMED)
    return UserError(f"{more}{len(broken)} samples cannot be used: {text}", where=where,
                     expected=broken[0][1].expected, hint=broken[0][1].hint or "repair or remove them")
