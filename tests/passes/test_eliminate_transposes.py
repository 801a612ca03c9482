import numpy as np
import pytest

from edgec.ir.text import print_graph
from edgec.passes import eliminate_transposes
from tests.models import Builder
from tests.passes.checks import apply, ops, quant, refusals

TO_NCHW, TO_NHWC = (0, 3, 1, 2), (0, 2, 3, 1)


def ints(*numbers):
    return np.array(numbers, np.int64)


def nhwc_conv(b, x, channels, kernel=3):
    """A convolution as TensorFlow exporters write it: NHWC outside, NCHW inside."""
    y = b.conv(b("Transpose", x, perm=TO_NCHW), channels, kernel)
    return b("Transpose", y, perm=TO_NHWC)


def between_convs(b, middle, channels=5):
    """NHWC input, a convolution, `middle` in NHWC, another convolution."""
    y = nhwc_conv(b, b.input("x", 2, 6, 7, 3), channels)
    return b.output(nhwc_conv(b, middle(b, y), 4))


MIDDLES = {
    "relu": lambda b, y: b("Relu", y),
    "bias": lambda b, y: b("Add", y, b.weight(y.shape[-1])),
    "bias_of_rank_3": lambda b, y: b("Mul", b.weight(7, 1, scale=1.0), y),
    "clip": lambda b, y: b("Clip", y, 0.0, 6.0),
    "residual": lambda b, y: b("Add", nhwc_conv(b, y, y.shape[-1]), y),
    "concat": lambda b, y: b("Concat", nhwc_conv(b, y, 2), y, axis=-1),
    "pad": lambda b, y: b("Pad", y, ints(0, 1, 2, 0, 0, 3, 0, 1)),
    "pad_axes": lambda b, y: b("Pad", y, ints(1, 2), 0.0, ints(3)),
    "slice": lambda b, y: b("Slice", y, ints(1, 0), ints(9, 4), ints(1, -1), ints(2, 1)),
    "softmax": lambda b, y: b("Softmax", y, axis=3),
    "prelu": lambda b, y: b("PRelu", y, b.weight(1, 1, y.shape[-1])),
    "scalar_input": lambda b, y: b("Mul", y, b.input("gain", 1)),
    "resize": lambda b, y: b("Resize", y, None, np.array([1, 2, 3, 1], np.float32), mode="nearest"),
    "tile": lambda b, y: b("Tile", y, ints(1, 2, 1, 1)),
    "reduce_keep": lambda b, y: b("Sub", y, b("ReduceMax", y, ints(-1), keepdims=1)),
    "squeeze_excite": lambda b, y: b(
        "Mul", y, b("Sigmoid", nhwc_conv(b, b("ReduceMean", y, ints(1, 2)), y.shape[-1], 1))
    ),
    "where": lambda b, y: b("Where", b("Greater", y, 0.1), y, b("Mul", y, b.weight(y.shape[-1]))),
    "split": lambda b, y: (lambda s: b("Concat", s.outputs[1], s.outputs[0], axis=3))(
        b.node("Split", y, ints(2, 3), axis=-1, outputs=2)
    ),
}


@pytest.mark.parametrize("middle", MIDDLES)
def test_eliminate_transposes_leaves_only_the_borders_when_layout_changes_around_ops(middle):
    b = Builder()
    result = apply(eliminate_transposes, between_convs(b, MIDDLES[middle]))
    transposes = [n for n in result.graph.nodes if n.op == "Transpose"]
    assert len(transposes) == 2
    assert transposes[0].inputs[0] is result.graph.inputs[0]
    assert transposes[1].outputs[0] is result.graph.outputs[0]


def test_eliminate_transposes_prints_the_region_in_the_other_layout(check_golden):
    b = Builder()
    result = apply(eliminate_transposes, between_convs(b, lambda b, y: b("Relu", b("Add", y, b.weight(y.shape[-1])))))
    check_golden("passes/eliminate_transposes.txt", print_graph(result.graph))


def test_eliminate_transposes_cancels_inverse_orders():
    b = Builder()
    y = b("Transpose", b("Transpose", b("Neg", b.input("x", 2, 3, 5)), perm=(1, 2, 0)), perm=(2, 0, 1))
    assert ops(apply(eliminate_transposes, b.output(b("Exp", y))).graph) == ["Neg", "Exp"]


def test_eliminate_transposes_merges_a_chain():
    b = Builder()
    y = b("Transpose", b("Transpose", b.input("x", 2, 3, 5)), perm=(1, 0, 2))
    result = apply(eliminate_transposes, b.output(b("Exp", y)))
    assert ops(result.graph) == ["Transpose", "Exp"]
    assert result.graph.nodes[0].attributes["perm"] == (1, 2, 0)


def test_eliminate_transposes_writes_a_reshape_when_only_ones_move():
    b = Builder()
    y = b("Transpose", b.input("x", 2, 1, 5, 1), perm=(0, 3, 2, 1))
    assert ops(apply(eliminate_transposes, b.output(b("Exp", y))).graph) == ["Reshape", "Exp"]


def test_eliminate_transposes_moves_through_a_mean_that_drops_its_axes():
    b = Builder()
    y = b("ReduceMean", b("Relu", nhwc_conv(b, b.input("x", 2, 6, 7, 3), 5)), ints(1, 2), keepdims=0)
    result = apply(eliminate_transposes, b.output(b("Gemm", y, b.weight(5, 3))))
    assert ops(result.graph) == ["Transpose", "Conv", "Relu", "ReduceMean", "Gemm"]


def test_eliminate_transposes_keeps_a_use_in_the_old_layout():
    b = Builder()
    y = b("Relu", nhwc_conv(b, b.input("x", 2, 6, 7, 3), 5))
    graph = b.output(nhwc_conv(b, y, 4), nhwc_conv(b, b("Exp", y), 2), y)
    result = apply(eliminate_transposes, graph)
    assert ops(result.graph).count("Transpose") == 4  # the input and three outputs


def test_eliminate_transposes_keeps_per_tensor_grids():
    b = Builder()
    y = nhwc_conv(b, b.input("x", 2, 6, 7, 3), 5)
    y.quant = y.producer.inputs[0].quant = quant()
    z = b("Relu", y)
    z.quant = quant(0.02, -5)
    graph = b.output(nhwc_conv(b, z, 4))
    z.uses[0][0].outputs[0].quant = z.quant
    result = apply(eliminate_transposes, graph, tolerance=0.05)
    assert ops(result.graph) == ["Transpose", "Conv", "Relu", "Conv", "Transpose"]
    assert [n.outputs[0].quant for n in result.graph.nodes[1:3]] == [quant(), quant(0.02, -5)]


def test_eliminate_transposes_refuses_a_layout_that_moves_more():
    b = Builder()
    small = b("Transpose", b.input("s", 2, 1, 7, 3), perm=TO_NCHW)
    graph = b.output(b("Add", small, b.input("x", 2, 3, 5, 7)))
    assert refusals(eliminate_transposes, graph) == ["eliminate_transposes.cost"]


def test_eliminate_transposes_refuses_to_pass_a_grid_along_an_axis():
    from edgec.ir import DType, Quant

    b = Builder()
    y = b("Transpose", b.input("x", 2, 3, 5), perm=(1, 2, 0))
    y.quant = Quant(DType.INT8, np.full(3, 0.1, np.float32), np.zeros(3, np.int8), axis=0)
    graph = b.output(b("Exp", b("Transpose", y, perm=(2, 0, 1))))
    assert ops(apply(eliminate_transposes, graph).graph) == ["Transpose", "Transpose", "Exp"]


def test_eliminate_transposes_keeps_ops_that_are_bound_to_their_layout():
    b = Builder()
    y = b(
        "Transpose",
        b("DepthToSpace", b("Transpose", b.input("x", 2, 5, 7, 8), perm=TO_NCHW), blocksize=2),
        perm=TO_NHWC,
    )
    assert apply(eliminate_transposes, b.output(y)).report.applied == 0


BOUND = {
    "batch_norm": lambda b, y: b.batch_norm(y),
    "reduce_all": lambda b, y: b("Mul", y, b("ReduceMean", y, keepdims=1)),
    "crop_resize": lambda b, y: b(
        "Resize",
        y,
        np.array([0, 0.1, 0.2, 0, 1, 0.9, 0.8, 1], np.float32),
        None,
        ints(*y.shape),
        mode="linear",
        coordinate_transformation_mode="tf_crop_and_resize",
    ),
}


@pytest.mark.parametrize(("middle", "left"), [("batch_norm", 4), ("reduce_all", 3), ("crop_resize", 4)])
def test_eliminate_transposes_stops_at_ops_that_are_bound_to_their_axes(middle, left):
    b = Builder()
    graph = between_convs(b, BOUND[middle])
    result = apply(eliminate_transposes, graph)
    assert ops(result.graph).count("Transpose") == left


@pytest.mark.parametrize("keep", [0, 1])
def test_eliminate_transposes_moves_arg_max_when_it_keeps_its_axis(keep):
    b = Builder()
    y = b("Relu", nhwc_conv(b, b.input("x", 2, 6, 7, 3), 5))
    z = b("ArgMax", y, axis=-1, keepdims=keep)
    result = apply(eliminate_transposes, b.output(b("Mul", nhwc_conv(b, y, 1), 2.0), z))
    assert ops(result.graph).count("Transpose") == (1 if keep else 2)
