"""Check the bytes of an ONNX file before protobuf parses them: whole, shallow, and not made to exhaust memory.

Source: Protocol Buffers encoding, https://protobuf.dev/programming-guides/encoding/ (wire types 0, 1, 2, 5).
"""

from __future__ import annotations

from typing import Any

import onnx

from edgec.errors import UserError

MAX_BYTES = 2**31 - 1  # a protobuf message ends at 2 GiB
MAX_FIELDS = 4_000_000  # an ONNX file has about ten fields per node
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
    _Scan(data, where).message(onnx.ModelProto.DESCRIPTOR, 0, len(data), 0, "model")


class _Scan:
    """One walk over the fields of a message, without building anything."""

    def __init__(self, data: bytes, where: str) -> None:
        self.data, self.where, self.fields = data, where, 0
        self._tables: dict[str, dict[int, Any]] = {}

    def fail(self, text: str, position: int) -> UserError:
        return UserError(
            f"the ONNX file is damaged: {text}",
            where=f"{self.where}, byte {position}",
            expected="a complete ONNX protobuf",
            hint=_DAMAGED,
        )

    def varint(self, position: int, end: int, path: str) -> tuple[int, int]:
        result = shift = 0
        while position < end:
            byte = self.data[position]
            position += 1
            result |= (byte & 0x7F) << shift
            if byte < 0x80:
                return result, position
            shift += 7
            if shift >= 70:  # a varint has at most ten bytes
                raise self.fail(f"a number of {path} is too long", position)
        raise self.fail(f"it ends inside {path}", position)

    def message(self, descriptor: Any, position: int, end: int, depth: int, path: str) -> None:
        if depth > MAX_DEPTH:
            raise UserError(
                f"the ONNX file nests messages more than {MAX_DEPTH} deep",
                where=f"{self.where}, byte {position}",
                expected="subgraphs nested a few levels deep",
            )
        table = self._tables.get(descriptor.full_name)
        if table is None:
            table = self._tables[descriptor.full_name] = {f.number: f for f in descriptor.fields}
        counts: dict[int, int] = {}
        while position < end:
            self.fields += 1
            if self.fields > MAX_FIELDS:
                raise UserError(
                    f"the ONNX file has more than {MAX_FIELDS} fields",
                    where=self.where,
                    expected="a model with fewer than 400000 nodes",
                )
            start = position
            tag, position = self.varint(position, end, path)
            number, wire = tag >> 3, tag & 7
            field = table.get(number)
            if wire == 0:
                _, position = self.varint(position, end, path)
            elif wire in (1, 5):
                position += 8 if wire == 1 else 4
            elif wire == 2:
                length, position = self.varint(position, end, path)
                stop = position + length
                index = counts[number] = counts.get(number, -1) + 1
                inside = path if field is None else f"{path}.{field.name}" + (f"[{index}]" if _repeated(field) else "")
                if stop > end:
                    raise self.fail(f"{inside} should have {length} bytes, but {end - position} are left", start)
                if field is not None and field.message_type is not None:
                    self.message(field.message_type, position, stop, depth + 1, inside)
                elif field is not None and field.type == field.TYPE_STRING:
                    try:
                        self.data[position:stop].decode("utf-8")
                    except UnicodeDecodeError as error:
                        raise self.fail(f"{inside} is not text", start) from error
                position = stop
            else:
                raise self.fail(f"{path} holds a field of an unknown kind", start)
            if position > end:
                raise self.fail(f"it ends inside {path}", start)


def _repeated(field: Any) -> bool:
    return bool(field.is_repeated) if hasattr(field, "is_repeated") else bool(field.label == field.LABEL_REPEATED)
