import numpy as np
import pytest
import torch

from edgec.compress.torch_module import to_torch
from tests.compress.cases import check, gradients, one, tensors
from tests.models import feeds

RNG = np.random.default_rng(3)
GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}


def normal(*shape):
    return (RNG.standard_normal(shape) * 0.5).astype(np.float32)


def cell(op, *, bias=True, state=True, peephole=False, directions=1, hidden=4, inputs=3, steps=3, lengths=None,
         **attributes):
    g = GATES[op]
    arrays = [(steps, 2, inputs), normal(directions, g * hidden, inputs), normal(directions, g * hidden, hidden),
              normal(directions, 2 * g * hidden) if bias else None, lengths,
              (directions, 2, hidden) if state else None]
    if op == "LSTM":
        arrays += [(directions, 2, hidden) if state else None, normal(directions, 3 * hidden) if peephole else None]
    return one(op, *arrays, outputs=3 if op == "LSTM" else 2, hidden_size=hidden, **attributes)


@pytest.mark.parametrize(("op", "options"), [
    ("LSTM", {}), ("LSTM", {"peephole": True}), ("LSTM", {"bias": False, "state": False}),
    ("GRU", {"linear_before_reset": 1}), ("GRU", {}), ("RNN", {}), ("RNN", {"state": False})])
def test_cell(op, options):
    graph = cell(op, **options)
    check(graph, batch=False)
    gradients(graph)


def test_lstm_of_both_directions_equals_that_of_torch():
    hidden, inputs = 4, 3
    graph = cell("LSTM", directions=2, state=False, direction="bidirectional")
    module, x = to_torch(graph), tensors(feeds(graph))["x0"]
    w, r, b = (module.parameter(n).detach() for n in module.weight_names)
    peer = torch.nn.LSTM(inputs, hidden, bidirectional=True)

    def reordered(t):  # gates i o f c to i f c o
        i, o, f, c = t.chunk(4, 0)
        return torch.cat([i, f, c, o])

    with torch.no_grad():
        for d, end in enumerate(("", "_reverse")):
            getattr(peer, f"weight_ih_l0{end}").copy_(reordered(w[d]))
            getattr(peer, f"weight_hh_l0{end}").copy_(reordered(r[d]))
            getattr(peer, f"bias_ih_l0{end}").copy_(reordered(b[d, :16]))
            getattr(peer, f"bias_hh_l0{end}").copy_(reordered(b[d, 16:]))
    y, (h, c) = peer(x)
    results = list(module(x).values())
    assert torch.allclose(results[0], y.reshape(3, 2, 2, hidden).transpose(1, 2), atol=1e-6)
    assert torch.allclose(results[1], h, atol=1e-6)
    assert torch.allclose(results[2], c, atol=1e-6)


def test_short_sequence_stops_where_it_ends():
    graph = cell("GRU", lengths=np.array([3, 1], np.int32), direction="reverse")
    module, given = to_torch(graph), tensors(feeds(graph))
    y, last = module(**given).values()
    assert (y[1:, 0, 1] == 0).all()
    assert torch.equal(y[0], last)  # backwards, every sequence ends at its first step
    alone = cell("GRU", steps=1, direction="reverse")
    for value, source in zip(alone.nodes[0].inputs[1:4], graph.nodes[0].inputs[1:4], strict=True):
        value.const = source.const
    one_step = to_torch(alone)(x0=given["x0"][:1], x5=given["x5"])
    assert torch.allclose(list(one_step.values())[1][0, 1], last[0, 1], atol=1e-6)


def test_activations_and_clip():
    graph = cell("RNN", activations=("ScaledTanh",), activation_alpha=(0.9,), activation_beta=(0.8,), clip=0.5)
    module, given = to_torch(graph), tensors(feeds(graph))
    w, r, b = (module.parameter(n)[0] for n in module.weight_names)
    h = given["x5"][0]
    for x in given["x0"]:
        total = x @ w.T + h @ r.T + b[:4] + b[4:]
        h = 0.9 * torch.tanh(0.8 * total.clamp(-0.5, 0.5))
    assert torch.allclose(list(module(**given).values())[1][0], h, atol=1e-6)
