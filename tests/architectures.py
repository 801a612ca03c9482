"""Small nets with the structure of well-known families: what matters is how their channels meet, not their size."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from edgec.ir.graph import Graph, Value
from tests.models import Builder

Net = Callable[[], Graph]


class Nets(Builder):
    """Blocks that several families share."""

    def unit(self, x: Value, channels: int, kernel: int = 3, act: str = "Relu", **options: int) -> Value:
        """Conv, BatchNormalization with random statistics, activation."""
        y = self.batch_norm(self.conv(x, channels, kernel, bias=False, **options))
        return self.silu(y) if act == "Silu" else self(act, y) if act else y

    def silu(self, x: Value) -> Value:
        return self("Mul", x, self("Sigmoid", x))

    def excite(self, x: Value, channels: int, gate: str = "HardSigmoid") -> Value:
        """Squeeze and excite."""
        y = self("Relu", self.conv(self("GlobalAveragePool", x), channels, 1))
        return self("Mul", x, self(gate, self.conv(y, x.shape[1], 1)))

    def inverted(self, x: Value, wide: int, channels: int, act: str, squeeze: int = 0, stride: int = 1) -> Value:
        """The inverted residual of MobileNetV2."""
        y = self.unit(self.unit(x, wide, 1, act), wide, 3, act, groups=wide, stride=stride)
        y = self.unit(self.excite(y, squeeze) if squeeze else y, channels, 1, "")
        return self("Add", x, y) if x.shape == y.shape else y

    def classify(self, x: Value, classes: int = 5) -> Graph:
        """Global pool and a linear layer; the output is the logits."""
        y = self("Flatten", self("GlobalAveragePool", x))
        return self.output(self("Gemm", y, self.weight(y.shape[1], classes), self.weight(classes)))

    def linear(self, x: Value, width: int) -> Value:
        return self("Add", self("MatMul", x, self.weight(x.shape[-1], width, scale=0.4)), self.weight(width))

    def norm(self, x: Value) -> Value:
        width = x.shape[-1]
        return self("LayerNormalization", x, self.weight(width, scale=1.0), self.weight(width), axis=-1)

    def attention(self, x: Value, heads: int) -> Value:
        """Softmax attention with separate projections. Shapes: [batch, tokens, width]."""
        batch, tokens, width = x.shape
        q, k, v = (self("Transpose", self("Reshape", self.linear(x, width), [batch, tokens, heads, width // heads]),
                        perm=perm) for perm in ((0, 2, 1, 3), (0, 2, 3, 1), (0, 2, 1, 3)))
        y = self("MatMul", self("Softmax", self("MatMul", q, k), axis=-1), v)
        return self.linear(self("Reshape", self("Transpose", y, perm=(0, 2, 1, 3)), [batch, tokens, width]), width)

    def mlp(self, x: Value, wide: int) -> Value:
        return self.linear(self("Gelu", self.linear(x, wide)), x.shape[-1])


def start(size: int = 12, channels: int = 3) -> tuple[Nets, Value]:
    b = Nets(0)
    return b, b.input("x", 1, channels, size, size)


def vgg() -> Graph:
    b, x = start()
    y = b("MaxPool", b.unit(b.unit(x, 8), 12), kernel_shape=(2, 2), strides=(2, 2))
    y = b("Gemm", b("Flatten", b.unit(y, 10)), b.weight(360, 16), b.weight(16))
    return b.output(b("Gemm", b("Relu", y), b.weight(16, 5), b.weight(5)))


def resnet() -> Graph:
    b, x = start()
    x = b.unit(x, 12)
    x = b("Relu", b("Add", x, b.unit(b.unit(x, 10), 12, act="")))
    y = b.unit(b.unit(x, 20, stride=2), 16, act="")
    return b.classify(b("Relu", b("Add", y, b.unit(x, 16, 1, "", stride=2))))


def bottleneck() -> Graph:
    b, x = start()
    x = b.unit(x, 16)
    for _ in range(2):
        x = b("Relu", b("Add", x, b.unit(b.unit(b.unit(x, 8, 1), 8), 16, 1, "")))
    return b.classify(x)


def resnext() -> Graph:
    b, x = start()
    x = b.unit(x, 16)
    x = b("Relu", b("Add", x, b.unit(b.unit(b.unit(x, 24, 1), 24, groups=8), 16, 1, "")))
    return b.classify(x)


def regnet() -> Graph:
    b, x = start()
    x = b.unit(x, 16)
    y = b.excite(b.unit(b.unit(x, 24, 1), 24, groups=3, stride=2), 6, "Sigmoid")
    return b.classify(b("Relu", b("Add", b.unit(y, 24, 1, ""), b.unit(x, 24, 1, "", stride=2))))


def preactivation() -> Graph:
    b, x = start()
    x = b.conv(x, 12, 3)
    x = b("Add", x, b.conv(b("Relu", b.batch_norm(b.conv(b("Relu", b.batch_norm(x)), 8, 3))), 12, 3))
    return b.classify(b("Relu", b.batch_norm(x)))


def densenet() -> Graph:
    b, x = start()
    x = b.unit(x, 8)
    for _ in range(3):
        x = b("Concat", x, b.conv(b("Relu", b.batch_norm(b.conv(b("Relu", b.batch_norm(x)), 8, 1))), 6, 3), axis=1)
    y = b("AveragePool", b.unit(x, 12, 1), kernel_shape=(2, 2), strides=(2, 2))
    return b.classify(b("Concat", y, b.unit(y, 6), axis=1))


def mobilenet_v1() -> Graph:
    b, x = start()
    x = b.unit(x, 8, stride=2)
    for width in (12, 16):
        x = b.unit(b.unit(x, x.shape[1], groups=x.shape[1]), width, 1)
    return b.classify(x)


def mobilenet_v2() -> Graph:
    b, x = start()
    x = b.inverted(b.unit(x, 8), 24, 8, "Relu")
    return b.classify(b.unit(b.inverted(x, 24, 12, "Relu", stride=2), 20, 1))


def mobilenet_v3() -> Graph:
    b, x = start()
    x = b.inverted(b.unit(x, 8, act="HardSwish"), 16, 8, "HardSwish", squeeze=4)
    return b.classify(b.unit(b.inverted(x, 20, 12, "HardSwish", squeeze=6), 24, 1, "HardSwish"))


def efficientnet() -> Graph:
    b, x = start()
    x = b.inverted(b.unit(x, 8, act="Silu"), 16, 8, "Silu", squeeze=3)
    return b.classify(b.unit(b.inverted(x, 20, 10, "Silu", squeeze=4, stride=2), 24, 1, "Silu"))


def shufflenet_v1() -> Graph:
    b, x = start()
    x = b.unit(x, 12)
    y = b.unit(x, 24, 1, groups=3)
    y = b("Reshape", b("Transpose", b("Reshape", y, [1, 3, 8, 12, 12]), perm=(0, 2, 1, 3, 4)), [1, 24, 12, 12])
    y = b.unit(b.unit(y, 24, groups=24, act=""), 12, 1, "", groups=3)
    return b.classify(b("Relu", b("Add", x, y)))


def shufflenet_v2() -> Graph:
    b, x = start()
    x = b.unit(x, 16)
    for _ in range(2):
        left, right = b.node("Split", x, [8, 8], axis=1, outputs=2).outputs
        right = b.unit(b.unit(b.unit(right, 8, 1), 8, groups=8, act=""), 8, 1)
        x = b("Reshape", b("Concat", left, right, axis=1), [1, 2, 8, 12, 12])
        x = b("Reshape", b("Transpose", x, perm=(0, 2, 1, 3, 4)), [1, 16, 12, 12])
    return b.classify(b.unit(x, 20, 1))


def ghostnet() -> Graph:
    b, x = start()
    x = b.unit(x, 8)
    for width in (12, 8):
        y = b.unit(x, width // 2, 1)
        x = b("Concat", y, b.unit(y, width // 2, groups=width // 2), axis=1)
    return b.classify(x)


def squeezenet() -> Graph:
    b, x = start()
    x = b("Relu", b.conv(x, 8, 3))
    for width in (8, 12):
        y = b("Relu", b.conv(x, 4, 1))
        x = b("Concat", b("Relu", b.conv(y, width, 1)), b("Relu", b.conv(y, width, 3)), axis=1)
    return b.output(b("Flatten", b("GlobalAveragePool", b("Relu", b.conv(x, 5, 1)))))


def inception() -> Graph:
    b, x = start()
    x = b.unit(x, 8)
    pooled = b("MaxPool", x, kernel_shape=(3, 3), pads=(1, 1, 1, 1))
    double = b.unit(b.unit(b.unit(x, 4, 1), 6), 8)
    y = b("Concat", b.unit(x, 6, 1), b.unit(b.unit(x, 4, 1), 6), double, b.unit(pooled, 5, 1), axis=1)
    return b.classify(b.unit(y, 12, 1))


def res2net() -> Graph:
    b, x = start()
    x = b.unit(x, 16)
    first, second, third, fourth = b.node("Split", b.unit(x, 16, 1), [4] * 4, axis=1, outputs=4).outputs
    second = b.unit(second, 4)
    third = b.unit(b("Add", second, third), 4)
    y = b.unit(b("Concat", first, second, third, b.unit(b("Add", third, fourth), 4), axis=1), 16, 1, "")
    return b.classify(b("Relu", b("Add", x, y)))


def convnext() -> Graph:
    b, x = start()
    x = b.conv(x, 12, 3)
    y = b("Transpose", b.conv(x, 12, 7, groups=12), perm=(0, 2, 3, 1))
    y = b("Transpose", b("Mul", b.mlp(b.norm(y), 32), b.weight(12)), perm=(0, 3, 1, 2))
    return b.classify(b("Add", x, y))


def vit() -> Graph:
    b, x = start()
    y = b("Transpose", b("Reshape", b.conv(x, 24, 4, stride=4, pad=0), [1, 24, 9]), perm=(0, 2, 1))
    y = b("Add", b("Concat", b.weight(1, 1, 24), y, axis=1), b.weight(1, 10, 24))
    for _ in range(2):
        y = b("Add", y, b.attention(b.norm(y), 4))
        y = b("Add", y, b.mlp(b.norm(y), 40))
    first = b("Gather", b.norm(y), np.array(0, np.int64), axis=1)
    return b.output(b("Gemm", first, b.weight(24, 5), b.weight(5)))


def swin() -> Graph:
    """Attention in windows of 4 x 4, then two positions merged into one."""
    b, x = start(8)
    y = b("Transpose", b.conv(x, 16, 1), perm=(0, 2, 3, 1))
    windows = b("Transpose", b("Reshape", b.norm(y), [1, 2, 4, 2, 4, 16]), perm=(0, 1, 3, 2, 4, 5))
    z = b.attention(b("Reshape", windows, [4, 16, 16]), 4)
    z = b("Reshape", b("Transpose", b("Reshape", z, [1, 2, 2, 4, 4, 16]), perm=(0, 1, 3, 2, 4, 5)), [1, 8, 8, 16])
    y = b("Add", y, z)
    y = b("Add", y, b.mlp(b.norm(y), 24))
    even, odd = (b("Slice", y, [i], [8], [2], [2]) for i in (0, 1))
    y = b("MatMul", b.norm(b("Concat", even, odd, axis=-1)), b.weight(32, 20))
    return b.output(b("MatMul", b("ReduceMean", y, [1, 2], keepdims=0), b.weight(20, 5)))


def unet() -> Graph:
    b, x = start()
    first = b.unit(x, 8)
    second = b.unit(b("MaxPool", first, kernel_shape=(2, 2), strides=(2, 2)), 12)
    third = b.unit(b("MaxPool", second, kernel_shape=(2, 2), strides=(2, 2)), 16)
    up = b("ConvTranspose", third, b.weight(16, 12, 2, 2), b.weight(12), strides=(2, 2))
    y = b.unit(b("Concat", second, up, axis=1), 10)
    y = b("Resize", y, None, None, [1, 10, 12, 12], mode="linear")
    return b.output(b("Sigmoid", b.conv(b.unit(b("Concat", first, y, axis=1), 8), 1, 1)))


def yolo() -> Graph:
    """CSP blocks, spatial pyramid pooling, a neck with concat and resize, two heads."""
    b, x = start(16)
    x = b.unit(x, 8, act="Silu", stride=2)
    left, right = b.node("Split", b.unit(x, 16, 1, "Silu"), [8, 8], axis=1, outputs=2).outputs
    right = b("Add", right, b.unit(b.unit(right, 6, 1, "Silu"), 8, act="Silu"))
    fine = b.unit(b("Concat", left, right, axis=1), 12, 1, "Silu")
    coarse = b.unit(fine, 16, act="Silu", stride=2)
    pools = [b("MaxPool", coarse, kernel_shape=(k, k), pads=(k // 2,) * 4) for k in (3, 5)]
    coarse = b.unit(b("Concat", coarse, *pools, axis=1), 16, 1, "Silu")
    up = b("Resize", coarse, None, None, [1, 16, 8, 8], mode="nearest")
    fine = b.unit(b("Concat", up, fine, axis=1), 12, act="Silu")
    return b.output(b("Sigmoid", b.conv(fine, 7, 1)), b("Sigmoid", b.conv(coarse, 7, 1)))


def ssd() -> Graph:
    """Boxes of two feature maps in one row, as detectors give them."""
    b, x = start()
    fine = b.unit(b.unit(x, 10), 12, stride=2)
    coarse = b.unit(fine, 14, stride=2)
    rows = [b("Reshape", b("Transpose", b.conv(y, 8, 3), perm=(0, 2, 3, 1)), [1, y.shape[2] * y.shape[3] * 2, 4])
            for y in (fine, coarse)]
    return b.output(b("Concat", *rows, axis=1))


def lstm() -> Graph:
    b = Nets(0)
    x = b.linear(b.input("x", 7, 1, 6), 10)
    y = b("LSTM", x, b.weight(1, 48, 10), b.weight(1, 48, 12), b.weight(1, 96), hidden_size=12)
    y = b("GRU", b("Squeeze", y, [1]), b.weight(1, 24, 12), b.weight(1, 24, 8), b.weight(1, 48), hidden_size=8)
    return b.output(b.linear(b("Squeeze", y, [1]), 5))


def crnn() -> Graph:
    """Convolutions whose columns are the steps of a recurrent net."""
    b, x = start(8)
    y = b("MaxPool", b.unit(x, 6), kernel_shape=(8, 1))
    y = b("Transpose", b("Squeeze", y, [2]), perm=(2, 0, 1))
    y = b("LSTM", y, b.weight(2, 32, 6), b.weight(2, 32, 8), b.weight(2, 64), hidden_size=8, direction="bidirectional")
    y = b("Reshape", b("Transpose", y, perm=(0, 2, 1, 3)), [8, 1, 16])
    return b.output(b.linear(y, 5))


def mixer() -> Graph:
    b, x = start()
    y = b("Transpose", b("Reshape", b.conv(x, 16, 4, stride=4, pad=0), [1, 16, 9]), perm=(0, 2, 1))
    turned = b("Transpose", b.mlp(b("Transpose", b.norm(y), perm=(0, 2, 1)), 12), perm=(0, 2, 1))
    y = b("Add", y, turned)
    y = b("Add", y, b.mlp(b.norm(y), 24))
    return b.output(b.linear(b("ReduceMean", y, [1], keepdims=0), 5))


def autoencoder() -> Graph:
    b = Nets(0)
    x = b.input("x", 1, 20)
    for width in (16, 8, 16):
        x = b("Relu", b.linear(x, width))
    return b.output(b.linear(x, 20))


def superresolution() -> Graph:
    b, x = start(6)
    y = b.unit(x, 10)
    y = b("DepthToSpace", b.conv(b("Add", y, b.unit(b.unit(y, 8), 10, act="")), 24, 3), blocksize=2, mode="CRD")
    return b.output(b.conv(b("PRelu", y, b.weight(6, 1, 1)), 3, 3))


FAMILIES: dict[str, Net] = {f.__name__: f for f in (
    vgg, resnet, bottleneck, resnext, regnet, preactivation, densenet, mobilenet_v1, mobilenet_v2, mobilenet_v3,
    efficientnet, shufflenet_v1, shufflenet_v2, ghostnet, squeezenet, inception, res2net, convnext, vit, swin, unet,
    yolo, ssd, lstm, crnn, mixer, autoencoder, superresolution)}
