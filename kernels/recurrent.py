"""LSTM, GRU and RNN with constant weights: a product of all inputs with W, then step by step vectors times R.

Computes: for each direction the gates of every step, W x + b, as one matrix product; then for each step, for tiles of
          hidden units, the units' rows of R times the state, with all gates of a unit in registers at once, so that
          activations and the new state follow without a detour through memory.
Layouts:  x plain [t, n, i]; y [t, d, n, h], last states [d, n, h]. Weights, packed at build time: for each direction,
          for tiles of unit vectors [k, vectors, gates, lanes]; numbers beyond h are 0. A row of gates in the workspace
          is [vectors, gates, lanes]. Inputs in bytes become floats in workspaces first, outputs on a grid are rounded
          as they are written.
Applies when: values are float32, or in bytes with one scale; W, R and B constant; every sequence is whole; the
          activations are the default ones, without clip, peepholes or coupled gates; layout 0; the gates of all steps
          take at most `_MOST` bytes.
Numerics: float32 accumulation: W x + b (GRU's linear_before_reset: without R's bias of the new state) first, then R h
          in the order of h.
Source:   ONNX operators LSTM, GRU, RNN, opset 22.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from edgec.kernels import quantized
from edgec.kernels.emit import (
    Buffer,
    Expr,
    Writer,
    broadcast,
    lane,
    lanes,
    load,
    local,
    loop,
    parallel,
    splat,
    store,
    unrolled,
    vectorized,
    write,
)
from edgec.kernels.epilogue import Lower, Reader, inlined
from edgec.kernels.machine import Machine, known_machine, machine, split_even
from edgec.kernels.matmul import pack_columns
from edgec.kernels.program import Constant, Input, Output, TensorProgram, Workspace
from edgec.kernels.window import pick, runs

from edgec.ir.graph import Node, Value
from edgec.ir.types import DType, Quant
from edgec.plan.layout import Demand
from edgec.plan.plan import Kernel
from edgec.target import Target

ALGORITHM = "recurrent"
Place = tuple[Expr, Expr, Expr]  # direction, sample, a vector of units
Finish = Callable[[Place, Expr, Buffer, Expr], None]  # place, time, registers with its gates, where they begin
_GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
_ACTIVATIONS = {"LSTM": ["Sigmoid", "Tanh", "Tanh"], "GRU": ["Sigmoid", "Tanh"], "RNN": ["Tanh"]}  # of a direction
_SAMPLES = 4  # that share a pass over R
_MOST = 1 << 23  # of the workspace; longer sequences go by the generic way, in chunks


@dataclass(frozen=True)
class Recurrence:
    """The extents. late: GRU's reset gate is applied after the product with R."""

    op: str
    steps: int
    batch: int
    inputs: int
    hidden: int
    directions: int
    late: bool

    @property
    def gates(self) -> int:
        """Rows of W for one hidden unit."""
        return _GATES[self.op]


def describe(node: Node) -> Recurrence:
    """The extents of a node."""
    steps, batch, inputs = node.operand(0).shape
    directions, _, hidden = node.operand(2).shape
    late = node.op == "GRU" and bool(node.integer("linear_before_reset", 0))
    return Recurrence(node.op, steps, batch, inputs, hidden, directions, late)


def refuse(kernel: Kernel, target: Target) -> str | None:
    """Why this kernel does not apply, None if it does."""
    cpu, node = machine(target), kernel.nodes[0]
    if cpu is None:
        return "the core has no vectors of 4 floats"
    if len(kernel.nodes) != 1 or node.op not in _GATES:
        return "the kernel is not one recurrent net"
    for value in (*kernel.inputs, *kernel.outputs):
        if value.dtype is not DType.FLOAT32 or not value.type.is_static or 0 in value.shape:
            return f"{value.name} is not float32 of known shape"
    if (reason := quantized.why_not_bytes((*kernel.inputs, *kernel.outputs))) is not None:
        return reason
    if any(v is not None and v.const is None for v in (node.operand(1), node.operand(2), node.input(3))):
        return "the weights are computed"
    special = [name for name in ("activation_alpha", "activation_beta", "clip", "input_forget", "layout")
               if node.attributes.get(name)]
    if not _by_default(node):
        special.append("activations")
    if special or node.input(7) is not None:
        return f"the net has {', '.join(special) or 'peepholes'}"
    size = describe(node)
    lengths = node.input(4)
    if lengths is not None and (lengths.const is None or (lengths.const != size.steps).any()):
        return "sequences may be shorter than the tensor"
    if 4 * size.directions * size.steps * size.batch * size.gates * -(-size.hidden // cpu.lanes) * cpu.lanes > _MOST:
        return "the sequence is so long that its gates do not stay in a cache"
    return None


def _by_default(node: Node) -> bool:
    """True if the activations are those that the op has without being told."""
    given: Any = node.attributes.get("activations") or []
    names = [name.decode() if isinstance(name, bytes) else str(name) for name in given]
    usual = _ACTIVATIONS[node.op]
    return all(name.lower() == usual[index % len(usual)].lower() for index, name in enumerate(names))


def demand(kernel: Kernel, target: Target) -> Demand:
    """Everything plain."""
    return Demand()


def build(kernel: Kernel, target: Target, lower: Lower) -> TensorProgram:
    """The program for a kernel that `refuse` lets pass."""
    cpu = known_machine(target)
    return write(kernel.name, lambda writer: _Recurrent(kernel, cpu, lower, writer).body(), ALGORITHM)


def by_units(array: np.ndarray, gates: int, block: int) -> np.ndarray:
    """[gates * h, k] -> [k, vectors * gates * block]: the gates of a vector of units side by side, 0 beyond h."""
    hidden, k = array.shape[0] // gates, array.shape[1]
    vectors = -(-hidden // block)
    padded = np.zeros((gates, vectors * block, k), np.float32)
    padded[:, :hidden] = array.reshape(gates, hidden, k)
    return padded.reshape(gates, vectors, block, k).transpose(3, 1, 0, 2).reshape(k, -1)


@dataclass(frozen=True)
class _Product:
    """Rows of R for some gates, for every direction, packed by tiles of `tile` unit vectors. size: of a direction."""

    weights: Buffer
    gates: int
    tile: int
    size: int


class _Recurrent:
    """Writes one program."""

    def __init__(self, kernel: Kernel, cpu: Machine, lower: Lower, writer: Writer) -> None:
        node = kernel.nodes[0]
        self.cpu, self.size, self.node = cpu, describe(node), node
        size, b = self.size, cpu.lanes
        self.vectors = -(-size.hidden // b)
        self.sigmoid, self.tanh = (inlined(op, lower, b) for op in ("Sigmoid", "Tanh"))
        self.stored: list[tuple[Buffer, Quant, Buffer]] = []  # inputs in bytes, and their numbers
        self.x = self._input(writer, node.operand(0), (size.steps * size.batch, size.inputs))
        w, r = (np.asarray(node.operand(i).const, np.float32) for i in (1, 2))
        both = np.zeros((size.directions, 2, size.gates * size.hidden), np.float32)
        if node.input(3) is not None:
            both = np.asarray(node.operand(3).const, np.float32).reshape(both.shape)
        own, recurrent = both[:, 0].copy(), both[:, 1].copy()
        kept = (size.gates - size.late) * size.hidden  # biases of R that can be added to W's at once
        own[:, :kept] += recurrent[:, :kept]
        self.columns = self.vectors * size.gates  # vectors of a row of gates
        self.w_tile = min(self.columns, 2)
        self.w = self._constant(writer, [pack_columns(by_units(m, size.gates, b), b, self.w_tile) for m in w])
        self.bias = self._constant(writer, [by_units(m[:, None], size.gates, b) for m in own])
        self.late_bias = None
        if size.late:
            self.late_bias = self._constant(writer, [by_units(m[2 * size.hidden:, None], 1, b) for m in recurrent])
        groups = [r] if size.op != "GRU" or size.late else [r[:, :2 * size.hidden], r[:, 2 * size.hidden:]]
        self.products = [self._product(writer, group) for group in groups]
        self.gates = writer.pointer(Workspace(4 * size.directions * size.steps * size.batch * self.columns * b),
                                    (size.directions, size.steps * size.batch, self.columns * b))
        state = (size.directions, size.batch, self.vectors * b)
        self.h, self.new, self.extra, self.c = (writer.pointer(Workspace(4 * prod(state)), state) for _ in range(4))
        self.starts = [self._initial(writer, node.input(i)) for i in (5, 6)]
        wanted = {id(v) for v in kernel.outputs}
        self.outputs = [writer.pointer(Output(v), v.shape, quantized.dtype(v)) if id(v) in wanted else None
                        for v in node.outputs]
        self.grids = [v.quant for v in node.outputs]
        self.outputs += [None] * (3 - len(self.outputs))

    def _constant(self, writer: Writer, arrays: list[np.ndarray]) -> Buffer:
        whole = np.ascontiguousarray(np.concatenate([a.reshape(-1) for a in arrays]), np.float32)
        return writer.pointer(Constant(whole), whole.shape)

    def _product(self, writer: Writer, r: np.ndarray) -> _Product:
        gates = r.shape[1] // self.size.hidden
        rows = min(self.size.batch, _SAMPLES)
        tile = max(1, min(self.vectors, (self.cpu.registers - 6) // (gates * rows)))
        if self.vectors % tile:
            tile = max(length for _, length in split_even(self.vectors, tile))
        packed = []
        for matrix in r:
            columns, step = by_units(matrix, gates, self.cpu.lanes), gates * self.cpu.lanes
            packed += [columns[:, first * step:(first + count) * step].reshape(-1)
                       for first, count in split_even(self.vectors, tile)]
        return _Product(self._constant(writer, packed), gates, tile,
                        self.size.hidden * self.vectors * gates * self.cpu.lanes)

    def _initial(self, writer: Writer, value: Value | None) -> Buffer | None:
        shape = (self.size.directions, self.size.batch, self.size.hidden)
        if value is None or (value.const is not None and not value.const.any()):
            return None
        if value.const is not None:
            return writer.pointer(Constant(np.ascontiguousarray(value.const)), shape)
        return self._input(writer, value, shape)

    def _input(self, writer: Writer, value: Value, shape: tuple[int, ...]) -> Buffer:
        """The numbers of a value that is computed elsewhere."""
        given = writer.pointer(Input(value), shape, quantized.dtype(value))
        if value.quant is None:
            return given
        numbers = writer.pointer(Workspace(4 * prod(shape)), shape)
        self.stored.append((given, value.quant, numbers))
        return numbers

    def _read(self) -> None:
        """The numbers of all inputs in bytes."""
        b = self.cpu.lanes
        for given, quant, numbers in self.stored:
            whole, rest = divmod(given.shape[-1], b)
            with parallel(*given.shape[:-1]) as row:
                for first, count, width in ((0, whole, b), (whole * b, rest > 0, rest)):
                    if count:
                        with loop(count) as v, vectorized(width) as e:
                            place = (*row, first + v * width + e)
                            store(numbers, quantized.dequantized(load(given, *place), quant), *place)

    def body(self) -> None:
        """The gates of all steps; then each direction's steps. Threads share tiles of the first, and directions."""
        size = self.size
        self._read()
        pieces = split_even(self.columns, self.w_tile)
        with parallel(size.directions, len(pieces)) as (d, piece):
            for first, vectors in pick(piece, runs(pieces)):
                for row, count, rows in runs(split_even(size.steps * size.batch, self._rows(vectors))):
                    with loop(count) as t:
                        self._project(d, first, vectors, row + t * rows, rows)
        with parallel(size.directions) as (d,):
            self._start(d)
            with loop(size.steps) as step:
                self._step(d, self._time(d, step))
            for index, state in ((1, self.h), (2, self.c)):
                if self.outputs[index] is not None:
                    with loop(size.batch) as n:
                        self._hand_out(index, (d, n), state, (d, n))

    def _rows(self, vectors: int) -> int:
        return max(rows for rows in range(1, 15) if self.cpu.fits(rows, vectors))

    def _time(self, d: Expr, step: Expr) -> Expr:
        backward = self.size.steps - 1 - step
        direction = self.node.text("direction", "forward")
        if direction == "bidirectional":
            return step + d * (backward - step)
        return backward if direction == "reverse" else step

    def _sum(self, rows: int, vectors: int, depth: int, accumulators: Buffer, number: Callable[[Expr, Expr], Expr],
             chunk: Callable[[Expr, Expr], Expr], weight: Callable[[Expr, Expr], Expr]) -> None:
        """accumulators[i, v] += sum over k of a[i, k] * weight(k, v); number, chunk: one, `lanes` of a."""
        b = self.cpu.lanes

        def step(k: Expr, factor: Callable[[Expr], Expr]) -> None:
            with unrolled(rows) as i, unrolled(vectors) as v:
                place = lanes((i * vectors + v) * b, b)
                store(accumulators, load(accumulators, place) + broadcast(factor(i), b) * weight(k, v), place)

        done = 0
        if self.cpu.by_element and depth >= b:
            with loop(depth // b) as c, unrolled(b) as u:
                step(c * b + u, lambda i: lane(chunk(i, c * b), u))
            done = depth // b * b
        for first, count, unroll in runs(split_even(depth - done, 2)) if depth > done else ():
            with loop(count) as c, unrolled(unroll) as u:
                k = done + first + c * unroll + u
                step(k, lambda i, k=k: number(i, k))  # type: ignore[misc]

    def _project(self, d: Expr, first: Expr, vectors: int, row: Expr, rows: int) -> None:
        """gates[row, first] = bias + W x."""
        size, b = self.size, self.cpu.lanes
        accumulators = local(rows * vectors * b)
        with unrolled(rows) as i, unrolled(vectors) as v:
            store(accumulators, load(self.bias, lanes((d * self.columns + first + v) * b, b)),
                  lanes((i * vectors + v) * b, b))
        base = (d * self.columns + first) * (size.inputs * b)
        self._sum(rows, vectors, size.inputs, accumulators, lambda i, k: load(self.x, row + i, k),
                  lambda i, k: load(self.x, row + i, lanes(k, b)),
                  lambda k, v: load(self.w, lanes(base + (k * vectors + v) * b, b)))
        with unrolled(rows) as i, unrolled(vectors) as v:
            value = load(accumulators, lanes((i * vectors + v) * b, b))
            store(self.gates, value, d, row + i, lanes((first + v) * b, b))

    def _start(self, d: Expr) -> None:
        b = self.cpu.lanes
        for state, initial in zip((self.h, self.c), self.starts, strict=True):
            with loop(self.size.batch) as n:
                with loop(self.vectors) as v:
                    store(state, splat(0, b), d, n, lanes(v * b, b))
                if initial is not None:
                    self._take(initial, state, (d, n))

    def _pieces(self, move: Callable[[Expr, int], None]) -> None:
        """Write `move(first, count)` for all vectors of the `hidden` numbers of a row."""
        b, hidden = self.cpu.lanes, self.size.hidden
        if hidden // b:
            with loop(hidden // b) as v:
                move(v * b, b)
        if hidden % b:
            move(hidden // b * b, hidden % b)

    def _take(self, plain: Buffer, padded: Buffer, row: tuple[Expr, ...]) -> None:
        """A plain row to a padded one."""
        self._pieces(lambda start, count: store(padded, load(plain, *row, lanes(start, count)), *row,
                                                lanes(start, count)))

    def _hand_out(self, index: int, place: tuple[Expr, ...], padded: Buffer, row: tuple[Expr, ...]) -> None:
        """A padded row to a plain one of an output, on its grid."""
        output, grid = self.outputs[index], self.grids[index]
        assert output is not None  # the callers look

        def move(start: Expr, count: int) -> None:
            if grid is None:
                store(output, load(padded, *row, lanes(start, count)), *place, lanes(start, count))
                return
            with vectorized(count) as e:
                store(output, quantized.quantized(load(padded, *row, start + e), grid, self.cpu), *place, start + e)

        self._pieces(move)

    def _step(self, d: Expr, time: Expr) -> None:
        """The new state and the output of one step."""
        size = self.size
        if size.op == "GRU" and not size.late:
            self._tiles(d, time, self.products[0], 0, self.h, self._reset)
            self._tiles(d, time, self.products[1], 2, self.extra, self._candidate)
        else:
            update = {"LSTM": self._lstm, "GRU": self._gru, "RNN": self._rnn}[size.op]
            self._tiles(d, time, self.products[0], 0, self.h, update)
        with loop(size.batch) as n:
            with loop(self.vectors) as v:
                place = (d, n, lanes(v * self.cpu.lanes, self.cpu.lanes))
                store(self.h, load(self.new, *place), *place)
            if self.outputs[0] is not None:
                self._hand_out(0, (time, d, n), self.h, (d, n))

    def _tiles(self, d: Expr, time: Expr, product: _Product, gate: int, state: Buffer, finish: Finish) -> None:
        """All units: the gates from `gate` on, W's share plus R times `state`, and what follows from them."""
        for sample, repeats, rows in runs(split_even(self.size.batch, _SAMPLES)):
            for first, count, vectors in runs(split_even(self.vectors, product.tile)):
                with loop(repeats) as t, loop(count) as tile:
                    n, vector = sample + t * rows, first + tile * vectors
                    accumulators = self._units(d, time, product, gate, state, n, rows, vector, vectors)
                    with unrolled(rows) as i, unrolled(vectors) as v:
                        base = (i * vectors + v) * product.gates * self.cpu.lanes
                        finish((d, n + i, lanes((vector + v) * self.cpu.lanes, self.cpu.lanes)), time, accumulators,
                               base)

    def _units(self, d: Expr, time: Expr, product: _Product, gate: int, state: Buffer, n: Expr, rows: int,
               vector: Expr, vectors: int) -> Buffer:
        """A register tile: [rows, vectors, gates, lanes]."""
        size, b, gates = self.size, self.cpu.lanes, product.gates
        accumulators = local(rows * vectors * gates * b)
        for g in range(gates):
            with unrolled(rows) as i, unrolled(vectors) as v:
                if size.late and g == 2:  # W's share comes after the reset gate
                    start = load(self.late_bias, lanes((d * self.vectors + vector + v) * b, b))
                else:
                    start = self._given(d, time, n + i, vector + v, gate + g)
                store(accumulators, start, lanes(((i * vectors + v) * gates + g) * b, b))
        width = vectors * gates
        base = d * product.size + vector * (size.hidden * gates * b)
        self._sum(rows, width, size.hidden, accumulators, lambda i, k: load(state, d, n + i, k),
                  lambda i, k: load(state, d, n + i, lanes(k, b)),
                  lambda k, v: load(product.weights, lanes(base + (k * width + v) * b, b)))
        return accumulators

    def _given(self, d: Expr, time: Expr, n: Expr, vector: Expr, gate: int) -> Expr:
        """W's share of a gate."""
        place = (vector * self.size.gates + gate) * self.cpu.lanes
        return load(self.gates, d, time * self.size.batch + n, lanes(place, self.cpu.lanes))

    def _apply(self, function: Callable[[Reader], Reader], buffer: Buffer, base: Expr) -> Expr:
        """One vector of registers, after an activation in place."""
        b = self.cpu.lanes
        with vectorized(b) as e:
            store(buffer, function(lambda i: load(buffer, base + i))(e), base + e)
        return load(buffer, lanes(base, b))

    def _lstm(self, place: Place, _time: Expr, gates: Buffer, base: Expr) -> None:
        b = self.cpu.lanes
        i, o, f = (self._apply(self.sigmoid, gates, base + g * b) for g in range(3))
        g = self._apply(self.tanh, gates, base + 3 * b)
        cell = local(b)
        store(cell, f * load(self.c, *place) + i * g, lanes(0, b))
        store(self.c, load(cell, lanes(0, b)), *place)
        store(self.new, o * self._apply(self.tanh, cell, 0), *place)

    def _gru(self, place: Place, time: Expr, gates: Buffer, base: Expr) -> None:
        b = self.cpu.lanes
        z, r = (self._apply(self.sigmoid, gates, base + g * b) for g in range(2))
        new = local(b)
        vector = place[2].base // b
        store(new, self._given(place[0], time, place[1], vector, 2) + r * load(gates, lanes(base + 2 * b, b)),
              lanes(0, b))
        self._mix(place, z, self._apply(self.tanh, new, 0))

    def _reset(self, place: Place, _time: Expr, gates: Buffer, base: Expr) -> None:
        z, r = (self._apply(self.sigmoid, gates, base + g * self.cpu.lanes) for g in range(2))
        store(self.c, z, *place)  # GRU has no cell
        store(self.extra, r * load(self.h, *place), *place)

    def _candidate(self, place: Place, _time: Expr, gates: Buffer, base: Expr) -> None:
        self._mix(place, load(self.c, *place), self._apply(self.tanh, gates, base))

    def _mix(self, place: Place, z: Expr, candidate: Expr) -> None:
        store(self.new, (splat(1, self.cpu.lanes) - z) * candidate + z * load(self.h, *place), *place)

    def _rnn(self, place: Place, _time: Expr, gates: Buffer, base: Expr) -> None:
        store(self.new, self._apply(self.tanh, gates, base), *place)
