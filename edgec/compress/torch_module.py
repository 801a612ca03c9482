"""A graph as a differentiable torch module, and its trained weights back in a graph.

Weights: a floating constant trains if it is (1) a weight of an op (`Form.weights`: filters and biases of products,
scales and shifts of normalizations, tables of Gather), directly or through ops that only move elements; or (2) a vector
that is added to or multiplied with the result of a product with weights, or of a division by a square root (biases and
normalizations that exporters write as several nodes). All other constants stay as they are: statistics of
BatchNormalization, anchors, masks, scalars. A constant that meets no data, such as a table of angles, never trains.

Batch: a graph has static shapes, mostly for one sample. A module runs n samples when every input is fed n times as
many elements along its first axis; the outputs are concatenated along their first axis. Inputs and outputs without axes
have one element per sample. Where the graph can be written for n samples (`interchange.batch`, compared once with the
slow way), it runs once; otherwise once per sample (`torch.func.vmap`), so that the samples never meet.

Statistics: BatchNormalization uses those of the graph, as the engine will. With a `momentum` it normalizes with those
of the batch while it trains, as the net did when it was first trained, and moves those of the graph; that needs a graph
that can be written for n samples, and has no effect elsewhere.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from edgec.compress import torch_ops
from edgec.compress.sparse.patterns import pattern_mask
from edgec.compress.torch_ops.quantize import FakeQuant, exact_product
from edgec.compress.torch_ops.rule import DTYPES, to_array, to_tensor
from edgec.errors import Refusal, Unsupported, UserError
from edgec.interchange.batch import batched
from edgec.ir.graph import Graph, Node, Value
from edgec.ir.quantize import quantize_dequantize
from edgec.ir.types import Quant
from edgec.ops import KernelRole, QuantRole, table
from edgec.ops.semantics import evaluate

_SAME = 1e-4  # of the largest output: another order of float32 sums, never another sample

__all__ = ["GraphModule", "to_torch", "trainable", "write_back"]


class GraphModule(nn.Module):  # type: ignore[misc]
    """A graph that trains. Made by `to_torch`.

    weights: the parameters, by escaped name (`parameter` finds one by the Value's name). masks: which elements of a
    weight may be non-zero. `forward` uses masked and fake-quantized weights, so no optimizer can break a mask.
    After `eval()`, quantized products are computed in whole numbers, bit for bit as the interpreter and the engines do;
    in training they are float32 products of the numbers on their grids, which differ in the last bit before rounding.
    """

    def __init__(self, graph: Graph, names: Iterable[str], masks: Mapping[str, np.ndarray],
                 momentum: float = 0.0, learn_scales: bool = False) -> None:
        super().__init__()
        self.graph, self.momentum, self.learn_scales = graph, momentum, learn_scales
        self.moved: set[str] = set()  # constants that training has moved although they are no weights
        self._wide: dict[int, Graph] = {}
        self._widens: bool | None = None
        self.weights, self.constants, self.masks, self.grids = nn.Module(), nn.Module(), nn.Module(), nn.Module()
        wanted = set(names)
        self.weight_names = tuple(v.name for v in graph.constants() if v.name in wanted)
        for value in graph.constants():
            if value.const is None or value.dtype not in DTYPES:
                continue  # a parameter of a node that no tensor holds
            if value.name in wanted:
                self.weights.register_parameter(_key(value.name), nn.Parameter(to_tensor(value.const)))
            else:
                self.constants.register_buffer(_key(value.name), to_tensor(value.const), persistent=False)
        for name, mask in masks.items():
            self.masks.register_buffer(_key(name), torch.from_numpy(np.array(mask, dtype=bool)))
        shared: dict[Quant, FakeQuant] = {}  # what has one scale keeps one: concatenation, and what grids pass through
        for value in graph.values():
            if value.quant is not None and (value.const is None or value.name in wanted):
                grid = FakeQuant(value.quant, value.shape, learn_scales)
                if value.quant.axis is None:
                    grid = shared.setdefault(value.quant, grid)
                self.grids.add_module(_key(value.name), grid)
        self._last = {v.name: index for index, node in enumerate(graph.nodes) for v in node.input_values}

    def parameter(self, name: str) -> Any:
        """The parameter of the weight called `name`. Raises KeyError if no such weight trains."""
        if name not in self.weight_names:
            raise KeyError(f"no weight is called {name!r}")
        return getattr(self.weights, _key(name))

    def weight(self, name: str) -> Any:
        """The weight as the graph sees it: masked and on its grid. Raises KeyError if no such weight trains."""
        tensor, key = self.parameter(name), _key(name)
        mask = getattr(self.masks, key, None)
        if mask is not None:
            tensor = torch.where(mask, tensor, torch.zeros_like(tensor))
        grid = getattr(self.grids, key, None)
        return tensor if grid is None else grid(tensor)

    def forward(self, *inputs: Any, **named: Any) -> dict[str, Any]:
        """Outputs by name for inputs by position, in the graph's order, or by name.

        Raises UserError for a missing or unknown input, or shapes that are no multiple of the graph's (see the file).
        """
        feeds = self._feeds(inputs, named)
        count = self._samples(feeds)
        shared = {name: self.weight(name) for name in self.weight_names}
        if count == 1:
            return self._run(self.graph, {v.name: feeds[v.name].reshape(v.shape) for v in self.graph.inputs}, shared)
        if (wide := self._for_many(count)) is not None:
            return self._run(wide, feeds, shared, self.momentum if self.training else 0.0)
        return self._one_by_one(feeds, shared, count)

    def _for_many(self, count: int) -> Graph | None:
        """The graph for `count` samples, if it gives what single runs give; None otherwise."""
        if self._widens is None:
            self._widens = self._compare()
        if not self._widens:
            return None
        if count not in self._wide:
            wide = batched(self.graph, count)
            if wide is None:
                return None
            self._wide[count] = wide
        return self._wide[count]

    def _compare(self) -> bool:
        """Run two random samples side by side and one by one."""
        wide = batched(self.graph, 2)
        if wide is None:
            return False
        random = torch.Generator().manual_seed(0)
        training = self.training
        self.eval()
        try:
            with torch.no_grad():
                feeds = {v.name: (torch.randn(v.shape, generator=random) if v.dtype.is_float else
                                  torch.randint(0, 2, v.shape, generator=random)).to(DTYPES[v.dtype])
                         for v in wide.inputs}
                shared = {name: self.weight(name) for name in self.weight_names}
                together, alone = self._run(wide, feeds, shared), self._one_by_one(feeds, shared, 2)
        finally:
            self.train(training)
        sizes = {n: float(torch.nan_to_num(alone[n].double()).abs().max()) for n in alone}
        return all(torch.allclose(together[n].double(), alone[n].double(), rtol=_SAME, atol=_SAME * sizes[n],
                                  equal_nan=True) for n in alone)

    def _one_by_one(self, feeds: dict[str, Any], shared: Mapping[str, Any], count: int) -> dict[str, Any]:
        stacked = {v.name: feeds[v.name].reshape(count, *v.shape) for v in self.graph.inputs}
        with warnings.catch_warnings():  # ops that vmap runs in a loop: slower, and right
            warnings.filterwarnings("ignore", message="There is a performance drop")
            results = torch.func.vmap(lambda sample: self._run(self.graph, sample, shared))(stacked)
        return {v.name: results[v.name].reshape(count * (v.shape or (1,))[0], *v.shape[1:])
                for v in self.graph.outputs}

    def _feeds(self, inputs: tuple[Any, ...], named: dict[str, Any]) -> dict[str, Any]:
        names = [v.name for v in self.graph.inputs]
        if len(inputs) > len(names):
            raise UserError(f"{len(inputs)} inputs for a graph of {len(names)}", expected=", ".join(names))
        feeds = {**dict(zip(names, inputs, strict=False)), **named}
        wrong = sorted(set(names) ^ feeds.keys())
        if wrong or len(feeds) < len(inputs) + len(named):
            raise UserError(f"inputs do not fit: {', '.join(wrong) or 'one is given twice'}",
                            expected=", ".join(names))
        return feeds

    def _samples(self, feeds: dict[str, Any]) -> int:
        """How many samples the feeds hold."""
        counts = {}
        for value in self.graph.inputs:
            shape, one = tuple(feeds[value.name].shape), value.shape
            if not one:
                counts[value.name] = shape[0] if len(shape) == 1 else 1 if not shape else 0
            elif len(shape) == len(one) and shape[1:] == one[1:] and one[0] and shape[0] % one[0] == 0:
                counts[value.name] = shape[0] // one[0]
            else:
                counts[value.name] = int(shape == one)
            if counts[value.name] < 1:
                raise UserError(f"input {value.name!r} has shape {list(shape)}",
                                expected=f"{list(one)}, or n times as many along the first axis for n samples")
        if len(set(counts.values())) > 1:
            raise UserError("the inputs hold different numbers of samples",
                            where=", ".join(f"{name}: {n}" for name, n in counts.items()))
        return next(iter(counts.values()), 1)

    def _run(self, graph: Graph, feeds: Mapping[str, Any], weights: Mapping[str, Any],
             momentum: float = 0.0) -> dict[str, Any]:
        """The graph on feeds of exactly its shapes. momentum: see `to_torch`."""
        known: dict[str, Any] = {}
        results: dict[str, Any] = {}
        wanted = {v.name for v in graph.outputs}

        def read(value: Value) -> Any:
            if value.const is None:
                return known[value.name]
            if value.name in weights:
                return weights[value.name]
            tensor = getattr(self.constants, _key(value.name), None)
            return to_tensor(value.const) if tensor is None else tensor  # a shape for more samples

        def store(value: Value, tensor: Any) -> None:
            grid = getattr(self.grids, _key(value.name), None) if value.quant is not None else None
            keep(value, tensor if grid is None else grid(tensor))

        def keep(value: Value, tensor: Any) -> None:
            known[value.name] = tensor
            if value.name in wanted:
                results[value.name] = tensor

        for value in graph.inputs:
            store(value, feeds[value.name])
        for value in graph.outputs:  # what needs no input
            if value.const is not None:
                results[value.name] = read(value)
        for index, node in enumerate(graph.nodes):
            tensors = [None if v is None else read(v) for v in node.inputs]
            form, first = torch_ops.FORMS[node.op], node.outputs[0]
            exact, spec = None, table.find(node)
            if not (self.training or self.learn_scales) and spec is not None and spec.quant is QuantRole.COMPUTE:
                exact = exact_product(node, form.run, tensors, getattr(self.grids, _key(first.name), None))
            if exact is not None:
                keep(first, exact)
            elif momentum and form.learn is not None:
                keep(first, self._learn(node, form.learn(node, tensors, momentum)))
            else:
                for value, tensor in zip(node.outputs, form.run(node, tensors), strict=True):
                    store(value, tensor)
            for operand in node.input_values:
                if self._last.get(operand.name) == index:
                    known.pop(operand.name, None)  # nobody reads it again
        return {v.name: results[v.name] for v in graph.outputs}

    def _learn(self, node: Node, learned: tuple[Any, Mapping[int, Any]]) -> Any:
        """Take over what a node has learned about its constants; its result."""
        result, constants = learned
        for index, tensor in constants.items():
            name = node.operand(index).name
            getattr(self.constants, _key(name)).copy_(tensor)
            self.moved.add(name)
        return result

    def scales(self) -> list[Any]:
        """The scales that train."""
        return [p for p in self.grids.parameters() if p.requires_grad]

    def constant(self, name: str) -> Any:
        """The tensor of a constant that is no weight. Raises AttributeError if there is none."""
        return getattr(self.constants, _key(name))


def _key(name: str) -> str:
    """`name` as the name of a parameter: no dots, no attribute of a module, and different for different names."""
    key = name.replace("%", "%25").replace(".", "%2E")
    return f"{key}%" if not key or hasattr(nn.Module, key) or key in _TAKEN else key


_TAKEN = frozenset(vars(nn.Module()))


def to_torch(graph: Graph, *, masks: Mapping[str, np.ndarray] | None = None,
             train: Iterable[str] | None = None, momentum: float = 0.0, learn_scales: bool = False) -> GraphModule:
    """The graph as a torch module with the same outputs for the same inputs, to 1e-5 of an output's magnitude.

    masks: for weights by name, a boolean array that is False where the weight stays 0; a weight with `sparsity` has
    the mask of its n largest of m besides. train: names of the constants that train, instead of `trainable`.
    momentum: weight of the new batch in the statistics of BatchNormalization, 0 to use and keep those of the graph.
    learn_scales: the scales of grids train too; `write_back` takes them over.
    Values with a Quant are rounded to their grid, with a straight-through gradient. The caller's graph is not changed.
    Raises Unsupported with every node that has no differentiable form, UserError for a mask or a name that fits no
    weight.
    """
    own = graph.copy()
    names = trainable(own) if train is None else tuple(train)
    constants = {v.name: v for v in own.constants()}
    for name in (*names, *(masks or {})):
        if name not in constants or not constants[name].dtype.is_float:
            raise UserError(f"no floating-point constant is called {name!r}")
    _fold(own, set(names))
    refusals = [Refusal(node.name, *reason, node.source) for node in own.nodes
                if (reason := torch_ops.refuse(node)) is not None]
    if refusals:
        raise Unsupported("the graph cannot train as it is", refusals,
                          hint="cut the graph before these nodes: most of them only read a trained net's outputs")
    return GraphModule(own, names, _masks(constants, names, masks or {}), momentum, learn_scales)


def _masks(constants: Mapping[str, Value], names: Iterable[str],
           given: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    result = {}
    for name in dict.fromkeys((*names, *given)):
        value = constants[name]
        assert value.const is not None
        mask = np.ones(value.shape, bool)
        if name in given:
            if name not in names or given[name].shape != value.shape:
                raise UserError(f"the mask of {name!r} does not fit", where=f"shape {given[name].shape}",
                                expected=f"a weight that trains, shape {value.shape}")
            mask &= given[name].astype(bool)
        if value.sparsity is not None:
            mask &= pattern_mask(np.where(mask, value.const, 0), value.sparsity)
        if not mask.all():
            result[name] = mask
    return result


def trainable(graph: Graph) -> tuple[str, ...]:
    """Names of the constants that train, in the graph's order; the rule stands at the top of this file."""
    roots: dict[int, Value] = {}
    fed = {id(v) for v in graph.inputs}
    for node in graph.nodes:
        form = torch_ops.find(node)
        if node.op in ("Shape", "Size") or not any(id(v) in fed for v in node.input_values):
            continue  # arithmetic of constants, such as a table of angles
        fed.update(id(v) for v in node.outputs)
        for index, value in enumerate(node.inputs):
            if value is None or form is None:
                continue
            if index in form.weights or (form.affine and _is_bias(node, value, roots)):  # (1), (2)
                roots.update((id(root), root) for root in _roots(value))
    return tuple(v.name for v in graph.constants() if id(v) in roots and not _is_parameter(v))


def _roots(value: Value) -> list[Value]:
    """The floating constants that a value consists of, through ops that only move elements; none if it is computed."""
    if value.const is not None:
        return [value] if value.dtype.is_float else []
    node = value.producer
    if node is None or not _is_move(node):
        return []
    spec = table.find(node)
    parts = [v for index, v in enumerate(node.inputs) if v is not None and spec and index not in spec.side_inputs]
    found = [_roots(v) for v in parts if v.dtype.is_float]
    return [root for roots in found for root in roots] if all(found) else []


def _is_move(node: Node) -> bool:
    """True if the node only moves elements."""
    return table.role(node) in (KernelRole.VIEW, KernelRole.MOVEMENT) or node.op == "Identity"


def _is_normalized(node: Node) -> bool:
    """True if the node divides by a square root, or multiplies by its reciprocal."""
    for producer in (v.producer for v in node.input_values):
        while producer is not None and producer.op in ("Reciprocal", "Identity"):
            producer = producer.operand(0).producer
        if producer is not None and producer.op == "Sqrt":
            return True
    return False


def _is_parameter(value: Value) -> bool:
    """A parameter of a node rather than data."""
    return any((spec := table.find(node)) is not None and index in spec.side_inputs for node, index in value.uses)


def _is_bias(node: Node, value: Value, weights: Mapping[int, Value]) -> bool:
    """True if `value` is a vector that shifts or scales the result of a product with weights or of a normalization."""
    if not value.type.is_static or not _roots(value):
        return False
    if sum(extent != 1 for extent in value.shape) != 1:
        return False
    other = next((v for v in node.input_values if v is not value), None)
    while other is not None and other.producer is not None:
        source = other.producer
        form = torch_ops.find(source)
        trained = [v for v in source.input_values if any(id(root) in weights for root in _roots(v))]
        if form is not None and form.weights:
            return bool(trained)
        if form is not None and form.affine and _is_normalized(source):
            return True
        if not (trained or (_is_move(source) and len(source.outputs) == 1 and len(source.input_values) <= 2)):
            return False
        other = next((v for v in source.input_values if v not in trained), None)
    return False


def _fold(graph: Graph, names: set[str]) -> None:
    """Turn what needs neither an input nor a weight into constants: shape arithmetic above all."""
    for node in list(graph.nodes):
        folded = _known(node, names)
        if folded is None or any(v.dtype not in DTYPES for v in node.outputs):
            continue
        for value, array in zip(node.outputs, folded, strict=True):
            value.const = array if value.quant is None else quantize_dequantize(array, value.quant)
            value.type = type(value.type)(value.type.dtype, array.shape)
        graph.nodes.remove(node)


def _known(node: Node, names: set[str]) -> list[np.ndarray] | None:
    """The outputs of a node that are known before the graph runs."""
    first = node.input(0)
    if node.domain == "" and node.op == "Shape" and first is not None and first.type.is_static:
        start, end = node.integer("start", 0), node.integer("end", len(first.shape))
        return [np.array(first.shape[slice(start, end)], np.int64)]
    if node.domain == "" and node.op == "Size" and first is not None and first.type.is_static:
        return [np.array(first.type.size, np.int64)]
    if not table.is_pure(node) or any(v.const is None or v.name in names for v in node.input_values):
        return None
    results = evaluate(node, [None if v is None else v.const for v in node.inputs])
    return [np.asarray(r).astype(v.dtype.numpy, copy=False) for r, v in zip(results, node.outputs, strict=True)]


def write_back(module: GraphModule, graph: Graph) -> Graph:
    """A copy of `graph` with the module's weights, masked and on their grids; quant and sparsity stay.

    Raises UserError if the graph lacks one of the weights, or has it in another shape.
    """
    result = graph.copy()
    constants = {v.name: v for v in result.constants()}
    for name in module.weight_names:
        value, shape = constants.get(name), tuple(module.parameter(name).shape)
        if value is None or value.shape != shape:
            raise UserError(f"the graph has no constant {name!r} of shape {list(shape)}",
                            hint="write into the graph that the module was made of")
        value.const = to_array(module.weight(name), value.dtype)
    if module.learn_scales:
        for found in result.values():
            grid = getattr(module.grids, _key(found.name), None)
            if grid is not None and found.quant is not None:
                found.quant = grid.learned()
    for name in module.moved & constants.keys():
        constants[name].const = to_array(module.constant(name), constants[name].dtype)
    return result
