"""What is known of each sample: a class, boxes, or a mask, by the name of its file."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

import numpy as np

from edgec.data.pictures import FILE_LIMIT, SUFFIXES, read_picture
from edgec.data.trees import Tree, open_tree
from edgec.errors import UserError

_TEXT_LIMIT = 256 << 20  # bytes of a file with labels; COCO's whole training set has less
_FILE_HEADS = ("file", "filename", "file_name", "image", "image_id", "path", "name")
_CLASS_HEADS = ("class_index", "class_id", "label", "label_id", "class", "target", "y")
_NAMED = 5  # names that a message lists


class Labels(Protocol):
    """Labels by name of file. classes: names of the classes, by index, where they are known."""

    @property
    def classes(self) -> tuple[str, ...]:
        """See above."""
        ...

    def find(self, name: str) -> Any:
        """The label of the sample, None if there is none. Raises UserError for one that cannot be read."""
        ...


@dataclass(frozen=True)
class Table:
    """Labels that stand in a file: an int, or boxes float64 [n, 5] of class, left, top, right, bottom in pixels.

    A name is found as it is, or by its last part if only one file is called so.
    """

    entries: Mapping[str, Any]
    classes: tuple[str, ...] = ()

    def find(self, name: str) -> Any:
        """See Labels."""
        return self.entries.get(name, self.entries.get(PurePosixPath(name).name))


@dataclass(frozen=True)
class Masks:
    """A picture per sample with the same stem: the label is a bool array [H, W], True where the mask is not 0."""

    tree: Tree
    by_stem: Mapping[str, str]
    classes: tuple[str, ...] = ()

    def find(self, name: str) -> Any:
        """See Labels."""
        file = self.by_stem.get(PurePosixPath(name).stem)
        if file is None:
            return None
        with self.tree.open() as opened:
            pixels = read_picture(opened.read(file, FILE_LIMIT), file)
        return (pixels if pixels.ndim == 2 else pixels.max(axis=2)) > 0


def read_labels(path: Path) -> Labels:
    """The labels of a .csv or .json file, or of a folder or zip of masks.

    CSV: a column for the file (file, filename, image, path, ...) and one for the class (class_index, label, class,
    ...), or two columns without a head. Classes that are words get the numbers of their alphabetical order.
    JSON: {file: class} or {file: [[class, left, top, right, bottom], ...]}, boxes without class too; it may stand
    below `labels` or `boxes`, beside a list `classes`.
    Raises UserError for anything else, with the line.
    """
    if path.is_dir() or path.suffix.lower() == ".zip":
        tree = open_tree(path)
        stems = [(PurePosixPath(n).stem, n) for n in tree.names if PurePosixPath(n).suffix.lower() in SUFFIXES]
        if not stems:
            raise UserError("there is no mask in this folder", where=str(path), expected=", ".join(SUFFIXES))
        return Masks(tree, dict(stems))
    if path.suffix.lower() not in (".csv", ".json"):
        raise UserError("labels of this kind are not known", where=str(path),
                        expected="a .csv or .json file, or a folder of masks")
    try:
        if path.stat().st_size > _TEXT_LIMIT:
            raise UserError("the file of labels is too large", where=str(path), expected=f"{_TEXT_LIMIT} bytes")
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        raise UserError("cannot read the labels", where=str(path), reason=error) from error
    return _from_csv(text, str(path)) if path.suffix.lower() == ".csv" else _from_json(text, str(path))


def check_complete(labels: Labels, names: Iterable[str], where: str) -> None:
    """Raise UserError, naming some, if a sample has no label. Masks are looked up, not read."""
    if isinstance(labels, Masks):
        missing = [n for n in names if PurePosixPath(n).stem not in labels.by_stem]
    else:
        missing = [n for n in names if labels.find(n) is None]
    if missing:
        raise UserError(f"{len(missing)} samples have no label: {listed(missing)}", where=where,
                        expected="a label for each file", hint="check how the files are named there")


def number_classes(words: Iterable[str]) -> tuple[list[int], tuple[str, ...]]:
    """The numbers of classes given as text, and their names by number: whole numbers stay, words go by the alphabet."""
    items = [w.strip() for w in words]
    try:
        return [int(w) for w in items], ()
    except ValueError:
        classes = tuple(sorted(set(items)))
        index = {name: i for i, name in enumerate(classes)}
        return [index[w] for w in items], classes


def listed(names: Sequence[str]) -> str:
    """The first names, for a message."""
    return ", ".join(names[:_NAMED]) + ", ..." * (len(names) > _NAMED)


def _from_csv(text: str, where: str) -> Table:
    try:
        rows = [row for row in csv.reader(io.StringIO(text), strict=True) if row]
    except csv.Error as error:
        raise UserError(f"the labels are no CSV: {error}", where=where) from error
    if not rows:
        raise UserError("the file of labels is empty", where=where)
    heads = [cell.strip().lower() for cell in rows[0]]
    file_at, class_at = _column(heads, _FILE_HEADS), _column(heads, _CLASS_HEADS)
    if file_at is not None and class_at is not None:
        rows = rows[1:]
    elif len(rows[0]) == 2:
        file_at, class_at = 0, 1
    else:
        raise UserError(f"the columns are {', '.join(rows[0][:_NAMED])}", where=where,
                        expected=f"one of {', '.join(_FILE_HEADS)} and one of {', '.join(_CLASS_HEADS)}")
    short = next((i for i, row in enumerate(rows, 1) if len(row) <= max(file_at, class_at)), None)
    if short is not None:
        raise UserError(f"row {short} of the labels has too few columns", where=where)
    numbers, classes = number_classes(row[class_at] for row in rows)
    return Table(dict(zip((row[file_at].strip() for row in rows), numbers, strict=True)), classes)


def _column(heads: Sequence[str], names: Sequence[str]) -> int | None:
    return next((heads.index(n) for n in names if n in heads), None)


def _from_json(text: str, where: str) -> Table:
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"the labels are no JSON: {error}", where=where) from error
    classes: tuple[str, ...] = ()
    if isinstance(content, dict):
        if isinstance(content.get("classes"), list):
            classes = tuple(map(str, content.pop("classes")))
        inner = [content[k] for k in ("labels", "boxes") if isinstance(content.get(k), dict)]
        content = inner[0] if inner else content
    if not isinstance(content, dict) or not content:
        raise UserError("the labels are no table of files", where=where, expected='{"photo.jpg": 3, ...}')
    return Table({name: _entry(entry, f"{where}, {name}") for name, entry in content.items()}, classes)


def _entry(entry: Any, where: str) -> int | np.ndarray:
    if isinstance(entry, int) and not isinstance(entry, bool):
        return entry
    rows: list[Any] = entry if isinstance(entry, list) else [None]
    sound = all(isinstance(r, list) and len(r) in (4, 5) and all(
        isinstance(x, (int, float)) and math.isfinite(x) for x in r) for r in rows)
    if not sound:
        raise UserError("cannot read a label", where=where,
                        expected="a class, or boxes [class, left, top, right, bottom] or [left, top, right, bottom]")
    boxes = [row if len(row) == 5 else [0, *row] for row in rows]
    return np.array(boxes, np.float64).reshape(-1, 5)
