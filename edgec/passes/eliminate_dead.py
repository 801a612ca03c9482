"""Eliminate nodes whose results nobody reads, and trailing optional outputs that nobody reads.

Fires when: (1) no output of the node is used or is a graph output; or
         (2) the node has more outputs than its op requires, and the last of them are neither used nor graph outputs.
Numerics: exact; nothing that is read is touched.
Source: ONNX specification, "Optional Inputs and Outputs".
"""

from __future__ import annotations

from edgec.ir.graph import OPSET, Graph, Node
from edgec.ir.rewrite import is_present, remove_unused
from edgec.passes.contract import Options, PassReport, PassResult

AFTER: dict[str, str] = {}


def run(graph: Graph, options: Options) -> PassResult:
    """A copy of `graph` without what no output depends on."""
    report = PassReport("eliminate_dead")
    graph = graph.copy()
    for node in list(reversed(graph.nodes)):
        if not is_present(node):
            continue
        gone = remove_unused(graph, [node])  # (1)
        if not gone:
            gone = int(_trim(graph, node))  # (2)
        report.matched += gone
        report.applied += gone
    return PassResult(graph, report)


def _trim(graph: Graph, node: Node) -> bool:
    used = [i for i, v in enumerate(node.outputs) if v.uses or graph.is_output(v)]
    keep = used[-1] + 1
    if keep == len(node.outputs) or node.domain:
        return False
    import onnx

    formal = onnx.defs.get_schema(node.op, OPSET, node.domain).outputs
    optional = onnx.defs.OpSchema.FormalParameterOption.Optional
    if any(i >= len(formal) or formal[i].option != optional for i in range(keep, len(node.outputs))):
        return False
    for value in node.outputs[keep:]:
        value.producer = None
    node.outputs = node.outputs[:keep]
    return True
