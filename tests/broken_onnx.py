"""Broken ONNX models for tests/test_broken_inputs.py: damaged bytes, and graphs that are none."""

from __future__ import annotations

import itertools
import os
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from tests.frontends.onnx_models import model, tensor

USER, UNSUPPORTED = 2, 3


@dataclass(frozen=True)
class Broken:
    """One broken input. make(folder) writes it and returns what load() gets; text is part of the message.

    fails: False for damage that may leave a sound model (a flipped bit in a name): then loading may also succeed.
    """

    id: str
    make: Callable[[Path], Any]
    text: str = ""
    exit_code: int = USER
    arguments: dict[str, Any] = field(default_factory=dict)
    fails: bool = True


def relu(x: str = "x", y: str = "y", **kwargs: Any) -> onnx.NodeProto:
    return helper.make_node("Relu", [x], [y], **kwargs)


def simple(*nodes: onnx.NodeProto, outputs: tuple[str, ...] = ("y",), **kwargs: Any) -> onnx.ModelProto:
    return model(
        list(nodes) or [relu()], kwargs.pop("inputs", {"x": (2, 3)}), outputs, kwargs.pop("constants", None), **kwargs
    )


def network() -> onnx.ModelProto:
    """Conv, BatchNorm, pooling and a head whose shapes are computed, so that damage has much to hit."""
    rng = np.random.default_rng(0)
    constants = {
        "w": rng.standard_normal((4, 3, 3, 3)).astype(np.float32),
        "t": np.array([0, -1]),
        "h": rng.standard_normal((16, 5)).astype(np.float32),
        **{n: rng.uniform(0.5, 1.5, 4).astype(np.float32) for n in ("gamma", "beta", "mean", "var")},
    }
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], name="conv", pads=[1, 1, 1, 1], strides=[2, 2]),
        helper.make_node("BatchNormalization", ["c", "gamma", "beta", "mean", "var"], ["b"], name="norm"),
        relu("b", "r", name="relu"),
        helper.make_node("MaxPool", ["r"], ["p"], name="pool", kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Shape", ["p"], ["s"]),
        helper.make_node("Reshape", ["p", "t"], ["f"], name="flatten"),
        helper.make_node("MatMul", ["f", "h"], ["m"], name="head"),
        helper.make_node("Softmax", ["m"], ["y"], axis=1),
    ]
    return model(nodes, {"x": (1, 3, 8, 8)}, ["y"], constants, opset=11)


def file(data: bytes | Callable[[], bytes], name: str = "model.onnx") -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        path = folder / name
        path.write_bytes(data() if callable(data) else data)
        return path

    return make


def proto(build: Callable[[], onnx.ModelProto]) -> Callable[[Path], Path]:
    return file(lambda: build().SerializeToString())


def changed(
    change: Callable[[onnx.ModelProto], None], build: Callable[[], onnx.ModelProto] = simple
) -> Callable[[Path], Path]:
    def damaged() -> onnx.ModelProto:
        result = build()
        change(result)
        return result

    return proto(damaged)


# -- damaged bytes ----------------------------------------------------------------------------------------------------


def truncated(fraction: float) -> Broken:
    data = network().SerializeToString()
    return Broken(f"onnx-cut-at-{fraction}", file(data[: int(len(data) * fraction)]))


def flipped(seed: int) -> Broken:
    def damage() -> bytes:
        data, rng = bytearray(network().SerializeToString()), random.Random(seed)
        for _ in range(rng.choice([1, 2, 8])):
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        return bytes(data)

    return Broken(f"onnx-flipped-{seed}", file(damage), fails=False)


def deep() -> onnx.ModelProto:
    graph = helper.make_graph([relu()], "g", [], [helper.make_value_info("y", onnx.TypeProto())])
    for _ in range(25):
        node = helper.make_node("If", ["c"], ["y"], then_branch=graph)
        graph = helper.make_graph([node], "g", [], [helper.make_value_info("y", onnx.TypeProto())])
    return simple(helper.make_node("If", ["c"], ["y"], then_branch=graph))


def many_nodes() -> bytes:
    """Five million empty nodes in ten megabytes; protobuf would make gigabytes of them."""
    nodes = b"\x0a\x00" * 5_000_000
    size, varint = len(nodes), b""
    while size > 127:
        varint, size = varint + bytes([size & 127 | 128]), size >> 7
    return b"\x08\x08\x3a" + varint + bytes([size]) + nodes


def function_bomb() -> onnx.ModelProto:
    """Twenty functions of which each calls the one before ten times."""
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("f", 1)]
    functions = [helper.make_function("f", "f0", ["a"], ["b"], [relu("a", "b")], imports)]
    for level in range(1, 20):
        names = ["a", *(f"t{i}" for i in range(9)), "b"]
        calls = [helper.make_node(f"f{level - 1}", [x], [y], domain="f") for x, y in itertools.pairwise(names)]
        functions.append(helper.make_function("f", f"f{level}", ["a"], ["b"], calls, imports))
    return simple(helper.make_node("f19", ["x"], ["y"], domain="f"), functions=functions, domains=["f"])


def recursive() -> onnx.ModelProto:
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("f", 1)]
    function = helper.make_function(
        "f", "again", ["a"], ["b"], [helper.make_node("again", ["a"], ["b"], domain="f")], imports
    )
    return simple(helper.make_node("again", ["x"], ["y"], domain="f"), functions=[function], domains=["f"])


# -- graphs that are none ---------------------------------------------------------------------------------------------


def nan(build: np.ndarray) -> np.ndarray:
    build.flat[1] = np.nan
    return build


def set_dims(dims: list[int]) -> Callable[[onnx.ModelProto], None]:
    def change(m: onnx.ModelProto) -> None:
        del m.graph.initializer[0].dims[:]
        m.graph.initializer[0].dims.extend(dims)

    return change


def weighted() -> onnx.ModelProto:
    return simple(helper.make_node("Add", ["x", "w"], ["y"]), constants={"w": np.ones((2, 3), np.float32)})


def branch(*nodes: onnx.NodeProto) -> onnx.GraphProto:
    return helper.make_graph(list(nodes), "b", [], [helper.make_value_info("t", onnx.TypeProto())])


def if_node(**bodies: onnx.GraphProto) -> onnx.ModelProto:
    return simple(
        helper.make_node("If", ["c"], ["y"], name="choice", **bodies),
        inputs={"x": (2,), "c": ()},
        dtypes={"c": TensorProto.BOOL},
    )


def sparse(m: onnx.ModelProto) -> None:
    m.graph.sparse_initializer.append(
        helper.make_sparse_tensor(tensor("w", np.ones(1, np.float32)), tensor("i", np.array([2])), [6])
    )
    m.graph.node[0].CopyFrom(helper.make_node("Add", ["x", "w"], ["y"]))


def external(location: str, prepare: Callable[[Path], object] = lambda folder: None) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        prepare(folder)
        m = weighted()
        m.graph.initializer[0].ClearField("raw_data")
        m.graph.initializer[0].data_location = TensorProto.EXTERNAL
        m.graph.initializer[0].external_data.add(key="location", value=location)
        return file(m.SerializeToString())(folder)

    return make


def two_outputs(m: onnx.ModelProto) -> None:
    m.graph.output.append(m.graph.output[0])


def clear(name: str) -> Callable[[onnx.ModelProto], None]:
    return lambda m: m.ClearField(name)


def set_opset(version: int) -> Callable[[onnx.ModelProto], None]:
    return lambda m: setattr(m.opset_import[0], "version", version)


GRAPHS = [
    Broken("no-graph", changed(clear("graph")), "holds no graph"),
    Broken("no-opset", changed(clear("opset_import")), "does not say which opset"),
    Broken("two-opsets", changed(lambda m: m.opset_import.append(helper.make_opsetid("", 12))), "several opsets"),
    Broken("opset-6", changed(set_opset(6)), "opset 6", UNSUPPORTED),
    Broken("opset-99", changed(set_opset(99)), "opset 99", UNSUPPORTED),
    Broken("opset-0", changed(set_opset(0)), "opset 0", UNSUPPORTED),
    Broken("opset-negative", changed(set_opset(-5)), "opset -5", UNSUPPORTED),
    Broken("no-outputs", changed(lambda m: m.graph.ClearField("output")), "no outputs"),
    Broken("output-not-computed", proto(lambda: simple(outputs=("y", "z"))), "nothing computes the graph output 'z'"),
    Broken("output-twice", changed(two_outputs), "'y' occurs twice"),
    Broken("input-twice", changed(lambda m: m.graph.input.append(m.graph.input[0])), "'x' occurs twice"),
    Broken(
        "initializer-twice",
        changed(lambda m: m.graph.initializer.append(m.graph.initializer[0]), weighted),
        "'w' occurs twice",
    ),
    Broken(
        "input-without-name",
        changed(lambda m: m.graph.input.append(helper.make_tensor_value_info("", 1, [1]))),
        "no name",
    ),
    Broken("value-defined-twice", proto(lambda: simple(relu(), relu())), "'y' is defined twice"),
    Broken("value-is-an-input-too", proto(lambda: simple(relu("x", "x"), relu())), "'x' is defined twice"),
    Broken("input-missing", proto(lambda: simple(relu("nowhere", "y"))), "'nowhere' is used, but nothing computes it"),
    Broken(
        "cycle",
        proto(lambda: simple(helper.make_node("Add", ["x", "b"], ["a"]), relu("a", "b"), relu("b", "y"))),
        "cycle",
    ),
    Broken("self-loop", proto(lambda: simple(helper.make_node("Add", ["x", "y"], ["y"], name="loop"))), "cycle"),
    Broken("no-operator", changed(lambda m: m.graph.node[0].ClearField("op_type")), "no operator"),
    Broken(
        "unknown-operator",
        proto(lambda: simple(helper.make_node("Rellu", ["x"], ["y"]))),
        "no operator Rellu",
        UNSUPPORTED,
    ),
    Broken(
        "unknown-domain",
        proto(lambda: simple(helper.make_node("Relu", ["x"], ["y"], domain="acme"), domains=["acme"])),
        "'acme'",
        UNSUPPORTED,
    ),
    Broken("function-calls-itself", proto(recursive), "calls itself"),
    Broken("function-bomb", proto(function_bomb), "more than 1000000 nodes"),
    Broken("nested-too-deep", proto(deep), "deep"),
    Broken("many-empty-nodes", file(many_nodes), "fields"),
    Broken("input-type-99", changed(lambda m: setattr(m.graph.input[0].type.tensor_type, "elem_type", 99)), "code 99"),
    Broken("input-without-type", changed(lambda m: m.graph.input[0].ClearField("type")), "no tensor", UNSUPPORTED),
    Broken("weight-type-99", changed(lambda m: setattr(m.graph.initializer[0], "data_type", 99), weighted), "code 99"),
    Broken("weight-type-0", changed(lambda m: setattr(m.graph.initializer[0], "data_type", 0), weighted), "UNDEFINED"),
    Broken("weight-huge", changed(set_dims([2**31, 2**31]), weighted), "would have"),
    Broken("weight-large", changed(set_dims([2**19, 2**19]), weighted), "holds 24 bytes"),
    Broken("weight-overflow", changed(set_dims([2**62, 4]), weighted), "would have"),
    Broken("weight-negative", changed(set_dims([-2, -3]), weighted), "negative dimension"),
    Broken(
        "weight-short",
        changed(lambda m: setattr(m.graph.initializer[0], "raw_data", b"1234567"), weighted),
        "holds 7 bytes",
    ),
    Broken(
        "weight-empty", changed(lambda m: m.graph.initializer[0].ClearField("raw_data"), weighted), "holds 0 numbers"
    ),
    Broken(
        "weight-nan",
        proto(
            lambda: simple(
                helper.make_node("Add", ["x", "w"], ["y"]), constants={"w": nan(np.ones((2, 3), np.float32))}
            )
        ),
        "NaN: 'w'",
    ),
    Broken(
        "weight-nan-half",
        proto(
            lambda: simple(
                helper.make_node("Add", ["x", "w"], ["y"]),
                constants={"w": nan(np.ones((2, 3), np.float16))},
                dtypes={"x": TensorProto.FLOAT16, "y": TensorProto.FLOAT16},
            )
        ),
        "NaN: 'w'",
    ),
    Broken(
        "constant-nan",
        proto(
            lambda: simple(
                helper.make_node("Constant", [], ["w"], value=tensor("w", nan(np.ones(3, np.float32)))),
                helper.make_node("Add", ["x", "w"], ["y"]),
            )
        ),
        "NaN: 'w'",
    ),
    Broken(
        "constant-without-value",
        proto(lambda: simple(helper.make_node("Constant", [], ["w"]), helper.make_node("Add", ["x", "w"], ["y"]))),
        "needs one value",
    ),
    Broken("weight-sparse", changed(sparse), "sparse", UNSUPPORTED),
    Broken("input-dimension-negative", proto(lambda: simple(inputs={"x": (-7, 3)})), "dimension -7"),
    Broken("input-huge", proto(lambda: simple(inputs={"x": (2**40, 2**20)})), "elements"),
    Broken("input-open", proto(lambda: simple(inputs={"x": ("N", 3)})), "--input x=1x3"),
    Broken(
        "output-huge",
        proto(
            lambda: simple(
                helper.make_node("ConstantOfShape", ["s"], ["z"]),
                helper.make_node("Add", ["x", "z"], ["y"]),
                inputs={"x": (1,)},
                constants={"s": np.array([2**30, 2**30])},
            )
        ),
        "shape",
    ),
    Broken(
        "range-huge",
        proto(
            lambda: simple(
                helper.make_node("Range", ["a", "b", "c"], ["r"]),
                helper.make_node("Cast", ["r"], ["f"], to=1),
                helper.make_node("Add", ["x", "f"], ["y"]),
                inputs={"x": (1,)},
                constants={"a": np.array(0), "b": np.array(2**60), "c": np.array(1)},
            )
        ),
        "shape",
    ),
    Broken(
        "shapes-do-not-fit",
        proto(
            lambda: simple(
                helper.make_node("MatMul", ["x", "w"], ["y"], name="head"), constants={"w": np.ones((4, 5), np.float32)}
            )
        ),
        "does not fit",
    ),
    Broken(
        "reshape-does-not-fit",
        proto(lambda: simple(helper.make_node("Reshape", ["x", "s"], ["y"]), constants={"s": np.array([4, -1])})),
        "does not fit",
    ),
    Broken(
        "types-do-not-fit",
        proto(lambda: simple(helper.make_node("Add", ["x", "w"], ["y"]), constants={"w": np.ones(3, np.int64)})),
        "does not fit",
    ),
    Broken("too-few-inputs", proto(lambda: simple(helper.make_node("Add", ["x"], ["y"]))), "Add"),
    Broken("too-many-outputs", proto(lambda: simple(helper.make_node("Relu", ["x"], ["y", "z"]))), "Relu"),
    Broken("attribute-missing", proto(lambda: simple(helper.make_node("Concat", ["x", "x"], ["y"]))), "axis"),
    Broken(
        "attribute-of-a-function",
        changed(lambda m: m.graph.node[0].attribute.add(name="alpha", ref_attr_name="a", type=1)),
        "outside of a function",
        UNSUPPORTED,
    ),
    Broken(
        "attribute-kind",
        changed(lambda m: m.graph.node[0].attribute.add(name="alpha", type=13)),
        "kind TYPE_PROTO",
        UNSUPPORTED,
    ),
    Broken("cast-to-nothing", proto(lambda: simple(helper.make_node("Cast", ["x"], ["y"], to=77))), "code 77"),
    Broken(
        "sequence",
        proto(
            lambda: simple(
                helper.make_node("SplitToSequence", ["x"], ["q"]), helper.make_node("SequenceLength", ["q"], ["y"])
            )
        ),
        "is a sequence",
        UNSUPPORTED,
    ),
    Broken("if-without-else", proto(lambda: if_node(then_branch=branch(relu("x", "t")))), "subgraphs ['then_branch']"),
    Broken(
        "if-reads-nothing",
        proto(lambda: if_node(then_branch=branch(relu("x", "t")), else_branch=branch(relu("gone", "t")))),
        "'gone' is used",
    ),
    Broken(
        "if-branch-computes-nothing",
        proto(lambda: if_node(then_branch=branch(relu("x", "t")), else_branch=branch(relu("x", "u")))),
        "'t' is used",
    ),
    Broken(
        "if-branches-differ",
        proto(
            lambda: if_node(
                then_branch=branch(relu("x", "t")), else_branch=branch(helper.make_node("Shape", ["x"], ["t"]))
            )
        ),
        "different types",
        UNSUPPORTED,
    ),
    Broken(
        "loop-body-has-no-inputs",
        proto(lambda: simple(helper.make_node("Loop", ["", "", "x"], ["y"], body=branch(relu("x", "t"))))),
        "body has 0 inputs",
    ),
    Broken(
        "scan-has-no-inputs",
        proto(lambda: simple(helper.make_node("Scan", ["x"], ["y"], body=branch(relu("x", "t")), num_scan_inputs=5))),
        "num_scan_inputs 5",
    ),
    Broken(
        "name-is-not-text",
        file(lambda: simple(relu(name="AAAA")).SerializeToString().replace(b"AAAA", b"A\xff\xfeA")),
        "is not text",
    ),
    Broken("external-missing", external("gone.bin"), "is missing"),
    Broken("external-above", external("../up.bin"), "may not be read from"),
    Broken("external-absolute", external("/etc/hostname"), "may not be read from"),
    Broken("external-link", external("w.bin", lambda f: os.symlink("/etc/hostname", f / "w.bin")), "through the link"),
    Broken("external-short", external("w.bin", lambda f: (f / "w.bin").write_bytes(b"123")), "has 3 bytes"),
    Broken("external-pipe", external("w.bin", lambda f: os.mkfifo(f / "w.bin")), "no regular file"),
    Broken("name-of-another-input", proto(simple), "no input 'z'", arguments={"inputs": {"z": (1, 3)}}),
    Broken("rank-of-another-input", proto(simple), "2 dimensions", arguments={"inputs": {"x": (1, 3, 4)}}),
    Broken("value-of-another-type", proto(simple), "numbers that fit", arguments={"values": {"x": np.array(["a"])}}),
]

if "INT2" in TensorProto.DataType.keys():  # noqa: SIM118  the enum is no mapping
    INT2 = TensorProto.DataType.Value("INT2")
    set_int2 = changed(lambda m: setattr(m.graph.initializer[0], "data_type", INT2), weighted)
    GRAPHS.append(Broken("weight-type-int2", set_int2, "INT2", UNSUPPORTED))
