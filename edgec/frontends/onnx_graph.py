"""Build a Graph from a bound ONNX model, node by node: convert to the graph's opset, infer the type, fold shapes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod

import numpy as np
import onnx

from edgec.errors import Refusal, Unsupported, UserError
from edgec.frontends import onnx_subgraphs
from edgec.frontends.onnx_opset import ConversionError, convert, has_schema
from edgec.frontends.onnx_qoperator import expand
from edgec.frontends.onnx_scope import UNTYPED, Scope, Untyped
from edgec.frontends.onnx_source import source_of
from edgec.frontends.onnx_tensors import MAX_ELEMENTS, element_type, refuse_nan, to_array
from edgec.ir.graph import OPSET, Attr, Graph, Node, Value
from edgec.ir.types import DType, TensorType
from edgec.ops.semantics import NoInference, NoTensor, evaluate, infer_types

FOLD_LIMIT = 1024  # elements; shapes, axes and conditions are smaller, weights are not folded here
_BLANK = TensorType(DType.FLOAT32, ())
_TYPE_ATTRIBUTES = frozenset({"to", "dtype"})  # integers that mean an element type
_REMEDIES = {"ZipMap": ": convert with skl2onnx and options={'zipmap': False}"}


class GraphReader:
    """Reads one model; collects every refusal before it raises."""

    def __init__(self, version: int, declared: Mapping[str, TensorType], where: str) -> None:
        self.version, self.declared, self.where = version, declared, where
        self.refusals: list[Refusal] = []
        self._node_names: set[str] = set()

    def read(self, proto: onnx.GraphProto) -> Graph:
        """The graph of a bound model.

        Raises UserError: a node does not fit its inputs, a constant contains NaN, or a tensor would be absurdly large.
        Raises Unsupported: ops without an equal in the graph's opset, values that are no tensors or have no known type.
        """
        graph = Graph(proto.name or "graph")
        graph.reserve(
            n
            for n in (
                *(v.name for v in proto.input),
                *(t.name for t in proto.initializer),
                *(o for node in proto.node for o in node.output),
            )
            if n
        )
        scope = Scope(graph)
        constants = [(t.name, to_array(t, self.where)) for t in proto.initializer]
        refuse_nan(constants, self.where)
        scope.names.update((name, Value.constant(name, array)) for name, array in constants)
        if proto.sparse_initializer:
            names = ", ".join(t.values.name for t in proto.sparse_initializer)
            raise Unsupported(
                f"the model has sparse initializers: {names}", where=self.where, hint="export it with dense weights"
            )
        for value in proto.input:
            dims = tuple(d.dim_value for d in value.type.tensor_type.shape.dim)
            new = Value(
                value.name, TensorType(element_type(value.type.tensor_type.elem_type, value.name, self.where), dims)
            )
            scope.names[value.name] = new
            graph.inputs.append(new)
        self.read_nodes(proto.node, scope, keep=True)
        self.raise_refusals()
        for output in proto.output:
            found = scope.find(output.name)
            assert isinstance(found, Value)
            self.add_output(graph, found, output.name)
        return graph

    def raise_refusals(self) -> None:
        """Raises Unsupported if something was refused."""
        if self.refusals:
            raise Unsupported("the model has nodes that edgec cannot read", self.refusals, where=self.where)

    def read_nodes(self, protos: Sequence[onnx.NodeProto], scope: Scope, *, keep: bool) -> None:
        """Add the nodes to the scope's graph. `keep`: their outputs keep their names, which are unique and reserved."""
        for proto in protos:
            self._read_node(proto, scope, frozenset(o for o in proto.output if o) if keep else frozenset())

    def add_output(self, graph: Graph, value: Value, name: str) -> None:
        """Make `value` a graph output called `name`, through an Identity where it is an input, a constant, or taken."""
        if value.name != name and value.producer is not None and not graph.is_output(value):
            graph.reserve([name])
            value.name = name
        if value.producer is None or graph.is_output(value):
            if value.name == name:
                value.name = graph.unique_name(f"{name}_value")
            output = Value(name, value.type)
            graph.add(Node("Identity", [value], [output], name=self.node_name(f"{name}_identity"), source=name))
            value = output
        graph.outputs.append(value)

    def node_name(self, wish: str) -> str:
        """`wish`, or `wish_1` and so on, unique over the whole model."""
        name, count = wish, 0
        while name in self._node_names:
            count += 1
            name = f"{wish}_{count}"
        self._node_names.add(name)
        return name

    # -- one node -----------------------------------------------------------------------------------------------------

    def _read_node(self, proto: onnx.NodeProto, scope: Scope, keep: frozenset[str]) -> None:
        name = self.node_name(proto.name or f"{proto.op_type}_{next((o for o in proto.output if o), 'none')}")
        source = source_of(proto) or name
        inputs: list[Value | None] = []
        for wanted in proto.input:
            found = scope.find(wanted) if wanted else None
            if wanted and found is None:
                raise UserError(
                    f"the value {wanted!r} is used before it is computed",
                    where=f"{self.where}, {proto.op_type} {name}",
                    hint="the file is damaged: export the model again",
                )
            if isinstance(found, Untyped):
                self.skip(proto, scope)
                return
            inputs.append(found)
        try:
            converted, constants = expand(proto, inputs) or convert(proto, self.version, inputs)
        except ConversionError as error:
            self.refuse(proto, scope, name, source, "onnx.opset", str(error))
            return
        if converted == [proto]:
            self._read_converted(proto, scope, name, source, keep)
            return
        inner = Scope(scope.graph, scope)
        inner.names.update((n, Value.constant(scope.graph.unique_name(f"{name}{n}"), a)) for n, a in constants.items())
        for step in converted:
            step_name = (
                name
                if step.name == proto.name and step.op_type == proto.op_type
                else self.node_name(f"{name}_{step.op_type}")
            )
            self._read_converted(step, inner, step_name, source, keep)
        for wanted in proto.output:
            if wanted:
                scope.names[wanted] = inner.names[wanted]

    def _read_converted(
        self, proto: onnx.NodeProto, scope: Scope, name: str, source: str, keep: frozenset[str]
    ) -> None:
        """`proto` is of the graph's opset."""
        inputs: list[Value | None] = []
        for wanted in proto.input:
            found = scope.find(wanted) if wanted else None
            if isinstance(found, Untyped):
                self.skip(proto, scope)
                return
            inputs.append(found)
        if not has_schema(proto.op_type, proto.domain):
            self._read_unknown(proto, scope, inputs, name, source, keep)
            return
        if any(a.type in (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS) for a in proto.attribute):
            onnx_subgraphs.read(self, proto, scope, inputs, name, source, keep)
            return
        try:
            attributes = self.attributes(proto)
        except ValueError as error:
            self.refuse(proto, scope, name, source, "onnx.attribute", str(error))
            return
        if proto.op_type == "Constant" and not proto.domain:
            self._read_constant(proto, scope, attributes, name, source)
            return
        outputs = self.output_values(proto, scope, keep)
        node = Node(proto.op_type, inputs, outputs, attributes, name=name, source=source, domain=proto.domain)
        try:
            types = infer_types(node)
        except ValueError as error:
            self._type_error(proto, scope, node, error)
            return
        self.set_types(node, types)
        folded = self._fold(node)
        if folded is None:
            scope.graph.add(node)
            return
        for wanted, value, array in zip(proto.output, outputs, folded, strict=False):
            if wanted:
                scope.names[wanted] = Value.constant(value.name, array)

    def skip(self, proto: onnx.NodeProto, scope: Scope) -> None:
        """Leave the node out: its outputs are untyped, and so are those of the nodes that read them."""
        scope.names.update((o, UNTYPED) for o in proto.output if o)

    def refuse(self, proto: onnx.NodeProto, scope: Scope, name: str, source: str, rule: str, text: str) -> None:
        """Record why the node cannot be read, and leave it out."""
        self.refusals.append(Refusal(name, rule, f"{proto.op_type}: {text}", source))
        self.skip(proto, scope)

    def _type_error(self, proto: onnx.NodeProto, scope: Scope, node: Node, error: ValueError) -> None:
        known = [self.declared.get(name) for name in proto.output if name]
        cannot_infer = isinstance(error, NoInference)
        if cannot_infer and known and None not in known and len(known) == len(node.outputs):
            self.set_types(node, [t for t in known if t is not None])
            scope.graph.add(node)
        elif cannot_infer:
            self.refuse(
                proto,
                scope,
                node.name,
                node.source,
                "onnx.type",
                f"{error}{_REMEDIES.get(proto.op_type, '')}"
                if isinstance(error, NoTensor)
                else "the type of its output cannot be known",
            )
        elif self.version > OPSET and "unsupported type" in str(error):
            types = ", ".join(str(v.type) for v in node.input_values)
            text = f"opset {self.version} accepts its types ({types}), opset {OPSET} does not"
            self.refuse(proto, scope, node.name, node.source, "onnx.opset", text)
        else:
            types = ", ".join(str(v.type) for v in node.input_values)
            reason = (
                str(error).replace("[ShapeInferenceError] ", "").splitlines()[0] if str(error) else "unknown reason"
            )
            raise UserError(
                f"{node.op} does not fit its inputs ({types}): {reason}",
                where=f"{self.where}, node {node.where}",
                expected="a valid ONNX node",
                hint="check the shapes given with --input, or export the model again",
            ) from error

    def output_values(self, proto: onnx.NodeProto, scope: Scope, keep: frozenset[str]) -> list[Value]:
        """New values for the outputs, entered into the scope; trailing absent ones are dropped, others get a name."""
        names = list(proto.output)
        while names and not names[-1]:
            names.pop()
        values = []
        for index, wanted in enumerate(names):
            name = (
                wanted
                if wanted in keep
                else scope.graph.unique_name(wanted or f"{proto.op_type.lower()}_unused_{index}")
            )
            values.append(Value(name, _BLANK))
            if wanted:
                scope.names[wanted] = values[-1]
        return values

    def set_types(self, node: Node, types: Sequence[TensorType]) -> None:
        """Give the outputs their types. Raises UserError for more than 2**40 elements or a negative dimension."""
        for value, type_ in zip(node.outputs, types, strict=True):
            known = [d for d in type_.shape if d is not None]
            if prod(known) > MAX_ELEMENTS or any(d < 0 for d in known):
                raise UserError(
                    f"the output of {node.op} would have the shape {list(type_.shape)}",
                    where=f"{self.where}, node {node.where}",
                    expected=f"at most {MAX_ELEMENTS} elements",
                    hint="check the shapes given with --input",
                )
            value.type = type_

    def attributes(self, proto: onnx.NodeProto) -> dict[str, Attr]:
        """The node's attributes without subgraphs. Raises ValueError for a kind that a Graph has no place for."""
        result: dict[str, Attr] = {}
        for a in proto.attribute:
            kind = (
                onnx.AttributeProto.AttributeType.Name(a.type)
                if a.type in onnx.AttributeProto.AttributeType.values()
                else str(a.type)
            )
            if a.ref_attr_name:
                raise ValueError(f"attribute {a.name!r} refers to a function's attribute outside of a function")
            if kind == "TENSOR":
                result[a.name] = to_array(a.t, f"{self.where}, {proto.op_type} {proto.name!r}")
            elif kind in ("INT", "FLOAT", "INTS", "FLOATS"):
                number = {"INT": a.i, "FLOAT": a.f, "INTS": a.ints, "FLOATS": a.floats}[kind]
                result[a.name] = tuple(number) if kind.endswith("S") else number
                if kind == "INT" and a.name in _TYPE_ATTRIBUTES:
                    result[a.name] = element_type(
                        a.i, f"attribute {a.name!r}", f"{self.where}, {proto.op_type} {proto.name!r}"
                    )
            elif kind == "STRING":
                result[a.name] = _text(a.s)
            elif kind == "STRINGS":
                result[a.name] = tuple(s.decode("utf-8", "replace") for s in a.strings)
            elif kind not in ("GRAPH", "GRAPHS"):
                raise ValueError(f"attribute {a.name!r} has the kind {kind}, which edgec cannot read")
        return result

    def _read_constant(
        self, proto: onnx.NodeProto, scope: Scope, attributes: Mapping[str, Attr], name: str, source: str
    ) -> None:
        if len(attributes) != 1 or len(proto.output) != 1:
            raise UserError(
                "a Constant needs one value and one output",
                where=f"{self.where}, Constant {name}",
                hint="the file is damaged: export the model again",
            )
        ((key, attribute),) = attributes.items()
        kinds = {
            "value_int": np.int64,
            "value_ints": np.int64,
            "value_float": np.float32,
            "value_floats": np.float32,
            "value_string": object,
            "value_strings": object,
        }
        array = attribute if isinstance(attribute, np.ndarray) else np.asarray(attribute, kinds.get(key, object))
        refuse_nan([(proto.output[0], array)], self.where)
        wanted = proto.output[0]
        own = scope.graph.unique_name(wanted) if scope.parent or wanted in scope.names else wanted
        scope.names[wanted] = Value.constant(own, array)

    def _read_unknown(
        self,
        proto: onnx.NodeProto,
        scope: Scope,
        inputs: Sequence[Value | None],
        name: str,
        source: str,
        keep: frozenset[str],
    ) -> None:
        """An op that onnx does not define keeps its domain and attributes; its types are those that the file states."""
        known = [self.declared.get(o) for o in proto.output]
        if not proto.domain:
            self.refuse(proto, scope, name, source, "onnx.op", f"ONNX opset {OPSET} has no such operator")
            return
        if None in known:
            self.refuse(
                proto,
                scope,
                name,
                source,
                "onnx.domain",
                f"the operator of domain {proto.domain!r} is unknown, and the file does not state its output type",
            )
            return
        try:
            attributes = self.attributes(proto)
        except ValueError as error:
            self.refuse(proto, scope, name, source, "onnx.attribute", str(error))
            return
        node = Node(
            proto.op_type,
            inputs,
            self.output_values(proto, scope, keep),
            attributes,
            name=name,
            source=source,
            domain=proto.domain,
        )
        self.set_types(node, [t for t in known if t is not None])
        scope.graph.add(node)

    def _fold(self, node: Node) -> list[np.ndarray] | None:
        """The outputs, if they follow from small constants or from a shape that is known now; else None."""
        arrays: list[np.ndarray | None] = []
        if node.op in ("Shape", "Size") and not node.domain and node.input_values[0].type.is_static:
            value = node.input_values[0]
            arrays.append(np.broadcast_to(np.zeros((), np.int8), value.shape))
        else:
            if node.op in ("QuantizeLinear", "DequantizeLinear") or _is_random(node):
                return None
            arrays.extend(None if v is None else v.const for v in node.inputs)
            if any(v is not None and (v.const is None or v.const.size > FOLD_LIMIT) for v in node.inputs):
                return None
        if any(v.type.is_static and v.type.size > FOLD_LIMIT for v in node.outputs):
            return None
        try:
            with np.errstate(all="ignore"):
                results = evaluate(node, arrays)
        except (
            NotImplementedError,
            ValueError,
            TypeError,
            IndexError,
            KeyError,
            AttributeError,
            RuntimeError,
            ArithmeticError,
        ):
            return None  # the node stays: a backend that runs it tells more than onnx's reference
        if any(
            r.dtype.kind not in "OU" and r.dtype != v.dtype.numpy for r, v in zip(results, node.outputs, strict=True)
        ):
            return None
        return results


def _is_random(node: Node) -> bool:
    determinism = onnx.defs.get_schema(node.op, OPSET, node.domain).node_determinism
    return bool(determinism != onnx.defs.OpSchema.NodeDeterminism.Deterministic)


def _text(data: bytes) -> str | bytes:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return data
