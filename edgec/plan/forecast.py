"""What an engine for a graph would cost, before its kernels exist: the cost model on the kernels that it would have."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from edgec.errors import UserError
from edgec.ir.graph import Graph, Node
from edgec.ops import coupling, table
from edgec.passes.pipelines import optimize
from edgec.plan.cost import Work, core_of, predict
from edgec.plan.kernels import group
from edgec.target import Target


def kernel_cycles(graph: Graph, target: Target) -> dict[str, float]:
    """Cycles of one core for each kernel of the optimized graph, by `plan.cost`, in the order of execution.

    Channels count as the kernels store them: rounded up to whole blocks of `target.channel_block`. Which algorithm a
    convolution will get is not known here; all count as direct ones, so only ratios between similar graphs mean much.
    """
    graph, _ = optimize(graph)
    block = target.channel_block
    constants = sum(v.type.nbytes for v in graph.constants() if v.type.is_static)
    core = core_of(target, constants)
    cycles = {}
    for kernel in group(graph):
        if kernel.algorithm == "alias":
            continue
        values = [v for v in (*kernel.inputs, *kernel.outputs) if v.type.is_static]
        work = Work(
            sum(_padded_macs(node, block) for node in kernel.nodes), constant_bytes=sum(
                v.type.nbytes for v in kernel.constants if v.type.is_static),
            value_bytes=sum(v.type.nbytes for v in values),
            elements=sum(v.type.size for n in kernel.nodes for v in n.outputs if v.type.is_static))
        cycles[kernel.name] = predict(core, work, "direct").cycles
    return cycles


def predicted_cycles(graph: Graph, target: Target) -> float:
    """The sum of `kernel_cycles`."""
    return sum(kernel_cycles(graph, target).values())


@dataclass(frozen=True)
class Forecast:
    """Seconds of one inference on one core of a target.

    hertz: of the core. factors: by kernel, how much longer it took than the cost model says, where that was measured;
    common: the same for kernels that were not.
    """

    target: Target
    hertz: float
    factors: Mapping[str, float] = field(default_factory=dict)
    common: float = 1.0

    def seconds(self, graph: Graph) -> float:
        """Of a graph that is like the one that was measured: its kernels go by their names."""
        cycles = kernel_cycles(graph, self.target)
        return sum(c * self.factors.get(name, self.common) for name, c in cycles.items()) / self.hertz


def forecast(target: Target) -> Forecast:
    """By the cost model alone. Raises UserError for a target whose clock is not known, and for GPUs."""
    if target.table("gpu"):
        raise UserError(f"the cost model knows CPU cores, and {target.name} computes on its GPU",
                        expected="a goal that needs no times", hint="--macs 0.5, then measure on the board")
    if not target.cpu.mhz:
        raise UserError(f"the clock of {target.name} is not known", expected="measured times",
                        hint="give --times, what `edgec bench --layers --json` prints for the model as it is")
    return Forecast(target, target.cpu.mhz * 1e6)


def measured_forecast(target: Target, graph: Graph, seconds: Mapping[str, float], ghz: float) -> Forecast:
    """By the cost model, corrected with the time of each kernel of `graph` as it was measured.

    seconds: by kernel, as `edgec bench --layers` gives them; kernels that the graph does not have (layouts are changed
    between others) count for all alike. Raises UserError if none of the kernels is one of the graph.
    """
    cycles = kernel_cycles(graph, target)
    known = [name for name in cycles if name in seconds]
    if not known:
        raise UserError("the measured kernels are not those of the model", where=", ".join(list(seconds)[:3]),
                        expected=", ".join(list(cycles)[:3]), hint="measure a bundle of the same model file")
    spent, expected = sum(seconds[name] for name in known), sum(cycles[name] for name in known) / ghz / 1e9
    rest = sum(t for name, t in seconds.items() if name not in cycles)
    factors = {name: seconds[name] * (1 + rest / spent) / (cycles[name] / ghz / 1e9) for name in known}
    return Forecast(target, ghz * 1e9, factors, (spent + rest) / expected)


def _padded_macs(node: Node, block: int) -> float:
    """Multiply-adds with the channels of the output rounded up to whole blocks."""
    macs = float(table.macs(node))
    result = node.outputs[0] if node.outputs else None
    if not macs or result is None or not result.type.is_static or result.type.rank < 2:
        return macs
    axis = 1 if table.coupling(node) is coupling.CONV else -1
    channels = result.shape[axis]
    return macs * (-(-channels // block) * block) / channels
