"""Products that int8 makes slower: the cost model on the kernels that one product would get in float and in int8.

Formula: slower if int8 > 1.5 (float + rounding); int8, float: predicted cycles of the product's kernel, by `plan.cost`;
         rounding: of the pass that brings float results back to a grid for the next int8 kernel.
A product alone stands for its kernel: what is fused behind it costs both about the same. Where the table of the core
has measured both kernels, their ratio counts in the place of the predicted one, and no 1.5.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from edgec.backends.tvm import lower, work
from edgec.compress.quantize.annotate import annotate
from edgec.compress.quantize.place import Placement
from edgec.compress.quantize.policy import CPU, Reason
from edgec.ir.graph import Graph, Node, Value
from edgec.ir.types import DType, Quant
from edgec.kernels import registry
from edgec.kernels.tables import Table, known, signature
from edgec.ops import table
from edgec.plan import cost
from edgec.plan.grids import settle
from edgec.plan.kernels import group
from edgec.plan.layout import assign
from edgec.plan.plan import Kernel, stored_dtype
from edgec.target import Target

_ROUNDING = 6  # vector instructions that bring a vector of floats to a grid; measured 7 cycles with AVX-512
_DOUBT = 1.5  # predictions of single kernels are off by a third: what is predicted closer than that stays int8
_GRID = Quant(DType.UINT8, np.float32(2.0**-6), np.asarray(3, np.uint8))  # any with a zero point: times are the same


def why_slower(target: Target, tuned: Table | None = None) -> Callable[[Node], Reason]:
    """A judge of products: (`int8.slower`, text) for a node that int8 makes slower on `target`, else None.

    tuned: measured kernels; by default what is known of the core. Equal products are judged once.
    """
    measured = known(target.cpu, None) if tuned is None else tuned
    judged: dict[str, Reason] = {}

    def judge(node: Node) -> Reason:
        alone = _alone(node)
        key = signature(group(alone)[0])
        if key not in judged:
            judged[key] = _judge(alone, target, measured)
        return judged[key]

    return judge


def _judge(alone: Graph, target: Target, tuned: Table) -> Reason:
    name = alone.nodes[0].name
    placement = Placement((name,), {"x": "x", "y": "y"}, {"x": ("x",), "y": ("y",)}, {"x": ((name, 0),)})
    integers = _kernel(annotate(alone, placement, {"x": _GRID, "y": _GRID}, CPU), name, target, tuned)
    floats, core = _kernel(alone, name, target, tuned), cost.core_of(target)
    size = alone.outputs[0].type.size
    rounding = cost.predict(core, cost.Work(0, value_bytes=5 * size, elements=_ROUNDING * size), "pointwise").cycles
    slow, fast = _cycles(integers, target, tuned, core), _cycles(floats, target, tuned, core)
    seconds = [tuned.entries[s].seconds if (s := signature(k)) in tuned.entries else 0.0 for k in (integers, floats)]
    measured = all(seconds)
    if measured:
        slow = fast * seconds[0] / seconds[1]
    if slow <= (fast + rounding) * (1.0 if measured else _DOUBT):
        return None
    return "int8.slower", f"in int8 it would take {slow / (fast + rounding):.1f} times as long on this target"


def _alone(node: Node) -> Graph:
    """A graph of this product only, with its own constants."""
    data, result = node.operand(0), node.outputs[0]
    x, y = Value("x", data.type), Value("y", result.type)
    graph = Graph("alone", [x])
    graph.add(Node(node.op, [x, *node.inputs[1:]], [y], node.attributes, name=node.name))
    graph.outputs = [y]
    return graph.copy()


def _kernel(graph: Graph, name: str, target: Target, tuned: Table) -> Kernel:
    kernels = settle(graph, group(graph), signed=target.cpu.arch != "x86_64")
    kernels = assign(graph, kernels, lambda kernel: registry.demand(kernel, target, tuned))
    return next(k for k in kernels if any(n.name == name for n in k.nodes))


def _cycles(kernel: Kernel, target: Target, tuned: Table, core: cost.Core) -> float:
    program = registry.program(kernel, target, lower.lower, tuned)
    if program is None:
        return cost.predict(core, _composed(kernel), "generic").cycles
    return cost.predict(core, work.describe(kernel, program), program.algorithm).cycles


def _composed(kernel: Kernel) -> cost.Work:
    """The work of a kernel of the generic composition, from the nodes alone."""
    stored = [kernel.layout(v).nbytes(v) for v in (*kernel.inputs, *kernel.outputs)]
    itemsize = stored_dtype(kernel.nodes[0].operand(0)).itemsize
    return cost.Work(sum(table.macs(n) for n in kernel.nodes), itemsize,
                     sum(v.type.nbytes for v in kernel.constants), sum(stored))
