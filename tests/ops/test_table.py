import importlib
import inspect
import pkgutil
import re

import onnx
import pytest

import edgec.ops
from edgec.ir import DType, Graph, Node, TensorType, Value
from edgec.ir.graph import OPSET
from edgec.ops import KernelRole, OpSpec, OpTable, QuantRole, coupling, coupling_moves, table

# Not for inference on tensors: losses, sequences, optionals, strings.
LEFT_OUT = re.compile(r"(?!ReverseSequence).*(Sequence|Optional|String|Loss|Regex)")


def inference_ops():
    names = sorted({s.name for s in onnx.defs.get_all_schemas_with_history() if s.domain == ""})
    for name in names:
        try:
            schema = onnx.defs.get_schema(name, OPSET, "")
        except onnx.defs.SchemaError:
            continue  # newer than OPSET
        if not schema.deprecated and not LEFT_OUT.match(name):
            yield schema


def test_table_has_every_inference_op_of_onnx_and_no_other():
    assert table.names() == [s.name for s in inference_ops()]


@pytest.mark.parametrize("schema", inference_ops(), ids=lambda s: s.name)
def test_side_inputs_are_inputs_of_the_op(schema):
    spec = table.find(Node(schema.name, [], []))
    most = 8 if schema.max_input > 100 else schema.max_input
    assert all(0 <= i < most for i in spec.side_inputs)
    names = {schema.inputs[i].name.lower() for i in spec.side_inputs if i < len(schema.inputs)}
    assert not names & {"x", "data", "w", "weight"}, "a side input is a parameter, not data"


@pytest.mark.parametrize("name", ["Reshape", "Slice", "Expand", "Tile", "Pad", "Resize", "TopK", "ReduceSum"])
def test_ops_whose_output_shape_comes_from_an_input_list_it_as_side_input(name):
    assert 1 in table.find(Node(name, [], [])).side_inputs


def test_every_family_is_one_file_and_is_registered():
    files = {m.name for m in pkgutil.iter_modules(edgec.ops.__path__)} - {
        "spec", "semantics", "numpy_reference", "coupling", "coupling_moves", "elementary", "interpolation"}
    assert {table.family(name) for name in table.names()} == files
    for file in files:
        module = importlib.import_module(f"edgec.ops.{file}")
        assert {table.family(s.name) for s in module.SPECS} == {file}
        assert inspect.getdoc(module)


def test_pointwise_ops_have_one_output_of_the_broadcast_shape():
    """A pointwise op fuses into an epilogue: element i of the output may depend on element i of the inputs only."""
    pointwise = [n for n in table.names() if table.find(Node(n, [], [])).kernel is KernelRole.POINTWISE]
    assert len(pointwise) > 60
    for name in pointwise:
        schema = onnx.defs.get_schema(name, OPSET, "")
        assert "axis" not in schema.attributes or name in ("QuantizeLinear", "DequantizeLinear"), name


def test_find_gives_none_for_unknown_ops_and_other_domains():
    assert table.find(Node("Warp", [], [])) is None
    assert table.find(Node("Conv", [], [], domain="com.microsoft")) is None
    assert table.role(Node("Warp", [], [])) is KernelRole.OPAQUE


def test_add_refuses_a_name_twice():
    fresh = OpTable()
    fresh.add([OpSpec("A", KernelRole.OPAQUE)], "x")
    with pytest.raises(ValueError, match="op A has two specs"):
        fresh.add([OpSpec("A", KernelRole.OPAQUE)], "y")


def test_is_pure_looks_into_bodies():
    body = Graph("b")
    body.add(Node("RandomNormal", [], [Value("r", TensorType(DType.FLOAT32, (1,)))]))
    assert table.is_pure(Node("Add", [], []))
    assert not table.is_pure(Node("Bernoulli", [], []))
    assert not table.is_pure(Node("Warp", [], []))
    assert not table.is_pure(Node("If", [], [], {"then_branch": body}))
    assert table.is_pure(Node("If", [], [], {"then_branch": Graph("empty")}))


def test_pure_agrees_with_onnx():
    non_deterministic = onnx.defs.OpSchema.NodeDeterminism.NonDeterministic
    random = {s.name for s in inference_ops() if s.node_determinism == non_deterministic}
    # Dropout drops nothing outside of training; bodies are asked themselves, that of AffineGrid's definition too
    random -= {"Dropout", "If", "Loop", "Scan", "AffineGrid"}
    assert {n for n in table.names() if not table.find(Node(n, [], [])).pure} == random


def test_commutative_ops_are_those_of_arithmetic_and_logic():
    found = {n for n in table.names() if table.find(Node(n, [], [])).commutative}
    assert found == {"Add", "Mul", "Sum", "Mean", "Max", "Min", "And", "Or", "Xor", "Equal", "BitwiseAnd", "BitwiseOr",
                     "BitwiseXor"}


@pytest.mark.parametrize(("name", "quant", "together"), [
    ("Conv", QuantRole.COMPUTE, coupling.CONV), ("BatchNormalization", QuantRole.FLOAT, coupling.PER_CHANNEL),
    ("PRelu", QuantRole.REQUANTIZES, coupling.SAME), ("GroupNormalization", QuantRole.FLOAT, coupling.GROUPED_NORM),
    ("ReduceMean", QuantRole.REQUANTIZES, coupling.REDUCE), ("Concat", QuantRole.UNIFIES, coupling_moves.CONCAT),
    ("MaxPool", QuantRole.COMMUTES, coupling.WINDOW), ("And", QuantRole.NONE, coupling.SAME),
])
def test_roles(name, quant, together):
    spec = table.find(Node(name, [], []))
    assert (spec.quant, spec.coupling) == (quant, together)
