"""Small graphs for tests: random weights, random BatchNorm statistics, odd sizes. All seeded, none needs torch."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

from edgec.ir.graph import Attr, Graph, Node, Value
from edgec.ir.types import DType, TensorType
from edgec.ops.semantics import evaluate, infer_types


class Builder:
    """Builds a graph line by line: `b = Builder(); y = b("Relu", b.input("x", 1, 3)); graph = b.output(y)`."""

    def __init__(self, seed: int = 0, name: str = "test") -> None:
        self.graph = Graph(name)
        self._known: dict[Value, np.ndarray] = {}
        self.random = np.random.default_rng(seed)

    def input(self, name: str, *shape: int, dtype: DType = DType.FLOAT32) -> Value:
        """A graph input."""
        value = Value(self.graph.unique_name(name), TensorType(dtype, shape))
        self.graph.inputs.append(value)
        return value

    def constant(self, array: object, name: str = "c") -> Value:
        """A constant: a numpy array as it is, Python floats as float32, Python ints as int64."""
        if not isinstance(array, np.ndarray):
            array = np.asarray(array)
            array = array.astype(np.float32 if array.dtype.kind == "f" else array.dtype)
        return Value.constant(self.graph.unique_name(name), array)

    def weight(self, *shape: int, name: str = "w", scale: float | None = None) -> Value:
        """Normal random numbers, by default small enough that a product keeps its size."""
        fan_in = max(1, int(np.prod(shape[1:])))
        array = self.random.standard_normal(shape) * (scale if scale is not None else fan_in ** -0.5)
        return self.constant(array.astype(np.float32), name)

    def __call__(self, op: str, *inputs: object, **attributes: object) -> Value:
        """Add a node; inputs that are not Values become constants. Returns its first output."""
        return self.node(op, *inputs, **attributes).outputs[0]

    def node(self, op: str, *inputs: object, outputs: int = 1, name: str = "", domain: str = "",
             **attributes: Attr) -> Node:
        """Add a node and return it."""
        values = [v if isinstance(v, Value) or v is None else self.constant(v) for v in inputs]
        stem = self.graph.unique_name(name or op.lower())
        results = [Value(stem if i == 0 else self.graph.unique_name(f"{stem}_{i}"), TensorType(DType.FLOAT32, ()))
                   for i in range(outputs)]
        node = Node(op, values, results, attributes, name=stem, domain=domain,
                    source=f"model.py:{len(self.graph.nodes) + 1}")
        known = Node(op, [self._as_constant(v) for v in values], results, attributes, domain=domain)
        for value, type_ in zip(results, infer_types(known), strict=True):
            value.type = type_
        if op == "Shape":
            self._known[results[0]] = np.array(values[0].shape, np.int64)
        elif all(v is None or v.const is not None for v in known.inputs) and results[0].dtype is DType.INT64:
            self._known.update(zip(results, evaluate(known, [v and v.const for v in known.inputs]), strict=True))
        return self.graph.add(node)

    def _as_constant(self, value: Value | None) -> Value | None:
        """The constant that shape arithmetic gives for `value`: with it, the types that depend on it are known."""
        return Value.constant(value.name, self._known[value]) if value in self._known else value

    def output(self, *values: Value) -> Graph:
        """Make `values` the graph outputs and return the graph."""
        for value in values:
            if value.producer is None or any(v is value for v in self.graph.outputs):
                value = self("Identity", value)
            self.graph.outputs.append(value)
        return self.graph

    def batch_norm(self, x: Value, epsilon: float = 1e-5) -> Value:
        """BatchNormalization with random statistics and parameters (none is 0 or 1)."""
        c, draw = x.shape[1], self.random
        gamma, var = draw.uniform(0.5, 1.5, c), draw.uniform(0.5, 2.0, c)
        beta, mean = draw.normal(0, 0.3, c), draw.normal(0, 0.3, c)
        parameters = [self.constant(a.astype(np.float32), n) for a, n in
                      ((gamma, "gamma"), (beta, "beta"), (mean, "mean"), (var, "var"))]
        return self("BatchNormalization", x, *parameters, epsilon=epsilon)

    def conv(self, x: Value, channels: int, kernel: int = 3, *, stride: int = 1, pad: int | None = None,
             groups: int = 1, bias: bool = True) -> Value:
        """A 2-D convolution with random weights; "same" padding unless `pad` says otherwise."""
        pad = kernel // 2 if pad is None else pad
        w = self.weight(channels, x.shape[1] // groups, kernel, kernel)
        b = self.weight(channels, name="b", scale=0.3) if bias else None
        return self("Conv", x, w, *([b] if b else []), kernel_shape=(kernel, kernel), strides=(stride, stride),
                    pads=(pad,) * 4, group=groups)


def feeds(graph: Graph, seed: int = 1) -> dict[str, np.ndarray]:
    """Random inputs for a graph: normal floats, small integers, random booleans."""
    random = np.random.default_rng(seed)
    result = {}
    for value in graph.inputs:
        dtype = value.dtype.numpy
        if dtype.kind == "b":
            result[value.name] = random.random(value.shape) < 0.5
        elif dtype.kind in "iu":
            result[value.name] = random.integers(0, 4, value.shape).astype(dtype)
        else:
            result[value.name] = random.standard_normal(value.shape).astype(dtype)
    return result


def conv_bn_relu(*, channels: int = 6, out: int = 9, groups: int = 3, size: tuple[int, int] = (7, 5), kernel: int = 3,
                 stride: int = 1, bias: bool = True, seed: int = 0) -> Graph:
    """Conv -> BatchNormalization -> Relu, groups and odd sizes."""
    b = Builder(seed, "conv_bn_relu")
    x = b.input("x", 2, channels, *size)
    return b.output(b("Relu", b.batch_norm(b.conv(x, out, kernel, stride=stride, groups=groups, bias=bias))))


def residual_block(*, channels: int = 5, out: int = 7, stride: int = 2, size: tuple[int, int] = (9, 7),
                   seed: int = 0) -> Graph:
    """Two 3x3 Conv + BatchNorm and a projected shortcut. Source: He et al. 2015, arXiv:1512.03385, figure 2."""
    b = Builder(seed, "residual_block")
    x = b.input("x", 1, channels, *size)
    y = b("Relu", b.batch_norm(b.conv(x, out, stride=stride, bias=False)))
    y = b.batch_norm(b.conv(y, out, bias=False))
    shortcut = b.batch_norm(b.conv(x, out, 1, stride=stride, bias=False))
    return b.output(b("Relu", b("Add", y, shortcut)))


def shuffle_block(*, channels: int = 6, groups: int = 3, size: tuple[int, int] = (5, 7), seed: int = 0) -> Graph:
    """A channel shuffle with its shape arithmetic, as exporters write it, between grouped convolutions.

    Source: Zhang et al. 2017, arXiv:1707.01083, figure 2.
    """
    b = Builder(seed, "shuffle_block")
    x = b.input("x", 1, channels, *size)
    y = b("Relu", b.batch_norm(b.conv(x, channels, 1, groups=groups, bias=False)))
    shape = b("Shape", y)
    n, c, h, w = (b("Unsqueeze", b("Gather", shape, i), [0]) for i in range(4))
    per_group = b("Div", c, [groups])
    grouped = b("Reshape", y, b("Concat", n, [groups], per_group, h, w, axis=0))
    shuffled = b("Reshape", b("Transpose", grouped, perm=(0, 2, 1, 3, 4)), b("Concat", n, [-1], h, w, axis=0))
    y = b.batch_norm(b.conv(shuffled, channels, 3, groups=channels, bias=False))
    y = b.batch_norm(b.conv(y, channels, 1, groups=groups, bias=False))
    return b.output(b("Relu", b("Add", x, y)))


def squeeze_excite_block(*, channels: int = 8, squeezed: int = 2, size: tuple[int, int] = (6, 5),
                         seed: int = 0) -> Graph:
    """Depthwise Conv + BN + hard swish, then squeeze-and-excite with a hard sigmoid, as MobileNetV3 exports.

    Source: Howard et al. 2019, arXiv:1905.02244, section 5.
    """
    b = Builder(seed, "squeeze_excite_block")
    x = b.input("x", 1, channels, *size)
    y = b.batch_norm(b.conv(x, channels, 3, groups=channels, bias=False))
    y = b("Div", b("Mul", y, b("Clip", b("Add", y, 3.0), 0.0, 6.0)), 6.0)
    s = b("ReduceMean", y, [2, 3], keepdims=1)
    s = b("Relu", b.conv(s, squeezed, 1))
    s = b.conv(s, channels, 1)
    s = b("Div", b("Clip", b("Add", s, 3.0), 0.0, 6.0), 6.0)
    return b.output(b("Mul", y, s))


def layer_norm(b: Builder, x: Value, epsilon: float = 1e-5) -> Value:
    """LayerNorm over the last axis in primitive ops, as PyTorch's older exporter writes it."""
    d = b("Sub", x, b("ReduceMean", x, [-1], keepdims=1))
    var = b("ReduceMean", b("Pow", d, 2.0), [-1], keepdims=1)
    y = b("Div", d, b("Sqrt", b("Add", var, epsilon)))
    gamma = b.constant(b.random.uniform(0.5, 1.5, x.shape[-1]).astype(np.float32), "gamma")
    return b("Add", b("Mul", y, gamma), b.weight(x.shape[-1], name="beta", scale=0.3))


def attention_block(*, tokens: int = 7, heads: int = 3, width: int = 5, seed: int = 0) -> Graph:
    """Pre-norm multi-head self-attention and a GELU MLP, with the shape arithmetic that exporters leave in.

    Source: Vaswani et al. 2017, arXiv:1706.03762, section 3.2; Dosovitskiy et al. 2020, arXiv:2010.11929, section 3.1.
    """
    b = Builder(seed, "attention_block")
    dim = heads * width
    x = b.input("x", 1, tokens, dim)
    h = layer_norm(b, x)
    qkv = b("Add", b("MatMul", h, b.weight(dim, 3 * dim)), b.weight(3 * dim, name="b", scale=0.2))
    shape = b("Shape", h)
    n, t = (b("Unsqueeze", b("Gather", shape, i), [0]) for i in range(2))
    target = b("Concat", n, t, [3], [heads], [width], axis=0)
    split = b("Transpose", b("Reshape", qkv, target), perm=(2, 0, 3, 1, 4))
    q, k, v = (b("Gather", split, i, axis=0) for i in range(3))
    scores = b("Div", b("MatMul", q, b("Transpose", k, perm=(0, 1, 3, 2))), float(width ** 0.5))
    mixed = b("Transpose", b("MatMul", b("Softmax", scores, axis=-1), v), perm=(0, 2, 1, 3))
    mixed = b("Reshape", mixed, b("Concat", n, t, [dim], axis=0))
    y = b("Add", x, b("Add", b("MatMul", mixed, b.weight(dim, dim)), b.weight(dim, name="b", scale=0.2)))
    h = b("Add", b("MatMul", layer_norm(b, y), b.weight(dim, 2 * dim)), b.weight(2 * dim, name="b", scale=0.2))
    h = b("Mul", b("Mul", h, b("Add", b("Erf", b("Div", h, float(2 ** 0.5))), 1.0)), 0.5)
    return b.output(b("Add", y, b("Add", b("MatMul", h, b.weight(2 * dim, dim)), b.weight(dim, name="b", scale=0.2))))


def mlp(*, widths: Sequence[int] = (7, 11, 3), batch: int = 2, seed: int = 0) -> Graph:
    """Gemm + BatchNorm + Relu layers, the last without either."""
    b = Builder(seed, "mlp")
    x = b.input("x", batch, widths[0])
    for i, (c, k) in enumerate(itertools.pairwise(widths)):
        x = b("Gemm", x, b.weight(k, c), b.weight(k, name="b", scale=0.3), transB=1)
        if i + 2 < len(widths):
            x = b("Relu", b.batch_norm(x))
    return b.output(b("Softmax", x, axis=-1))


def depthwise_separable(*, channels: int = 4, size: tuple[int, int] = (9, 7), seed: int = 0) -> Graph:
    """MobileNet's pair: depthwise 3x3 stride 2, pointwise 1x1, each with BatchNorm and ReLU6, then pool and classify.

    Source: Howard et al. 2017, arXiv:1704.04861, figure 3.
    """
    b = Builder(seed, "depthwise_separable")
    y = b.input("x", 1, channels, *size)
    y = b("Clip", b.batch_norm(b.conv(y, channels, 3, stride=2, groups=channels, bias=False)), 0.0, 6.0)
    y = b("Clip", b.batch_norm(b.conv(y, 2 * channels, 1, bias=False)), 0.0, 6.0)
    y = b("Flatten", b("GlobalAveragePool", y))
    return b.output(b("Gemm", y, b.weight(3, 2 * channels), b.weight(3, name="b"), transB=1))


BLOCKS = {f.__name__: f for f in (conv_bn_relu, residual_block, shuffle_block, squeeze_excite_block, attention_block,
                                  mlp, depthwise_separable)}
