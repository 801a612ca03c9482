"""Channels that can be scaled without changing what a graph computes: divided where they are made, multiplied where
they are read.

f(s x) = s f(x) for every op between maker and reader: Relu, LeakyRelu, sums, maxima, means, and whatever only moves
elements. What is added or compared to the channels (a bias, a Min with a vector) is divided with them.
Channels are found by `prune.groups` on a copy of the graph in which products do not tie what they read to what they
make: depthwise convolutions stand there with a dense weight, and all ops that are not homogeneous as unknown ones.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from edgec.compress.prune.groups import ChannelGroup, find_groups
from edgec.ir.graph import Graph, Node, Value
from edgec.ops import KernelRole, QuantRole, table

_SHIFTED = ("Add", "Sub")  # a constant operand is divided like the channels
_BOUNDED = ("Max", "Min")
_OPAQUE = "edgec.opaque"  # a domain that the op table does not know


@dataclass(frozen=True, eq=False)
class Chain:
    """Channels that can be scaled one by one. name: of the product that makes them first, numbered; size: how many.

    makers, readers: (name of the product, unit of each of its output or input channels, -1 for none);
    shifts: (name of a constant, axis, unit of each index): biases and bounds.
    """

    name: str
    size: int
    makers: tuple[tuple[str, np.ndarray], ...]
    readers: tuple[tuple[str, np.ndarray], ...]
    shifts: tuple[tuple[str, int, np.ndarray], ...]


def find_chains(graph: Graph) -> list[Chain]:
    """The chains of a float graph, in the order of its nodes. Raises UserError as `find_groups`."""
    severed, stands_for = _severed(graph)
    chains: list[Chain] = []
    for group in find_groups(severed).groups:
        chain = _chain(severed, group, stands_for)
        if chain is not None:
            count = sum(c.makers[0][0] == chain.name for c in chains)
            chains.append(replace(chain, name=f"{chain.name}:{count}") if count else chain)
    return chains


def rescale(graph: Graph, factors: Mapping[str, np.ndarray], chains: Iterable[Chain]) -> Graph:
    """A copy of `graph` whose channels are divided by positive factors where they are made.

    factors: by name of a chain, [size]. The function stays, up to the rounding of each weight to float32.
    """
    result = graph.copy()
    nodes = {n.name: n for n in result.nodes}
    constants = {v.name: v for v in result.constants()}
    made: dict[str, np.ndarray] = {}
    read: dict[str, np.ndarray] = {}
    for chain in chains:
        if chain.name not in factors:
            continue
        factor = factors[chain.name].astype(np.float64)
        for factors_of, places in ((made, chain.makers), (read, chain.readers)):
            for name, units in places:  # the channels of one product may belong to several chains
                factors_of[name] = factors_of.get(name, 1.0) * spread(factor, units)
        for name, axis, units in chain.shifts:
            value = constants[name]
            assert value.const is not None
            shape = [-1 if i == axis else 1 for i in range(value.type.rank)]
            value.const = (value.const / spread(factor, units).reshape(shape)).astype(value.const.dtype)
    for name in dict.fromkeys((*made, *read)):
        weight = nodes[name].operand(1)
        assert weight.const is not None
        matrix = as_matrix(nodes[name], weight.const).astype(np.float64)
        groups, rows, columns = matrix.shape[:3]
        if name in made:
            matrix = matrix / made[name].reshape(groups, rows, 1, 1)
        if name in read:
            matrix = matrix * read[name].reshape(groups, 1, columns, 1)
        weight.const = from_matrix(nodes[name], matrix, weight.shape).astype(weight.const.dtype)
    return result


def spread(factor: np.ndarray, units: np.ndarray) -> np.ndarray:
    """The factor of each index; 1 for an index without a unit."""
    found: np.ndarray = np.where(units >= 0, factor[units], 1.0)
    return found


def as_matrix(node: Node, weight: np.ndarray) -> np.ndarray:
    """The weight of a product as [groups, outputs per group, inputs per group, window]."""
    matrix: np.ndarray = weight.T[None, :, :, None]
    if node.op.startswith("Conv"):
        groups = node.integer("group", 1)
        matrix = weight.reshape(groups, weight.shape[0] // groups, weight.shape[1], -1)
        if node.op == "ConvTranspose":
            matrix = matrix.transpose(0, 2, 1, 3)
    elif node.op == "Gemm" and node.integer("transB", 0):
        matrix = weight[None, :, :, None]
    return matrix


def from_matrix(node: Node, matrix: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The inverse of `as_matrix`."""
    if node.op == "ConvTranspose":
        matrix = matrix.transpose(0, 2, 1, 3)
    elif node.op != "Conv" and not (node.op == "Gemm" and node.integer("transB", 0)):
        matrix = matrix[0, :, :, 0].T
    found: np.ndarray = np.ascontiguousarray(matrix).reshape(shape)
    return found


def _is_product(node: Node) -> bool:
    """A product with a weight of its own that can be scaled."""
    if table.quant_role(node) is not QuantRole.COMPUTE or node.operand(0).const is not None:
        return False
    weight, bias = node.operand(1), node.input(2)
    rank = weight.type.rank
    return (weight.const is not None and len(weight.uses) == 1 and weight.dtype.value == "float32"
            and weight.quant is None and (rank == 2 or node.op.startswith("Conv"))
            and (bias is None or bias.const is not None)
            and not node.attributes.get("transA", 0))


def _is_homogeneous(node: Node) -> bool:
    spec = table.find(node)
    if spec is None or any(not v.type.is_static for v in (*node.input_values, *node.outputs)):
        return False
    if node.op in _SHIFTED or node.op == "LeakyRelu" or spec.quant is QuantRole.UNIFIES:
        return True
    if spec.quant is QuantRole.REQUANTIZES:
        return spec.kernel is KernelRole.ANCHOR  # means and sums
    if node.op == "Pad":
        filler = node.input(2)
        return filler is None or (filler.const is not None and not filler.const.any())
    return spec.quant is QuantRole.COMMUTES and node.op != "Clip"


def _severed(graph: Graph) -> tuple[Graph, dict[str, str]]:
    """The copy that chains are read from, and which product each of its weights belongs to."""
    severed = graph.copy()
    stands_for: dict[str, str] = {}
    for node in severed.nodes:
        if _is_product(node):
            weight, groups = node.operand(1), node.integer("group", 1) if "group" in node.attributes else 1
            if groups > 1:
                first, second, *window = weight.shape
                wide = (first, second * groups, *window)  # the channels of a group become those of all
                dense = Value.constant(severed.unique_name(weight.name), np.broadcast_to(np.float32(0), wide))
                severed.set_input(node, 1, dense)
                node.attributes["group"] = 1
            stands_for[node.operand(1).name] = node.name
        elif not _is_homogeneous(node):
            node.domain = _OPAQUE
    for value in severed.values():
        value.quant = value.sparsity = None  # scaling keeps zeros; what has a grid is behind an opaque node
    return severed, stands_for


def _chain(severed: Graph, group: ChannelGroup, stands_for: Mapping[str, str]) -> Chain | None:
    """None unless every member is computed, a weight, or a constant that can be divided."""
    nodes = {n.name: n for n in severed.nodes}
    makers: list[tuple[str, np.ndarray]] = []
    readers: list[tuple[str, np.ndarray]] = []
    shifts: list[tuple[str, int, np.ndarray]] = []
    members = [(v, axis, place.unit_of) for place in group.places for v, axis in place.axis.members]
    inside = {(id(v), axis) for v, axis, _ in members}
    for value, axis, units in members:
        if value.const is None:
            if value.producer is not None and not _divides_all(value.producer, axis, inside):
                return None
        elif value.name in stands_for:
            node = nodes[stands_for[value.name]]
            (makers if axis == _output_axis(node) else readers).append((node.name, units))
            if axis not in (_output_axis(node), 1 - _output_axis(node)):
                return None
        elif value.dtype.is_float:
            if len(value.uses) != 1 or not _is_shift(*value.uses[0]) or value.quant is not None:
                return None
            shifts.append((value.name, axis, units))
    if not makers or not readers:
        return None
    return Chain(makers[0][0], group.size, tuple(makers), tuple(readers), tuple(shifts))


def _output_axis(node: Node) -> int:
    """Axis of the output channels of a product's dense weight."""
    if node.op == "Gemm":
        return 0 if node.integer("transB", 0) else 1
    return 0 if node.op == "Conv" else 1


def _is_shift(node: Node, index: int) -> bool:
    product = table.quant_role(node) is QuantRole.COMPUTE
    return (product and index == 2) or node.op in _SHIFTED or node.op in _BOUNDED


def _divides_all(node: Node, axis: int, inside: set[tuple[int, int]]) -> bool:
    """True if every number that the node adds to, or compares with, the channels lies along them, or is 0."""
    pointwise = table.role(node) is KernelRole.POINTWISE
    for index, value in enumerate(node.inputs):
        if value is None or not value.dtype.is_float or not (pointwise or _is_shift(node, index)):
            continue
        own = 0 if node.op.startswith("Conv") else axis - node.outputs[0].type.rank + value.type.rank
        if (value.const is None or value.const.any()) and (id(value), own) not in inside:
            return False
    return True
