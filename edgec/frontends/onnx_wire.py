"""Check the bytes of an ONNX file before protobuf parses them: whole, shallow, and not made to exhaust memory.

Source: Protocol Buffers encoding, https://protobuf.dev/programming-guides/encoding/ (wire types 0, 1, 2, 5).
"""

from __future__ import annotations

from typing import Any

import onnx

from edgec.errors import UserError

MAX_BYTES = 2**31 - 1  # a protobuf message ends at 2 GiB
MAX_FIELDS = 2_000_000  # an ONNX file has about ten fields per node
MAX_DEPTH = 60  # three levels per nested subgraph; protobuf itself stops at 100

_DAMAGED = "copy or download the file again"


def check_wire(data: bytes, where: str) -> None:
    """Ensures that `data` is a complete message of onnx.ModelProto's layout, with bounded depth and field count.

    Raises UserError: the file is cut short, damaged, nested too deeply, or has absurdly many fields; the message names
        the part of the model and the byte.
    """
    if len(data) > MAX_BYTES:
        raise UserError(
            f"the ONNX file has {len(data)} bytes; a protobuf file ends at 2 GiB",
            where=where,
            hint="save the model with external data (onnx.save_model(..., save_as_external_data=True))",
        )
    _Scan(data, where).message(onnx.ModelProto.DESCRIPTOR, 0, len(data), 0, None)


# Where a message stands, for errors: the place of its parent, its field, and its index among fields of that number.
_Place = tuple[Any, Any, int]


class _Scan:
    """One walk over the fields of a message, without building anything."""

    def __init__(self, data: bytes, where: str) -> None:
        self.data, self.where, self.fields = data, where, 0
        self._tables: dict[str, dict[int, tuple[Any, bool, bool]]] = {}

    def fail(self, text: str, position: int) -> UserError:
        return UserError(
            f"the ONNX file is damaged: {text}",
            where=f"{self.where}, byte {position}",
            expected="a complete ONNX protobuf",
            hint=_DAMAGED,
        )

    def varint(self, position: int, end: int, place: _Place | None) -> tuple[int, int]:
        if position < end and self.data[position] < 0x80:  # most are one byte
            return self.data[position], position + 1
        result = shift = 0
        while position < end:
            byte = self.data[position]
            position += 1
            result |= (byte & 0x7F) << shift
            if byte < 0x80:
                return result, position
            shift += 7
            if shift >= 70:  # a varint has at most ten bytes
                raise self.fail(f"a number of {_path(place)} is too long", position)
        raise self.fail(f"it ends inside {_path(place)}", position)

    def table(self, descriptor: Any) -> dict[int, tuple[Any, bool, bool]]:
        """(field, is a message, is text) by number."""
        table = self._tables.get(descriptor.full_name)
        if table is None:
            table = {f.number: (f, f.message_type is not None, f.type == f.TYPE_STRING) for f in descriptor.fields}
            self._tables[descriptor.full_name] = table
        return table

    def message(self, descriptor: Any, position: int, end: int, depth: int, place: _Place | None) -> None:
        if depth > MAX_DEPTH:
            raise UserError(
                f"the ONNX file nests messages more than {MAX_DEPTH} deep",
                where=f"{self.where}, byte {position}",
                expected="subgraphs nested a few levels deep",
            )
        table = self.table(descriptor)
        counts: dict[int, int] = {}
        while position < end:
            self.fields += 1
            if self.fields > MAX_FIELDS:
                raise UserError(
                    f"the ONNX file has more than {MAX_FIELDS} fields",
                    where=self.where,
                    expected="a model with fewer than 200000 nodes",
                )
            start = position
            tag, position = self.varint(position, end, place)
            number, wire = tag >> 3, tag & 7
            if wire == 0:
                _, position = self.varint(position, end, place)
            elif wire in (1, 5):
                position += 8 if wire == 1 else 4
            elif wire == 2:
                length, position = self.varint(position, end, place)
                stop = position + length
                index = counts[number] = counts.get(number, -1) + 1
                field, is_message, is_text = table.get(number, (None, False, False))
                if stop > end:
                    inside = _path((place, field, index))
                    raise self.fail(f"{inside} should have {length} bytes, but {end - position} are left", start)
                if is_message and length:
                    self.message(field.message_type, position, stop, depth + 1, (place, field, index))
                elif is_text:
                    try:
                        self.data[position:stop].decode("utf-8")
                    except UnicodeDecodeError as error:
                        raise self.fail(f"{_path((place, field, index))} is not text", start) from error
                position = stop
            else:
                raise self.fail(f"{_path(place)} holds a field of an unknown kind", start)
            if position > end:
                raise self.fail(f"it ends inside {_path(place)}", start)


def _path(place: _Place | None) -> str:
    """`model.graph.node[3].name`."""
    names: list[str] = []
    while place is not None:
        parent, field, index = place
        if field is not None:
            names.append(field.name + (f"[{index}]" if _repeated(field) else ""))
        place = parent
    return ".".join(["model", *reversed(names)])


def _repeated(field: Any) -> bool:
    """Protobuf 6 has `is_repeated`, older ones only `label`."""
    return bool(field.is_repeated) if hasattr(field, "is_repeated") else bool(field.label == field.LABEL_REPEATED)
