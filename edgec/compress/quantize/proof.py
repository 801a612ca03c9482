"""Where the error of int8 comes from: every kernel against float, and each kernel in int8 alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from edgec.compress.quantize.observe import Feeds
from edgec.compress.quantize.outputs import Reference
from edgec.compress.quantize.subset import Prepared
from edgec.compress.quantize.taps import watch
from edgec.interchange.onnx_export import to_model
from edgec.interchange.session import open_session, run_session
from edgec.ir.graph import Graph, Node, Value
from edgec.ir.grouping import Group, groups
from edgec.ir.interpret import interpret
from edgec.ir.quantize import product_scale
from edgec.ops import QuantRole, table
from edgec.progress import Progress, many, silent


@dataclass(frozen=True)
class KernelError:
    """How far a kernel's results are from float, with all the error that its inputs bring.

    name: of its last node; product: of its Conv, Gemm or MatMul, empty if it has none. int8: it computes on integers;
    without a product: it writes them. sqnr_db: None where no number differs, or all are zero. largest: of
    |float - int8|; magnitude: the largest |float|.
    """

    name: str
    product: str
    ops: tuple[str, ...]
    source: str
    int8: bool
    macs: int
    sqnr_db: float | None
    largest: float
    magnitude: float


@dataclass(frozen=True)
class Sensitivity:
    """What one kernel in int8 does to the model's outputs when all others are float.

    noise: the relative error of the output that is off most (`outputs.Distance.relative`); sqnr_db: that in dB, None
    where nothing differs.
    """

    product: str
    noise: float

    @property
    def sqnr_db(self) -> float | None:
        """-10 log10(noise)."""
        return -10 * math.log10(self.noise) if self.noise > 0 else None


def kernel_errors(graph: Graph, result: Graph, samples: Sequence[Feeds], *, threads: int = 1,
                  progress: Progress = silent) -> list[KernelError]:
    """Every kernel of the quantized graph `result` that a value of the float graph `graph` corresponds to, in order.

    The taps lie where kernels end (`ir.grouping`), so nothing that is fused comes apart. Their numbers are those of
    `ir.interpret`, which are the CPU engine's bit for bit; a TensorRT engine rounds in its own way.
    Formula: SQNR = 10 log10(sum x^2 / sum (x - y)^2) over all elements and samples, in float64.
    """
    pairs = [(group, twin) for group in groups(result) if (twin := _twin(graph, result, group)) is not None]
    names = list(dict.fromkeys(twin.name for _, twin in pairs if twin.producer is not None))
    session = open_session(to_model(watch(graph, names)).SerializeToString(), threads) if names else None
    fed = {i.name for i in session.get_inputs()} if session is not None else set()
    sums: list[list[tuple[float, float, float, float]]] = [[] for _ in pairs]
    for index, feeds in enumerate(samples):
        progress("prove", index / len(samples), many(len(pairs), "kernel") + " against float")
        expected: dict[str, np.ndarray] = dict(feeds)
        if session is not None:
            expected.update(run_session(session, {n: feeds[n] for n in fed}))
        actual = interpret(result, feeds, [group.output.name for group, _ in pairs])
        for found, (group, twin) in zip(sums, pairs, strict=True):
            x, y = (a.astype(np.float64) for a in (expected[twin.name], actual[group.output.name]))
            gap = np.abs(x - y)
            found.append((float(np.square(x).sum()), float(np.square(gap).sum()), float(gap.max(initial=0)),
                          float(np.abs(x).max(initial=0))))
    rows = []
    for (group, _), found in zip(pairs, sums, strict=True):
        power, noise = math.fsum(f[0] for f in found), math.fsum(f[1] for f in found)
        rows.append(KernelError(
            group.nodes[-1].name, group.anchor.name if _is_product(group.anchor) and group.anchor is not None else "",
            tuple(n.op for n in group.nodes), (group.anchor or group.nodes[-1]).source, _is_integer(group),
            sum(table.macs(n) for n in group.nodes), 10 * math.log10(power / noise) if power > 0 < noise else None,
            max((f[2] for f in found), default=0.0), max((f[3] for f in found), default=0.0)))
    return rows


def sensitivities(prepared: Prepared, samples: Sequence[Feeds], *, threads: int = 1,
                  progress: Progress = silent) -> list[Sensitivity]:
    """The Sensitivity of every kernel with a product, in the graph's order; both graphs run in ONNX Runtime."""
    reference = Reference(prepared.graph, samples, threads)
    rows = []
    for index, product in enumerate(prepared.placement.products):
        progress("sensitivity", index / len(prepared.placement.products), product)
        rows.append(Sensitivity(product, reference.disturbance(prepared.alone(product))))
    progress("sensitivity", 1.0, f"{many(len(rows), 'kernel')}, each alone")
    return rows


def _twin(graph: Graph, result: Graph, group: Group) -> Value | None:
    """The value of the float graph that the kernel's output stands for; None if there is none, or it is no float.

    An Identity that only carries a grid stands for what it reads. A Relu or Clip that the grid does is followed.
    """
    nodes, values = {n.name: n for n in graph.nodes}, {v.name: v for v in graph.values()}
    last = group.nodes[-1]
    if last.name in nodes:
        value = nodes[last.name].outputs[0]
    elif last.op == "Identity" and last.operand(0).name in values:
        value = values[last.operand(0).name]
    else:
        return None
    if value.const is not None or not value.dtype.is_float or not group.output.dtype.is_float:
        return None
    left = {n.name for n in result.nodes}
    while (follower := _only_user(graph, value)) is not None and follower.name not in left and follower.name in nodes:
        value = follower.outputs[0]
    return value


def _only_user(graph: Graph, value: Value) -> Node | None:
    return value.uses[0][0] if len(value.uses) == 1 and not graph.is_output(value) else None


def _is_product(anchor: Node | None) -> bool:
    spec = table.find(anchor) if anchor is not None else None
    return spec is not None and spec.quant is QuantRole.COMPUTE


def _is_integer(group: Group) -> bool:
    if group.anchor is not None and _is_product(group.anchor):
        return product_scale(group.anchor) is not None
    return group.output.quant is not None
