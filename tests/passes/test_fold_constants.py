import numpy as np
import pytest

from edgec.ir import DType, Graph, Node, TensorType, Value
from edgec.ir.quantize import quantize, quantize_dequantize
from edgec.ir.text import print_graph
from edgec.ir.types import Quant
from edgec.passes import fold_constants
from edgec.passes.contract import Options
from tests.models import Builder, shuffle_block
from tests.passes.checks import apply, ops, quant, refusals


def test_fold_constants_computes_shape_arithmetic_when_shapes_are_static(check_golden):
    result = apply(fold_constants, shuffle_block())
    assert not {"Shape", "Gather", "Unsqueeze", "Concat", "Div"} & set(ops(result.graph))
    check_golden("passes/fold_constants.txt", print_graph(result.graph))


@pytest.mark.parametrize(("start", "end"), [(0, 4), (1, 3), (-2, 4), (3, 1), (0, -1), (-9, 9)])
def test_fold_constants_slices_shape_when_start_and_end_are_given(start, end):
    b = Builder()
    graph = b.output(b("Shape", b("Relu", b.input("x", 2, 3, 5, 7)), start=start, end=end))
    result = apply(fold_constants, graph)
    assert ops(result.graph) == ["Identity"]
    assert result.graph.nodes[0].inputs[0].const.tolist() == [2, 3, 5, 7][start:end]


def test_fold_constants_keeps_the_output_produced_and_named_when_a_graph_output_is_constant():
    b = Builder()
    size = b("Size", b.input("x", 3, 5))
    result = apply(fold_constants, b.output(size))
    assert ops(result.graph) == ["Identity"]
    assert result.graph.outputs[0].name == size.name


def test_fold_constants_folds_every_output_when_a_node_has_several():
    b = Builder()
    x = b.input("x", 2, 2)
    first, second = b.node("Split", b.weight(2, 6), [2, 4], outputs=2, axis=1).outputs
    graph = b.output(b("Add", x, first), b("MatMul", x, second))
    assert ops(apply(fold_constants, graph).graph) == ["Add", "MatMul"]


def test_fold_constants_rounds_to_the_grid_when_the_result_is_quantized():
    b = Builder()
    x = b.input("x", 3, 4)
    folded = b("Mul", b.weight(3, 4), 2.0)
    folded.quant = quant(0.1, 0)
    graph = b.output(b("Add", x, folded))
    result = apply(fold_constants, graph)
    (add,) = result.graph.nodes
    constant = add.inputs[1]
    assert constant.quant == quant(0.1, 0)
    assert np.allclose(constant.const / 0.1, np.rint(constant.const / 0.1), atol=1e-4)


def test_fold_constants_refines_types_when_a_shape_becomes_known():
    b = Builder()
    x = b.input("x", 2, 6)
    target = b("Add", b.constant(np.array([3, 3])), b.constant(np.array([0, 1])))
    unknown = Value("y", TensorType(DType.FLOAT32, (None, None)))
    b.graph.add(Node("Reshape", [x, target], [unknown]))
    result = apply(fold_constants, b.output(unknown))
    assert result.graph.outputs[0].type.shape == (3, 4)


def test_fold_constants_refuses_random_ops():
    b = Builder()
    graph = b.output(b("Add", b.input("x", 3), b("RandomNormal", shape=(3,))))
    assert refusals(fold_constants, graph, numbers=False) == ["fold_constants.random"]


def test_fold_constants_folds_dropout_unless_it_trains():
    b = Builder()
    x = b.input("x", 4)
    assert ops(apply(fold_constants, b.output(b("Add", x, b("Dropout", b.weight(4))))).graph) == ["Add"]
    b = Builder()
    x = b.input("x", 4)
    trains = b("Dropout", b.weight(4), 0.5, b.constant(np.array(True)))
    assert refusals(fold_constants, b.output(b("Add", x, trains)), numbers=False) == ["fold_constants.random"]


def test_fold_constants_refuses_a_large_result_unless_its_inputs_are_as_large():
    small = Options(max_folded_bytes=64)
    b = Builder()
    graph = b.output(b("Add", b.input("x", 5, 7), b("Expand", b.weight(1, 7), [5, 7])))
    assert refusals(fold_constants, graph, options=small) == ["fold_constants.size"]
    b = Builder()
    graph = b.output(b("Add", b.input("x", 5, 7), b("Neg", b.weight(5, 7))))
    assert ops(apply(fold_constants, graph, options=small).graph) == ["Add"]


def test_fold_constants_refuses_what_the_reference_computes_differently(monkeypatch):
    b = Builder()
    graph = b.output(b("Add", b.input("x", 3), b("Neg", b.weight(3))))
    monkeypatch.setattr(fold_constants, "evaluate", lambda node, arrays: [np.zeros(4, np.float32)])
    assert refusals(fold_constants, graph) == ["fold_constants.reference"]


def test_fold_constants_reports_why_when_the_reference_fails(monkeypatch):
    def fails(node, arrays):
        raise NotImplementedError("no such kernel")

    b = Builder()
    graph = b.output(b("Add", b.input("x", 3), b("Neg", b.weight(3))))
    monkeypatch.setattr(fold_constants, "evaluate", fails)
    report = fold_constants.run(graph, Options()).report
    assert "no such kernel" in report.refused[0].text
    assert report.refused[0].source == "model.py:1"


def test_fold_constants_leaves_other_domains_and_computed_inputs_alone():
    graph = Graph("g")
    x = Value("x", TensorType(DType.FLOAT32, (2,)))
    graph.inputs.append(x)
    y, z = (Value(n, TensorType(DType.FLOAT32, (2,))) for n in "yz")
    graph.add(Node("Mystery", [Value.constant("c", np.ones(2, np.float32))], [y], domain="com.example"))
    graph.add(Node("Add", [x, y], [z]))
    graph.outputs = [z]
    assert fold_constants.run(graph, Options()).report.matched == 0


@pytest.mark.parametrize(("shape", "perm", "scales", "axis", "block", "moved"), [
    ((6, 35), None, (6,), 0, 0, 1),
    ((6, 35), (1, 0), (6,), -2, 0, 1),
    ((6, 35), (1, 0), (6, 5), 1, 8, 0),  # 35 = 4 * 8 + 3: the last group is shorter
    ((4, 3, 2), (2, 0, 1), (3,), 1, 0, 2),
])
def test_fold_constants_takes_the_grid_of_a_transposed_weight_along(shape, perm, scales, axis, block, moved):
    rng = np.random.default_rng(5)
    grid = Quant(DType.INT8, rng.uniform(0.01, 0.1, scales).astype(np.float32),
                 rng.integers(-9, 9, scales).astype(np.int8), axis, block)
    numbers = quantize_dequantize(rng.standard_normal(shape).astype(np.float32), grid)
    b = Builder()
    attributes = {} if perm is None else {"perm": perm}
    weight = b("Transpose", Value.constant("w", numbers, grid), **attributes)
    graph = b.output(b("Add", b.input("x", *np.transpose(numbers, perm).shape), weight))
    (add,) = apply(fold_constants, graph).graph.nodes
    found = add.operand(1)
    assert found.quant is not None
    assert found.quant.axis == moved
    assert np.array_equal(found.const, np.transpose(numbers, perm))
    assert np.array_equal(quantize(found.const, found.quant), np.transpose(quantize(numbers, grid), perm))


@pytest.mark.parametrize(("op", "more", "axis", "kept"), [
    ("Reshape", [np.array([5, 12])], None, True),
    ("Reshape", [np.array([5, 12])], 0, False),  # channels are cut
    ("Pad", [np.array([0, 1, 0, 1])], None, False),
    ("Neg", [], None, False),
])
def test_fold_constants_keeps_a_grid_only_where_numbers_are_moved(op, more, axis, kept):
    scale = np.full(() if axis is None else (6,), 0.1, np.float32)
    grid = Quant(DType.UINT8, scale, np.full(scale.shape, 3, np.uint8), axis)
    numbers = quantize_dequantize(np.random.default_rng(6).uniform(0, 9, (6, 10)).astype(np.float32), grid)
    b = Builder()
    made = b(op, Value.constant("w", numbers, grid), *map(b.constant, more))
    graph = b.output(b("Add", b.input("x", *made.shape), made))
    (add,) = apply(fold_constants, graph).graph.nodes
    assert add.operand(1).quant == (grid if kept else None)
