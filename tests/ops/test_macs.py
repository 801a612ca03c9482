"""Multiply-adds against hand-computed numbers, and against torch's flop counter (two flops each)."""

import numpy as np
import pytest

from edgec.ir import DType, Graph, Node, TensorType, Value
from edgec.ops import table
from tests.models import Builder


def macs(op, shapes, attributes=None, outputs=1):
    b = Builder()
    inputs = [s if isinstance(s, np.ndarray) or s is None else b.input(f"x{i}", *s) for i, s in enumerate(shapes)]
    return table.macs(b.node(op, *inputs, outputs=outputs, **(attributes or {})))


CASES = [  # by hand: elements of the output times products per element, or as said
    ("Conv", [(1, 6, 7, 5), (9, 2, 3, 3)], {"group": 3}, 9 * 5 * 3 * (2 * 9)),
    ("Conv", [(2, 3, 11), (4, 3, 5)], {"strides": (2,)}, 2 * 4 * 4 * (3 * 5)),
    ("ConvTranspose", [(1, 6, 5, 3), (6, 2, 3, 3)], {"group": 3, "strides": (2, 2)}, 6 * 5 * 3 * (2 * 9)),
    ("Gemm", [(7, 3), (3, 5)], {}, 7 * 5 * 3),
    ("Gemm", [(3, 7), (5, 3)], {"transA": 1, "transB": 1}, 7 * 5 * 3),
    ("MatMul", [(2, 1, 7, 3), (4, 3, 5)], {}, 2 * 4 * 7 * 5 * 3),
    ("MatMul", [(3,), (3,)], {}, 3),
    ("Einsum", [(2, 3, 4), (2, 4, 5)], {"equation": "bij, bjk -> bik"}, 2 * 3 * 4 * 5),
    ("Einsum", [(6, 2, 3, 4), (1, 2, 4, 5)], {"equation": "...ij,...jk->...ik"}, 6 * 2 * 3 * 4 * 5),
    ("Einsum", [(3, 4)], {"equation": "ij->ji"}, 0),
    ("LSTM", [(9, 2, 3), (1, 20, 3), (1, 20, 5)], {"hidden_size": 5}, 9 * 2 * 4 * 5 * (3 + 5)),
    ("GRU", [(9, 2, 3), (2, 15, 3), (2, 15, 5)], {"hidden_size": 5, "direction": "bidirectional"},
     2 * 9 * 2 * 3 * 5 * (3 + 5)),
    ("Attention", [(2, 6, 7, 8), (2, 3, 9, 8), (2, 3, 9, 4)], {}, 2 * 6 * 7 * 9 * (8 + 4)),
    ("Attention", [(2, 7, 48), (2, 9, 24), (2, 9, 12)], {"q_num_heads": 6, "kv_num_heads": 3}, 2 * 6 * 7 * 9 * (8 + 4)),
    ("Relu", [(3, 4)], {}, 0),
    ("Add", [(3, 4), (4,)], {}, 0),
]


@pytest.mark.parametrize(("op", "shapes", "attributes", "expected"), CASES, ids=[c[0] for c in CASES])
def test_macs_equal_the_hand_computed_number(op, shapes, attributes, expected):
    assert macs(op, shapes, attributes, 2 if op == "LSTM" else 1) == expected


def test_macs_of_attention_count_the_keys_of_the_past():
    b = Builder()
    q, k, v = b.input("q", 2, 6, 7, 8), b.input("k", 2, 3, 9, 8), b.input("v", 2, 3, 9, 4)
    past = b.input("pk", 2, 3, 5, 8), b.input("pv", 2, 3, 5, 4)
    assert table.macs(b.node("Attention", q, k, v, None, *past, outputs=3)) == 2 * 6 * 7 * (5 + 9) * (8 + 4)


def test_macs_of_qlinear_conv_take_the_fourth_input_for_the_weight():
    b = Builder()
    x = b.input("x", 1, 2, 5, 5, dtype=DType.UINT8)
    scale, zero = np.float32(1), np.uint8(0)
    node = b.node("QLinearConv", x, np.array(scale), np.array(zero), np.zeros((3, 2, 3, 3), np.uint8), np.array(scale),
                  np.array(zero), np.array(scale), np.array(zero))
    assert table.macs(node) == 3 * 3 * 3 * (2 * 9)


def test_macs_are_zero_when_a_shape_or_the_op_is_unknown():
    x, y = Value("x", TensorType(DType.FLOAT32, (None, 3))), Value("y", TensorType(DType.FLOAT32, (None, 5)))
    w = Value("w", TensorType(DType.FLOAT32, (3, 5)))
    assert table.macs(Node("MatMul", [x, w], [y])) == 0
    assert table.macs(Node("MatMul", [w, w], [w], domain="custom")) == 0


def body(width):
    b = Builder()
    return b.output(b("MatMul", b.input("h", 2, 3), b.weight(3, width)))


def test_macs_of_a_branch_are_those_of_the_larger_body():
    y = Value("y", TensorType(DType.FLOAT32, (2, None)))
    assert table.macs(Node("If", [], [y], {"then_branch": body(5), "else_branch": body(4)})) == 2 * 3 * 5


def test_macs_of_a_loop_are_those_of_its_body_times_its_trips():
    y = Value("y", TensorType(DType.FLOAT32, (2, 5)))
    trips = Value.constant("n", np.array(7))
    assert table.macs(Node("Loop", [trips, None], [y], {"body": body(5)})) == 7 * 2 * 3 * 5
    assert table.macs(Node("Loop", [None, None], [y], {"body": body(5)})) == 2 * 3 * 5
    state, scanned = Value("s", TensorType(DType.FLOAT32, (2, 3))), Value("x", TensorType(DType.FLOAT32, (4, 9)))
    captured = Value("c", TensorType(DType.FLOAT32, (2,)))
    attributes = {"body": body(5), "num_scan_inputs": 1, "scan_input_axes": (1,)}
    scan = Node("Scan", [state, scanned, captured], [y], attributes, captures=1)
    assert table.macs(scan) == 9 * 2 * 3 * 5


def count_flops(module, *inputs):
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        module(*inputs)
    return counter.get_total_flops()


def test_macs_equal_half_of_torch_flops():
    torch = pytest.importorskip("torch")
    nn = torch.nn
    x = torch.zeros(2, 6, 9, 7)
    conv = nn.Conv2d(6, 9, 3, stride=2, padding=1, groups=3)
    assert 2 * macs("Conv", [(2, 6, 9, 7), (9, 2, 3, 3)], {"group": 3, "strides": (2, 2), "pads": (1,) * 4}) == \
        count_flops(conv, x)
    transposed = nn.ConvTranspose2d(6, 4, 3, stride=2)
    assert 2 * macs("ConvTranspose", [(2, 6, 9, 7), (6, 4, 3, 3)], {"strides": (2, 2)}) == count_flops(transposed, x)
    linear = nn.Linear(11, 5)
    assert 2 * macs("Gemm", [(3, 11), (5, 11), (5,)], {"transB": 1}) == count_flops(linear, torch.zeros(3, 11))
    a, b, q = torch.zeros(2, 3, 5), torch.zeros(2, 5, 4), torch.zeros(2, 6, 7, 8)
    assert 2 * macs("MatMul", [(2, 3, 5), (2, 5, 4)]) == count_flops(torch.bmm, a, b)
    with nn.attention.sdpa_kernel(nn.attention.SDPBackend.MATH):  # others are not counted on a CPU
        flops = count_flops(nn.functional.scaled_dot_product_attention, q, q, q)
    assert 2 * macs("Attention", [(2, 6, 7, 8)] * 3) == flops


def test_macs_of_a_whole_graph_add_up():
    graph: Graph = body(5)
    assert sum(table.macs(n) for n in graph.nodes) == 2 * 3 * 5
