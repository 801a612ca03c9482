"""Blocks of the nets that int8 meets most, small: what a placement looks like is checked on them."""

from __future__ import annotations

import numpy as np

from edgec.ir.graph import Graph, Value
from edgec.passes.pipelines import optimize
from tests.models import Builder, attention_block, depthwise_separable, residual_block, squeeze_excite_block


def _silu(b: Builder, x: Value) -> Value:
    return b("Mul", x, b("Sigmoid", x))


def inverted_residuals() -> Graph:
    """MobileNetV2: two blocks with linear bottlenecks, then pooling and classes. Source: arXiv:1801.04381, figure 4."""
    b = Builder(0, "inverted_residuals")
    x = b("Clip", b.batch_norm(b.conv(b.input("x", 1, 3, 9, 7), 6, stride=2)), 0.0, 6.0)
    for _ in range(2):
        y = b("Clip", b.batch_norm(b.conv(x, 12, 1)), 0.0, 6.0)
        y = b("Clip", b.batch_norm(b.conv(y, 12, groups=12)), 0.0, 6.0)
        x = b("Add", b.batch_norm(b.conv(y, 6, 1)), x)
    y = b("Flatten", b("GlobalAveragePool", b("Clip", b.batch_norm(b.conv(x, 10, 1)), 0.0, 6.0)))
    return b.output(b("Gemm", y, b.weight(3, 10), b.weight(3, name="b"), transB=1))


def shuffle_v2() -> Graph:
    """ShuffleNetV2: split, convolutions on one half, concat, shuffle. Source: arXiv:1807.11164, figure 3 (c)."""
    b = Builder(0, "shuffle_v2")
    x = b("Relu", b.batch_norm(b.conv(b.input("x", 1, 3, 6, 5), 8)))
    for _ in range(2):
        half = b.node("Split", x, [4, 4], outputs=2, axis=1)
        y = b("Relu", b.batch_norm(b.conv(half.outputs[1], 4, 1)))
        y = b.batch_norm(b.conv(y, 4, groups=4))
        y = b("Relu", b.batch_norm(b.conv(y, 4, 1)))
        both = b("Concat", half.outputs[0], y, axis=1)
        x = b("Reshape", b("Transpose", b("Reshape", both, [1, 2, 4, 6, 5]), perm=(0, 2, 1, 3, 4)), [1, 8, 6, 5])
    return b.output(b.conv(x, 5, 1))


def yolo_head() -> Graph:
    """YOLO: a CSP stage, spatial pyramid pooling, upsampling, and a head with box decoding.

    Source: Ge et al. 2021, arXiv:2107.08430, figure 2.
    """
    b = Builder(0, "yolo_head")

    def conv(x: Value, channels: int, kernel: int = 1, stride: int = 1) -> Value:
        return _silu(b, b.batch_norm(b.conv(x, channels, kernel, stride=stride)))

    x = conv(b.input("x", 1, 3, 8, 8), 8, 3, 2)
    left, right = conv(x, 4), conv(x, 4)
    left = b("Add", conv(conv(left, 4), 4, 3), left)
    x = conv(b("Concat", left, right, axis=1), 8)
    deep = conv(x, 4, 3, 2)
    pooled = [b("MaxPool", deep, kernel_shape=(k, k), pads=(k // 2,) * 4, strides=(1, 1)) for k in (3, 5)]
    deep = conv(b("Concat", deep, *pooled, axis=1), 4)
    up = b("Resize", deep, None, [1.0, 1.0, 2.0, 2.0], mode="nearest", coordinate_transformation_mode="asymmetric",
           nearest_mode="floor")
    x = conv(b("Concat", up, x, axis=1), 6)
    boxes, scores = b.conv(x, 4, 1), b("Sigmoid", b.conv(x, 3, 1))
    flat = b("Transpose", b("Reshape", b("Concat", boxes, scores, axis=1), [1, 7, 16]), perm=(0, 2, 1))
    centre = b("Mul", b("Add", b("Slice", flat, [0], [2], [2]), b.weight(16, 2)), 8.0)
    size = b("Exp", b("Slice", flat, [2], [4], [2]))
    return b.output(b("Concat", centre, size, b("Slice", flat, [4], [7], [2]), axis=2))


def u_net() -> Graph:
    """U-Net: one level down, one up through a transposed convolution, a skip by concat. Source: arXiv:1505.04597."""
    b = Builder(0, "u_net")
    top = b("Relu", b.conv(b("Relu", b.conv(b.input("x", 1, 3, 8, 6), 4)), 4))
    low = b("Relu", b.conv(b("MaxPool", top, kernel_shape=(2, 2), strides=(2, 2)), 6))
    up = b("ConvTranspose", low, b.weight(6, 4, 2, 2), b.weight(4, name="b"), strides=(2, 2))
    y = b("Relu", b.conv(b("Concat", top, up, axis=1), 4))
    return b.output(b("Sigmoid", b.conv(y, 1, 1)))


def efficient_block() -> Graph:
    """EfficientNet: expansion, depthwise, squeeze-and-excite with SiLU, projection, skip. Source: arXiv:1905.11946."""
    b = Builder(0, "efficient_block")
    x = b.batch_norm(b.conv(b.input("x", 1, 3, 6, 5), 4))
    y = _silu(b, b.batch_norm(b.conv(x, 8, 1)))
    y = _silu(b, b.batch_norm(b.conv(y, 8, groups=8)))
    s = _silu(b, b.conv(b("GlobalAveragePool", y), 2, 1))
    y = b("Mul", y, b("Sigmoid", b.conv(s, 8, 1)))
    x = b("Add", b.batch_norm(b.conv(y, 4, 1)), x)
    return b.output(b("Relu", b.conv(x, 3)))


def distances() -> Graph:
    """Box distances as the mean of a distribution (distribution focal loss). Source: arXiv:2006.04388, section 3.2."""
    b = Builder(0, "distances")
    x = b.conv(b.input("x", 1, 6, 4, 5), 8)
    x = b("Softmax", b("Transpose", b("Reshape", x, [1, 2, 4, 20]), perm=(0, 2, 1, 3)), axis=1)
    return b.output(b("Conv", x, b.constant(np.arange(4, dtype=np.float32).reshape(1, 4, 1, 1))))


BLOCKS = {"resnet": residual_block, "mobilenet_v1": depthwise_separable, "mobilenet_v2": inverted_residuals,
          "mobilenet_v3": squeeze_excite_block, "shufflenet_v2": shuffle_v2, "yolo": yolo_head, "unet": u_net,
          "vit": attention_block, "efficientnet": efficient_block, "distances": distances}


def block(name: str) -> Graph:
    """The block after the passes, as quantization meets it."""
    return optimize(BLOCKS[name]())[0]
