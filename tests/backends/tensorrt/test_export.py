"""What is exported: valid for each release, equal to the interpreter, with pairs where TensorRT fuses them."""

from __future__ import annotations

import json
from collections import Counter

import numpy as np
import onnx
import pytest

from edgec.backends.tensorrt import operators
from edgec.backends.tensorrt.export import export, int8_layers, to_release, variants
from edgec.backends.tensorrt.qdq import drop_pairs_in_the_way, refuse_grid
from edgec.backends.tensorrt.releases import Release
from edgec.errors import InternalError, Unsupported, UserError
from edgec.interchange.onnx_export import to_model
from edgec.interchange.session import open_session, run_session
from edgec.ir import DType
from edgec.ir.interpret import interpret
from edgec.ir.types import Quant, Sparsity
from edgec.passes.contract import Options
from edgec.passes.pipelines import optimize
from tests.backends.tensorrt.nets import NETS, quantized
from tests.models import BLOCKS, Builder, feeds

RELEASES = {"8.2": Release((8, 2, 1), 53), "8.5": Release((8, 5, 2), 87), "8.6": Release((8, 6, 2), 87),
            "10.3": Release((10, 3, 0), 87), "10.16": Release((10, 16), 87), "11.4": Release((11, 4, 1), 87)}
_FACTS = {"target": "jetson-orin-nano", "jetpack": "6.2"}


def run(graph, release, inputs):
    """Results of the exported model in ONNX Runtime, as it is, after onnx's own check."""
    model = to_model(graph, release.opset)
    onnx.checker.check_model(model, full_check=True)
    return run_session(open_session(model.SerializeToString()), inputs)


def error(results, expected):
    return max(float(np.abs(results[k].astype(np.float64) - v).max() / np.abs(v).max()) for k, v in expected.items())


@pytest.mark.parametrize("release", sorted(RELEASES))
@pytest.mark.parametrize("name", sorted({*NETS, *BLOCKS}))
def test_float_models_give_the_numbers_of_the_interpreter(name, release):
    graph, _ = optimize({**NETS, **BLOCKS}[name](), Options())
    inputs = feeds(graph)
    expected = interpret(graph, inputs)
    for kind, tolerance in (("float32", 2e-6), ("float16", 2e-2 if RELEASES[release].typed else 2e-6)):
        written = to_release(graph, RELEASES[release], kind)
        assert [operators.refuse(n, RELEASES[release]) for n in written.nodes] == [None] * len(written.nodes)
        results = run(written, RELEASES[release], inputs)
        assert set(results) == set(expected)
        assert all(results[k].dtype == v.dtype for k, v in expected.items())
        assert error(results, expected) < tolerance


@pytest.mark.parametrize("release", ["8.5", "10.3", "10.16"])
@pytest.mark.parametrize("name", sorted(NETS))
def test_int8_models_give_the_numbers_of_the_interpreter(name, release):
    graph = quantized(name)
    drop_pairs_in_the_way(graph)
    assert int8_layers(graph)
    inputs = feeds(graph, 5)
    expected = interpret(graph, inputs)
    kind = "float32" if RELEASES[release].typed else "int8"  # float16 around int8 is measured below
    results = run(to_release(graph, RELEASES[release], kind), RELEASES[release], inputs)
    assert error(results, expected) < 1e-6  # no number landed on another grid point


@pytest.mark.parametrize("name", sorted(NETS))
def test_typed_int8_models_stay_close_with_float16_around(name):
    graph = quantized(name)
    inputs = feeds(graph, 5)
    results = run(to_release(graph, RELEASES["10.16"], "int8"), RELEASES["10.16"], inputs)
    assert error(results, interpret(graph, inputs)) < 0.08


def skeleton(graph) -> str:
    """One line per node: op, inputs, output; pairs of weights left out, constants without their names."""
    lines = []
    for node in graph.nodes:
        if node.op.endswith("Linear") and (node.operand(0).const is not None or any(
                "dq" in v.name and v.producer is node and node.operand(0).const is not None for v in node.outputs)):
            continue
        inputs = ", ".join(_place(v) for v in node.input_values if v.const is None)
        lines.append(f"{node.op}({inputs}) -> {', '.join(_place(v) for v in node.outputs)}")
    return "\n".join(lines) + "\n"


def _place(value) -> str:
    producer = value.producer
    if producer is not None and producer.op == "DequantizeLinear" and producer.operand(0).const is not None:
        return "weight"
    return value.name


@pytest.mark.parametrize("name", sorted(NETS))
def test_pairs_stand_where_tensorrt_fuses_them(name, check_golden):
    graph = quantized(name)
    drop_pairs_in_the_way(graph)
    check_golden(f"tensorrt/{name}-int8.txt", skeleton(to_release(graph, RELEASES["10.3"], "int8")))


@pytest.mark.parametrize("name", sorted(NETS))
def test_placement_keeps_tensorrts_rules(name):
    graph = quantized(name)
    drop_pairs_in_the_way(graph)
    written = to_release(graph, RELEASES["10.3"], "int8")
    for node in written.nodes:
        kinds = [None if v.producer is None else v.producer.op for v in node.input_values]
        if node.op in ("Conv", "ConvTranspose") and "DequantizeLinear" in kinds:
            assert kinds[:2] == ["DequantizeLinear"] * 2  # rule 4: on every input
        if node.op in ("Relu", "Clip", "BatchNormalization") and node.operand(0).producer is not None:
            before = node.operand(0).producer
            assert not (before.op == "DequantizeLinear" and before.operand(0).producer.operand(0).producer is not None
                        and before.operand(0).producer.operand(0).producer.op == "Conv")  # rule 5
        if node.op == "Add":
            quantized_inputs = [k == "DequantizeLinear" for k in kinds]
            conv_inputs = [k == "Conv" for k in kinds]
            if any(conv_inputs):
                assert sum(quantized_inputs) <= 1  # rule 6
        if node.op == "QuantizeLinear":
            assert (node.operand(2).const == 0).all()
            assert node.operand(2).dtype is DType.INT8


def test_weights_are_stored_as_int8_from_10_on_and_as_float_before():
    graph = quantized("resnet")
    for release, kind in (("8.5", DType.FLOAT32), ("10.3", DType.INT8)):
        written = to_release(graph, RELEASES[release], "int8")
        conv = next(n for n in written.nodes if n.op == "Conv")
        dq = conv.operand(1).producer
        source = dq.operand(0) if dq.operand(0).const is not None else dq.operand(0).producer.operand(0)
        assert dq.op == "DequantizeLinear"
        assert source.dtype is kind
        assert dq.attributes["axis"] == 0


def test_drop_pairs_takes_the_grid_off_a_product_before_its_activation_and_off_the_longer_branch():
    b = Builder(channels := 1)
    x = b.input("x", 1, 16, 5, 5)
    conv = b.conv(x, 16)
    relu = b("Relu", conv)
    long, short = b.conv(relu, 16), b.conv(x, 16, 1)
    graph = b.output(b("Add", long, short))
    grid = Quant(DType.INT8, np.float32(0.1), np.int8(0))
    for value in (conv, relu, long, short):
        value.quant = grid
    found = drop_pairs_in_the_way(graph)
    assert [(r.rule, r.node) for r in found if "half" not in r.rule] == [("qdq.activation", "relu"),
                                                                        ("qdq.residual", "add")]
    assert [v.quant is None for v in (conv, relu, long, short)] == [True, False, True, False]
    assert channels == 1


def test_drop_pairs_reports_a_product_with_one_quantized_input_and_unequal_concat_scales():
    b = Builder()
    x, y = b("Relu", b.input("x", 1, 16, 5, 5)), b("Relu", b.input("y", 1, 16, 5, 5))
    joined = b("Concat", x, y, axis=1)
    conv = b.conv(joined, 16)
    graph = b.output(conv)
    weight = conv.producer.operand(1)
    weight.quant = Quant(DType.INT8, np.full(16, 0.01, np.float32), np.zeros(16, np.int8), axis=0)
    x.quant, y.quant = (Quant(DType.INT8, np.float32(s), np.int8(0)) for s in (0.1, 0.2))
    assert [r.rule for r in drop_pairs_in_the_way(graph)] == ["qdq.concat", "qdq.half"]
    assert weight.quant is None


@pytest.mark.parametrize(("quant", "text"), [
    (Quant(DType.UINT8, np.float32(0.1), np.uint8(0)), "uint8"),
    (Quant(DType.INT8, np.float32(0.1), np.int8(3)), "zero point"),
    (Quant(DType.INT8, np.float32([0.1, 0.2]), np.int8([0, 0]), axis=1), "per channel"),
])
def test_grids_that_tensorrt_does_not_have_are_refused(quant, text):
    b = Builder()
    node = b("Relu", b.input("x", 1, 2)).producer
    node.outputs[0].quant = quant
    found = refuse_grid(node.outputs[0], node)
    assert found.rule == "tensorrt.quant"
    assert text in found.text


def test_typed_models_keep_float32_where_float16_cannot_hold_it():
    b = Builder()
    x = b.input("x", 1, 4)
    big = b("Add", x, b.constant(np.full(4, 1e6, np.float32)))
    tiny = b("Mul", b("Tanh", big), b.constant(np.full(4, 1e-9, np.float32)))
    graph = b.output(b("Relu", tiny), b("Softmax", b("Exp", x)))
    written = to_release(graph, RELEASES["10.16"], "float16")
    types = {n.op: n.outputs[0].dtype for n in written.nodes if n.op != "Cast"}
    assert types == {"Add": DType.FLOAT32, "Tanh": DType.FLOAT16, "Mul": DType.FLOAT32, "Relu": DType.FLOAT16,
                     "Exp": DType.FLOAT32, "Softmax": DType.FLOAT16}
    assert [v.dtype for v in (*written.inputs, *written.outputs)] == [DType.FLOAT32] * 3
    assert [v.name for v in written.outputs] == [v.name for v in graph.outputs]


def test_typed_int8_layers_with_tiny_scales_stay_float32():
    b = Builder()
    x = b("Relu", b.input("x", 1, 16, 5, 5))
    conv = b.conv(x, 16)
    graph = b.output(b("Relu", conv))
    x.quant = Quant(DType.INT8, np.float32(1e-6), np.int8(0))
    weight = conv.producer.operand(1)
    weight.quant = Quant(DType.INT8, np.full(16, 0.01, np.float32), np.zeros(16, np.int8), axis=0)
    written = to_release(graph, RELEASES["10.16"], "int8")
    types = {n.name: n.outputs[0].dtype for n in written.nodes if n.op == "Conv" or n.op == "DequantizeLinear"}
    assert set(types.values()) == {DType.FLOAT32, DType.FLOAT16}  # the weight's pair could be half; the layer is not
    assert types["conv"] is DType.FLOAT32


def test_resize_and_reductions_keep_their_parameters_in_typed_models():
    graph, _ = optimize(NETS["yolo"](), Options())
    written = to_release(graph, RELEASES["10.16"], "float16")
    resize = next(n for n in written.nodes if n.op == "Resize")
    assert resize.operand(2).dtype is DType.FLOAT32
    assert resize.operand(0).dtype is DType.FLOAT16


@pytest.mark.parametrize(("precision", "quant", "release", "expected"), [
    ("auto", False, "10.3", ["float16"]), ("auto", True, "10.3", ["int8", "float16"]),
    ("auto", True, "8.2", ["float16"]), ("float32", True, "10.3", ["float32"]), ("int8", True, "10.3", ["int8"]),
    ("int8", False, "10.3", "not quantized"), ("int8", True, "8.2", "no int8"), ("int4", True, "10.3", "none of"),
])
def test_variants_follow_precision_graph_and_gpu(precision, quant, release, expected):
    graph = quantized("resnet") if quant else NETS["resnet"]()
    if isinstance(expected, list):
        assert variants(graph, RELEASES[release], precision) == expected
    else:
        with pytest.raises(UserError, match=expected):
            variants(graph, RELEASES[release], precision)


def test_export_describes_what_it_wrote(tmp_path):
    graph = quantized("resnet")
    made = export(graph, RELEASES["10.3"], tmp_path, name="net", precision="auto", board=_FACTS)
    description = json.loads((tmp_path / "engine.json").read_text())
    assert description == made.description
    assert set(made.files) == {"int8.onnx", "float16.onnx", "engine.json"} == {p.name for p in tmp_path.iterdir()}
    int8, half = description["variants"]
    assert (int8["flags"], half["flags"], int8["typed"]) == (["FP16", "INT8"], ["FP16"], False)
    assert description["int8_layers"] == int8_layers(graph)
    nodes = {n.name for n in onnx.load(tmp_path / "int8.onnx").graph.node}
    assert set(description["int8_layers"]) <= nodes
    ops = Counter(n.op_type for n in onnx.load(tmp_path / "float16.onnx").graph.node)
    assert ops["QuantizeLinear"] == 0
    other = tmp_path / "again"
    other.mkdir()
    export(graph, RELEASES["10.3"], other, name="net", precision="auto", board=_FACTS)
    assert all((other / p.name).read_bytes() == p.read_bytes() for p in tmp_path.iterdir() if p.is_file())


def test_export_for_a_dla_writes_a_cache_or_lists_every_layer_that_does_not_fit(tmp_path):
    graph = quantized("resnet")
    made = export(graph, RELEASES["8.5"], tmp_path, name="net", precision="int8", board=_FACTS, dla_core=0,
                  gpu_fallback=True)
    (row,) = made.description["variants"]
    assert row["cache"] == "int8.cache"
    assert "cache.scale" in {r.rule for r in made.findings}  # the float tail
    assert (tmp_path / "int8.cache").read_text().startswith("TRT-8502-EntropyCalibration2\n")
    assert "QuantizeLinear" not in {n.op_type for n in onnx.load(tmp_path / "int8.onnx").graph.node}
    yolo = export(NETS["yolo"](), RELEASES["8.5"], tmp_path, name="net", precision="float16", board=_FACTS, dla_core=0)
    assert yolo.description["off_dla"] == []  # SiLU is the Sigmoid and Mul that it is written with
    vit = quantized("vit")
    with pytest.raises(Unsupported) as caught:
        export(vit, RELEASES["8.5"], tmp_path, name="net", precision="float16", board=_FACTS, dla_core=0)
    assert len(caught.value.refusals) > 5
    assert "--allow-gpu-fallback" in caught.value.hint
    with pytest.raises(Unsupported, match=r"10\.16 has no DLA"):
        export(graph, RELEASES["10.16"], tmp_path, name="net", precision="int8", board=_FACTS, dla_core=0)


def test_sparse_layers_are_those_that_are_marked_aligned_and_true(tmp_path):
    b = Builder()
    x = b.input("x", 1, 32, 5, 5)
    wide, odd = b.conv(x, 16), b.conv(x, 9)
    graph = b.output(wide, odd)
    for value in (wide, odd):
        weight = value.producer.operand(1)
        groups = weight.const.transpose(0, 2, 3, 1).reshape(-1, 4).copy()
        groups[:, :2] = 0
        weight.const = groups.reshape(weight.shape[0], 3, 3, 32).transpose(0, 3, 1, 2)
        weight.sparsity = Sparsity(2, 4, 1)
    made = export(graph, RELEASES["10.3"], tmp_path, name="net", precision="auto", board=_FACTS)
    assert made.description["sparse_layers"] == ["conv"]
    weight.const = np.ones(weight.shape, np.float32)
    with pytest.raises(InternalError, match="marked 2:4 and is not"):
        export(graph, RELEASES["10.3"], tmp_path, name="net", precision="auto", board=_FACTS)
