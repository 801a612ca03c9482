"""Convert ops that ONNX defines by other ops, and that have no kernel of their own, to those ops.

Formula: the function body in ONNX's own schema, for the types and attributes of the node.
Shapes:  any, static; shapes that the body computes are folded afterwards.
Fires when: (1) the op is of the default domain, has no OpSpec or one with role OPAQUE, and its schema has a function
         body; (2) it gives the same result at every run; (3) its inputs are of known types, and the body can be read
         (`convert_functions.body`).
Numerics: those of the body, which is the op's definition.
Source: ONNX specification, "Functions"; the bodies in onnx.defs.
"""

from __future__ import annotations

from edgec.errors import EdgecError
from edgec.ir.graph import OPSET, Graph, Node
from edgec.ir.rewrite import splice
from edgec.ops import KernelRole, table
from edgec.passes.contract import Options, Outcome, PassResult, rewrite

AFTER = {
    "fold_constants": "a function of constants is one constant",
    "eliminate_dead": "an unused optional output would be computed by the body",
}


def run(graph: Graph, options: Options) -> PassResult:
    """A copy of `graph` in which functions without a kernel are written out."""
    return rewrite(__name__, graph, options, _convert)


def _convert(graph: Graph, node: Node, options: Options) -> Outcome:
    if node.domain or (table.find(node) is not None and table.role(node) is not KernelRole.OPAQUE):
        return None
    import onnx

    schema = onnx.defs.get_schema(node.op, OPSET, node.domain)
    if not (schema.has_function or schema.has_context_dependent_function):  # (1)
        return None
    if schema.node_determinism == onnx.defs.OpSchema.NodeDeterminism.NonDeterministic:  # (2)
        return None
    if any(isinstance(a, Graph) for a in node.attributes.values()) or any(
            not v.type.is_static for v in (*node.input_values, *node.outputs)):
        return "convert_functions.body", f"{node.op} has a subgraph or inputs of unknown shape"
    try:
        body = _body(node)
    except (EdgecError, ValueError, RuntimeError) as error:  # (3)
        return "convert_functions.body", f"the body of {node.op} cannot be read: {error}"
    same = [(a.type, b.type) for a, b in zip(body.outputs, node.outputs, strict=True) if a.type != b.type]
    if same:
        return "convert_functions.body", f"the body of {node.op} gives {same[0][0]} for {same[0][1]}"
    splice(graph, node, body, [v for v in node.input_values if v.const is None])
    return True


def _body(node: Node) -> Graph:
    """The body for this node's types, read as a graph whose inputs and outputs are those of the node."""
    from onnx import helper, inliner

    from edgec.frontends.onnx import read_onnx
    from edgec.ops.semantics import to_node_proto, to_tensor_proto, value_info

    names = ["" if v is None else f"in{i}" for i, v in enumerate(node.inputs)]
    outputs = [f"out{i}" for i in range(len(node.outputs))]
    proto = to_node_proto(node, names, outputs)
    present = [(n, v) for n, v in zip(names, node.inputs, strict=True) if v is not None]
    graph = helper.make_graph(
        [proto], node.op, [value_info(v, n) for n, v in present],  # the inliner wants types of initializers too
        [value_info(v, n) for n, v in zip(outputs, node.outputs, strict=True)],
        initializer=[to_tensor_proto(v.const, n) for n, v in present if v.const is not None])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)])
    written = inliner.inline_selected_functions(model, [("", node.op)], inline_schema_functions=True)
    if any(n.op_type == node.op for n in written.graph.node):
        raise ValueError(f"onnx does not write {node.op} out")
    body, _ = read_onnx(written.SerializeToString(), {}, {})
    found = {v.name: v for v in body.inputs}
    body.inputs = [found[n] for n, v in present if v.const is None]
    return body
