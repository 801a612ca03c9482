"""Where samples come from. Every source gives its names first (where it knows them) and loads one sample at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

import numpy as np

from edgec.data import rows as files
from edgec.data.labels import Labels, Table, check_complete, listed
from edgec.data.pictures import FILE_LIMIT, SUFFIXES, read_picture
from edgec.data.trees import Tree, open_tree
from edgec.errors import UserError
from edgec.frontends.user_code import import_object

_ARRAYS = (".npy", ".npz")
_KINDS = "a folder or zip of pictures or arrays, a .npz or .npy file, or package.module:function"
_LABEL_KEYS = ("y", "label", "labels", "target", "targets")  # arrays of a .npz that are taken for labels
_SAMPLE_LIMIT = 1 << 30  # bytes of one file with one sample

Load = Callable[[], "Raw"]


@dataclass(frozen=True)
class Raw:
    """A sample as it was found: one picture (uint8) or array by input name; "" is the only input."""

    arrays: Mapping[str, np.ndarray]
    label: Any = None


class Source(Protocol):
    """names: of all samples in order, None if only reading tells. labelled: every sample has a label."""

    @property
    def kind(self) -> str:
        """The sort of source, in a word or two."""
        ...

    @property
    def names(self) -> tuple[str, ...] | None:
        """See above."""
        ...

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes by index, where they are known."""
        ...

    @property
    def labelled(self) -> bool:
        """See above."""
        ...

    def read(self) -> Iterator[tuple[str, Load]]:
        """Name and loader of every sample, in order; a loader is called before the next step, or never."""
        ...


@dataclass(frozen=True)
class Pictures:
    """Pictures of a folder or archive; their folders are their classes if `folders`."""

    tree: Tree
    names: tuple[str, ...]
    labels: Labels | None
    where: str
    kind: str = "pictures"

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes by index."""
        return self.labels.classes if self.labels is not None else ()

    @property
    def labelled(self) -> bool:
        """True if there are labels."""
        return self.labels is not None

    def read(self) -> Iterator[tuple[str, Load]]:
        """See Source."""
        with self.tree.open() as opened:
            for name in self.names:
                def load(name: str = name) -> Raw:
                    pixels = read_picture(opened.read(name, FILE_LIMIT), f"{self.where}/{name}")
                    return Raw({"": pixels}, None if self.labels is None else self.labels.find(name))
                yield name, load


@dataclass(frozen=True)
class ArrayFiles:
    """One sample per .npy or .npz file."""

    tree: Tree
    names: tuple[str, ...]
    labels: Labels | None
    where: str
    kind: str = "array files"
    classes: tuple[str, ...] = ()

    @property
    def labelled(self) -> bool:
        """True if there are labels."""
        return self.labels is not None

    def read(self) -> Iterator[tuple[str, Load]]:
        """See Source."""
        with self.tree.open() as opened:
            for name in self.names:
                def load(name: str = name) -> Raw:
                    arrays = files.read_whole(opened.read(name, _SAMPLE_LIMIT), f"{self.where}/{name}")
                    if set(arrays) == {files.ARRAY}:
                        arrays = {"": arrays[files.ARRAY]}
                    return Raw(arrays, None if self.labels is None else self.labels.find(name))
                yield name, load


@dataclass(frozen=True)
class Rows:
    """Samples along the first axis of the arrays of one file. keys: array by input name; label: array of labels."""

    path: Path
    keys: Mapping[str, str]
    label: str
    labels: Labels | None
    count: int
    kind: str = "arrays"
    classes: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """Rows are called by their number."""
        return tuple(map(str, range(self.count)))

    @property
    def labelled(self) -> bool:
        """True if there are labels."""
        return bool(self.label) or self.labels is not None

    def read(self) -> Iterator[tuple[str, Load]]:
        """See Source."""
        wanted = (*dict.fromkeys(self.keys.values()), *([self.label] if self.label else ()))
        for index, row in enumerate(files.rows(self.path, wanted)):
            def load(index: int = index, row: tuple[np.ndarray, ...] = row) -> Raw:
                found = dict(zip(wanted, row, strict=True))
                label: Any = self.labels.find(str(index)) if self.labels is not None else None
                if self.label:
                    label = found[self.label]
                    label = int(label) if label.ndim == 0 and label.dtype.kind in "iub" else label
                return Raw({name: found[key] for name, key in self.keys.items()}, label)
            yield str(index), load


@dataclass(frozen=True)
class Generated:
    """What a function yields: dicts by input name, or (dict, label). It is called anew for every pass."""

    function: Callable[[], Any]
    where: str
    kind: str = "function"
    names: tuple[str, ...] | None = None
    classes: tuple[str, ...] = ()
    labelled: bool = True  # as far as is known before it runs

    def read(self) -> Iterator[tuple[str, Load]]:
        """See Source. Raises UserError for a function that fails or yields something else."""
        try:
            yielded = iter(self.function())
        except Exception as error:  # the user's own code runs here
            raise self._failed(error) from error
        index = 0
        while True:
            try:
                item = next(yielded)
            except StopIteration:
                return
            except Exception as error:  # as above
                raise self._failed(error) from error
            yield str(index), partial(self._raw, item, index)
            index += 1

    def _raw(self, item: Any, index: int) -> Raw:
        feeds, label = item if isinstance(item, tuple) and len(item) == 2 else (item, None)
        if not isinstance(feeds, Mapping) or not all(isinstance(k, str) for k in feeds):
            raise UserError(f"sample {index} is a {type(item).__name__}", where=self.where,
                            expected="a dict of arrays by input name, or (dict, label)")
        return Raw({name: np.asarray(array) for name, array in feeds.items()}, label)

    def _failed(self, error: Exception) -> UserError:
        return UserError(f"the function fails: {type(error).__name__}: {error}", where=self.where,
                         expected="a function without arguments that yields dicts of arrays by input name")


def find_source(text: str | Path | Callable[[], Any], inputs: Mapping[str, tuple[int | None, ...]],
                labels: Labels | None) -> Source:
    """The Source that `text` names: a folder or zip (pictures, by class or not, or array files), a .npy or .npz file
    (FILE:KEY takes that array), a function, or its name `package.module:function`.

    inputs: shape by name. Raises UserError if there is no such thing, or nothing in it that can be a sample.
    """
    if callable(text):
        return Generated(text, getattr(text, "__name__", "function"))
    check_source(text)
    path, key = _split_key(str(text))
    if path.is_dir() or path.suffix.lower() == ".zip":
        return _from_tree(path, labels)
    if path.suffix.lower() in _ARRAYS:
        return _from_rows(path, key, inputs, labels)
    if not path.exists():
        function = import_object(str(text))
        if not callable(function):
            raise UserError(f"{text} is no function", where=str(text))
        return Generated(function, str(text))
    raise UserError("samples of this kind are not known", where=str(text), expected=_KINDS)


def check_source(text: str | Path | Callable[[], Any]) -> None:
    """Raises UserError if there is no file or folder of this name and it names no function. Nothing is opened."""
    if callable(text):
        return
    path, _ = _split_key(str(text))
    named = ":" in str(text) and path.suffix.lower() not in (*_ARRAYS, ".zip")
    if not path.exists() and not named:
        raise UserError("there are no such samples", where=str(text), expected=_KINDS)


def _split_key(text: str) -> tuple[Path, str]:
    """(file, key) of `FILE.npz:KEY`."""
    head, found, key = text.rpartition(":")
    if found and Path(head).suffix.lower() in _ARRAYS:
        return Path(head), key
    return Path(text), ""


def _from_tree(path: Path, labels: Labels | None) -> Source:
    tree = open_tree(path)
    pictures = tuple(n for n in tree.names if PurePosixPath(n).suffix.lower() in SUFFIXES)
    arrays = tuple(n for n in tree.names if PurePosixPath(n).suffix.lower() in _ARRAYS)
    if pictures and arrays:
        raise UserError(f"the folder has {len(pictures)} pictures and {len(arrays)} arrays", where=str(path),
                        expected="one kind", hint="put them into two folders")
    if not pictures and not arrays:
        raise UserError("there is no picture and no array in this folder", where=str(path),
                        expected=", ".join((*SUFFIXES, *_ARRAYS)))
    if labels is not None:
        check_complete(labels, pictures or arrays, str(path))
    if arrays:
        return ArrayFiles(tree, arrays, labels, str(path))
    return Pictures(tree, pictures, labels or _folders(pictures), str(path))


def _folders(names: tuple[str, ...]) -> Labels | None:
    """The folder of each picture as its class, numbered in alphabetical order; None unless there are at least two."""
    parents = {name: PurePosixPath(name).parent.name for name in names}
    classes = tuple(sorted(set(parents.values())))
    if len(classes) < 2 or "" in classes:
        return None
    index = {c: i for i, c in enumerate(classes)}
    return Table({name: index[parent] for name, parent in parents.items()}, classes)


def _from_rows(path: Path, key: str, inputs: Mapping[str, tuple[int | None, ...]], labels: Labels | None) -> Source:
    types = files.array_types(path)
    stacks = {n: t for n, t in types.items() if t.shape}  # a scalar is no stack of samples
    found = ", ".join(f"{n} {t}" for n, t in types.items()) or "nothing"
    if key and key not in stacks:
        raise UserError(f"the file has no stack of samples {key!r}", where=str(path), expected=found)
    keys = {next(iter(inputs)): key} if key and len(inputs) == 1 else {n: n for n in inputs if n in stacks}
    if not keys and len(inputs) == 1:
        name, shape = next(iter(inputs.items()))
        keys = {name: _only(stacks, shape, path, found)}
    if keys.keys() != inputs.keys():
        raise UserError(f"the file holds {found}", where=str(path),
                        expected="an array for each of the inputs " + ", ".join(inputs))
    others = [k for k in _LABEL_KEYS if k in stacks and k not in keys.values()]
    counts = {stacks[k].shape[0] for k in (*keys.values(), *others[:1])}
    if len(counts) > 1 or 0 in counts:
        raise UserError("the arrays have different numbers of samples, or none", where=str(path), expected=found)
    count = counts.pop()
    if labels is not None:
        check_complete(labels, map(str, range(count)), str(path))
    return Rows(path, keys, "" if labels is not None or not others else others[0], labels, count)


def _only(stacks: Mapping[str, files.ArrayType], shape: tuple[int | None, ...], path: Path, found: str) -> str:
    """The array that is meant for the only input: the only one, `x`, or the only one whose rows have its size."""
    if len(stacks) == 1 or "x" in stacks:
        return "x" if "x" in stacks else next(iter(stacks))
    core = [d for d in shape if d != 1]
    fitting = [n for n, t in stacks.items() if [d for d in t.shape[1:] if d != 1] == core and n not in _LABEL_KEYS]
    if len(fitting) != 1:
        raise UserError(f"the file holds {found}", where=str(path), expected="one array that fits the input",
                        hint=f"name it: {path.name}:{listed(fitting or list(stacks)).split(',')[0]}")
    return fitting[0]
