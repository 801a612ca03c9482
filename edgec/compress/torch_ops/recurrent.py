"""LSTM, GRU and RNN on torch tensors, step by step.

Shapes: x [steps, batch, I] (layout 0); W [directions, gates * H, I]; R [directions, gates * H, H];
        B [directions, 2 * gates * H]; Y [steps, directions, batch, H]. Gates: LSTM i o f c, GRU z r h.
Source: ONNX operators LSTM, GRU, RNN.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch.nn import functional

from edgec.compress.torch_ops.rule import Form, Inputs, Reason, Tensors, present
from edgec.ir.graph import Node

Function = Callable[[Any], Any]
_DEFAULTS = {"LSTM": ("Sigmoid", "Tanh", "Tanh"), "GRU": ("Sigmoid", "Tanh"), "RNN": ("Tanh",)}
_ACTIVATIONS: dict[str, tuple[Callable[[Any, float, float], Any], float | None, float | None]] = {  # alpha, beta
    "sigmoid": (lambda x, a, b: torch.sigmoid(x), None, None),
    "tanh": (lambda x, a, b: torch.tanh(x), None, None),
    "relu": (lambda x, a, b: torch.relu(x), None, None),
    "softsign": (lambda x, a, b: functional.softsign(x), None, None),
    "softplus": (lambda x, a, b: functional.softplus(x), None, None),
    "affine": (lambda x, a, b: a * x + b, 1.0, 0.0),
    "leakyrelu": (lambda x, a, b: functional.leaky_relu(x, a), 0.01, None),
    "thresholdedrelu": (lambda x, a, b: torch.where(x > a, x, torch.zeros_like(x)), 1.0, None),
    "scaledtanh": (lambda x, a, b: a * torch.tanh(b * x), 1.0, 1.0),
    "hardsigmoid": (lambda x, a, b: torch.clamp(a * x + b, 0, 1), 0.2, 0.5),
    "elu": (lambda x, a, b: functional.elu(x, a), 1.0, None),
}


def _names(node: Node) -> list[str]:
    directions = 2 if node.text("direction", "forward") == "bidirectional" else 1
    names = node.attributes.get("activations") or _DEFAULTS[node.op] * directions
    assert isinstance(names, tuple)
    return [n.lower() if isinstance(n, str) else n.decode().lower() for n in names]  # type: ignore[union-attr]


def _apply(function: Callable[[Any, float, float], Any], alpha: float, beta: float, x: Any) -> Any:
    return function(x, alpha, beta)


def _activations(node: Node) -> list[Function]:
    """All activations, those of the second direction last. Each that has a parameter takes the next one given."""
    def numbers(name: str) -> Iterator[float]:
        given = node.attributes.get(name, ())
        return iter([float(v) for v in given])  # type: ignore[union-attr, arg-type]

    alphas, betas = numbers("activation_alpha"), numbers("activation_beta")
    result: list[Function] = []
    for name in _names(node):
        function, alpha, beta = _ACTIVATIONS[name]
        a = 0.0 if alpha is None else next(alphas, alpha)
        b = 0.0 if beta is None else next(betas, beta)
        result.append(partial(_apply, function, a, b))
    return result


def _lstm_step(node: Node, acts: list[Function], gates: Any, h: Any, c: Any, r: Any, _rb: Any,
               peephole: Any) -> tuple[Any, Any]:
    i, o, f, g = (gates + h @ r.transpose(0, 1)).chunk(4, -1)
    p_i, p_o, p_f = peephole.chunk(3, -1) if peephole is not None else (None, None, None)
    clip = _clipped(node)
    i = acts[0](clip(i if p_i is None else i + p_i * c))
    f = 1 - i if node.integer("input_forget", 0) else acts[0](clip(f if p_f is None else f + p_f * c))
    c = f * c + i * acts[1](clip(g))
    o = acts[0](clip(o if p_o is None else o + p_o * c))
    return o * acts[2](c), c


def _gru_step(node: Node, acts: list[Function], gates: Any, h: Any, c: Any, r: Any, rb: Any,
              _peephole: Any) -> tuple[Any, Any]:
    clip, size = _clipped(node), h.shape[-1]
    z, reset, new = gates.chunk(3, -1)
    both = h @ r[:2 * size].transpose(0, 1) + rb[:2 * size]
    z, reset = acts[0](clip(z + both[..., :size])), acts[0](clip(reset + both[..., size:]))
    weight, bias = r[2 * size:].transpose(0, 1), rb[2 * size:]
    if node.integer("linear_before_reset", 0):
        new = acts[1](clip(new + reset * (h @ weight + bias)))
    else:
        new = acts[1](clip(new + (reset * h) @ weight + bias))
    return (1 - z) * new + z * h, c


def _rnn_step(node: Node, acts: list[Function], gates: Any, h: Any, c: Any, r: Any, _rb: Any,
              _peephole: Any) -> tuple[Any, Any]:
    return acts[0](_clipped(node)(gates + h @ r.transpose(0, 1))), c


_STEPS = {"LSTM": _lstm_step, "GRU": _gru_step, "RNN": _rnn_step}


def _clipped(node: Node) -> Function:
    bound = node.real("clip", 0.0)
    return (lambda x: torch.clamp(x, -bound, bound)) if bound else (lambda x: x)


def _run(node: Node, tensors: Inputs) -> Tensors:
    x, w, r = tensors[:3]
    b, lengths, h0 = (present(tensors, i) for i in (3, 4, 5))
    c0, peephole = (present(tensors, i) for i in (6, 7)) if node.op == "LSTM" else (None, None)
    batch_first = bool(node.integer("layout", 0))
    if batch_first:
        x = x.transpose(0, 1)
        h0, c0 = (None if s is None else s.transpose(0, 1) for s in (h0, c0))
    steps, batch, hidden = x.shape[0], x.shape[1], r.shape[2]
    acts, direction = _activations(node), node.text("direction", "forward")
    rows, last_h, last_c = [], [], []
    for d in range(w.shape[0]):
        own = acts[d * len(acts) // w.shape[0]:]
        wb, rb = b[d].chunk(2) if b is not None else (w.new_zeros(w.shape[1]),) * 2
        gates = x @ w[d].transpose(0, 1) + wb
        if node.op != "GRU":  # GRU keeps the recurrent bias apart, the reset gate may scale it
            gates = gates + rb
        blank = x.new_zeros(batch, hidden)
        h, c = (blank if s is None else s[d] for s in (h0, c0))
        row: list[Any] = [None] * steps
        backwards = direction == "reverse" or d == 1
        for t in reversed(range(steps)) if backwards else range(steps):
            new_h, new_c = _STEPS[node.op](node, own, gates[t], h, c, r[d], rb,
                                           None if peephole is None else peephole[d])
            if lengths is None:
                row[t], h, c = new_h, new_h, new_c
                continue
            inside = (lengths > t).reshape(-1, 1)
            row[t] = torch.where(inside, new_h, blank)
            h, c = torch.where(inside, new_h, h), torch.where(inside, new_c, c)
        rows.append(torch.stack(row))
        last_h.append(h)
        last_c.append(c)
    y, y_h, y_c = torch.stack(rows, 1), torch.stack(last_h), torch.stack(last_c)
    if batch_first:
        y, y_h, y_c = y.permute(2, 0, 1, 3), y_h.transpose(0, 1), y_c.transpose(0, 1)
    return [y, y_h, y_c][:len(node.outputs)]


def _refuse(node: Node) -> Reason | None:
    unknown = sorted(set(_names(node)) - _ACTIVATIONS.keys())
    return ("torch.activation", f"{node.op} with activation {unknown[0]}") if unknown else None


FORMS: dict[str, Form] = {
    "LSTM": Form(_run, weights=(1, 2, 3, 7), refuse=_refuse),
    "GRU": Form(_run, weights=(1, 2, 3), refuse=_refuse),
    "RNN": Form(_run, weights=(1, 2, 3), refuse=_refuse),
}
