"""Whole residual blocks: y = x + f(x) becomes y = x where f adds little.

Which blocks go is found by trying: in each round every block that is left is removed alone, and the one goes whose
removal changes the model's outputs least for the cost that it saves.
Source: Veit et al. 2016, arXiv:1605.06431 (residual nets without single blocks); the greedy order by the change of the
outputs: Elkerdawy et al. 2020, To Filter Prune, or to Layer Prune, arXiv:2007.05667.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from edgec.compress.prune.channels import Cost, count_macs
from edgec.compress.prune.select import check_expressions
from edgec.compress.prune.sensitivity import Judge, Quality
from edgec.compress.train.store import Store
from edgec.errors import UserError
from edgec.ir.graph import Graph, Node, Value
from edgec.ir.rewrite import substitute, why_not_substituted
from edgec.passes.pipelines import CLEAN, optimize
from edgec.progress import Progress, many, silent


@dataclass(frozen=True)
class Block:
    """name: of the sum; macs: multiply-adds that only serve it."""

    name: str
    macs: float


@dataclass(frozen=True)
class BlockRow:
    """A block that went: what the outputs were then, and the share of the cost that is left."""

    name: str
    macs: float
    quality: Quality
    cost: float


def find_blocks(graph: Graph) -> list[Block]:
    """The blocks of a graph, in its order.

    A block is a sum of two values of one shape, of which one, the shortcut, is what the other one is computed from;
    it takes the place of the sum. Something with multiply-adds must become useless by that.
    """
    whole, found = count_macs(graph), []
    for node in graph.nodes:
        shortcut = _shortcut(graph, node)
        if shortcut is not None:
            saved = whole - count_macs(remove_block(graph, node.name))
            if saved > 0:
                found.append(Block(node.name, saved))
    return found


def remove_block(graph: Graph, name: str) -> Graph:
    """The graph with a block's shortcut in the place of its sum. Raises UserError if there is no such block."""
    own = graph.copy()
    node = next((n for n in own.nodes if n.name == name), None)
    shortcut = None if node is None else _shortcut(own, node)
    if node is None or shortcut is None:
        raise UserError(f"there is no residual block {name}", expected="the sum of a value and what comes from it")
    substitute(own, node.outputs[0], shortcut)
    return optimize(own, pipeline=CLEAN)[0]


def prune_blocks(graph: Graph, store: Store, share: float, cost: Cost = count_macs, *, keep: Sequence[str] = (),
                 progress: Progress = silent) -> tuple[Graph, list[BlockRow]]:
    """Remove residual blocks until at most `share` of the cost is left; the caller's graph does not change.

    keep: patterns of names of blocks that stay. Raises UserError if the graph has no block, or if the goal is not
    reached without all of them.
    """
    judge, whole = Judge(graph, store, adapting=True), cost(graph)
    rows: list[BlockRow] = []
    check_expressions(keep)
    if not find_blocks(graph):
        raise UserError("the model has no residual block", expected="sums of a value and what is computed from it",
                        hint="channels can go from any model: leave out --blocks")
    while (now := cost(graph)) > share * whole:
        tried = []
        left = [b for b in find_blocks(graph) if not any(re.fullmatch(p, b.name) for p in keep)]
        for index, block in enumerate(left):
            progress("blocks", index / len(left), f"{len(rows)} removed, trying {block.name}")
            small = remove_block(graph, block.name)
            saved = now - cost(small)
            if saved > 0:
                quality = judge.judge(small)
                tried.append((quality.noise / saved, index, small, BlockRow(block.name, block.macs, quality,
                                                                            (now - saved) / whole)))
        if not tried:
            raise UserError(f"without all blocks that may go {now / whole:.2f} of the cost is left",
                            expected=f"at most {share:.2f}", hint="prune channels instead, or both one after the other")
        _, _, graph, row = min(tried, key=lambda t: t[:2])
        rows.append(row)
    progress("blocks", 1.0, f"{many(len(rows), 'block')} removed")
    return graph, rows


def _shortcut(graph: Graph, node: Node) -> Value | None:
    """The operand of a sum that the other one is computed from; None if it is no residual sum."""
    if node.op != "Add":
        return None
    a, b = node.operand(0), node.operand(1)
    for value, branch in ((a, b), (b, a)):
        fits = value.const is None and branch.const is None and value is not branch
        if fits and why_not_substituted(graph, node.outputs[0], value) is None and _comes_from(branch, value):
            return value
    return None


def _comes_from(value: Value, origin: Value) -> bool:
    """True if `value` is computed from `origin`."""
    seen: set[int] = set()
    waiting = [value]
    while waiting:
        current = waiting.pop()
        if current is origin:
            return True
        if id(current) not in seen:
            seen.add(id(current))
            waiting += current.producer.input_values if current.producer is not None else ()
    return False
