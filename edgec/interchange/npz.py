"""Files of arrays: numpy's .npz without pickles, the same bytes for the same arrays."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from edgec.errors import UserError
from edgec.files import whole_file

_NPZ_LIMIT = 4 << 30  # bytes, unpacked


def write_npz(path: Path, arrays: Mapping[str, np.ndarray | np.generic]) -> None:
    """A .npz of sorted entries with fixed dates, stored uncompressed: the same arrays give the same bytes.

    A file that stands there is replaced only by a complete one. Raises OSError if it cannot be written.
    """
    with whole_file(path) as file, zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for name in sorted(arrays):
            array = np.asarray(arrays[name])
            if array.dtype.kind == "O":
                array = array.astype(np.str_)
            with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as entry:  # dated 1980-01-01
                np.lib.format.write_array(entry, np.ascontiguousarray(array).reshape(array.shape), allow_pickle=False)


def read_npz(path: Path) -> dict[str, np.ndarray]:
    """All arrays of a .npz or one .npy (under the name `array`). Raises UserError for what is not one, or is huge."""
    try:
        if not zipfile.is_zipfile(path):
            return {"array": np.load(path, allow_pickle=False)}
        with zipfile.ZipFile(path) as archive:
            size = sum(entry.file_size for entry in archive.infolist())
            if size > _NPZ_LIMIT:
                raise UserError(f"the file unpacks to {size} bytes", where=str(path), expected=f"at most {_NPZ_LIMIT}")
        with np.load(path, allow_pickle=False) as loaded:
            return {name: loaded[name] for name in loaded.files}
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        raise UserError("cannot read the arrays", where=str(path), reason=error,
                        expected="a .npz or .npy file without pickled objects") from error
