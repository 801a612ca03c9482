from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from edgec.errors import Unsupported, UserError
from edgec.frontends import load
from edgec.interchange.onnx_export import to_model
from edgec.interchange.session import open_session, run_session
from edgec.ir.types import DType
from tests.frontends.onnx_models import check, model, tensor

INT64, BOOL = TensorProto.INT64, TensorProto.BOOL


def info(name: str, *shape: object, dtype: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, dtype, list(shape))


def body(nodes: list[onnx.NodeProto], inputs: list[onnx.ValueInfoProto], outputs: list[str]) -> onnx.GraphProto:
    return helper.make_graph(nodes, "body", inputs, [helper.make_value_info(o, onnx.TypeProto()) for o in outputs])


def test_shape_arithmetic_is_computed() -> None:
    nodes = [
        helper.make_node("Shape", ["x"], ["s"]),
        helper.make_node("Gather", ["s", "zero"], ["n"]),
        helper.make_node("Unsqueeze", ["n", "axes"], ["n1"]),
        helper.make_node("Concat", ["n1", "minus"], ["t"], axis=0),
        helper.make_node("Reshape", ["x", "t"], ["y"]),
    ]
    loaded = load(
        model(nodes, {"x": ("N", 3, 4)}, ["y"], {"zero": np.array(0), "axes": np.array([0]), "minus": np.array([-1])}),
        inputs={"x": (5, 3, 4)},
    )
    assert [n.op for n in loaded.graph.nodes] == ["Reshape"]
    assert loaded.graph.outputs[0].shape == (5, 12)
    check(loaded)


def test_large_constants_are_not_folded() -> None:
    w = np.ones((40, 40), np.float32)
    loaded = load(
        model(
            [helper.make_node("Add", ["w", "w"], ["v"]), helper.make_node("MatMul", ["x", "v"], ["y"])],
            {"x": (1, 40)},
            ["y"],
            {"w": w},
        )
    )
    assert [n.op for n in loaded.graph.nodes] == ["Add", "MatMul"]


def test_random_node_is_not_folded() -> None:
    nodes = [helper.make_node("RandomNormal", [], ["r"], shape=[3]), helper.make_node("Add", ["x", "r"], ["y"])]
    assert [n.op for n in load(model(nodes, {"x": (3,)}, ["y"])).graph.nodes] == ["RandomNormal", "Add"]


def test_constant_nodes_of_every_kind_become_constants() -> None:
    nodes = [
        helper.make_node("Constant", [], ["a"], value=tensor("a", np.array([1, 2], np.float32))),
        helper.make_node("Constant", [], ["b"], value_float=2.5),
        helper.make_node("Constant", [], ["c"], value_floats=[1.0, 4.0]),
        helper.make_node("Constant", [], ["i"], value_int=0),
        helper.make_node("Constant", [], ["j"], value_ints=[1, 2]),
        helper.make_node("Add", ["x", "a"], ["p"]),
        helper.make_node("Mul", ["p", "b"], ["q"]),
        helper.make_node("Add", ["q", "c"], ["r"]),
        helper.make_node("Unsqueeze", ["r", "j"], ["s"]),
        helper.make_node("Gather", ["s", "i"], ["y"]),
    ]
    loaded = load(model(nodes, {"x": (3, 2)[1:]}, ["y"]))
    assert "Constant" not in [n.op for n in loaded.graph.nodes]
    check(loaded)


@pytest.mark.parametrize("flag", [True, False])
def test_if_with_known_condition_is_read_in_place(flag: bool) -> None:
    then = body([helper.make_node("Mul", ["x", "k"], ["t"])], [], ["t"])
    then.initializer.append(tensor("k", np.float32(3)))
    other = body([helper.make_node("Neg", ["x"], ["t"])], [], ["t"])
    nodes = [
        helper.make_node("Equal", ["rate", "r16"], ["is16"]),
        helper.make_node("If", ["is16"], ["z"], then_branch=then, else_branch=other),
        helper.make_node("Relu", ["z"], ["y"]),
    ]
    proto = model(nodes, {"x": (2, 3), "rate": ()}, ["y"], {"r16": np.array(16)}, dtypes={"rate": INT64})
    loaded = load(proto, values={"rate": np.array(16 if flag else 8)})
    assert [n.op for n in loaded.graph.nodes] == ["Mul" if flag else "Neg", "Relu"]
    check(loaded)


def test_if_with_open_condition_keeps_closed_bodies() -> None:
    inner = helper.make_node(
        "If",
        ["c"],
        ["u"],
        name="inner",
        then_branch=body([helper.make_node("Add", ["x", "w"], ["u1"])], [], ["u1"]),
        else_branch=body([helper.make_node("Identity", ["h"], ["u2"])], [], ["u2"]),
    )
    then = body(
        [helper.make_node("Mul", ["x", "h"], ["t1"]), inner, helper.make_node("Sub", ["t1", "u"], ["t"])], [], ["t"]
    )
    other = body([helper.make_node("Neg", ["x"], ["t"])], [], ["t"])
    nodes = [
        helper.make_node("Relu", ["x"], ["h"]),
        helper.make_node("If", ["c"], ["y"], name="outer", then_branch=then, else_branch=other),
    ]
    loaded = load(model(nodes, {"x": (2, 3), "c": ()}, ["y"], {"w": np.float32(0.5)}, dtypes={"c": BOOL}))
    node = loaded.graph.nodes[-1]
    assert node.captures == 3  # x, h, c; the constant w is copied
    branches = [node.attributes[k] for k in ("then_branch", "else_branch")]
    assert all([v.type for v in b.inputs] == [v.type for v in node.inputs[1:]] for b in branches)
    x = np.random.default_rng(1).standard_normal((2, 3)).astype(np.float32)
    for flag in (True, False):
        check(loaded, {"x": x, "c": np.array(flag)})


def test_loop_carries_captures_and_stacks() -> None:
    inside = body(
        [
            helper.make_node("Add", ["s", "step"], ["s2"]),
            helper.make_node("Mul", ["s2", "x"], ["out"]),
            helper.make_node("Identity", ["cond"], ["cond2"]),
        ],
        [info("i", dtype=INT64), info("cond", dtype=BOOL), info("s", 3)],
        ["cond2", "s2", "out"],
    )
    nodes = [
        helper.make_node("Relu", ["x"], ["step"]),
        helper.make_node("Loop", ["n", "go", "x"], ["last", "all"], body=inside),
    ]
    loaded = load(model(nodes, {"x": (3,)}, ["last", "all"], {"n": np.array(4), "go": np.array(True)}))
    assert [v.shape for v in loaded.graph.outputs] == [(3,), (4, 3)]
    check(loaded)


def test_loop_whose_carried_shape_grows_has_an_unknown_dimension() -> None:
    inside = body(
        [helper.make_node("Concat", ["s", "x"], ["s2"], axis=0), helper.make_node("Identity", ["cond"], ["cond2"])],
        [info("i", dtype=INT64), info("cond", dtype=BOOL), info("s", None)],
        ["cond2", "s2"],
    )
    loaded = load(
        model([helper.make_node("Loop", ["n", "", "x"], ["y"], body=inside)], {"x": (3,)}, ["y"], {"n": np.array(2)})
    )
    assert loaded.graph.outputs[0].type.shape == (None,)


@pytest.mark.parametrize("axis", [0, -1])
def test_scan_slices_and_stacks(axis: int) -> None:
    inside = body(
        [helper.make_node("Add", ["s", "e"], ["s2"]), helper.make_node("Relu", ["s2"], ["o"])],
        [info("s", 2), info("e", 2)],
        ["s2", "o"],
    )
    nodes = [
        helper.make_node(
            "Scan",
            ["s0", "x"],
            ["last", "all"],
            body=inside,
            num_scan_inputs=1,
            scan_input_axes=[axis],
            scan_output_axes=[-1],
        )
    ]
    loaded = load(model(nodes, {"s0": (2,), "x": (5, 2) if axis == 0 else (2, 5)}, ["last", "all"]))
    assert [v.shape for v in loaded.graph.outputs] == [(2,), (2, 5)]


def test_scan_computes_what_onnx_runtime_computes() -> None:
    inside = body(
        [helper.make_node("Add", ["s", "e"], ["s2"]), helper.make_node("Relu", ["s2"], ["o"])],
        [info("s", 2), info("e", 2)],
        ["s2", "o"],
    )
    nodes = [helper.make_node("Scan", ["s0", "x"], ["last", "all"], body=inside, num_scan_inputs=1)]
    check(load(model(nodes, {"s0": (2,), "x": (5, 2)}, ["last", "all"])))


def test_local_functions_are_inlined() -> None:
    f = helper.make_function(
        "my",
        "twice_relu",
        ["a"],
        ["b"],
        [helper.make_node("Relu", ["a"], ["t"]), helper.make_node("Add", ["t", "t"], ["b"])],
        [helper.make_opsetid("", 17)],
    )
    g = helper.make_function(
        "my",
        "outer",
        ["a"],
        ["b"],
        [
            helper.make_node("twice_relu", ["a"], ["t"], domain="my"),
            helper.make_node("twice_relu", ["t"], ["b"], domain="my"),
        ],
        [helper.make_opsetid("", 17), helper.make_opsetid("my", 1)],
    )
    loaded = load(
        model(
            [helper.make_node("outer", ["x"], ["y"], domain="my")],
            {"x": (2, 3)},
            ["y"],
            functions=[f, g],
            domains=["my"],
        )
    )
    assert [n.op for n in loaded.graph.nodes] == ["Relu", "Add", "Relu", "Add"]
    check(loaded)


def test_outputs_are_produced_distinct_and_keep_their_names() -> None:
    nodes = [
        helper.make_node("Relu", ["x"], ["y"]),
        helper.make_node("Identity", ["y"], ["z"]),
        helper.make_node("Shape", ["x"], ["s"]),
    ]
    proto = model(nodes, {"x": (2, 3)}, ["y", "z", "w", "s"], {"w": np.ones(2, np.float32)}, dtypes={"s": INT64})
    loaded = load(proto)
    assert [v.name for v in loaded.graph.outputs] == ["y", "z", "w", "s"]
    assert all(v.producer is not None for v in loaded.graph.outputs)
    assert len({id(v) for v in loaded.graph.outputs}) == 4
    assert len({v.name for v in loaded.graph.values()}) == len(list(loaded.graph.values()))
    check(loaded)


def test_output_that_is_an_input_gets_a_name_of_its_own() -> None:
    loaded = load(model([helper.make_node("Relu", ["x"], ["y"])], {"x": (2, 3)}, ["y", "x"]))
    assert [v.name for v in loaded.graph.outputs] == ["y", "x_output"]
    check(loaded)


def test_nodes_out_of_order_are_sorted() -> None:
    nodes = [
        helper.make_node("Neg", ["b"], ["y"]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Abs", ["x"], ["a"]),
    ]
    assert [n.op for n in load(model(nodes, {"x": (2,)}, ["y"])).graph.nodes] == ["Abs", "Relu", "Neg"]


def test_nodes_without_name_are_named_after_op_and_output() -> None:
    nodes = [
        helper.make_node("Relu", ["x"], ["a"]),
        helper.make_node("Neg", ["a"], ["y"], name="n"),
        helper.make_node("Abs", ["x"], ["z"], name="n"),
    ]
    loaded = load(model(nodes, {"x": (2,)}, ["y", "z"]))
    assert [(n.name, n.source) for n in loaded.graph.nodes] == [("Relu_a", "Relu_a"), ("n", "n"), ("n_1", "n")]


def test_cast_attribute_is_an_element_type() -> None:
    loaded = load(
        model([helper.make_node("Cast", ["x"], ["y"], to=TensorProto.FLOAT16)], {"x": (2,)}, ["y"], dtypes={"y": 10})
    )
    assert loaded.graph.nodes[0].attributes["to"] is DType.FLOAT16


def test_absent_optional_inputs_and_outputs_keep_their_places() -> None:
    rng = np.random.default_rng(0)
    nodes = [helper.make_node("LSTM", ["x", "w", "r", "", "", "h"], ["", "y"], hidden_size=4)]
    constants = {
        "w": rng.standard_normal((1, 16, 3)).astype(np.float32),
        "r": rng.standard_normal((1, 16, 4)).astype(np.float32),
        "h": rng.standard_normal((1, 2, 4)).astype(np.float32),
    }
    loaded = load(model(nodes, {"x": (5, 2, 3)}, ["y"], constants))
    node = loaded.graph.nodes[0]
    assert [v is None for v in node.inputs] == [False, False, False, True, True, False]
    assert node.outputs[1] is loaded.graph.outputs[0]
    check(loaded)


def test_unknown_domain_keeps_its_declared_type() -> None:
    proto = model(
        [helper.make_node("Fancy", ["x"], ["t"], domain="acme", strength=2), helper.make_node("Relu", ["t"], ["y"])],
        {"x": ("N", 3)},
        ["y"],
        domains=["acme"],
    )
    proto.graph.value_info.append(info("t", "N", 6))
    loaded = load(proto, inputs={"x": (2, 3)})
    assert (loaded.graph.nodes[0].domain, loaded.graph.outputs[0].shape) == ("acme", (2, 6))


def classifier() -> list[onnx.NodeProto]:
    """A pipeline as skl2onnx writes it; onnx itself knows no type of its first, second and last node."""
    ml = "ai.onnx.ml"
    tree = {"nodes_treeids": [0, 0, 0], "nodes_nodeids": [0, 1, 2], "nodes_featureids": [1, 0, 0],
            "nodes_values": [0.5, 0.0, 0.0], "nodes_modes": ["BRANCH_LEQ", "LEAF", "LEAF"],
            "nodes_truenodeids": [1, 0, 0], "nodes_falsenodeids": [2, 0, 0], "class_treeids": [0, 0, 0, 0],
            "class_nodeids": [1, 1, 2, 2], "class_ids": [0, 1, 0, 1], "class_weights": [0.9, 0.1, 0.2, 0.8],
            "classlabels_int64s": [3, 7, 9], "post_transform": "NONE"}
    return [
        helper.make_node("Scaler", ["x"], ["s"], domain=ml, offset=[0.5, -1.0, 2.0], scale=[2.0, 1.0, 0.5]),
        helper.make_node("TreeEnsembleClassifier", ["s"], ["label", "p"], domain=ml, **tree),
        helper.make_node("Normalizer", ["p"], ["y"], domain=ml, norm="L1"),
    ]


def test_classic_learning_has_types_and_runs_in_onnxruntime() -> None:
    loaded = load(model(classifier(), {"x": (2, 3)}, ["label", "y"], dtypes={"label": TensorProto.INT64},
                        domains=["ai.onnx.ml"]))
    assert [str(v.type) for v in loaded.graph.outputs] == ["int64[2]", "float32[2,3]"]
    feeds = {"x": np.array([[0.5, -0.5, 2], [3, 1, -1]], np.float32)}
    for proto in (loaded.original, to_model(loaded.graph).SerializeToString()):
        found = run_session(open_session(proto), feeds)
        assert found["label"].tolist() == [3, 7]
        assert np.allclose(found["y"], [[0.9, 0.1, 0], [0.2, 0.8, 0]])


def test_output_that_is_no_tensor_is_refused_with_the_way_around() -> None:
    nodes = [*classifier(), helper.make_node("ZipMap", ["y"], ["z"], name="zip", domain="ai.onnx.ml",
                                             classlabels_int64s=[3, 7, 9])]
    with pytest.raises(Unsupported) as caught:
        load(model(nodes, {"x": (2, 3)}, ["z"], domains=["ai.onnx.ml"]))
    assert [(r.node, r.rule) for r in caught.value.refusals] == [("zip", "onnx.type")]
    assert "is a sequence" in caught.value.refusals[0].text
    assert "zipmap" in caught.value.refusals[0].text


def test_refusals_are_listed_at_once() -> None:
    nodes = [
        helper.make_node("Fancy", ["x"], ["a"], name="f", domain="acme"),
        helper.make_node("Relu", ["a"], ["b"], name="later"),
        helper.make_node("SequenceConstruct", ["x"], ["q"], name="seq"),
        helper.make_node("Rellu", ["x"], ["c"], name="typo"),
    ]
    with pytest.raises(Unsupported) as caught:
        load(model(nodes, {"x": (2, 3)}, ["b", "c"], domains=["acme"]))
    assert [(r.node, r.rule) for r in caught.value.refusals] == [
        ("f", "onnx.domain"),
        ("seq", "onnx.type"),
        ("typo", "onnx.opset"),
    ]


def test_malformed_node_is_a_user_error_with_its_name_and_types() -> None:
    w = np.zeros((4, 7), np.float32)
    with pytest.raises(UserError, match=r"MatMul does not fit its inputs \(float32\[2,3\], float32\[4,7\]\)") as caught:
        load(model([helper.make_node("MatMul", ["x", "w"], ["y"], name="stem")], {"x": (2, 3)}, ["y"], {"w": w}))
    assert "stem" in caught.value.where


def test_exporter_metadata_is_the_source() -> None:
    node = helper.make_node("Relu", ["x"], ["y"], name="node_relu")
    for key, value in (
        ("pkg.torch.onnx.name_scopes", "['', 'layer1', 'layer1.0', 'relu']"),
        (
            "pkg.torch.onnx.stack_trace",
            'File "/home/me/net.py", line 12, in forward\n  x = self.layer1(x)\n'
            'File "/venv/lib/python3.11/site-packages/torch/nn/functional.py", line 3, in relu',
        ),
    ):
        node.metadata_props.add(key=key, value=value)
    assert load(model([node], {"x": (2,)}, ["y"])).graph.nodes[0].source == "/home/me/net.py:12 (layer1.0)"
