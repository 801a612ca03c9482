"""Control flow: what the compiler knows of it. Bodies are subgraph attributes; `OpTable.macs` adds them up."""

from __future__ import annotations

from collections.abc import Callable

from edgec.ir.graph import Node
from edgec.ops import coupling
from edgec.ops.spec import KernelRole, OpSpec, QuantRole


def _once(_node: Node) -> int:
    return 1


def loop_trips(node: Node) -> int:
    """How often the body of a Loop runs: its constant trip count, 1 if that is unknown."""
    count = node.input(0)
    return max(0, int(count.const.reshape(-1)[0])) if count is not None and count.const is not None else 1


def scan_trips(node: Node) -> int:
    """How often the body of a Scan runs: the length of the scanned axis of its first scan input, 1 if unknown."""
    first = len(node.inputs) - node.captures - node.integer("num_scan_inputs", 1)
    length = node.operand(first).type.shape[node.integers("scan_input_axes", (0,))[0]]
    return 1 if length is None else length


def _control(name: str, trips: Callable[[Node], int]) -> OpSpec:
    return OpSpec(name, KernelRole.OPAQUE, QuantRole.FLOAT, coupling.UNKNOWN, trips)


SPECS = (_control("If", _once), _control("Loop", loop_trips), _control("Scan", scan_trips))
