"""Graphs of one op as torch modules, compared with the interpreter: one sample, three samples, and gradients."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from edgec.compress.torch_module import GraphModule, to_torch
from edgec.ir.graph import Graph
from edgec.ir.interpret import interpret
from edgec.ir.types import DType
from tests.models import Builder, feeds

torch.set_num_threads(1)


def tensors(arrays: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(np.array(a)) for name, a in arrays.items()}


def check_close(actual: torch.Tensor, expected: np.ndarray, tolerance: float = 1e-5) -> None:
    """Equal to 1e-5 of the largest magnitude; all that is no float is equal."""
    array = actual.detach().numpy()
    assert array.shape == expected.shape
    assert array.dtype == expected.dtype
    if expected.dtype.kind != "f":
        np.testing.assert_array_equal(array, expected)
        return
    finite = np.isfinite(expected)
    np.testing.assert_array_equal(array[~finite], expected[~finite])
    scale = max(float(np.abs(expected[finite]).max(initial=0)), 1e-30)
    assert float(np.abs(array[finite] - expected[finite]).max(initial=0)) <= tolerance * scale


def check(graph: Graph, *, batch: bool = True, seed: int = 1) -> GraphModule:
    """One sample equals the interpreter, three samples equal it one by one; the caller's graph is not changed."""
    before = [(v.name, v.const) for v in graph.constants()]
    module = to_torch(graph)
    given = feeds(graph, seed)
    for name, expected in interpret(graph, given).items():
        check_close(module(**tensors(given))[name], expected)
    if batch:
        samples = [feeds(graph, s) for s in (1, 2, 3)]
        whole = module(**tensors({n: np.concatenate([np.atleast_1d(s[n]) for s in samples]) for n in given}))
        results = [interpret(graph, s) for s in samples]
        for name in whole:
            check_close(whole[name], np.concatenate([np.atleast_1d(r[name]) for r in results]))
    assert [(v.name, id(v.const)) for v in graph.constants()] == [(n, id(c)) for n, c in before]
    return module


def one(op: str, *inputs: object, outputs: int = 1, seed: int = 0, **attributes: object) -> Graph:
    """A graph of one node. Tuples are shapes of float inputs, arrays and numbers are constants, None is absent."""
    b = Builder(seed, op.lower())
    values = [b.input(f"x{i}", *v) if isinstance(v, tuple) else v for i, v in enumerate(inputs)]
    return b.output(*b.node(op, *values, outputs=outputs, **attributes).outputs)


def gradients(graph: Graph, *, inputs: Sequence[str] | None = None) -> None:
    """torch.autograd.gradcheck of all outputs with respect to float inputs and weights, in float64."""
    module = to_torch(graph).double()
    given = {k: v.double() if v.is_floating_point() else v for k, v in tensors(feeds(graph)).items()}
    names = [v.name for v in graph.inputs if v.dtype is DType.FLOAT32 and (inputs is None or v.name in inputs)]
    weights = [module.parameter(n) for n in module.weight_names]

    def run(*values: torch.Tensor) -> tuple[torch.Tensor, ...]:
        results = module(**{**given, **dict(zip(names, values, strict=False))})
        return tuple(r for r in results.values() if r.is_floating_point())

    leaves = [given[n].clone().requires_grad_() for n in names]
    assert torch.autograd.gradcheck(run, (*leaves, *weights), eps=1e-6, atol=1e-5)
