"""Lowerings of Attention and RotaryEmbedding.

Attention: scores = rows of Q times rows of K (both lie in memory as rows), then softcap, masks, softmax, and the
           product with V. Key heads that several query heads share are not copied.
Numerics:  float32 or float64; the scale is applied to the scores. A row whose keys are all masked gives 0.
Source:    ONNX operators Attention (opset 24) and RotaryEmbedding (opset 23), and onnx.reference.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt
from typing import Any

from tvm import te, tirx

from edgec.backends.tvm.lower import math
from edgec.backends.tvm.lower.loops import Memory, read, shifted, write, written
from edgec.backends.tvm.lower.products import Matrix, products
from edgec.backends.tvm.lower.reduce import largest
from edgec.backends.tvm.lower.rule import Inputs, Lowering, Reason, Tensors, dtype_name, extents
from edgec.backends.tvm.lower.shapes import SUM, Expr, at, bind, constant, dtype_of, element, reduced, reshape, select
from edgec.ir.graph import Node, Value
from edgec.ir.types import DType, TensorType
from edgec.kernels.emit import loop

_AFTER_MASK, _AFTER_SOFTMAX = 2, 3  # values of qk_matmul_output_mode


@dataclass(frozen=True)
class _Shape:
    """Sizes of one Attention. past: keys of the cache; keys: all of them."""

    batch: int
    heads: int
    kv_heads: int
    queries: int
    past: int
    keys: int
    width: int
    value_width: int
    dtype: str

    @property
    def scores(self) -> tuple[int, int, int, int]:
        """Shape of the matrix of scores."""
        return self.batch, self.heads, self.queries, self.keys


def _shape(node: Node) -> _Shape:
    q, k, v, past = node.operand(0), node.operand(1), node.operand(2), node.input(4)
    flat = q.type.rank == 3
    heads = node.integer("q_num_heads", 0) if flat else q.shape[1]
    kv_heads = node.integer("kv_num_heads", 0) if flat else k.shape[1]
    before = past.shape[2] if past is not None else 0
    return _Shape(q.shape[0], heads, kv_heads, q.shape[-2], before, before + k.shape[-2],
                  q.shape[2] // heads if flat else q.shape[3], v.shape[2] // kv_heads if flat else v.shape[3],
                  dtype_name(q.dtype))


def _cached(s: _Shape, new: Any, past: Any | None, width: int) -> te.Tensor:
    """Keys or values of all heads, those of the cache first: [batch, kv_heads, keys, width]."""
    flat = len(extents(new)) == 3
    if not flat and past is None:
        return new

    def fresh(b: Expr, h: Expr, j: Expr, e: Expr) -> Expr:
        return new(b, j, h * width + e) if flat else new(b, h, j, e)

    def body(b: Expr, h: Expr, j: Expr, e: Expr) -> Expr:
        if past is None:
            return fresh(b, h, j, e)
        return tirx.if_then_else(j < s.past, past(b, h, j, e), fresh(b, h, j - s.past, e))

    return te.compute((s.batch, s.kv_heads, s.keys, width), body, "present")


def _scores(s: _Shape, q: Any, keys: Any, scale: float) -> te.Tensor:
    """Scale * Q K^T."""
    flat = len(extents(q)) == 3
    shared = s.heads // s.kv_heads

    def body(ins: list[Memory], outs: list[Memory]) -> None:
        with loop(s.batch) as b, loop(s.heads) as h:
            def query(i: Expr, k: Expr) -> Expr:
                return read(ins[0], b, i, shifted(k, h * s.width)) if flat else read(ins[0], b, h, i, k)

            products(Matrix(s.queries, query),
                     Matrix(s.keys, lambda j, k: read(ins[1], b, tirx.indexdiv(h, shared), j, k)), s.width, s.dtype,
                     lambda _i, _j: constant(0, s.dtype),
                     lambda i, j, value: write(outs[0], value * constant(scale, s.dtype), b, h, i, j))

    result = Value("scores", TensorType(DType(s.dtype), s.scores))
    return written("scores", [q, keys], [result], body)[0]


def _masked(node: Node, s: _Shape, scores: Any, mask: Any | None, lengths: Any | None) -> te.Tensor:
    """Scores + the mask, -inf where a key must not be seen."""
    causal = bool(node.integer("is_causal", 0))
    if mask is None and lengths is None and not causal:
        return scores
    never = constant(float("-inf"), s.dtype)

    def body(b: Expr, h: Expr, i: Expr, j: Expr) -> Expr:
        value, seen = scores(b, h, i, j), []
        if mask is not None:
            known = extents(mask)[-1]
            key = tirx.min(j, tirx.const(known - 1, "int32")) if known < s.keys else j
            given = at(mask, (b, h, i, key))
            if dtype_of(mask) == "bool":
                seen.append(given)
            else:
                value = value + given
            if 1 < known < s.keys:  # a shorter mask hides the keys beyond it
                seen.append(j < known)
        if causal:
            offset = lengths(b).astype("int32") - s.queries if lengths is not None else s.past
            seen.append(j <= i + offset)
        if lengths is not None:
            seen.append(j < lengths(b).astype("int32"))
        return select(tirx.all(*seen), value, never) if seen else value

    return te.compute(s.scores, body, "masked")


def _softmax(s: _Shape, x: Any) -> te.Tensor:
    """Softmax along the last axis; rows of -inf become 0."""
    zero, one = constant(0, s.dtype), constant(1, s.dtype)
    top = largest(x, [3])

    def power(*index: Expr) -> Expr:
        row = top(*index[:3])
        return element(lambda: math.exp(bind(x(*index) - select(row == constant(float("-inf"), s.dtype), zero, row))))

    powers = te.compute(s.scores, power, "powers")
    sums = reduced(s.scores, [3], lambda index: powers(*index), SUM, s.dtype, "sums")

    def share(*index: Expr) -> Expr:
        total = sums(*index[:3])
        return powers(*index) / select(total == zero, one, total)

    return te.compute(s.scores, share, "softmax")


def _attention(node: Node, tensors: Inputs) -> Tensors:
    s = _shape(node)
    given: list[Any] = [*tensors, *[None] * (7 - len(tensors))]
    q, k, v, mask, past_key, past_value, lengths = given
    keys, values = _cached(s, k, past_key, s.width), _cached(s, v, past_value, s.value_width)
    scores: Any = _scores(s, q, keys, node.real("scale", 0.0) or 1 / sqrt(s.width))
    softcap = node.real("softcap", 0.0)
    if softcap > 0:
        cap, raw = constant(softcap, s.dtype), scores
        scores = te.compute(s.scores, lambda *i: element(lambda: cap * math.tanh(bind(raw(*i) / cap))), "softcap")
    masked = _masked(node, s, scores, mask, lengths)
    shares: Any = _softmax(s, masked)
    shared = s.heads // s.kv_heads
    key = te.reduce_axis((0, s.keys), "key")

    def total(b: Expr, h: Expr, i: Expr, e: Expr) -> Expr:
        return te.sum(shares(b, h, i, key) * values(b, tirx.indexdiv(h, shared), key, e), axis=[key])

    mixed: Any = te.compute((s.batch, s.heads, s.queries, s.value_width), total, "mixed")
    result = mixed
    if len(node.outputs[0].shape) == 3:
        rows = te.compute((s.batch, s.queries, s.heads, s.value_width), lambda b, i, h, e: mixed(b, h, i, e), "rows")
        result = reshape(rows, node.outputs[0].shape)
    mode = node.integer("qk_matmul_output_mode", 0)
    shown = shares if mode == _AFTER_SOFTMAX else masked if mode == _AFTER_MASK else scores
    return [result, keys, values, shown][:len(node.outputs)]


def _rotary(node: Node, tensors: Inputs) -> Tensors:
    """Pairs of elements turn by the angle of their position; elements beyond rotary_embedding_dim stay."""
    x: Any = tensors[0]
    cosines: Any = tensors[1]
    sines: Any = tensors[2]
    positions = tensors[3] if len(tensors) > 3 else None
    flat = len(extents(x)) == 3
    head = extents(x)[2] // node.integer("num_heads", 1) if flat else extents(x)[3]
    turned = node.integer("rotary_embedding_dim", 0) or head
    half, interleaved = turned // 2, bool(node.integer("interleaved", 0))

    def body(*index: Expr) -> Expr:
        b, position = index[0], index[1] if flat else index[2]
        start = tirx.indexdiv(index[2], head) * head if flat else 0
        d = tirx.indexmod(index[2], head) if flat else index[3]

        def element_at(offset: Expr) -> Expr:
            return x(*index[:-1], start + offset)

        def table(source: Any, k: Expr) -> Expr:
            if positions is None:
                return source(b, position, k)
            limit = tirx.const(extents(source)[0] - 1, "int64")
            row = tirx.max(tirx.min(positions(b, position).astype("int64"), limit), tirx.const(0, "int64"))
            return source(row, k)

        if interleaved:
            pair, second = tirx.indexdiv(d, 2), tirx.EQ(tirx.indexmod(d, 2), 1)
            other = select(second, d - 1, d + 1)
        else:
            second = d >= half
            pair, other = select(second, d - half, d), select(second, d - half, d + half)
        if turned < head:  # both branches of `select` are evaluated: indices must stay in range
            pair = tirx.min(pair, tirx.const(half - 1, "int32"))
            other = tirx.min(other, tirx.const(head - 1, "int32"))
        cosine, sine = table(cosines, pair), table(sines, pair)
        mixed = select(second, sine * element_at(other), -(sine * element_at(other)))
        value = cosine * element_at(d) + mixed
        return select(d < turned, value, element_at(d)) if turned < head else value

    return [te.compute(node.outputs[0].shape, body, "rotary_embedding")]


def _refuse_type(node: Node) -> Reason | None:
    if dtype_name(node.operand(0).dtype) not in ("float32", "float64"):
        return "tvm.dtype", f"{node.op} is computed in float32 or float64, not {dtype_name(node.operand(0).dtype)}"
    if any(0 in v.shape for v in (*node.input_values, *node.outputs)):
        return "tvm.empty", f"{node.op} of an empty tensor"
    return None


def _refuse_attention(node: Node) -> Reason | None:
    reason = _refuse_type(node)
    if reason is not None:
        return reason
    if node.integer("softmax_precision", 1) != 1:
        return "tvm.no_lowering", "Attention computes its softmax in the type of Q"
    if node.integer("left_window_size", -1) >= 0 or node.integer("right_window_size", -1) >= 0:
        return "tvm.no_lowering", "Attention with a sliding window"
    shape = _shape(node)
    if shape.heads % shape.kv_heads:
        return "tvm.no_lowering", f"Attention has {shape.heads} query heads for {shape.kv_heads} key heads"
    return None


LOWERINGS: dict[str, Lowering] = {
    "Attention": Lowering(_attention, _refuse_attention),
    "RotaryEmbedding": Lowering(_rotary, _refuse_type),
}
