"""Lowerings of recurrent nets: LSTM, GRU, RNN.

Computes: for each direction, in chunks of steps: the products of the inputs with W at once, so that a row of W is
          loaded once per chunk; then step by step the products of the state with R, the activations, the new state.
Layouts:  all tensors as ONNX has them; weights are read along their rows, so nothing is transposed. State and gates
          lie in scratch rows whose length is a multiple of the vector's, so that activations work on whole vectors.
Source:   ONNX operators LSTM, GRU, RNN.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from edgec.backends.tvm.lower import math
from edgec.backends.tvm.lower.loops import Memory, fill, memory, read, write, written
from edgec.backends.tvm.lower.products import Matrix, has_vectors, products
from edgec.backends.tvm.lower.rule import Inputs, Lowering, Reason, Tensors, dtype_name
from edgec.backends.tvm.lower.shapes import bind, constant, dtype_of, element, select
from edgec.ir.graph import Node
from edgec.kernels.emit import Expr, loop, vectorized

_VECTOR = 8  # elements, where there are vectors: two registers of NEON, one of AVX2
_H, _C, _EXTRA = range(3)  # rows of state: hidden, cell, and GRU's r * h or R_h h
_CHUNK = 8  # rows of input that share a pass over W: each weight that was loaded is used 4 times, in 2 tiles


# -- activations ------------------------------------------------------------------------------------------------------

def _hard_sigmoid(x: Expr, alpha: Expr, beta: Expr) -> Expr:
    zero, one = constant(0, dtype_of(x)), constant(1, dtype_of(x))
    y = bind(alpha * x + beta)
    return select(y < zero, zero, select(y > one, one, y))


def _elu(x: Expr, alpha: Expr, _beta: Expr) -> Expr:
    zero = constant(0, dtype_of(x))
    return select(x < zero, alpha * math.expm1_negative(select(x < zero, x, zero)), x)


Activation = Callable[[Expr, Expr, Expr], Expr]  # of x, alpha, beta

# name in lower case: (function, default of alpha, default of beta); None where the function has no such parameter
_ACTIVATIONS: dict[str, tuple[Activation, float | None, float | None]] = {
    "sigmoid": (lambda x, _a, _b: math.sigmoid(x), None, None),
    "tanh": (lambda x, _a, _b: math.tanh(x), None, None),
    "relu": (lambda x, _a, _b: select(x < constant(0, dtype_of(x)), constant(0, dtype_of(x)), x), None, None),
    "affine": (lambda x, a, b: a * x + b, 1.0, 0.0),
    "leakyrelu": (lambda x, a, _b: select(x < constant(0, dtype_of(x)), a * x, x), 0.01, None),
    "thresholdedrelu": (lambda x, a, _b: select(x > a, x, constant(0, dtype_of(x))), 1.0, None),
    "scaledtanh": (lambda x, a, b: a * math.tanh(b * x), 1.0, 1.0),
    "hardsigmoid": (_hard_sigmoid, 0.2, 0.5),
    "elu": (_elu, 1.0, None),
    "softsign": (lambda x, _a, _b: x / (constant(1, dtype_of(x)) + tirx.abs(x)), None, None),
    "softplus": (lambda x, _a, _b: math.softplus(x), None, None),
}
_DEFAULTS = {"LSTM": ("Sigmoid", "Tanh", "Tanh"), "GRU": ("Sigmoid", "Tanh"), "RNN": ("Tanh",)}
_GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}


def _names(node: Node) -> list[str]:
    """The activations of all directions, in lower case."""
    given: Any = node.attributes.get("activations")
    directions = 2 if node.text("direction", "forward") == "bidirectional" else 1
    names = list(_DEFAULTS[node.op]) * directions if not given else list(given)
    return [(n.decode() if isinstance(n, bytes) else str(n)).lower() for n in names]


def _activations(node: Node, dtype: str) -> list[Callable[[Expr], Expr]]:
    """The activations of all directions. Alphas and betas are given to those that have them, in order."""
    alphas: Any = list(node.attributes.get("activation_alpha") or ())  # type: ignore[arg-type]
    betas: Any = list(node.attributes.get("activation_beta") or ())  # type: ignore[arg-type]
    result = []
    for name in _names(node):
        function, alpha, beta = _ACTIVATIONS[name]
        a = alpha if alpha is None or not alphas else float(alphas.pop(0))
        b = beta if beta is None or not betas else float(betas.pop(0))
        result.append(_activation(function, constant(a or 0.0, dtype), constant(b or 0.0, dtype)))
    return result


def _activation(function: Activation, alpha: Expr, beta: Expr) -> Callable[[Expr], Expr]:
    return lambda x: bind(function(bind(x), alpha, beta))


# -- one direction ----------------------------------------------------------------------------------------------------

@dataclass(frozen=True)
class _Shape:
    steps: int
    batch: int
    inputs: int
    hidden: int
    gates: int
    dtype: str
    batch_first: bool
    vector: int

    @property
    def padded(self) -> int:
        """Length of a row of scratch."""
        return -(-self.hidden // self.vector) * self.vector

    @property
    def chunk(self) -> int:
        """Steps whose inputs meet W at once."""
        return min(self.steps, max(1, _CHUNK // self.batch))


class _Direction:
    """Writes the statements of one direction. given: the inputs by the letters of `_INPUTS`, None if absent."""

    def __init__(self, node: Node, shape: _Shape, index: Expr, functions: list[Callable[[Expr], Expr]],
                 given: dict[str, Memory | None]) -> None:
        self._node, self._shape, self._index, self._functions, self._given = node, shape, index, functions, given
        self._direction = node.text("direction", "forward")
        self._clip = float(node.attributes.get("clip") or 0.0)  # type: ignore[arg-type]
        self._late_reset = node.op == "GRU" and bool(node.integer("linear_before_reset", 0))

    def write(self, outputs: list[Memory]) -> None:
        """All steps; then the last state."""
        s = self._shape
        self._state = memory((3, s.batch, s.padded), s.dtype)
        self._gates = memory((s.chunk * s.batch, s.gates, s.padded), s.dtype)
        fill(self._state, constant(0, s.dtype))
        if s.padded != s.hidden:
            fill(self._gates, constant(0, s.dtype))
        self._start(_H, self._given["h"])
        self._start(_C, self._given["c"])
        chunks = -(-s.steps // s.chunk)
        with loop(chunks) as number:
            first = number * s.chunk
            base = tirx.min(first, tirx.const(s.steps - s.chunk, "int32")) if s.steps % s.chunk else first
            self._project(base)
            if s.steps % s.chunk:  # the last chunk begins earlier, with steps that are done already
                with T.serial(first - base, s.chunk) as step:
                    self._step(base, step, outputs[0])
            else:
                with loop(s.chunk) as step:
                    self._step(base, step, outputs[0])
        for state, output in zip((_H, _C), outputs[1:], strict=False):
            with loop(s.batch) as n, loop(s.hidden) as j:
                write(output, read(self._state, state, n, j), *self._place(n), j)

    def _place(self, n: Expr) -> tuple[Expr, Expr]:
        return (n, self._index) if self._shape.batch_first else (self._index, n)

    def _start(self, state: int, initial: Memory | None) -> None:
        s = self._shape
        if initial is not None:
            with loop(s.batch) as n, loop(s.hidden) as j:
                write(self._state, read(initial, *self._place(n), j), state, n, j)

    def _time(self, step: Expr) -> Expr:
        backward = self._shape.steps - 1 - step
        if self._direction == "bidirectional":
            if isinstance(self._index, int):
                return backward if self._index else step
            return select(self._index == 1, backward, step)
        return backward if self._direction == "reverse" else step

    def _bias(self, gate: Expr, j: Expr, recurrent: bool) -> Expr:
        s = self._shape
        place = gate * s.hidden + j + (s.gates * s.hidden if recurrent else 0)
        return read(self._given["b"], self._index, place)

    def _project(self, base: Expr) -> None:
        """gates[row] = W x[row] + the biases, for the rows (step, sample) of a chunk."""
        s, given = self._shape, self._given

        def sample(row: Expr, k: Expr) -> Expr:
            step, n = (row, 0) if s.batch == 1 else (tirx.indexdiv(row, s.batch), tirx.indexmod(row, s.batch))
            time = self._time(base + step)
            return read(given["x"], *((n, time) if s.batch_first else (time, n)), k)

        def start(gate: Expr) -> Callable[[Expr, Expr], Expr]:
            def value(_row: Expr, j: Expr) -> Expr:
                if given["b"] is None:
                    return constant(0, s.dtype)
                own = self._bias(gate, j, False)
                if self._late_reset:  # the gate of the new state adds R's bias before the reset
                    return own + select(gate < 2, self._bias(gate, j, True), constant(0, s.dtype)) \
                        if not isinstance(gate, int) else own
                return own + self._bias(gate, j, True)

            return value

        with loop(s.gates) as gate:
            products(Matrix(s.chunk * s.batch, sample),
                     Matrix(s.hidden, lambda j, k: read(given["w"], self._index, gate * s.hidden + j, k)), s.inputs,
                     s.dtype, start(gate), lambda row, j, value: write(self._gates, value, row, gate, j))

    def _recur(self, state: int, gate: Expr, start: Callable[[Expr, Expr], Expr],
               store: Callable[[Expr, Expr, Expr], None]) -> None:
        """store(n, j, start(n, j) + row j of the gate's R times state[n])."""
        s, r = self._shape, self._given["r"]
        products(Matrix(s.batch, lambda n, k: read(self._state, state, n, k)),
                 Matrix(s.hidden, lambda j, k: read(r, self._index, gate * s.hidden + j, k)), s.hidden, s.dtype,
                 start, store)

    def _step(self, base: Expr, step: Expr, y: Memory) -> None:
        s = self._shape
        first = step * s.batch  # the row of sample 0

        def add(state: int, gate: Expr) -> None:
            self._recur(state, gate, lambda n, j: read(self._gates, first + n, gate, j),
                        lambda n, j, value: write(self._gates, value, first + n, gate, j))

        with loop(2 if self._node.op == "GRU" else s.gates) as gate:
            add(_H, gate)
        if self._node.op == "GRU":
            self._reset(first, add)
        self._each_vector(lambda n, j: self._update(first, n, j))
        time = self._time(base + step)
        with loop(s.batch) as n, loop(s.hidden) as j:
            place = (n, time, self._index) if s.batch_first else (time, self._index, n)
            write(y, read(self._state, _H, n, j), *place, j)

    def _reset(self, first: Expr, add: Callable[[int, Expr], None]) -> None:
        """GRU's reset gate, and the products of the new state's gate."""
        s = self._shape
        if self._late_reset:
            bias = self._given["b"]
            self._recur(_H, 2,
                        lambda _n, j: constant(0, s.dtype) if bias is None else self._bias(2, j, True),
                        lambda n, j, value: write(self._state, value, _EXTRA, n, j))

        def reset(n: Expr, j: Expr) -> None:
            row = first + n
            self._activate(0, row, 1, j)
            r = read(self._gates, row, 1, j)
            if self._late_reset:
                write(self._gates, read(self._gates, row, 2, j) + r * read(self._state, _EXTRA, n, j), row, 2, j)
            else:
                write(self._state, r * read(self._state, _H, n, j), _EXTRA, n, j)

        self._each_vector(reset)
        if not self._late_reset:
            add(_EXTRA, 2)

    def _each_vector(self, body: Callable[[Expr, Expr], None]) -> None:
        s = self._shape
        lanes = vectorized(s.vector) if s.vector > 1 else nullcontext(0)
        with loop(s.batch) as n, loop(s.padded // s.vector) as block, lanes as lane:
            body(n, block * s.vector + lane)

    def _activate(self, function: int, row: Expr, gate: int, j: Expr) -> None:
        """gates[row, gate, j] = activation of itself, in statements of its own: TVM is slow on long expressions."""
        if self._clip:
            low, high = constant(-self._clip, self._shape.dtype), constant(self._clip, self._shape.dtype)
            x = read(self._gates, row, gate, j)
            write(self._gates, select(x < low, low, select(x > high, high, x)), row, gate, j)
        write(self._gates, element(lambda: self._functions[function](read(self._gates, row, gate, j))), row, gate, j)

    def _update(self, first: Expr, n: Expr, j: Expr) -> None:
        """New state from the gates, for one element of each sample."""
        row = first + n
        one = constant(1, self._shape.dtype)

        def gate(index: int) -> Expr:
            return read(self._gates, row, index, j)

        if self._node.op == "RNN":
            self._activate(0, row, 0, j)
            write(self._state, gate(0), _H, n, j)
        elif self._node.op == "GRU":
            self._activate(0, row, 0, j)
            self._activate(1, row, 2, j)
            write(self._state, (one - gate(0)) * gate(2) + gate(0) * read(self._state, _H, n, j), _H, n, j)
        else:
            self._peep((0, 2), row, n, j)
            for function, index in ((0, 0), (0, 2), (1, 3)):
                self._activate(function, row, index, j)
            forget = one - gate(0) if self._node.integer("input_forget", 0) else gate(2)
            write(self._state, forget * read(self._state, _C, n, j) + gate(0) * gate(3), _C, n, j)
            self._peep((1,), row, n, j)
            self._activate(0, row, 1, j)
            write(self._state, element(lambda: gate(1) * self._functions[2](read(self._state, _C, n, j))), _H, n, j)

    def _peep(self, gates: tuple[int, ...], row: Expr, n: Expr, j: Expr) -> None:
        """Add the cell's share to gates (i, o, f). Lanes beyond the hidden size are nobody's."""
        s, p = self._shape, self._given["p"]
        inside = j if s.padded == s.hidden else tirx.min(j, tirx.const(s.hidden - 1, "int32"))
        for gate in gates if p is not None else ():
            share = read(p, self._index, gate * s.hidden + inside) * read(self._state, _C, n, j)
            write(self._gates, read(self._gates, row, gate, j) + share, row, gate, j)


# -- the ops ----------------------------------------------------------------------------------------------------------

_INPUTS = {"LSTM": "xwrb_hcp", "GRU": "xwrb_h", "RNN": "xwrb_h"}  # names of the inputs; _ is sequence_lens


def _shape(node: Node) -> _Shape:
    x, r = node.operand(0), node.operand(2)
    batch_first = bool(node.integer("layout", 0))
    batch, steps = (x.shape[0], x.shape[1]) if batch_first else (x.shape[1], x.shape[0])
    return _Shape(steps, batch, x.shape[2], r.shape[2], _GATES[node.op], dtype_name(x.dtype), batch_first,
                  _VECTOR if has_vectors() else 1)


def _compute(node: Node, tensors: Inputs) -> Tensors:
    shape = _shape(node)
    present = {name: t for name, t in zip(_INPUTS[node.op], tensors, strict=False) if t is not None and name != "_"}
    names = list(present)
    directions = node.operand(1).shape[0]

    def body(ins: list[Memory], outs: list[Memory]) -> None:
        given: dict[str, Memory | None] = dict.fromkeys("xwrbhcp")
        given.update(zip(names, ins, strict=True))
        functions = _activations(node, shape.dtype)
        half = len(functions) // directions
        if _names(node)[:half] == _names(node)[half:] and "activation_alpha" not in node.attributes:
            with loop(directions) as index:
                _Direction(node, shape, index, functions[:half], given).write(outs)
        else:
            for index in range(directions):
                _Direction(node, shape, index, functions[index * half:][:half], given).write(outs)

    return written(node.op.lower(), list(present.values()), node.outputs, body)


def _refuse(node: Node) -> Reason | None:
    unknown = [n for n in _names(node) if n not in _ACTIVATIONS]
    if unknown:
        return "tvm.no_lowering", f"{node.op} has no activation {unknown[0]}"
    if dtype_name(node.operand(0).dtype) not in ("float32", "float64"):
        return "tvm.dtype", f"{node.op} is computed in float32 or float64, not {dtype_name(node.operand(0).dtype)}"
    shape = _shape(node)
    if 0 in (shape.steps, shape.batch, shape.inputs, shape.hidden):
        return "tvm.no_lowering", f"{node.op} of an empty tensor"
    lengths = node.input(4)
    if lengths is None:
        return None
    if lengths.const is None:
        return "tvm.dynamic_parameter", f"input 4 of {node.op} ({lengths.name}) is computed at run time, not a constant"
    if any(int(v) != shape.steps for v in lengths.const.reshape(-1)):
        return "tvm.no_lowering", f"{node.op} has sequences of different lengths"
    return None


LOWERINGS: dict[str, Lowering] = {op: Lowering(_compute, _refuse) for op in _GATES}
