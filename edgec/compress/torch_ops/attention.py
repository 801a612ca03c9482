"""Attention and RotaryEmbedding on torch tensors.

Shapes: Q [batch, heads, Lq, D] or [batch, Lq, heads * D]; K, V likewise; scores [batch, heads, Lq, Lkv].
Source: ONNX operators Attention (opset 24) and RotaryEmbedding (opset 23).
"""

from __future__ import annotations

from math import inf, sqrt
from typing import Any

import torch
from torch.nn import functional

from edgec.compress.torch_ops.rule import Form, Inputs, Reason, Tensors, present
from edgec.ir.graph import Node

_AFTER_MASK, _AFTER_SOFTMAX = 2, 3  # values of qk_matmul_output_mode


def _heads(x: Any, count: int) -> Any:
    """[batch, heads, L, D] of either layout."""
    return x if x.ndim == 4 else x.reshape(x.shape[0], x.shape[1], count, -1).transpose(1, 2)


def _attention(node: Node, x: Inputs) -> Tensors:
    q, k, v = _heads(x[0], node.integer("q_num_heads", 1)), *(_heads(t, node.integer("kv_num_heads", 1))
                                                               for t in x[1:3])
    mask, past_key, past_value, lengths = (present(x, i) for i in (3, 4, 5, 6))
    past = 0 if past_key is None else past_key.shape[2]
    if past_key is not None:
        k, v = torch.cat([past_key, k], 2), torch.cat([past_value, v], 2)
    shared = q.shape[1] // k.shape[1]
    keys, values = (t if shared == 1 else t.repeat_interleave(shared, 1) for t in (k, v))
    scores = (q @ keys.transpose(-1, -2)) * (node.real("scale", 0.0) or 1 / sqrt(q.shape[-1]))
    raw, cap = scores, node.real("softcap", 0.0)
    if cap > 0:
        scores = raw = cap * torch.tanh(scores / cap)
    masked = _masked(node, scores, mask, past, lengths)
    hidden = torch.isneginf(masked).all(-1, keepdim=True)  # a row that sees no key gives 0
    shares = torch.where(hidden, torch.zeros_like(masked),
                         torch.softmax(torch.where(hidden, torch.zeros_like(masked), masked), -1))
    mode = node.integer("qk_matmul_output_mode", 0)
    shown = shares if mode == _AFTER_SOFTMAX else masked if mode == _AFTER_MASK else raw
    result = shares @ values
    if x[0].ndim == 3:
        result = result.transpose(1, 2).reshape(node.outputs[0].shape)
    return [result, k, v, shown][:len(node.outputs)]


def _masked(node: Node, scores: Any, mask: Any | None, past: int, lengths: Any | None) -> Any:
    """Scores + the mask, -inf where a key must not be seen. A mask that is too short hides the keys beyond it."""
    queries, keys = scores.shape[-2:]
    if mask is not None:
        missing = keys - mask.shape[-1]
        if mask.dtype is torch.bool:
            mask = functional.pad(mask, (0, missing), value=False) if missing and mask.shape[-1] > 1 else mask
            scores = torch.where(mask, scores, torch.full_like(scores, -inf))
        else:
            scores = scores + (functional.pad(mask, (0, missing), value=-inf) if missing and mask.shape[-1] > 1
                               else mask)
    place = torch.arange(keys, device=scores.device)
    limits = None if lengths is None else lengths.reshape(-1, 1, 1, 1)
    if node.integer("is_causal", 0):
        offset = past if limits is None else limits - queries
        rows = torch.arange(queries, device=scores.device).reshape(-1, 1)
        scores = torch.where(place <= rows + offset, scores, torch.full_like(scores, -inf))
    if limits is not None:
        scores = torch.where(place < limits, scores, torch.full_like(scores, -inf))
    return scores


def _refuse_attention(node: Node) -> Reason | None:
    if node.integer("left_window_size", -1) >= 0 or node.integer("right_window_size", -1) >= 0:
        return "torch.attention_window", "Attention with a sliding window"
    return None


def _rotary(node: Node, x: Inputs) -> Tensors:
    """Pairs of elements turn by the angle of their position; elements beyond rotary_embedding_dim stay."""
    data = _heads(x[0], node.integer("num_heads", 1) or 1)
    positions = present(x, 3)
    width = node.integer("rotary_embedding_dim", 0) or data.shape[-1]
    cosine, sine = x[1:3] if positions is None else (t[positions.long()] for t in x[1:3])
    cosine, sine = (t[..., :width // 2].unsqueeze(1) for t in (cosine, sine))  # [batch, 1, L, width / 2]
    turned, rest = data[..., :width], data[..., width:]
    if node.integer("interleaved", 0):
        first, second = turned[..., 0::2], turned[..., 1::2]
    else:
        first, second = turned.chunk(2, -1)
    pair = cosine * first - sine * second, sine * first + cosine * second
    turned = torch.stack(pair, -1).flatten(-2) if node.integer("interleaved", 0) else torch.cat(pair, -1)
    result = torch.cat([turned, rest], -1)
    return [result if x[0].ndim == 4 else result.transpose(1, 2).reshape(x[0].shape)]


FORMS: dict[str, Form] = {
    "Attention": Form(_attention, refuse=_refuse_attention),
    "RotaryEmbedding": Form(_rotary),
}
