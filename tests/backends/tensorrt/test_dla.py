"""One test for each rule of the DLA: a layer that just fits, and one that just does not."""

from __future__ import annotations

import re

import numpy as np
import pytest

from edgec.backends.tensorrt import dla
from edgec.ir.types import DType, Quant
from tests.models import Builder


def layer(op, shape, *more, dtype=DType.FLOAT32, weight=None, **attributes):
    """A node of `op` on x of `shape`, with an optional weight of a shape."""
    b = Builder()
    x = b.input("x", *shape, dtype=dtype)
    operands = [x, *([b.weight(*weight)] if weight else []), *more]
    return b.node(op, *operands, **attributes)


def conv(k=3, channels=4, size=64, **attributes):
    group = attributes.get("group", 1)
    return layer("Conv", (1, channels, size, size), weight=(8 * group, channels // group, k, k), **attributes)


def resize(*factors, shape=(1, 2, 4, 4), **attributes):
    return layer("Resize", shape, None, np.array(factors, np.float32), **attributes)


GOOD = {
    "window": conv(32), "stride": conv(strides=(8, 8)), "pads": conv(32, pads=(31,) * 4),
    "dilation": conv(dilations=(32, 32), size=80),
    "groups": conv(channels=8, group=8),
    "deconv": layer("ConvTranspose", (1, 2, 4, 4), weight=(2, 3, 2, 2), strides=(2, 2)),
    "deconv_long": layer("ConvTranspose", (1, 2, 4, 4), weight=(2, 3, 1, 64), strides=(1, 64)),
    "pool": layer("MaxPool", (1, 2, 32, 32), kernel_shape=(8, 8), strides=(16, 16), pads=(7, 7, 7, 7)),
    "global_pool": layer("GlobalAveragePool", (1, 2, 8, 8)),
    "relu": layer("Relu", (1, 2, 4, 4)), "sigmoid": layer("Sigmoid", (1, 2, 4, 4)),
    "clip": layer("Clip", (1, 2, 4, 4), 0.0, 127.0),
    "prelu": layer("PRelu", (1, 2, 4, 4), np.ones((2, 1, 1), np.float32)),
    "concat": layer("Concat", (1, 2, 4, 4), np.ones((1, 3, 4, 4), np.float32), axis=1),
    "slice": layer("Slice", (1, 8, 4, 4), [2], [6], [1]),
    "lrn": layer("LRN", (1, 8, 4, 4), size=9),
    "split": layer("Split", (1, 8, 4, 4), axis=1, num_outputs=1),
    "softmax_alone": layer("Softmax", (1, 8192), axis=1), "softmax": layer("Softmax", (1, 1024, 2, 2), axis=1),
    "resize_nearest": resize(1, 1, 32, 2, mode="nearest", coordinate_transformation_mode="asymmetric",
                             nearest_mode="floor"),
    "resize_linear": resize(1, 1, 4, 4, mode="linear"),
    "batch": layer("Relu", (4096, 1)), "size": layer("Relu", (1, 8192)),
    "half": layer("Relu", (1, 2), dtype=DType.FLOAT16),
    "reshape": layer("Reshape", (2, 8, 1, 1), [2, 8]),
}
BAD = {
    "window": (conv(33), "conv", "window of 33"), "stride": (conv(strides=(9, 1)), "conv", "stride of 9"),
    "pads": (conv(34, pads=(32,) * 4), "conv", "34|32"),
    "dilation": (conv(dilations=(1, 33), size=99), "conv", "dilation of 33"),
    "pads_window": (conv(3, pads=(3, 0, 0, 0)), "conv", "not below the window"),
    "rank": (layer("Conv", (1, 2, 8), weight=(3, 2, 3)), "conv", "over 1 dim"),
    "maps": (layer("Conv", (1, 1, 2, 2), weight=(8193, 1, 1, 1)), "size", "8193"),
    "deconv_groups": (layer("ConvTranspose", (1, 4, 4, 4), weight=(4, 3, 2, 2), group=2), "deconv", "2 groups"),
    "deconv_pads": (layer("ConvTranspose", (1, 2, 4, 4), weight=(2, 3, 3, 3), pads=(1, 1, 1, 1)), "deconv", "padding"),
    "deconv_window": (layer("ConvTranspose", (1, 2, 4, 4), weight=(2, 3, 33, 1)), "deconv", "window of 33"),
    "pool_window": (layer("MaxPool", (1, 2, 32, 32), kernel_shape=(9, 1)), "pool", "window of 9"),
    "pool_stride": (layer("MaxPool", (1, 2, 99, 99), kernel_shape=(2, 2), strides=(17, 1)), "pool", "stride of 17"),
    "pool_dilation": (layer("MaxPool", (1, 2, 9, 9), kernel_shape=(2, 2), dilations=(2, 2)), "pool", "dilation"),
    "global_pool": (layer("GlobalAveragePool", (1, 2, 9, 8)), "pool", "window of 9"),
    "concat": (layer("Concat", (1, 2, 4, 4), np.ones((1, 2, 4, 4), np.float32), axis=2), "concat", "axis 2"),
    "slice_step": (layer("Slice", (1, 8, 4, 4), [0], [8], [1], [2]), "slice", "step"),
    "slice_batch": (layer("Slice", (2, 8, 4, 4), [0], [1], [0]), "slice", "batch"),
    "slice_rank": (layer("Slice", (1, 8, 4), [2], [6], [1]), "slice", "4 dimensions"),
    "lrn": (layer("LRN", (1, 8, 4, 4), size=11), "lrn", "window of 11"),
    "split_batch": (layer("Split", (2, 8, 4, 4), axis=0, num_outputs=1), "slice", "batch"),
    "split_rank": (layer("Split", (2, 8, 4), axis=1, num_outputs=1), "slice", "4 dimensions"),
    "softmax_alone": (layer("Softmax", (1, 8193), axis=1), "size", "8193"),
    "softmax": (layer("Softmax", (1, 1025, 2, 2), axis=1), "softmax", "1025 elements"),
    "resize_factor": (resize(1, 1, 33, 1, mode="nearest"), "resize", "1 to 32"),
    "resize_fraction": (resize(1, 1, 1.5, 1, mode="linear"), "resize", "whole numbers"),
    "resize_linear": (resize(1, 1, 5, 5, mode="linear"), "resize", "1 to 4"),
    "resize_where": (resize(1, 1, 2, 2, mode="linear", coordinate_transformation_mode="align_corners"), "resize",
                     "align_corners"),
    "resize_sizes": (layer("Resize", (1, 2, 4, 4), None, None, [1, 2, 8, 8]), "resize", "output sizes"),
    "batch": (layer("Relu", (4097, 1)), "batch", "4097"), "size": (layer("Relu", (1, 8193)), "size", "8193"),
    "type": (layer("Abs", (1, 4), dtype=DType.INT32), "type", "int32"),
    "layer": (layer("Erf", (1, 4)), "layer", "no Erf"),
    "reshape": (layer("Reshape", (2, 8, 1, 1), [4, 4]), "shuffle", "becomes"),
    "reshape_rank": (layer("Reshape", (2, 8), [2, 8, 1, 1]), "shuffle", "starts from 4 dimensions"),
    "clip_low": (layer("Clip", (1, 2, 4, 4), -1.0, 6.0), "activation", "bounds"),
    "clip_high": (layer("Clip", (1, 2, 4, 4), 0.0, 128.0), "activation", "at most 127"),
    "clip_open": (layer("Clip", (1, 2, 4, 4), 0.0), "activation", "bounds"),
}


@pytest.mark.parametrize("name", sorted(GOOD))
def test_layer_at_the_limit_runs_on_the_dla(name):
    assert dla.refuse(GOOD[name]) is None


@pytest.mark.parametrize("name", sorted(BAD))
def test_layer_beyond_the_limit_is_refused_with_its_rule(name):
    node, rule, text = BAD[name]
    found = dla.refuse(node)
    assert found is not None
    assert found[0] == rule
    assert re.search(text, found[1])


def quant(scale):
    return Quant(DType.INT8, np.float32(scale), np.int8(0))


def test_int8_layers_need_equal_scales():
    node = layer("MaxPool", (1, 2, 8, 8), kernel_shape=(2, 2))
    node.operand(0).quant, node.outputs[0].quant = quant(0.1), quant(0.2)
    assert dla.refuse(node) == ("pool", "the tensors of MaxPool have different int8 scales; the DLA wants one")
    node.outputs[0].quant = quant(0.1)
    assert dla.refuse(node) is None
    b = Builder()
    add = b.node("Add", b.input("x", 1, 2, 3, 3), b.input("y", 1, 2, 3, 3))
    add.operand(0).quant, add.operand(1).quant = quant(0.1), quant(0.2)
    assert dla.refuse(add)[0] == "elementwise"


def test_elementwise_of_two_activations_needs_one_shape():
    b = Builder()
    node = b.node("Mul", b.input("x", 1, 4, 5, 5), b.input("gate", 1, 4, 1, 1))
    assert dla.refuse(node) == ("elementwise", "Mul of tensors of different shapes")


def test_check_lists_every_layer_and_the_memory():
    b = Builder()
    x = b.input("x", 1, 64, 8, 8)
    b.output(b("Erf", b("Conv", x, b.weight(64, 64, 33, 33), pads=(16,) * 4)))
    found = dla.check(b.graph)
    assert [(r.node, r.rule) for r in found] == [("conv", "dla.conv"), ("erf", "dla.layer")]
    assert found[0].source == "model.py:1"
    big = Builder()
    big.output(big("Gemm", big.input("x", 1, 8), big.constant(np.broadcast_to(np.float32(0), (8, 1 << 24)))))
    assert "dla.memory" in [r.rule for r in dla.check(big.graph)]
