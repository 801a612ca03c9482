"""Fold nodes whose result does not depend on the graph's inputs into constants.

Formula: y = op(c1, c2, ...), computed once; Shape(x) and Size(x) also fold for a computed x of static shape.
Shapes:  any; a node whose output shape was unknown and whose inputs are now known gets its type inferred again.
Fires when: (1) every input is a constant, or the op is Shape or Size of a static value;
         (2) the op gives the same result at every run (`fold_constants.random`: never for RandomNormal and its kin);
         (3) the result is at most `max_folded_bytes`, or no larger than its inputs (`fold_constants.size`);
         (4) onnx's reference can compute it, and the result has the declared type (`fold_constants.reference`);
         (5) the node has no subgraph.
Numerics: those of onnx.reference; a result with a Quant is rounded to its grid. Where a node only moves numbers of a
         constant with a Quant, the result has that grid too (weights of quantized linear layers come transposed): one
         scale for all of them stays, and a Transpose takes the axis of several along.
Source: ONNX operators Shape and Size; onnx.reference for all others.
"""

from __future__ import annotations

import warnings

import numpy as np

from edgec.ir.graph import OPSET, Graph, Node
from edgec.ir.interpret import quantize_dequantize
from edgec.ir.rewrite import fold
from edgec.ir.types import DType, Quant
from edgec.ops import KernelRole, QuantRole, table
from edgec.ops.semantics import evaluate, infer_types
from edgec.passes.contract import Options, Outcome, PassResult, rewrite

AFTER: dict[str, str] = {}


def run(graph: Graph, options: Options) -> PassResult:
    """A copy of `graph` in which everything that can be computed now is a constant."""
    return rewrite(__name__, graph, options, _fold_node)


def _fold_node(graph: Graph, node: Node, options: Options) -> Outcome:
    if node.domain or any(isinstance(a, Graph) for a in node.attributes.values()):  # (5)
        return None
    refined = _refine_types(node)
    if node.op in ("Shape", "Size"):
        data = node.inputs[0]
        if data is None or not data.type.is_static:
            return True if refined else None
        fold(graph, node, [_shape(node, data.shape) if node.op == "Shape" else np.array(data.type.size, np.int64)])
        return True
    if any(v.const is None for v in node.input_values) or _is_identity_output(graph, node):  # (1)
        return True if refined else None
    if _is_random(node):  # (2)
        return "fold_constants.random", f"{node.op} gives another result at every run"
    inputs = sum(v.type.nbytes for v in node.input_values)
    if any(_too_large(v.type.nbytes, inputs, options) for v in node.outputs if v.type.is_static):  # (3)
        return "fold_constants.size", f"the result would be larger than {options.max_folded_bytes} bytes"
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            arrays = evaluate(node, [None if v is None else v.const for v in node.inputs])
    except Exception as error:  # the reference raises what numpy raises; the node stays, and the report says why
        return "fold_constants.reference", f"onnx's reference cannot compute {node.op}: {error}"
    for value, array in zip(node.outputs, arrays, strict=True):
        declared = value.type.shape
        fits = len(declared) == array.ndim and all(d in (None, n) for d, n in zip(declared, array.shape, strict=True))
        if DType.of(array) is not value.dtype or not fits:  # (4)
            found = f"{array.dtype}{list(array.shape)}"
            return "fold_constants.reference", f"onnx's reference gives {found} for {value.type}"
        if _too_large(array.nbytes, inputs, options):
            return "fold_constants.size", f"the result would be larger than {options.max_folded_bytes} bytes"
    moved = _moved_grid(node)
    for value in node.outputs:
        value.quant = value.quant or moved
    fold(graph, node, [a if v.quant is None else quantize_dequantize(a, v.quant)
                       for v, a in zip(node.outputs, arrays, strict=True)])
    return True


def _moved_grid(node: Node) -> Quant | None:
    """The grid of a constant's numbers where the node has put them; None if it does more, or scales go several ways."""
    spec = table.find(node)
    quant = node.operand(0).quant if spec is not None and node.inputs and node.inputs[0] is not None else None
    if spec is None or quant is None or spec.quant is not QuantRole.COMMUTES:
        return None
    if spec.kernel not in (KernelRole.MOVEMENT, KernelRole.VIEW) or node.op == "Pad":  # with any number
        return None
    if quant.axis is None:
        return quant
    if node.op != "Transpose":
        return None
    rank = node.operand(0).type.rank
    order = node.integers("perm", tuple(reversed(range(rank))))
    scale, zero = ((p.transpose(order) if quant.block else p) for p in (quant.scale, quant.zero_point))
    return Quant(quant.dtype, np.ascontiguousarray(scale), np.ascontiguousarray(zero), order.index(quant.axis % rank),
                 quant.block)


def _refine_types(node: Node) -> bool:
    """Infer output types again where a dimension was unknown and the inputs are known; True if that helped."""
    if all(v.type.is_static for v in node.outputs) or not all(v.type.is_static for v in node.input_values):
        return False
    try:
        types = infer_types(node)
    except (ValueError, KeyError):  # an op of another domain, or an output that is not a tensor: stays unknown
        return False
    better = [(v, t) for v, t in zip(node.outputs, types, strict=True) if t.is_static and not v.type.is_static]
    for value, type_ in better:
        value.type = type_
    return bool(better)


def _shape(node: Node, shape: tuple[int, ...]) -> np.ndarray:
    start, end = node.attributes.get("start", 0), node.attributes.get("end", len(shape))
    assert isinstance(start, int)
    assert isinstance(end, int)
    return np.array(shape[slice(start, end)], np.int64)


def _is_identity_output(graph: Graph, node: Node) -> bool:
    """A constant that is a graph output is produced by Identity, and stays so."""
    return node.op == "Identity" and graph.is_output(node.outputs[0])


def _is_random(node: Node) -> bool:
    import onnx

    schema = onnx.defs.get_schema(node.op, OPSET, node.domain)
    if schema.node_determinism != onnx.defs.OpSchema.NodeDeterminism.NonDeterministic:
        return False
    training = node.input(2) if node.op == "Dropout" else None  # Dropout without training is the identity
    return node.op != "Dropout" or (training is not None and (training.const is None or bool(training.const)))


def _too_large(result: int, inputs: int, options: Options) -> bool:
    return result > options.max_folded_bytes and result > inputs
