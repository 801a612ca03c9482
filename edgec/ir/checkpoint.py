"""The `.edgec` checkpoint: a graph with its weights in one file. A zip of the text form and one `.npy` per array.

Nothing in it is executed or unpickled, nothing is extracted, members are stored uncompressed, and every size is checked
against the size of the file before memory is taken, so a checkpoint may come from anywhere.
"""

from __future__ import annotations

import io
import json
import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from edgec.errors import UserError
from edgec.files import whole_file
from edgec.ir.graph import Graph
from edgec.ir.text import dump, parse
from edgec.ir.types import DType

_TEXT, _INDEX = "graph.txt", "arrays.json"
_TEXT_LIMIT = 1 << 28  # bytes; a graph of 100,000 nodes has about 2^24
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the oldest date that a zip can state: the same graph gives the same bytes


def save(graph: Graph, path: str | Path) -> None:
    """Write a checkpoint; a file that stands there is replaced only by a complete one. Same graph, same bytes.

    Raises UserError if the file cannot be written.
    """
    path = Path(path)
    text, arrays = dump(graph)
    index = [{"key": key, "dtype": DType.of(array).value} for key, array in arrays.items()]
    try:
        with whole_file(path) as file, zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
            archive.writestr(zipfile.ZipInfo(_TEXT, _EPOCH), text.encode())
            archive.writestr(zipfile.ZipInfo(_INDEX, _EPOCH), json.dumps(index).encode())
            for number, array in enumerate(arrays.values()):
                with archive.open(zipfile.ZipInfo(_member(number), _EPOCH), "w", force_zip64=True) as member:
                    np.lib.format.write_array(member, _plain(array), allow_pickle=False)
    except OSError as error:
        raise UserError("cannot write the checkpoint", where=str(path), reason=error) from error


def load(path: str | Path) -> Graph:
    """The graph of a checkpoint. Raises UserError, with what is wrong and where, for a file that is none."""
    try:
        size = os.path.getsize(path)
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            if any(m.compress_type != zipfile.ZIP_STORED or m.flag_bits & 1 for m in members):
                raise _broken(path, "a compressed or encrypted member")
            if sum(m.file_size for m in members) > size:
                raise _broken(path, "members larger than the file")
            if archive.getinfo(_TEXT).file_size > _TEXT_LIMIT:
                raise _broken(path, f"a graph text of more than {_TEXT_LIMIT} bytes")
            arrays = _read_arrays(archive, path)
            return parse(archive.read(_TEXT).decode(), arrays)
    except UserError as error:
        raise UserError(error.what, where=f"{path}: {error.where}" if error.where != str(path) else error.where,
                        expected=error.expected, hint=error.hint) from error
    except OSError as error:
        raise UserError("cannot read the checkpoint", where=str(path), reason=error) from error
    except (zipfile.BadZipFile, KeyError, ValueError, NotImplementedError, RuntimeError, EOFError) as error:
        raise _broken(path, str(error) or type(error).__name__) from error


def _broken(path: str | Path, text: str) -> UserError:
    return UserError("this is not a whole edgec checkpoint", where=str(path),
                     expected=f"a file that edgec wrote ({text})")


def _member(number: int) -> str:
    return f"arrays/{number}.npy"


def _plain(array: np.ndarray) -> np.ndarray:
    """The array as numpy itself can store it: types of ml_dtypes as unsigned integers of the same width."""
    array = np.ascontiguousarray(array).reshape(array.shape)
    return array.view(f"u{array.dtype.itemsize}") if array.dtype.kind == "V" or not array.dtype.isbuiltin else array


def _read_arrays(archive: zipfile.ZipFile, path: str | Path) -> dict[str, np.ndarray]:
    index: Any = json.loads(archive.read(_INDEX))
    if not isinstance(index, list):
        raise _broken(path, "arrays.json is not a list")
    arrays: dict[str, np.ndarray] = {}
    for number, entry in enumerate(index):
        if not isinstance(entry, dict) or not isinstance(entry.get("key"), str) or entry.get("dtype") not in _DTYPES:
            raise _broken(path, f"entry {number} of arrays.json")
        array = _read_array(archive.read(_member(number)), path)
        dtype = DType(entry["dtype"]).numpy
        if array.dtype.itemsize != dtype.itemsize or dtype.hasobject:
            raise _broken(path, f"array {entry['key']!r} is not {entry['dtype']}")
        arrays[entry["key"]] = array if array.dtype == dtype else array.view(dtype)
    return arrays


_DTYPES = frozenset(d.value for d in DType)


def _read_array(data: bytes, path: str | Path) -> np.ndarray:
    """One `.npy`, whose header is checked against the bytes that follow before it is believed."""
    stream = io.BytesIO(data)
    version = np.lib.format.read_magic(stream)
    if version != (1, 0):
        raise _broken(path, f"an array file of version {version}")
    shape, fortran, dtype = np.lib.format.read_array_header_1_0(stream)
    count = 1
    for extent in shape:
        count *= int(extent)
    if dtype.hasobject or min(shape, default=0) < 0 or count * dtype.itemsize != len(data) - stream.tell():
        raise _broken(path, "an array file whose header does not fit its data")
    array = np.frombuffer(data, dtype, count, stream.tell())
    return array.reshape(shape, order="F" if fortran else "C")
