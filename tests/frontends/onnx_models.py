"""Small ONNX models for the frontend's tests, and the check against ONNX Runtime."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, TypeProto, helper, numpy_helper

from edgec.frontends import LoadedModel
from edgec.ir.interpret import interpret


def tensor(name: str, array: object) -> TensorProto:
    return numpy_helper.from_array(np.asarray(array), name)


def model(
    nodes: Sequence[onnx.NodeProto],
    inputs: Mapping[str, Sequence[object]],
    outputs: Sequence[str],
    constants: Mapping[str, object] | None = None,
    *,
    opset: int = 17,
    ir_version: int = 8,
    dtypes: Mapping[str, int] | None = None,
    functions: Sequence[onnx.FunctionProto] = (),
    domains: Sequence[str] = (),
) -> onnx.ModelProto:
    graph = helper.make_graph(
        list(nodes),
        "test",
        [
            helper.make_tensor_value_info(n, (dtypes or {}).get(n, TensorProto.FLOAT), list(s))
            for n, s in inputs.items()
        ],
        [
            helper.make_value_info(n, TypeProto(tensor_type=TypeProto.Tensor(elem_type=(dtypes or {}).get(n, 1))))
            for n in outputs
        ],
        initializer=[tensor(n, a) for n, a in (constants or {}).items()],
    )
    imports = [helper.make_opsetid("", opset), *(helper.make_opsetid(d, 1) for d in domains)]
    return helper.make_model(graph, opset_imports=imports, ir_version=ir_version, functions=list(functions))


def reference(original: bytes, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(original, options, providers=["CPUExecutionProvider"])
    return dict(zip([o.name for o in session.get_outputs()], session.run(None, dict(feeds)), strict=True))


def random_feeds(loaded: LoadedModel, seed: int = 3) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    feeds = {}
    for value in loaded.graph.inputs:
        kind = value.dtype.numpy.kind
        drawn = random.standard_normal(value.shape) if kind == "f" else random.integers(0, 2, value.shape)
        feeds[value.name] = drawn.astype(value.dtype.numpy)
    return feeds


def check(loaded: LoadedModel, feeds: Mapping[str, np.ndarray] | None = None, tolerance: float = 1e-4) -> None:
    """The interpreter's outputs equal ONNX Runtime's to `tolerance` of the largest magnitude."""
    feeds = feeds if feeds is not None else random_feeds(loaded)
    expected = reference(loaded.original, feeds)
    results = interpret(loaded.graph, feeds)
    assert list(results) == list(expected)
    for name, array in expected.items():
        assert results[name].shape == array.shape, name
        assert results[name].dtype == array.dtype, name
        if array.dtype.kind == "f":
            largest = np.max(np.abs(array), initial=0)
            assert np.max(np.abs(results[name] - array), initial=0) <= tolerance * max(largest, 1e-30), name
        else:
            assert np.array_equal(results[name], array), name
