"""The golden set of a bundle: inputs, the outputs that the original model gives, and how far an engine may be off.

Tolerance: per output, 1e-4 of the largest magnitude of the reference (never below a few units of its own type);
0 for integers, booleans and strings. A NaN must meet a NaN, an infinity the same infinity.
An engine that computes in float16 is held against the float32 model; its backend says how far it may be off, from the
lengths of its sums and the transforms of its convolutions (`backends/tvm/rounding.py`), and `loosened` applies that.
Some models magnify rounding on some inputs so much that two correct float32 engines differ by more. So the reference is
held against the model in double precision, and an engine may always be off by four times the reference's own error.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from edgec.errors import UserError
from edgec.interchange.npz import read_npz, write_npz
from edgec.ir.double import in_double_precision
from edgec.ir.graph import Graph, Value
from edgec.ir.types import DType, TensorType

RELATIVE = 1e-4  # of the largest magnitude of an output
_ABSOLUTE = 1e-8  # keeps outputs that are zero up to rounding from failing
_OF_REFERENCE = 4  # times the reference's own rounding error; the largest seen was 2 (YOLOX-nano, inputs in 0..1)
_DOUBLE_MACS = 4 << 30  # multiply-adds that may be spent on double precision; ResNet-18 has 1.8 G, two samples take 1 s
_WEAK = 0.1  # of an output's largest magnitude; what engines in float16 may be off is a few hundredths
_UNITS = 4  # units in the last place that a 16-bit output may be off
_FREE_INTEGERS = 10  # integers of no known range are drawn below this
_LEGIBLE = " !#$&'()*+,-.:;<=>?@[]^_`{|}~"  # characters of tensor names that stay as they are in golden.npz

Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Check:
    """How one output compares with its reference. error: largest absolute difference (infinity where a NaN, an
    infinity or a shape is wrong); sample: where it is.
    """

    name: str
    error: float
    tolerance: float
    magnitude: float
    sample: int

    @property
    def ok(self) -> bool:
        """True if the output is within its tolerance."""
        return self.error <= self.tolerance

    @property
    def weak(self) -> bool:
        """True if the tolerance is so large a share of the numbers that the check would not notice much."""
        return self.tolerance > _WEAK * self.magnitude


@dataclass(frozen=True)
class Golden:
    """Samples of inputs with their reference outputs, by name, and the tolerance of each output."""

    inputs: tuple[Arrays, ...]
    outputs: tuple[Arrays, ...]
    tolerance: Mapping[str, float]

    def only(self, samples: Sequence[int]) -> Golden:
        """The set with these of its samples, counted from 0."""
        return Golden(tuple(self.inputs[i] for i in samples), tuple(self.outputs[i] for i in samples), self.tolerance)

    def loosened(self, relative: float) -> Golden:
        """The set with tolerances of at least `relative` times the largest magnitude of each float output: for engines
        that compute in fewer bits than the reference.
        """
        return Golden(self.inputs, self.outputs, {
            name: max(old, relative * max(magnitude(s[name]) for s in self.outputs))
            if old else old for name, old in self.tolerance.items()})

    def check(self, run: Callable[[Arrays], Mapping[str, np.ndarray]]) -> list[Check]:
        """Run every sample and compare: one Check per output, the worst of all samples."""
        worst: dict[str, tuple[float, int]] = {}
        for index, (feeds, expected) in enumerate(zip(self.inputs, self.outputs, strict=True)):
            results = run(feeds)
            for name, reference in expected.items():
                error = difference(results[name], reference)
                if name not in worst or error > worst[name][0]:
                    worst[name] = (error, index)
        return [Check(name, error, self.tolerance[name], max(magnitude(s[name]) for s in self.outputs), index)
                for name, (error, index) in worst.items()]

    def write(self, path: Path) -> None:
        """Write the set as .npz: `inputs/0/NAME`, `outputs/0/NAME`, ... and `tolerance/NAME`. Same set, same bytes."""
        arrays = {f"tolerance/{quote(n, _LEGIBLE)}": np.float64(t) for n, t in self.tolerance.items()}
        for kind, samples in (("inputs", self.inputs), ("outputs", self.outputs)):
            for index, sample in enumerate(samples):
                arrays.update({f"{kind}/{index}/{quote(name, _LEGIBLE)}": a for name, a in sample.items()})
        write_npz(path, arrays)

    @classmethod
    def read(cls, path: Path, inputs: Mapping[str, TensorType], outputs: Mapping[str, TensorType]) -> Golden:
        """Read what `write` wrote. Raises UserError for a file that is not such a set."""
        arrays = read_npz(path)
        count = len({name.split("/")[1] for name in arrays if name.startswith(("inputs/", "outputs/"))})

        def sample(kind: str, index: int, types: Mapping[str, TensorType]) -> Arrays:
            return {n: _restore(arrays[f"{kind}/{index}/{quote(n, _LEGIBLE)}"], t.dtype) for n, t in types.items()}

        try:
            return cls(tuple(sample("inputs", i, inputs) for i in range(count)),
                       tuple(sample("outputs", i, outputs) for i in range(count)),
                       {n: float(arrays[f"tolerance/{quote(n, _LEGIBLE)}"]) for n in outputs})
        except (KeyError, ValueError) as error:
            raise UserError("the golden set does not fit the bundle", where=str(path), expected=f"an entry {error}",
                            hint="build the bundle again") from error


def difference(result: np.ndarray, reference: np.ndarray) -> float:
    """Largest absolute difference; infinity for another shape, a wrong NaN or infinity, or unequal strings."""
    if result.shape != reference.shape:
        return float("inf")
    if reference.dtype.kind in "OSUT":
        return 0.0 if (result.astype(object) == reference.astype(object)).all() else float("inf")
    wide = np.complex128 if reference.dtype.kind == "c" else np.float64
    a, b = result.astype(wide), reference.astype(wide)
    finite = np.isfinite(b)
    if not np.array_equal(a[~finite], b[~finite], equal_nan=True) or not np.isfinite(a[finite]).all():
        return float("inf")
    return float(np.abs(a[finite] - b[finite]).max(initial=0.0))


def magnitude(reference: np.ndarray) -> float:
    """Largest finite magnitude; 0 for strings."""
    if reference.dtype.kind in "OSUT":
        return 0.0
    values = np.abs(reference.astype(np.complex128 if reference.dtype.kind == "c" else np.float64))
    return float(values[np.isfinite(values)].max(initial=0.0))


def make_golden(graph: Graph, original: bytes, *, given: Path | None = None, samples: int = 4,
                seed: int = 0) -> Golden:
    """The golden set of a model: inputs from the file `given` or drawn, outputs from `original` in ONNX Runtime.

    Raises UserError if the file does not fit, or if ONNX Runtime cannot run the model on these inputs.
    """
    from edgec.interchange.session import open_session, run_session

    feeds = chosen_inputs(graph, given, samples, seed)
    session = open_session(original)
    names = [v.name for v in graph.outputs]
    outputs = []
    try:
        for sample in feeds:
            results = run_session(session, sample)
            outputs.append({name: np.asarray(results[name]) for name in names})
    except UserError as error:
        if given is None:
            raise UserError("the model fails on random inputs", where=error.where,
                            hint="give it real ones with --golden FILE.npz (one array per input name)") from error
        raise
    rounding = reference_error(graph, feeds, outputs)
    return Golden(tuple(feeds), tuple(outputs), {
        n: max(_tolerance([o[n] for o in outputs]), _OF_REFERENCE * rounding.get(n, 0.0)) for n in names})


def chosen_inputs(graph: Graph, given: Path | None, samples: int, seed: int) -> list[Arrays]:
    """Inputs from the file `given`, or `samples` drawn ones. Raises UserError if the file does not fit."""
    if given is not None:
        return list(read_inputs(given, graph.inputs))
    return [{v.name: draw(v, seed + index) for v in graph.inputs} for index in range(samples)]


def golden_on_grids(graph: Graph, feeds: Sequence[Arrays], *, exact: bool = True) -> Golden:
    """The golden set of a graph whose activations lie on integer grids: outputs from `ir.interpret`, its meaning.

    Integer kernels must meet it bit for bit. Where float sums or functions come before a grid, their last bits decide
    some roundings: then, and for an engine that is not `exact`, the tolerance is also four times what ONNX Runtime,
    which rounds in its own way, is off.
    Raises UserError if ONNX Runtime cannot run the graph.
    """
    from edgec.interchange.onnx_export import to_model
    from edgec.interchange.session import open_session, run_session
    from edgec.ir.interpret import interpret

    names = [v.name for v in graph.outputs]
    outputs = [{n: results[n] for n in names} for results in (interpret(graph, f) for f in feeds)]
    tolerance = {n: _tolerance([o[n] for o in outputs]) for n in names}
    if not exact or _floats_before_a_grid(graph):
        session = open_session(to_model(graph).SerializeToString())
        for sample, expected in zip(feeds, outputs, strict=True):
            other = run_session(session, sample)
            for name in names:
                error = difference(other[name], expected[name])
                if tolerance[name] and np.isfinite(error):
                    tolerance[name] = max(tolerance[name], _OF_REFERENCE * error)
    return Golden(tuple(feeds), tuple(outputs), tolerance)


def _floats_before_a_grid(graph: Graph) -> bool:
    """True if a value lies on a grid whose numbers come through float sums or functions, which engines round alike only
    up to the last bits. Exact products, moves, and arithmetic of single elements do not count.
    """
    from edgec.ir.grouping import groups
    from edgec.ir.quantize import product_scale
    from edgec.ops import KernelRole, QuantRole, table

    inexact: set[int] = set()
    for group in groups(graph):
        spec = table.find(group.anchor) if group.anchor is not None else None
        exact = spec is None or (product_scale(group.anchor) is not None if spec.quant is QuantRole.COMPUTE
                                 and group.anchor is not None else group.output.quant is not None)
        roles = {table.role(n) for n in group.nodes}
        quants = {s.quant for n in group.nodes if (s := table.find(n)) is not None}
        mathematical = KernelRole.OPAQUE in roles or QuantRole.FLOAT in quants
        if not exact or mathematical or any(id(v) in inexact for n in group.nodes for v in n.input_values):
            if any(v.quant is not None for n in group.nodes for v in n.outputs):
                return True
            inexact.update(id(v) for n in group.nodes for v in n.outputs)
    return False


def reference_error(graph: Graph, feeds: Sequence[Arrays], outputs: Sequence[Arrays]) -> dict[str, float]:
    """How far the float32 outputs are from those of `graph` in double precision, at the worst of all samples.

    Empty where that is not known: nothing to gain (no float32 output), a model too large to compute slowly, a quantized
    graph, or an op without reference. Samples after the first are left out once `_DOUBLE_MACS` are spent.
    """
    from edgec.ir.interpret import interpret
    from edgec.ops import table

    names = [v.name for v in graph.outputs if v.dtype is DType.FLOAT32]
    cost = sum(table.macs(node) for node in graph.nodes)
    errors: dict[str, float] = {}
    if not names or cost > _DOUBLE_MACS:
        return errors
    try:
        twin = in_double_precision(graph)
        for sample, expected in list(zip(feeds, outputs, strict=True))[:max(1, _DOUBLE_MACS // max(cost, 1))]:
            exact = interpret(twin, {v.name: sample[v.name].astype(v.dtype.numpy) for v in twin.inputs})
            for name in names:
                error = difference(expected[name], exact[name])
                if np.isfinite(error):
                    errors[name] = max(error, errors.get(name, 0.0))
    except (NotImplementedError, ValueError):
        return {}
    return errors


def _tolerance(references: Sequence[np.ndarray]) -> float:
    dtype = DType.of(references[0])
    if not dtype.is_float and not dtype.value.startswith("complex"):
        return 0.0
    relative = RELATIVE
    if dtype.itemsize <= 2:
        import ml_dtypes

        relative = max(RELATIVE, _UNITS * float(ml_dtypes.finfo(dtype.numpy).eps))
    return relative * max(magnitude(r) for r in references) + _ABSOLUTE


# -- inputs -----------------------------------------------------------------------------------------------------------


def draw(value: Value, seed: int) -> np.ndarray:
    """A random array for a graph input: normal floats, fair booleans, 8-bit integers over their whole range, other
    integers below the size of the table that they index (below 10 if they index none). Same name and seed, same array.
    """
    rng = np.random.default_rng((seed, zlib.crc32(value.name.encode())))
    dtype, shape = value.dtype, tuple(1 if d is None else d for d in value.type.shape)
    if dtype is DType.BOOL:
        return rng.integers(0, 2, shape).astype(bool)
    if dtype is DType.STRING:
        return rng.integers(0, _FREE_INTEGERS, shape).astype(np.str_).astype(object)
    if dtype.is_integer:
        limit = index_limit(value)
        if limit is None and dtype in (DType.INT8, DType.UINT8):
            info = np.iinfo(dtype.numpy)
            return rng.integers(info.min, info.max, shape, endpoint=True).astype(dtype.numpy)
        return rng.integers(0, min(limit or _FREE_INTEGERS, 8 if "int4" in dtype.value else 1 << 15), shape).astype(
            dtype.numpy)
    if dtype.value.startswith("complex"):
        return (rng.standard_normal(shape) + 1j * rng.standard_normal(shape)).astype(dtype.numpy)
    return rng.standard_normal(shape, np.float32).astype(dtype.numpy)


def index_limit(value: Value) -> int | None:
    """The size of the smallest table that an integer input indexes, None if it indexes none.

    Follows the input through every node that passes integers on, and stops where onnx's schema calls it `indices`.
    """
    import onnx

    limits: list[int] = []
    seen: set[int] = set()
    waiting = [value]
    while waiting:
        current = waiting.pop()
        for node, index in current.uses:
            if onnx.defs.has(node.op, node.domain):
                schema = onnx.defs.get_schema(node.op, domain=node.domain)
                formal = schema.inputs[min(index, len(schema.inputs) - 1)].name
                if formal in ("indices", "slice_indices") and node.inputs[0] is not None and index > 0:
                    limits.append(_table_size(node.attributes.get("axis", _default(schema, "axis")), node.inputs[0]))
                    continue
            for output in node.outputs:
                if output.dtype.is_integer and id(output) not in seen:
                    seen.add(id(output))
                    waiting.append(output)
    return min((n for n in limits if n > 0), default=None)


def _table_size(axis: Any, table: Value) -> int:
    dims = [d for d in table.type.shape if d is not None]
    if isinstance(axis, int) and table.type.is_static and dims:
        return dims[axis]
    return min(dims, default=0)


def _default(schema: Any, name: str) -> int | None:
    attribute = schema.attributes.get(name)
    return int(attribute.default_value.i) if attribute is not None else None


def read_inputs(path: Path, inputs: Sequence[Value]) -> list[Arrays]:
    """Samples from a .npz: one array per input name, in the input's shape; several lie along one more leading axis, or
    along the first where the input has a batch of 1.

    Raises UserError for a missing or unknown name, a shape that does not fit, a dtype that would lose values, or
    counts that differ.
    """
    arrays = read_npz(path)
    if len(arrays) == 1 and len(inputs) == 1:
        arrays = {inputs[0].name: next(iter(arrays.values()))}
    wanted = ", ".join(f"{v.name} {v.type}" for v in inputs)
    if set(arrays) != {v.name for v in inputs}:
        found = ", ".join(sorted(arrays)) or "nothing"
        raise UserError(f"the arrays are called {found}", where=str(path), expected=wanted)
    stacked: Arrays = {}
    for value in inputs:
        array, shape = arrays[value.name], value.type.shape
        if not np.can_cast(array.dtype, value.dtype.numpy, "same_kind"):
            raise UserError(f"{value.name} has dtype {array.dtype}", where=str(path), expected=wanted)
        if array.ndim == len(shape):
            batched = shape[:1] == (1,) and len(array) != 1
            array = array[:, np.newaxis] if batched else array[np.newaxis]
        if array.ndim != len(shape) + 1 or any(w not in (None, h) for w, h in zip(shape, array.shape[1:], strict=True)):
            raise UserError(f"{value.name} has shape {list(arrays[value.name].shape)}", where=str(path),
                            expected=f"{wanted}, or several such samples along a leading axis")
        stacked[value.name] = array.astype(value.dtype.numpy)
    counts = {len(a) for a in stacked.values()}
    if len(counts) > 1 or 0 in counts:
        raise UserError("the inputs have different numbers of samples, or none", where=str(path), expected=wanted)
    return [{name: np.ascontiguousarray(a[i]) for name, a in stacked.items()} for i in range(min(counts, default=1))]


# -- files ------------------------------------------------------------------------------------------------------------


def _restore(array: np.ndarray, dtype: DType) -> np.ndarray:
    """An array with the type that it had: .npy knows neither ml_dtypes' types nor objects."""
    if array.dtype.kind == "V":
        return array.view(dtype.numpy)
    return array.astype(object) if dtype is DType.STRING else array
