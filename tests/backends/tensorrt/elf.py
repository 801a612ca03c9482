"""What a shared object needs: names of libraries and of undefined symbols. ELF, 64 bit, little-endian."""

from __future__ import annotations

import struct
from pathlib import Path

_DYNAMIC, _DYNSYM, _NEEDED = 6, 11, 1  # section types, dynamic tag. Source: ELF specification


def _sections(data: bytes) -> list[tuple[int, int, int, int]]:
    """(type, offset, size, link) of each section."""
    (start,) = struct.unpack_from("<Q", data, 40)
    size, count = struct.unpack_from("<HH", data, 58)
    rows = []
    for index in range(count):
        _, kind, _, _, offset, length, link = struct.unpack_from("<IIQQQQI", data, start + index * size)
        rows.append((kind, offset, length, link))
    return rows


def _text(data: bytes, at: int) -> str:
    return data[at:data.index(b"\0", at)].decode()


def needed(path: Path) -> list[str]:
    """Libraries that the object links."""
    data = path.read_bytes()
    sections = _sections(data)
    found = []
    for kind, offset, length, link in sections:
        if kind == _DYNAMIC:
            strings = sections[link][1]
            entries = struct.iter_unpack("<qQ", data[offset:offset + length])
            found += [_text(data, strings + value) for tag, value in entries if tag == _NEEDED]
    return found


def undefined(path: Path) -> list[str]:
    """Strong symbols that another library must have."""
    data = path.read_bytes()
    sections = _sections(data)
    found = []
    for kind, offset, length, link in sections:
        if kind == _DYNSYM:
            strings = sections[link][1]
            for name, info, _, section, _, _ in struct.iter_unpack("<IBBHQQ", data[offset:offset + length]):
                if section == 0 and name and info >> 4 == 1:
                    found.append(_text(data, strings + name))
    return found
