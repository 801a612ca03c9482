"""What an engine for a graph would cost, before its kernels exist: the cost model on the kernels that it would have."""

from __future__ import annotations

from edgec.ir.graph import Graph, Node
from edgec.ops import coupling, table
from edgec.passes.pipelines import optimize
from edgec.plan.cost import Work, core_of, predict
from edgec.plan.kernels import group
from edgec.target import Target


def predicted_cycles(graph: Graph, target: Target) -> float:
    """Cycles of one core for one inference, by `plan.cost`; the kernels are those of the optimized graph.

    Channels count as the kernels store them: rounded up to whole blocks of `target.channel_block`. Which algorithm a
    convolution will get is not known here; all count as direct ones, so only ratios between similar graphs mean much.
    """
    graph, _ = optimize(graph)
    block = target.channel_block
    constants = sum(v.type.nbytes for v in graph.constants() if v.type.is_static)
    core = core_of(target, constants)
    total = 0.0
    for kernel in group(graph):
        if kernel.algorithm == "alias":
            continue
        values = [v for v in (*kernel.inputs, *kernel.outputs) if v.type.is_static]
        work = Work(
            sum(_padded_macs(node, block) for node in kernel.nodes), constant_bytes=sum(
                v.type.nbytes for v in kernel.constants if v.type.is_static),
            value_bytes=sum(v.type.nbytes for v in values),
            elements=sum(v.type.size for n in kernel.nodes for v in n.outputs if v.type.is_static))
        total += predict(core, work, "direct").cycles
    return total


def _padded_macs(node: Node, block: int) -> float:
    """Multiply-adds with the channels of the output rounded up to whole blocks."""
    macs = float(table.macs(node))
    result = node.outputs[0] if node.outputs else None
    if not macs or result is None or not result.type.is_static or result.type.rank < 2:
        return macs
    axis = 1 if table.coupling(node) is coupling.CONV else -1
    channels = result.shape[axis]
    return macs * (-(-channels // block) * block) / channels
