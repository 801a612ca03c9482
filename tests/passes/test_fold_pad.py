import numpy as np
import pytest

from edgec.ir.text import print_graph
from edgec.passes import fold_pad
from tests.models import Builder
from tests.passes.checks import apply, ops, quant, refusals


def padded(b, x, pads, value=None, axes=None, **attributes):
    inputs = [x, np.array(pads, np.int64)]
    if value is not None or axes is not None:
        inputs.append(b.constant(value) if value is not None else None)
    if axes is not None:
        inputs.append(np.array(axes, np.int64))
    return b("Pad", *inputs, **attributes)


def pool(b, op, x, kernel=3, **attributes):
    return b(op, x, kernel_shape=(kernel, kernel), **attributes)


def test_fold_pad_adds_to_the_pads_of_a_conv(check_golden):
    b = Builder()
    x = padded(b, b.input("x", 1, 4, 6, 5), (0, 0, 0, 1, 0, 0, 2, 3))
    result = apply(fold_pad, b.output(b.conv(x, 6, stride=2, pad=1, groups=2)))
    assert ops(result.graph) == ["Conv"]
    assert result.graph.nodes[0].attributes["pads"] == (1, 2, 3, 4)
    check_golden("passes/fold_pad.txt", print_graph(result.graph))


def test_fold_pad_reads_axes_when_they_are_given():
    b = Builder()
    x = padded(b, b.input("x", 1, 4, 6, 5), (1, 2, 3, 4), 0.0, axes=(-1, 2))
    conv = apply(fold_pad, b.output(b.conv(x, 3, pad=0))).graph.nodes[0]
    assert conv.attributes["pads"] == (2, 1, 4, 3)


def test_fold_pad_replaces_auto_pad_valid():
    b = Builder()
    x = padded(b, b.input("x", 1, 4, 6, 5), (0, 0, 1, 1, 0, 0, 1, 1))
    result = apply(fold_pad, b.output(b("Conv", x, b.weight(3, 4, 3, 3), auto_pad="VALID")))
    assert ops(result.graph) == ["Conv"]
    assert "auto_pad" not in result.graph.nodes[0].attributes


def test_fold_pad_counts_its_zeros_when_the_user_is_an_average_pool():
    b = Builder()
    x = padded(b, b.input("x", 1, 4, 6, 5), (0, 0, 1, 1, 0, 0, 1, 1))
    result = apply(fold_pad, b.output(pool(b, "AveragePool", x)))
    assert ops(result.graph) == ["AveragePool"]
    assert result.graph.nodes[0].attributes["count_include_pad"] == 1


@pytest.mark.parametrize("before", ["Relu", "Sigmoid", "Clip"])
def test_fold_pad_folds_zeros_into_a_max_pool_when_the_data_are_not_negative(before):
    b = Builder()
    x = b(before, b.input("x", 1, 4, 6, 5), *([0.0, 6.0] if before == "Clip" else []))
    result = apply(fold_pad, b.output(pool(b, "MaxPool", padded(b, x, (0, 0, 0, 0, 0, 0, 1, 1)))))
    assert ops(result.graph) == [before, "MaxPool"]


def test_fold_pad_folds_minus_infinity_into_a_max_pool():
    b = Builder()
    x = padded(b, b.input("x", 1, 4, 6, 5), (0, 0, 1, 1, 0, 0, 1, 1), -np.inf)
    assert ops(apply(fold_pad, b.output(pool(b, "MaxPool", x))).graph) == ["MaxPool"]


def test_fold_pad_folds_when_the_padded_value_has_the_grid_of_the_data():
    b = Builder()
    y = b("Relu", b.input("x", 1, 4, 6, 5))
    x = padded(b, y, (0, 0, 1, 1, 0, 0, 1, 1))
    x.quant = y.quant = quant()
    assert ops(apply(fold_pad, b.output(b.conv(x, 3, pad=0))).graph) == ["Relu", "Conv"]


def test_fold_pad_refuses_when_the_grid_differs():
    b = Builder()
    x = padded(b, b.input("x", 1, 4, 6, 5), (0, 0, 1, 1, 0, 0, 1, 1))
    x.quant = quant()
    assert refusals(fold_pad, b.output(b.conv(x, 3))) == ["rewrite.quant"]


@pytest.mark.parametrize("pads", [(0, 1, 0, 0, 0, 0, 1, 1), (1, 0, 0, 0, 0, 0, 1, 1), (0, 0, -1, 1, 0, 0, 1, 1)])
def test_fold_pad_refuses_channels_batches_and_crops(pads):
    b = Builder()
    x = padded(b, b.input("x", 1, 4, 6, 5), pads)
    assert refusals(fold_pad, b.output(b.conv(x, 3)), numbers=min(pads) >= 0) == ["fold_pad.axes"]


def test_fold_pad_refuses_computed_pads():
    from edgec.ir import DType, Node, TensorType, Value

    b = Builder()
    pads = b.input("pads", 8, dtype=DType.INT64)
    y = Value("padded", TensorType(DType.FLOAT32, (1, 4, 8, 7)))
    b.graph.add(Node("Pad", [b.input("x", 1, 4, 6, 5), pads], [y]))
    assert refusals(fold_pad, b.output(b.conv(y, 3)), numbers=False) == ["fold_pad.axes"]


@pytest.mark.parametrize("mode", ["reflect", "edge"])
def test_fold_pad_refuses_other_modes(mode):
    b = Builder()
    x = padded(b, b.input("x", 1, 4, 6, 5), (0, 0, 1, 1, 0, 0, 1, 1), mode=mode)
    assert refusals(fold_pad, b.output(b.conv(x, 3))) == ["fold_pad.mode"]


def test_fold_pad_refuses_when_the_padded_value_is_seen():
    b = Builder()
    x = padded(b, b.input("x", 1, 4, 6, 5), (0, 0, 1, 1, 0, 0, 1, 1))
    assert refusals(fold_pad, b.output(x, b.conv(x, 3))) == ["rewrite.output"]


def test_fold_pad_refuses_a_user_that_chooses_its_pads():
    b = Builder()
    x = padded(b, b.input("x", 1, 4, 6, 5), (0, 0, 1, 1, 0, 0, 1, 1))
    y = b("Conv", x, b.weight(3, 4, 3, 3), auto_pad="SAME_UPPER")
    assert refusals(fold_pad, b.output(y)) == ["fold_pad.auto_pad"]


@pytest.mark.parametrize(
    ("op", "value"), [("Conv", 1.0), ("AveragePool", -np.inf), ("MaxPool", None), ("MaxPool", 2.0)]
)
def test_fold_pad_refuses_a_value_that_the_user_does_not_pad_with(op, value):
    b = Builder()
    x = padded(b, b.input("x", 1, 4, 6, 5), (0, 0, 1, 1, 0, 0, 1, 1), value)
    y = b.conv(x, 3) if op == "Conv" else pool(b, op, x)
    assert refusals(fold_pad, b.output(y), numbers=False) == ["fold_pad.value"]


@pytest.mark.parametrize(("pad", "attributes"), [(3, {}), (1, {"ceil_mode": 1})])
def test_fold_pad_refuses_windows_of_padding_only(pad, attributes):
    b = Builder()
    x = padded(b, b.input("x", 1, 4, 6, 5), (0, 0, pad, 1, 0, 0, 1, 1))
    y = pool(b, "AveragePool", x, strides=(2, 2), **attributes)
    assert refusals(fold_pad, b.output(y)) == ["fold_pad.window"]


def test_fold_pad_refuses_an_average_pool_that_does_not_count_its_own_padding():
    b = Builder()
    x = padded(b, b.input("x", 1, 4, 6, 5), (0, 0, 1, 0, 0, 0, 1, 0))
    assert refusals(fold_pad, b.output(pool(b, "AveragePool", x, pads=(0, 1, 0, 1)))) == ["fold_pad.count"]


def test_fold_pad_adds_to_counted_padding():
    b = Builder()
    x = padded(b, b.input("x", 1, 4, 6, 5), (0, 0, 1, 0, 0, 0, 1, 0))
    result = apply(fold_pad, b.output(pool(b, "AveragePool", x, pads=(0, 1, 0, 1), count_include_pad=1)))
    assert result.graph.nodes[0].attributes["pads"] == (1, 1, 1, 1)


def test_fold_pad_refuses_a_positive_value_where_the_data_are_not_negative():
    b = Builder()
    x = padded(b, b("Relu", b.input("x", 1, 4, 6, 5)), (0, 0, 1, 1, 0, 0, 1, 1), 2.0)
    assert refusals(fold_pad, b.output(pool(b, "MaxPool", x))) == ["fold_pad.value"]


def test_fold_pad_refuses_a_computed_value():
    b = Builder()
    x = b("Pad", b.input("x", 1, 4, 6, 5), np.array((0, 0, 1, 1, 0, 0, 1, 1)), b.input("value"))
    assert refusals(fold_pad, b.output(b.conv(x, 3))) == ["fold_pad.value"]


def test_fold_pad_refuses_a_max_pool_of_integers():
    from edgec.ir import DType

    b = Builder()
    x = b("Pad", b.input("x", 1, 4, 6, 5, dtype=DType.INT8), np.array((0, 0, 1, 1, 0, 0, 1, 1)))
    assert refusals(fold_pad, b.output(pool(b, "MaxPool", x)), numbers=False) == ["fold_pad.value"]


@pytest.mark.parametrize("user", ["relu", "weight", "other_domain", "nobody"])
def test_fold_pad_leaves_other_users_alone(user):
    from edgec.ir import DType, Node, TensorType, Value

    b = Builder()
    x = padded(b, b.input("x", 2, 3, 1, 1), (0, 0, 1, 1, 0, 0, 1, 1))
    if user == "other_domain":
        y = Value("y", TensorType(DType.FLOAT32, (2, 3, 1, 1)))
        b.graph.add(Node("MaxPool", [x], [y], {"kernel_shape": (3, 3)}, domain="com.example"))
    else:
        y = {
            "relu": lambda: b("Relu", x),
            "weight": lambda: b("Conv", b.input("z", 1, 3, 5, 5), x),
            "nobody": lambda: x,
        }[user]()
    assert apply(fold_pad, b.output(y), numbers=user != "other_domain").report.matched == 0
