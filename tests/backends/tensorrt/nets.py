"""Small nets with the structures that decide where TensorRT wants pairs; channels large enough for int8."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from edgec.backends.tensorrt.policy import TENSORRT
from edgec.compress.quantize import annotate, choose_grids, observe, place
from edgec.ir.graph import Graph, Value
from edgec.passes.contract import Options
from edgec.passes.pipelines import optimize
from tests.models import Builder, feeds


def _cbr(b: Builder, x: Value, out: int, kernel: int = 3, act: str = "Relu", **more: int) -> Value:
    y = b.batch_norm(b.conv(x, out, kernel, bias=False, **more))
    if act == "Silu":
        return b("Mul", y, b("Sigmoid", y))
    if act == "HardSwish":
        return b("HardSwish", y)
    if act == "Relu6":
        return b("Clip", y, 0.0, 6.0)
    return b(act, y) if act else y


def resnet() -> Graph:
    b = Builder(1, "resnet")
    x = b("MaxPool", _cbr(b, b.input("x", 1, 16, 13, 11), 16), kernel_shape=(3, 3), strides=(2, 2), pads=(1, 1, 1, 1))
    y = b("Relu", b("Add", _cbr(b, _cbr(b, x, 16), 16, act=""), x))
    short = _cbr(b, y, 32, 1, "", stride=2)
    y = b("Relu", b("Add", _cbr(b, _cbr(b, y, 32, stride=2), 32, act=""), short))
    return b.output(b("Gemm", b("Flatten", b("GlobalAveragePool", y)), b.weight(32, 10), b.weight(10, name="b")))


def mobilenet_v2() -> Graph:
    b = Builder(2, "mobilenet_v2")
    x = b.input("x", 1, 16, 9, 7)
    y = _cbr(b, _cbr(b, _cbr(b, x, 32, 1, "Relu6"), 32, 3, "Relu6", groups=32), 16, 1, "")
    z = _cbr(b, _cbr(b, _cbr(b, y, 48, 1, "Relu6"), 48, 3, "Relu6", groups=48), 16, 1, "")
    return b.output(b("GlobalAveragePool", b("Add", y, z)))


def _squeeze(b: Builder, y: Value, gate: str) -> Value:
    s = b("Relu", b.conv(b("GlobalAveragePool", y), 16, 1))
    return b("Mul", y, b(gate, b.conv(s, y.shape[1], 1)))


def mobilenet_v3() -> Graph:
    b = Builder(3, "mobilenet_v3")
    x = b.input("x", 1, 16, 9, 7)
    y = _cbr(b, _cbr(b, x, 48, 1, "HardSwish"), 48, 3, "HardSwish", groups=48)
    y = _cbr(b, _squeeze(b, y, "HardSigmoid"), 16, 1, "")
    return b.output(b("Add", x, y))


def shufflenet_v2() -> Graph:
    b = Builder(4, "shufflenet_v2")
    x = _cbr(b, b.input("x", 1, 16, 8, 6), 32, 1)
    left, right = b.node("Split", x, outputs=2, axis=1, num_outputs=2).outputs
    right = _cbr(b, _cbr(b, _cbr(b, right, 16, 1), 16, 3, "", groups=16), 16, 1)
    y = b("Concat", left, right, axis=1)
    y = b("Transpose", b("Reshape", y, [1, 2, 16, 8, 6]), perm=(0, 2, 1, 3, 4))
    return b.output(_cbr(b, b("Reshape", y, [1, 32, 8, 6]), 16, 1))


def yolo() -> Graph:
    b = Builder(5, "yolo")
    x = _cbr(b, b.input("x", 1, 16, 8, 8), 32, 3, "Silu", stride=2)
    one, two = b.node("Split", _cbr(b, x, 32, 1, "Silu"), outputs=2, axis=1, num_outputs=2).outputs
    three = b("Add", two, _cbr(b, _cbr(b, two, 16, 3, "Silu"), 16, 3, "Silu"))
    neck = _cbr(b, b("Concat", one, two, three, axis=1), 32, 1, "Silu")
    up = b("Resize", neck, None, np.array([1, 1, 2, 2], np.float32), mode="nearest", nearest_mode="floor",
           coordinate_transformation_mode="asymmetric")
    head = b.conv(_cbr(b, up, 16, 3, "Silu"), 16, 1)
    return b.output(b("Sigmoid", head))


def unet() -> Graph:
    b = Builder(6, "unet")
    skip = _cbr(b, b.input("x", 1, 16, 8, 6), 16)
    low = _cbr(b, b("MaxPool", skip, kernel_shape=(2, 2), strides=(2, 2)), 32)
    up = b("ConvTranspose", low, b.weight(32, 16, 2, 2), b.weight(16, name="b"), strides=(2, 2))
    return b.output(b.conv(_cbr(b, b("Concat", skip, up, axis=1), 16), 16, 1))


def vit() -> Graph:
    b = Builder(7, "vit")
    x = b.input("x", 1, 9, 32)
    scale, bias = b.constant(b.random.uniform(0.5, 1.5, 32).astype(np.float32)), b.weight(32, name="beta")
    h = b("LayerNormalization", x, scale, bias, axis=-1)
    q, k, v = (b("Add", b("MatMul", h, b.weight(32, 32)), b.weight(32, name="b")) for _ in range(3))
    mixed = b("MatMul", b("Softmax", b("Mul", b("MatMul", q, b("Transpose", k, perm=(0, 2, 1))), 0.17), axis=-1), v)
    y = b("Add", x, b("Add", b("MatMul", mixed, b.weight(32, 32)), b.weight(32, name="b")))
    h = b("Gelu", b("Add", b("MatMul", b("LayerNormalization", y, scale, bias, axis=-1), b.weight(32, 64)),
                    b.weight(64, name="b")))
    return b.output(b("Add", y, b("MatMul", h, b.weight(64, 32))))


def efficientnet() -> Graph:
    b = Builder(8, "efficientnet")
    x = b.input("x", 1, 16, 9, 7)
    y = _cbr(b, _cbr(b, x, 48, 1, "Silu"), 48, 5, "Silu", groups=48)
    return b.output(b("Add", x, _cbr(b, _squeeze(b, y, "Sigmoid"), 16, 1, "")))


NETS: dict[str, Callable[[], Graph]] = {f.__name__: f for f in (
    resnet, mobilenet_v2, mobilenet_v3, shufflenet_v2, yolo, unet, vit, efficientnet)}


def quantized(name: str, seed: int = 0) -> Graph:
    """The net after the passes, on the grids that TensorRT's policy gives it for eight random samples."""
    graph, _ = optimize(NETS[name](), Options())
    samples = [feeds(graph, seed + i) for i in range(8)]
    placement = place(graph, TENSORRT)
    seen = observe(graph, placement, lambda: samples)
    choices = choose_grids(graph, placement, seen, TENSORRT.activations, "minmax")
    return annotate(graph, placement, {n: c.threshold.quant for n, c in choices.items()}, TENSORRT)
