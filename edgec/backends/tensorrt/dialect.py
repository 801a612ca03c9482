"""Bring a graph to the operators and the opset of a TensorRT version: same meaning, older words.

Two steps per node. Expansion: an operator that the version does not parse is written with ones that it does (Swish,
HardSwish, Mish, Gelu, LayerNormalization, RMSNormalization, GroupNormalization). Lowering: parameters that became
inputs in later opsets become attributes again, and attributes that older opsets lack go if they say nothing.
Source: the version history of each operator in ONNX's schemas, opsets 13 to 24.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Union

import numpy as np

from edgec.backends.tensorrt.releases import Release
from edgec.errors import Refusal
from edgec.interchange.onnx_opset import is_valid
from edgec.ir.graph import Attr, Graph, Node, Value
from edgec.ir.rewrite import replace_node
from edgec.ops.semantics import make_node


def to_dialect(graph: Graph, release: Release) -> list[Refusal]:
    """Change `graph` into one for `release`; every node that cannot be said in its opset is refused and left alone.

    Rule: `tensorrt.opset`. The graph keeps its names, facts and numbers (Gelu and normalizations: up to rounding).
    """
    for node in list(graph.nodes):
        expansion = None if node.domain else _EXPANSIONS.get(node.op)
        if expansion is not None and release.version < expansion[0]:
            expansion[1](_Place(graph, node))
    refusals = []
    for node in list(graph.nodes):
        lowering = None if node.domain else _LOWERINGS.get(node.op)
        lowered = lowering(graph, node, release.opset) if lowering is not None else node
        if lowered is None or not is_valid(lowered, release.opset):
            refusals.append(Refusal(node.name, "tensorrt.opset",
                                    f"{node.op} with these types and attributes is not in opset {release.opset}, the "
                                    f"newest that TensorRT {release.text} parses", node.source))
    return refusals


# -- expansion --------------------------------------------------------------------------------------------------------


class _Place:
    """Where new nodes go: in front of `node`, with its source, named after it."""

    def __init__(self, graph: Graph, node: Node) -> None:
        self.graph, self.node, self.x = graph, node, node.operand(0)

    def __call__(self, op: str, *inputs: Value | float | Sequence[int], **attributes: Attr) -> Value:
        """A new node; a number becomes a constant of x's type, a list of integers one of int64."""
        values = [v if isinstance(v, Value) else self.constant(v) for v in inputs]
        return make_node(self.graph, op, values, attributes, name=f"{self.node.name}/{op}", source=self.node.source,
                         before=self.node).outputs[0]

    def constant(self, content: float | Sequence[float]) -> Value:
        array = np.array(content)
        array = array.astype(self.x.dtype.numpy if array.dtype.kind == "f" else np.int64)
        return Value.constant(self.graph.unique_name(f"{self.node.name}/constant"), array)

    def finish(self, op: str, *inputs: Value | float) -> None:
        """The last node: it computes the output of the one that is replaced."""
        values = [v if isinstance(v, Value) else self.constant(v) for v in inputs]
        replace_node(self.graph, self.node, [
            Node(op, values, self.node.outputs[:1], name=self.node.name, source=self.node.source)])


def _swish(p: _Place) -> None:
    alpha = p.node.real("alpha", 1.0)
    p.finish("Mul", p.x, p("Sigmoid", p.x if alpha == 1.0 else p("Mul", p.x, alpha)))


def _hard_swish(p: _Place) -> None:
    p.finish("Mul", p.x, p("HardSigmoid", p.x, alpha=1 / 6, beta=0.5))


def _mish(p: _Place) -> None:
    p.finish("Mul", p.x, p("Tanh", p("Softplus", p.x)))


def _gelu(p: _Place) -> None:
    if p.node.text("approximate", "none") == "tanh":
        cube = p("Mul", p("Mul", p("Mul", p.x, p.x), p.x), 0.044715)
        gate = p("Tanh", p("Mul", p("Add", p.x, cube), float(np.sqrt(2 / np.pi))))
    else:
        gate = p("Erf", p("Mul", p.x, float(np.sqrt(0.5))))
    p.finish("Mul", p("Mul", p.x, 0.5), p("Add", gate, 1.0))


def _layer_norm(p: _Place) -> None:
    rank = p.x.type.rank
    axes = list(range(p.node.integer("axis", -1) % rank, rank))
    centred = p("Sub", p.x, p("ReduceMean", p.x, axes))
    variance = p("ReduceMean", p("Mul", centred, centred), axes)
    _scaled(p, p("Div", centred, p("Sqrt", p("Add", variance, p.node.real("epsilon", 1e-5)))))


def _rms_norm(p: _Place) -> None:
    rank = p.x.type.rank
    axes = list(range(p.node.integer("axis", -1) % rank, rank))
    mean = p("ReduceMean", p("Mul", p.x, p.x), axes)
    _scaled(p, p("Div", p.x, p("Sqrt", p("Add", mean, p.node.real("epsilon", 1e-5)))))


def _scaled(p: _Place, normal: Value) -> None:
    scale, bias = p.node.operand(1), p.node.input(2)
    if bias is None:
        p.finish("Mul", normal, scale)
    else:
        p.finish("Add", p("Mul", normal, scale), bias)


def _group_norm(p: _Place) -> None:
    n, c, *space = p.x.shape
    groups = p.node.integer("num_groups", 1)
    normal = p("InstanceNormalization", p("Reshape", p.x, [n, groups, -1]), p.constant([1.0] * groups),
               p.constant([0.0] * groups), epsilon=p.node.real("epsilon", 1e-5))
    wide = [c, *[1] * len(space)]
    scale, bias = (p("Reshape", p.node.operand(i), wide) for i in (1, 2))
    p.finish("Add", p("Mul", p("Reshape", normal, [n, c, *space]), scale), bias)


_NEVER = (1 << 30,)  # no version parses the operator in the form that it has in a Graph
_EXPANSIONS: dict[str, tuple[tuple[int, ...], Callable[[_Place], None]]] = {  # op -> (parsed from, how it is written)
    "Swish": (_NEVER, _swish),
    "HardSwish": ((8, 5), _hard_swish),
    "Mish": ((10, 0), _mish),
    "Gelu": ((10, 0), _gelu),
    "LayerNormalization": ((8, 6), _layer_norm),
    "RMSNormalization": (_NEVER, _rms_norm),
    "GroupNormalization": (_NEVER, _group_norm),
}

# -- lowering ---------------------------------------------------------------------------------------------------------

Lowering = Callable[[Graph, Node, int], Union[Node, None]]
"""The node in the words of an opset (a new one, or itself), None if it cannot be said."""


def _with(graph: Graph, node: Node, inputs: Sequence[Value | None], attributes: Mapping[str, Attr]) -> Node:
    """`node` with other inputs and attributes, in its place."""
    while inputs and inputs[-1] is None:
        inputs = inputs[:-1]
    new = Node(node.op, inputs, node.outputs, attributes, name=node.name, source=node.source)
    replace_node(graph, node, [new])
    return new


def _dropping(since: int, **silent: Attr | None) -> Lowering:
    """Below opset `since`, leave out attributes that have just these values; `None` stands for any value."""

    def lower(graph: Graph, node: Node, opset: int) -> Node | None:
        if opset >= since or not set(silent) & set(node.attributes):
            return node
        kept = {k: v for k, v in node.attributes.items() if k not in silent}
        if any(silent[k] is not None and v != silent[k] for k, v in node.attributes.items() if k in silent):
            return None
        return _with(graph, node, node.inputs, kept)

    return lower


def _chain(*steps: Lowering) -> Lowering:
    def lower(graph: Graph, node: Node, opset: int) -> Node | None:
        current: Node | None = node
        for step in steps:
            if current is not None:
                current = step(graph, current, opset)
        return current

    return lower


def _reduction(graph: Graph, node: Node, opset: int) -> Node | None:
    if opset >= 18:
        return node
    axes = node.parameter(1)
    attributes = {k: v for k, v in node.attributes.items() if k != "noop_with_empty_axes"}
    if not axes and node.integer("noop_with_empty_axes", 0):
        return None
    if axes:
        attributes["axes"] = tuple(axes)
    elif node.input(1) is not None and node.operand(1).const is None:
        return None
    return _with(graph, node, node.inputs[:1], attributes)


def _split(graph: Graph, node: Node, opset: int) -> Node | None:
    if opset >= 18 or "num_outputs" not in node.attributes:
        return node
    axis = node.integer("axis", 0)
    sizes = np.array([v.shape[axis] for v in node.outputs], np.int64)
    constant = Value.constant(graph.unique_name(f"{node.name}/sizes"), sizes)
    return _with(graph, node, [node.inputs[0], constant],
                 {k: v for k, v in node.attributes.items() if k != "num_outputs"})


def _pad(graph: Graph, node: Node, opset: int) -> Node | None:
    axes = node.parameter(3)
    if opset >= 18 or node.input(3) is None:
        return node
    pads, rank = node.parameter(1), node.operand(0).type.rank
    if axes is None or pads is None:
        return None
    wide = np.zeros(2 * rank, np.int64)
    for index, axis in enumerate(axes):
        wide[axis % rank], wide[axis % rank + rank] = pads[index], pads[index + len(axes)]
    constant = Value.constant(graph.unique_name(f"{node.name}/pads"), wide)
    return _with(graph, node, [node.inputs[0], constant, node.input(2)], node.attributes)


def _grid_sample(graph: Graph, node: Node, opset: int) -> Node | None:
    if opset >= 20:
        return node
    older = {"linear": "bilinear", "cubic": "bicubic"}
    mode = node.text("mode", "linear")
    return _with(graph, node, node.inputs, {**node.attributes, "mode": older.get(mode, mode)})


def _resize(graph: Graph, node: Node, opset: int) -> Node | None:
    """Below opset 18 scales and sizes are given for every axis."""
    if opset >= 18 or "axes" not in node.attributes:
        return node
    rank, inputs = node.operand(0).type.rank, list(node.inputs)
    axes = [a % rank for a in node.integers("axes")]
    for index, full in ((2, np.ones(rank, np.float32)), (3, np.array(node.operand(0).shape, np.int64))):
        value = node.input(index)
        if value is not None and value.const is not None and value.const.size:
            full[axes] = value.const.reshape(-1)
            inputs[index] = Value.constant(graph.unique_name(f"{node.name}/full"), full)
    return _with(graph, node, inputs, {k: v for k, v in node.attributes.items() if k != "axes"})


def _reshape(graph: Graph, node: Node, opset: int) -> Node | None:
    """The attribute allowzero says nothing where the shape has no zero."""
    shape = node.parameter(1)
    if opset >= 14 or "allowzero" not in node.attributes:
        return node
    if node.integer("allowzero", 0) and (shape is None or 0 in shape):
        return None
    return _with(graph, node, node.inputs, {})


_SILENT_RESIZE: dict[str, Attr | None] = {"antialias": 0, "keep_aspect_ratio_policy": "stretch"}
_REDUCED = ("L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "SumSquare")
_LOWERINGS: dict[str, Lowering] = {
    **{f"Reduce{name}": _reduction for name in _REDUCED},
    "AveragePool": _dropping(19, dilations=None),  # the checker refuses dilations other than 1
    "LpPool": _dropping(18, dilations=None, ceil_mode=0),
    "Split": _split, "Pad": _pad, "GridSample": _grid_sample,
    "Resize": _chain(_resize, _dropping(18, **_SILENT_RESIZE)),
    "BatchNormalization": _dropping(14, training_mode=0),
    "Cast": _chain(_dropping(19, saturate=None), _dropping(24, round_mode=None)),  # both are about 8-bit floats
    "CastLike": _chain(_dropping(19, saturate=None), _dropping(24, round_mode=None)),
    "Reshape": _reshape, "Shape": _dropping(15, start=0),
    "ScatterElements": _dropping(16, reduction="none"), "ScatterND": _dropping(16, reduction="none"),
    **{name: _dropping(14, layout=0) for name in ("GRU", "LSTM", "RNN")},
    "QuantizeLinear": _chain(_dropping(19, saturate=None), _dropping(21, block_size=0, output_dtype=None),
                             _dropping(23, precision=None)),
    "DequantizeLinear": _chain(_dropping(21, block_size=0), _dropping(23, output_dtype=None)),
}
