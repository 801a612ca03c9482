"""The text form of a graph, for people, golden tests and checkpoints. Printing is deterministic and parses back.

    edgec 1
    graph "classifier" {
      input x: float32[1,3,8,8]
      const w: float32[4,3,3,3] = @w
      const b: float32[4] = [0.5, -1.0, 0.0, 2.0]
      y: float32[1,4,8,8] quant(int8, scale=float32[] [0.1], zero=int8[] [0]) = Conv(x, w, b) {pads=[1, 1, 1, 1]}
        from="net.py:12"
      output y
    }

A name is bare or a JSON string; `_` is an input that is absent; `?` is an unknown dimension; `@key` is an array that
stands elsewhere. A node is called like its first output unless `name=` says otherwise. Line breaks mean nothing.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from math import prod

import numpy as np

from edgec.errors import UserError
from edgec.ir.graph import Attr, Graph, Node, Value
from edgec.ir.types import DType, Quant, Sparsity, TensorType

INLINE = 16  # elements; a larger array stands elsewhere
_DEPTH = 50  # bodies inside bodies; far more than any model has, far less than Python's stack
_KEYWORDS = frozenset({"input", "const", "output", "graph", "quant", "sparse", "name", "domain", "captures", "from"})
_BARE = re.compile(r"[A-Za-z_][A-Za-z0-9_./$]*")
_TOKEN = re.compile(r"""(?P<space>[ \t\r\n]+|\#[^\n]*)
    |(?P<string>"(?:[^"\\\n]|\\.)*")
    |(?P<number>-?(?:\d+(?:\.\d*)?(?:[eE][+-]?\d+)?|inf|nan)(?![A-Za-z0-9_./$]))
    |(?P<word>[A-Za-z_][A-Za-z0-9_./$]*)
    |(?P<mark>[{}\[\](),:=@?])""", re.VERBOSE)


def print_graph(graph: Graph) -> str:
    """The text of a graph; arrays of more than `INLINE` elements are named, not printed."""
    return dump(graph)[0]


def dump(graph: Graph) -> tuple[str, dict[str, np.ndarray]]:
    """The text of a graph and the arrays that it refers to, in order: what `parse` wants."""
    printer = _Printer()
    return "edgec 1\n" + "\n".join(printer.graph(graph, "")) + "\n", printer.arrays


def parse(text: str, arrays: Mapping[str, np.ndarray] | None = None) -> Graph:
    """The graph that a text describes; `arrays` holds what the text refers to.

    Raises UserError with the line and what was expected there. The result is well formed as far as names, uses and
    producers go; `ir.verify` says the rest.
    """
    parser = _Parser(text, arrays or {})
    parser.expect("edgec")
    parser.expect("1")
    graph = parser.graph(0)
    parser.end()
    return graph


# -- printing ---------------------------------------------------------------------------------------------------------


def _name(text: str) -> str:
    bare = _BARE.fullmatch(text) and text != "_" and text not in _KEYWORDS
    return text if bare else json.dumps(text)


def _number(value: object) -> str:
    """A number of an array or attribute. numpy's own text is the shortest that its type reads back."""
    if isinstance(value, (int, np.integer, np.bool_)):
        return str(int(value))
    if isinstance(value, np.floating) and type(value).__module__ == "numpy":
        return str(value)
    return repr(float(value))  # type: ignore[arg-type]


@dataclass
class _Printer:
    arrays: dict[str, np.ndarray] = field(default_factory=dict)

    def graph(self, graph: Graph, indent: str) -> Iterator[str]:
        inner = indent + "  "
        yield f"{indent}graph {json.dumps(graph.name)} {{"
        for value in graph.inputs:
            yield f"{inner}input {self.value(value)}"
        written: set[int] = set()
        for node in graph.nodes:
            for value in node.input_values:
                if value.const is not None and id(value) not in written:
                    written.add(id(value))
                    yield f"{inner}const {self.value(value)} = {self.array(value.const, value.name)}"
            yield from self.node(node, inner)
        if graph.outputs:
            yield f"{inner}output " + ", ".join(_name(v.name) for v in graph.outputs)
        yield f"{indent}}}"

    def node(self, node: Node, indent: str) -> Iterator[str]:
        line = indent + ", ".join(map(self.value, node.outputs)) + (" = " if node.outputs else "= ")
        line += f"{_name(node.op)}(" + ", ".join("_" if v is None else _name(v.name) for v in node.inputs) + ")"
        simple = {k: a for k, a in sorted(node.attributes.items()) if not isinstance(a, Graph)}
        bodies = {k: a for k, a in sorted(node.attributes.items()) if isinstance(a, Graph)}
        if node.attributes:
            attributes = ", ".join(f"{_name(k)}={self.attribute(a, f'{node.name}.{k}')}" for k, a in simple.items())
            line += f" {{{attributes}"
            for index, (key, body) in enumerate(bodies.items()):
                first, *rest = self.graph(body, indent + "  ")
                yield line + (", " if index or simple else "") + f"{_name(key)}={first.strip()}"
                yield from rest[:-1]
                line = rest[-1]
            line += "}"
        if not node.outputs or node.name != node.outputs[0].name:
            line += f" name={json.dumps(node.name)}"
        if node.domain:
            line += f" domain={json.dumps(node.domain)}"
        if node.captures:
            line += f" captures={node.captures}"
        if node.source:
            line += f" from={json.dumps(node.source)}"
        yield line

    def value(self, value: Value) -> str:
        text = f"{_name(value.name)}: {value.type}"
        quant, sparsity = value.quant, value.sparsity
        if quant is not None:
            parts = [quant.dtype.name.lower(), f"scale={self.typed(quant.scale, f'{value.name}.scale')}",
                     f"zero={self.typed(quant.zero_point, f'{value.name}.zero')}"]
            parts += [f"axis={quant.axis}"] if quant.axis is not None else []
            parts += [f"block={quant.block}"] if quant.block else []
            text += f" quant({', '.join(parts)})"
        if sparsity is not None:
            text += f" sparse({sparsity.n}, {sparsity.m}, axis={sparsity.axis})"
        return text

    def typed(self, array: np.ndarray, name: str) -> str:
        array = np.asarray(array)
        return f"{TensorType(DType.of(array), array.shape)} {self.array(array, name)}"

    def array(self, array: np.ndarray, name: str) -> str:
        """The elements in row-major order, or a reference where they are many or their text would lose a bit."""
        if array.dtype.kind in "OUS":
            return f"[{', '.join(self.attribute(v, name) for v in array.reshape(-1).tolist())}]"
        if array.size <= INLINE and array.dtype.kind != "c":
            texts = [_number(v) for v in array.reshape(-1)]
            if _from_numbers(texts, array.dtype).tobytes() == array.tobytes():
                return f"[{', '.join(texts)}]"
        key, count = name, 0
        while key in self.arrays and self.arrays[key] is not array:
            count += 1
            key = f"{name}_{count}"
        self.arrays[key] = array
        return f"@{_name(key)}"

    def attribute(self, attr: Attr, name: str) -> str:
        if isinstance(attr, str):
            return json.dumps(attr)
        if isinstance(attr, bytes):
            return f"bytes({json.dumps(attr.hex())})"
        if isinstance(attr, DType):
            return attr.name.lower()
        if isinstance(attr, np.ndarray):
            return f"tensor {self.typed(attr, name)}"
        if isinstance(attr, tuple):
            return f"[{', '.join(self.attribute(v, name) for v in attr)}]"
        return _number(attr)


def _from_numbers(texts: list[str], dtype: np.dtype) -> np.ndarray:
    """An array of numbers; integers never pass through a float."""
    whole = all("." not in t and "e" not in t and "n" not in t for t in texts)
    if dtype.kind in "iub" and not whole:
        raise ValueError("a fraction among whole numbers")
    numbers = [int(t) for t in texts] if whole else [float(t) for t in texts]
    with np.errstate(all="ignore"):
        return np.array(numbers, dtype if dtype.kind in "iub" else np.float64).astype(dtype)


# -- parsing ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Token:
    kind: str
    text: str
    line: int


def _tokens(text: str) -> Iterator[_Token]:
    position, line = 0, 1
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None:
            raise UserError(f"unexpected character {text[position]!r} in the graph text", where=f"line {line}",
                            expected="a name, a number, a string in double quotes, or punctuation")
        kind = str(match.lastgroup)
        if kind != "space":
            yield _Token(kind, match.group(), line)
        line += match.group().count("\n")
        position = match.end()
    yield _Token("end", "the end", line)


class _Parser:
    """Recursive descent, one token ahead."""

    def __init__(self, text: str, arrays: Mapping[str, np.ndarray]) -> None:
        self.stream, self.arrays = _tokens(text), arrays
        self.token = next(self.stream)
        self.line = 1

    def fail(self, expected: str, what: str = "") -> UserError:
        """What is wrong with the next token, or, if `what` says it, with the one before."""
        return UserError(what or f"unexpected {self.token.text!r} in the graph text", expected=expected,
                         where=f"line {self.line if what else self.token.line}")

    def take(self) -> _Token:
        token = self.token
        self.line = token.line
        if token.kind != "end":
            self.token = next(self.stream)
        return token

    def accept(self, text: str) -> bool:
        if self.token.text != text or self.token.kind == "string":
            return False
        self.take()
        return True

    def expect(self, text: str) -> None:
        if not self.accept(text):
            raise self.fail(repr(text))

    def end(self) -> None:
        if self.token.kind != "end":
            raise self.fail("the end of the text")

    def string(self) -> str:
        if self.token.kind != "string":
            raise self.fail("a string in double quotes")
        try:
            return str(json.loads(self.take().text))
        except ValueError as error:
            raise self.fail("a JSON string", "malformed string in the graph text") from error

    def name(self) -> str:
        if self.token.kind == "string":
            return self.string()
        if self.token.kind == "number" and self.token.text in ("inf", "nan"):
            return self.take().text
        if self.token.kind != "word" or self.token.text in _KEYWORDS or self.token.text == "_":
            raise self.fail("a name")
        return self.take().text

    def integer(self, most: int = 1 << 62) -> int:
        if self.token.kind != "number" or not re.fullmatch(r"-?\d{1,19}", self.token.text):
            raise self.fail("a whole number")
        value = int(self.token.text)
        if abs(value) > most:
            raise self.fail(f"a whole number of at most {most}")
        self.take()
        return value

    def dtype(self) -> DType:
        found = DType.__members__.get(self.token.text.upper())
        if found is None or self.token.kind != "word":
            raise self.fail("an element type such as float32")
        self.take()
        return found

    def type(self) -> TensorType:
        dtype = self.dtype()
        self.expect("[")
        dims: list[int | None] = []
        while not self.accept("]"):
            if dims:
                self.expect(",")
            if self.accept("?"):
                dims.append(None)
                continue
            dims.append(self.integer())
            if (dims[-1] or 0) < 0:
                raise self.fail("a dimension of 0 or more", f"the dimension {dims[-1]}")
        return TensorType(dtype, tuple(dims))

    def array(self, type_: TensorType) -> np.ndarray:
        """The elements of an array whose type was read, or the array that a reference names."""
        if not type_.is_static:
            raise self.fail("a shape without '?'", "an array of unknown shape in the graph text")
        if self.accept("@"):
            key = self.name()
            if key not in self.arrays:
                raise self.fail("the key of an array that comes with the text", f"there is no array {key!r}")
            array = np.asarray(self.arrays[key])
            if array.shape != type_.dims or DType.of(array) is not type_.dtype:
                raise self.fail(str(type_), f"array {key!r} is {array.dtype} of shape {array.shape}")
            return array
        elements = self.list()
        if len(elements) != prod(type_.dims):
            raise self.fail(f"{prod(type_.dims)} elements", f"{len(elements)} elements for {type_}")
        if type_.dtype is DType.STRING:
            result = np.empty(len(elements), object)
            result[:] = elements
            return result.reshape(type_.dims)
        if not all(isinstance(e, (int, float)) for e in elements):
            raise self.fail("numbers", f"wrong element of {type_}")
        try:
            return _from_numbers([_number(e) for e in elements], type_.dtype.numpy).reshape(type_.dims)
        except (ValueError, OverflowError, TypeError) as error:
            raise self.fail(f"numbers of type {type_.dtype.value}", f"wrong element of {type_}: {error}") from error

    def typed(self) -> np.ndarray:
        return self.array(self.type())

    def list(self) -> list[Attr]:
        self.expect("[")
        elements: list[Attr] = []
        while not self.accept("]"):
            if elements:
                self.expect(",")
            elements.append(self.scalar())
        return elements

    def scalar(self) -> Attr:
        token = self.token
        if token.kind == "string":
            return self.string()
        if self.accept("bytes"):
            self.expect("(")
            try:
                data = bytes.fromhex(self.string())
            except ValueError:
                raise self.fail("hexadecimal digits", "malformed bytes in the graph text") from None
            self.expect(")")
            return data
        if token.kind != "number":
            raise self.fail("a number or a string")
        self.take()
        if not re.fullmatch(r"-?\d+", token.text):
            return float(token.text)
        if len(token.text) > 40:
            raise self.fail("a number of at most 40 digits")
        return int(token.text)

    def attribute(self, depth: int) -> Attr:
        if self.token.text == "graph" and self.token.kind == "word":
            return self.graph(depth + 1)
        if self.token.text == "[":
            return tuple(self.list())  # type: ignore[return-value]
        if self.accept("tensor"):
            return self.typed()
        if self.token.kind == "word" and self.token.text != "bytes":
            return self.dtype()
        return self.scalar()

    def value(self, known: dict[str, Value]) -> Value:
        """`name: type quant(...) sparse(...)`, a name that is new."""
        name = self.name()
        if name in known:
            raise self.fail("a name that is new", f"the name {name!r} stands twice in the graph text")
        self.expect(":")
        value = known[name] = Value(name, self.type())
        if self.accept("quant"):
            self.expect("(")
            dtype = self.dtype()
            fields: dict[str, Attr] = {"axis": -1, "block": 0}
            given = set()
            while self.accept(","):
                key = self.name()
                self.expect("=")
                given.add(key)
                if key not in ("scale", "zero", "axis", "block"):
                    raise self.fail("scale, zero, axis or block")
                fields[key] = self.typed() if key in ("scale", "zero") else self.integer()
            self.expect(")")
            if not {"scale", "zero"} <= given:
                raise self.fail("scale and zero", "a quant that is not whole")
            axis = fields["axis"] if "axis" in given else None
            value.quant = Quant(dtype, fields["scale"], fields["zero"], axis, fields["block"])  # type: ignore[arg-type]
        if self.accept("sparse"):
            self.expect("(")
            n = self.integer()
            self.expect(",")
            m = self.integer()
            self.expect(",")
            self.expect("axis")
            self.expect("=")
            value.sparsity = Sparsity(n, m, self.integer())
            self.expect(")")
        return value

    def graph(self, depth: int) -> Graph:
        if depth > _DEPTH:
            raise self.fail(f"at most {_DEPTH} bodies inside each other")
        self.expect("graph")
        graph = Graph(self.string())
        self.expect("{")
        known: dict[str, Value] = {}
        while not self.accept("}"):
            if self.accept("input"):
                graph.inputs.append(self.value(known))
            elif self.accept("const"):
                value = self.value(known)
                self.expect("=")
                value.const = self.array(value.type)
            elif self.accept("output"):
                graph.outputs.append(self.use(known))
                while self.accept(","):
                    graph.outputs.append(self.use(known))
            else:
                self.node(graph, known, depth)
        graph.reserve(known)
        return graph

    def use(self, known: Mapping[str, Value]) -> Value:
        name = self.name()
        if name not in known:
            raise self.fail("a name that stands further up", f"there is no value {name!r}")
        return known[name]

    def node(self, graph: Graph, known: dict[str, Value], depth: int) -> None:
        outputs: list[Value] = []
        while not self.accept("="):
            if outputs:
                self.expect(",")
            outputs.append(self.value(known))
        op = self.name()
        self.expect("(")
        inputs: list[Value | None] = []
        while not self.accept(")"):
            if inputs:
                self.expect(",")
            inputs.append(None if self.accept("_") else self.use(known))
            if any(inputs[-1] is v for v in outputs):
                raise self.fail("a name that stands further up", "a node reads its own output")
        attributes: dict[str, Attr] = {}
        if self.accept("{"):
            while not self.accept("}"):
                if attributes:
                    self.expect(",")
                key = self.name()
                self.expect("=")
                attributes[key] = self.attribute(depth)
        texts = {"name": outputs[0].name if outputs else "", "domain": "", "from": ""}
        captures = 0
        while self.token.kind == "word" and self.token.text in (*texts, "captures"):
            key = self.take().text
            self.expect("=")
            if key == "captures":
                captures = self.integer()
            else:
                texts[key] = self.string()
        graph.add(Node(op, inputs, outputs, attributes, name=texts["name"], source=texts["from"],
                       domain=texts["domain"], captures=captures))
