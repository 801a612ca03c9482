"""What every test of a pass asserts: the caller's graph unchanged, a sound result, same numbers, nothing left to do."""

from __future__ import annotations

from types import ModuleType

import numpy as np

from edgec.ir.graph import Graph
from edgec.ir.interpret import interpret
from edgec.ir.text import dump
from edgec.ir.types import DType, Quant
from edgec.ir.verify import verify
from edgec.passes.contract import Options, PassResult
from tests.models import feeds

OPTIONS = Options()


def ops(graph: Graph) -> list[str]:
    """The ops in order."""
    return [n.op for n in graph.nodes]


def frozen(graph: Graph) -> tuple[str, dict[str, bytes]]:
    """Everything that may not change in a caller's graph."""
    text, arrays = dump(graph)
    return text, {k: a.tobytes() for k, a in arrays.items()}


def quant(scale: float = 0.05, zero: int = 3) -> Quant:
    """A per-tensor int8 grid."""
    return Quant(DType.INT8, np.float32(scale), np.int8(zero))


def check_numbers(before: Graph, after: Graph, tolerance: float, seed: int = 1) -> None:
    """Every output differs by at most `tolerance` of its largest magnitude."""
    given = feeds(before, seed)
    expected, found = interpret(before, given), interpret(after, given)
    assert list(expected) == list(found)
    for name, array in expected.items():
        assert found[name].dtype == array.dtype
        assert found[name].shape == array.shape
        if array.dtype.kind != "f":
            assert np.array_equal(found[name], array)
            continue
        largest = float(np.abs(array).max(initial=0)) or 1.0
        np.testing.assert_allclose(found[name], array, rtol=0, atol=tolerance * largest, err_msg=name)


def apply(
    module: ModuleType, graph: Graph, *, tolerance: float = 1e-6, options: Options = OPTIONS, numbers: bool = True
) -> PassResult:
    """Run a pass and check everything that holds for every pass."""
    before = frozen(graph)
    result = module.run(graph, options)
    assert frozen(graph) == before, "the caller's graph changed"
    assert verify(result.graph) == []
    assert [v.name for v in result.graph.outputs] == [v.name for v in graph.outputs]
    assert [v.name for v in result.graph.inputs] == [v.name for v in graph.inputs]
    report = result.report
    assert report.name == module.__name__.rpartition(".")[2]
    assert report.matched == report.applied + len(report.refused)
    if numbers:
        check_numbers(graph, result.graph, tolerance)
    assert module.run(result.graph, options).report.applied == 0, "the second run found something"
    return result


def refusals(module: ModuleType, graph: Graph, *, numbers: bool = True, options: Options = OPTIONS) -> list[str]:
    """The rules by which a pass refuses everything in `graph`."""
    result = apply(module, graph, numbers=numbers, options=options)
    assert result.report.applied == 0
    assert ops(result.graph) == ops(graph)
    return [r.rule for r in result.report.refused]
