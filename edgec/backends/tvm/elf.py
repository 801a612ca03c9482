"""The little of ELF that the engine needs: constants as an object file, and the symbols that an object leaves open.

Writing the constants directly takes no assembler, and the same bytes always give the same file.
Source: System V gABI, chapters 4 (object files) and 5 (symbol table); ABI supplements for the machine codes and flags.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

_RELOCATABLE = 1
_PROGBITS, _SYMTAB, _STRTAB = 1, 2, 3
_ALLOC = 2
_GLOBAL_OBJECT = 1 << 4 | 1
_MACHINES = {"x86_64": (2, 62, 0), "aarch64": (2, 183, 0), "thumb": (1, 40, 5 << 24)}  # class, machine, flags: EABI 5


@dataclass(frozen=True)
class _Form:
    """Field layouts of one ELF class: header, section header, symbol."""

    header: str
    section: str
    symbol: str


_FORMS = {1: _Form("<16sHHIIIIIHHHHHH", "<10I", "<IIIBBH"), 2: _Form("<16sHHIQQQIHHHHHH", "<IIQQQQIIQQ", "<IBBHQQ")}


def data_object(symbol: str, data: bytes, arch: str, alignment: int = 64) -> bytes:
    """An object file whose read-only data section holds `data` under the global name `symbol`.

    arch: x86_64, aarch64 or thumb. Raises KeyError for another one.
    """
    bits, machine, flags = _MACHINES[arch]
    form = _FORMS[bits]
    header_size, section_size, symbol_size = (struct.calcsize(f) for f in (form.header, form.section, form.symbol))
    names = b"\0" + symbol.encode() + b"\0"
    section_names = b"\0.rodata\0.symtab\0.strtab\0.shstrtab\0.note.GNU-stack\0"
    size = max(len(data), 1)
    entry = ((1, _GLOBAL_OBJECT, 0, 1, 0, size) if bits == 2 else (1, 0, size, _GLOBAL_OBJECT, 0, 1))
    symbols = bytes(symbol_size) + struct.pack(form.symbol, *entry)
    bodies = [(b".rodata", _PROGBITS, _ALLOC, data.ljust(size, b"\0"), 0, 0, alignment, 0),
              (b".symtab", _SYMTAB, 0, symbols, 3, 1, 8, symbol_size),
              (b".strtab", _STRTAB, 0, names, 0, 0, 1, 0),
              (b".shstrtab", _STRTAB, 0, section_names, 0, 0, 1, 0),
              (b".note.GNU-stack", _PROGBITS, 0, b"", 0, 0, 1, 0)]
    parts, headers, offset = [], [bytes(section_size)], header_size
    for name, kind, attributes, body, link, info, align, entry_size in bodies:
        padding = -offset % align
        offset += padding
        place = section_names.index(b"\0" + name + b"\0") + 1
        headers.append(struct.pack(form.section, place, kind, attributes, 0, offset, len(body), link, info, align,
                                   entry_size))
        parts += [bytes(padding), body]
        offset += len(body)
    padding = -offset % 8
    ident = b"\x7fELF" + bytes([bits, 1, 1]) + bytes(9)
    header = struct.pack(form.header, ident, _RELOCATABLE, machine, 1, 0, 0, offset + padding, flags, header_size, 0, 0,
                         section_size, len(headers), 4)
    return b"".join([header, *parts, bytes(padding), *headers])


def undefined_symbols(data: bytes) -> list[str]:
    """Names of the symbols that an object file or shared object uses and does not define, sorted.

    Raises ValueError if `data` is not a little-endian ELF file.
    """
    if data[:4] != b"\x7fELF" or data[5] != 1:
        raise ValueError("not a little-endian ELF file")
    form = _FORMS[data[4]]
    header = struct.unpack_from(form.header, data)
    table, count = header[6], header[12]
    sections = [struct.unpack_from(form.section, data, table + i * struct.calcsize(form.section)) for i in range(count)]
    open_names = set()
    for section in sections:
        if section[1] != _SYMTAB:
            continue
        names = sections[section[6]][4]
        for offset in range(section[4], section[4] + section[5], struct.calcsize(form.symbol)):
            fields = struct.unpack_from(form.symbol, data, offset)
            index = fields[3] if data[4] == 2 else fields[5]
            if fields[0] and index == 0:
                start = names + fields[0]
                open_names.add(data[start:data.index(b"\0", start)].decode())
    return sorted(open_names)
