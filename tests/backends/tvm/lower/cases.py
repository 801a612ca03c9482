"""Runs lowerings of single nodes: many cases are compiled together, and compared with the meaning of the op."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import tvm
from tvm import te

from edgec.backends.tvm.lower.rule import Lowering
from edgec.backends.tvm.lower.shapes import copy
from edgec.backends.tvm.lower.tables import collected
from edgec.ir.graph import Graph, Node, Value
from edgec.ir.types import DType, TensorType
from edgec.ops.semantics import evaluate, make_node


@dataclass
class Case:
    """One node with its inputs. constants: indices of inputs that are parameters; expected: in place of `evaluate`."""

    op: str
    arrays: Sequence[np.ndarray | None]
    attributes: Mapping[str, Any] = field(default_factory=dict)
    constants: Sequence[int] = ()
    outputs: int = 1
    expected: Callable[[Node], list[np.ndarray]] | None = None

    def node(self) -> Node:
        """The node; inputs that are no constants are fed."""
        values = [None if a is None else self._value(i, a) for i, a in enumerate(self.arrays)]
        graph = Graph("case", [v for v in values if v is not None and v.const is None])
        return make_node(graph, self.op, values, self.attributes, outputs=self.outputs)

    def _value(self, index: int, array: np.ndarray) -> Value:
        if index in self.constants:
            return Value.constant(f"c{index}", array)
        return Value(f"x{index}", TensorType(DType.of(array), array.shape))

    def __str__(self) -> str:
        shapes = ", ".join("-" if a is None else f"{a.dtype}{list(a.shape)}" for a in self.arrays)
        return f"{self.op}({shapes}) {dict(self.attributes)}"


def compiled(func: Any) -> Any:
    """A PrimFunc, or a dict of them, as code for this machine."""
    module = tvm.IRModule({n: f.with_attr("global_symbol", n) for n, f in func.items()})
    return tvm.compile(module, target={"kind": "llvm", "opt-level": 0})  # compiles in half the time


def results(cases: Sequence[Case], lowerings: Mapping[str, Lowering]) -> list[list[np.ndarray]]:
    """What the lowerings compute. Every second case reads its inputs through a computed tensor."""
    funcs, nodes = {}, []
    for number, case in enumerate(cases):
        node = case.node()
        lowering = lowerings[case.op]
        assert lowering.refuse(node) is None, f"{case}: {lowering.refuse(node)}"
        given = [None if a is None else te.placeholder(a.shape, str(a.dtype), f"in{i}")
                 for i, a in enumerate(case.arrays)]
        tensors = [t if t is None or number % 2 == 0 else copy(t)
                   for t in given]
        with collected() as tables:
            made = lowering.compute(node, tensors)
        for tensor, value in zip(made, node.outputs, strict=True):
            assert tuple(int(d) for d in tensor.shape) == value.shape, f"{case}: {tensor.shape} is not {value.shape}"
            assert str(tensor.dtype) == value.dtype.value, f"{case}: {tensor.dtype} is not {value.dtype}"
        funcs[f"case{number}"] = te.create_prim_func([*(t for t in given if t is not None), *(t for t, _ in tables),
                                                    *made])
        nodes.append((node, [a for _, a in tables]))
    library = compiled(funcs)
    answers = []
    for number, (case, (node, constants)) in enumerate(zip(cases, nodes, strict=True)):
        outputs = [tvm.runtime.tensor(np.full(v.shape, 77).astype(v.dtype.numpy)) for v in node.outputs]
        inputs = [tvm.runtime.tensor(np.array(a, order="C")) for a in (*case.arrays, *constants) if a is not None]
        library[f"case{number}"](*inputs, *outputs)
        answers.append([o.numpy() for o in outputs])
    return answers


def check(cases: Sequence[Case], lowerings: Mapping[str, Lowering], tolerance: float = 0.0) -> None:
    """Assert that the lowerings compute what the ops mean, within a tolerance that is relative and absolute."""
    for case, answer in zip(cases, results(cases, lowerings), strict=True):
        node = case.node()
        wanted = case.expected(node) if case.expected is not None else evaluate(node, case.arrays)
        for got, want in zip(answer, wanted, strict=True):
            np.testing.assert_allclose(got, want, tolerance, tolerance, err_msg=str(case))
