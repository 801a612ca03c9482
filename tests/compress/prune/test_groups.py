import numpy as np
import pytest

from edgec.compress.prune.groups import components, find_groups
from edgec.errors import UserError
from edgec.ir import DType, Quant
from tests.compress.prune.checks import assert_removal_equals_zeros, sizes
from tests.models import Builder


def check(graph, expected, ratio=0.5):
    """The groups have the expected sizes, and removing part of each equals zeroing it."""
    assert sizes(assert_removal_equals_zeros(graph, ratio)) == sorted(expected, reverse=True)


def test_components_finds_the_smallest_member_of_each():
    a, b = np.array([5, 3, 7, 1]), np.array([3, 1, 2, 1])
    assert components(9, a, b).tolist() == [0, 1, 2, 1, 4, 1, 6, 2, 8]


def test_two_convolutions_in_a_row_share_one_group():
    b = Builder()
    x = b.input("x", 1, 3, 9, 7)
    y = b("Relu", b.batch_norm(b.conv(x, 11, 3)))
    coupled = assert_removal_equals_zeros(b.output(b.conv(y, 5, 1)))
    (group,) = coupled.groups
    assert group.size == 11
    assert [v.shape for v, _ in group.reads] == [(5, 11, 1, 1)]
    assert len(group.makes) == 6  # weight, bias, four of BatchNormalization
    (blocked,) = coupled.blocked
    assert (blocked.channels, blocked.reason) == (5, "conv_1 is an output of the model")


def test_residual_add_ties_both_branches():
    b = Builder()
    x = b.input("x", 1, 3, 8, 8)
    y = b.conv(x, 10, 3)
    z = b.conv(b("Relu", b.conv(y, 6, 3)), 10, 3)
    check(b.output(b.conv(b("Relu", b("Add", y, z)), 4, 1)), [10, 6])


def test_concat_keeps_branches_apart():
    b = Builder()
    x = b.input("x", 2, 3, 5, 5)
    y, z = b.conv(x, 6, 3), b.conv(x, 9, 1)
    check(b.output(b.conv(b("Relu", b("Concat", y, z, axis=1)), 4, 3)), [9, 6])


def test_concat_of_one_tensor_with_itself_is_one_group():
    b = Builder()
    y = b.conv(b.input("x", 1, 3, 5, 5), 6, 3)
    check(b.output(b.conv(b("Concat", y, y, axis=1), 4, 3)), [6])


def test_dense_block_removes_a_layer_from_all_later_concats():
    b = Builder()
    x = b.conv(b.input("x", 1, 3, 7, 7), 8, 3)
    for _ in range(3):
        x = b("Concat", x, b.conv(b("Relu", b.batch_norm(x)), 4, 3), axis=1)
    check(b.output(b.conv(x, 5, 1)), [8, 4, 4, 4])


def test_split_and_slice_follow_the_parts():
    b = Builder()
    y = b.conv(b.input("x", 1, 3, 5, 5), 12, 3)
    first, second = b.node("Split", y, [5, 7], axis=1, outputs=2).outputs
    third = b("Slice", y, [2], [-3], [1])
    graph = b.output(b.conv(first, 3, 1), b.conv(second, 4, 1), b.conv(third, 2, 3))
    assert sum(sizes(assert_removal_equals_zeros(graph))) == 12


def test_depthwise_convolution_follows_its_input():
    b = Builder()
    y = b.conv(b.input("x", 1, 3, 9, 9), 12, 1)
    y = b.conv(b("Relu", y), 24, 3, groups=12)  # a multiplier of two
    check(b.output(b.conv(y, 5, 1)), [12])


@pytest.mark.parametrize(("groups", "units"), [(8, 8), (2, 16)])
def test_grouped_convolution_keeps_groups_equally_large(groups, units):
    """Eight groups of four go as a whole; two groups of sixteen lose the same columns (and, behind, the same rows)."""
    b = Builder()
    y = b.conv(b.input("x", 1, 3, 5, 5), 32, 1)
    y = b.conv(y, 48, 3, groups=groups)
    expected = [units] if groups == 8 else [16, 24]
    check(b.output(b.conv(y, 5, 1)), expected)


@pytest.mark.parametrize(("groups", "expected"), [(1, [12, 8]), (6, [6]), (2, [6, 4])])
def test_transposed_convolution(groups, expected):
    b = Builder()
    y = b.conv(b.input("x", 1, 3, 5, 5), 12, 1)
    w = b.weight(12, {1: 8, 6: 2, 2: 4}[groups], 2, 2)
    bias = b.weight(w.shape[1] * groups)
    y = b("ConvTranspose", y, w, bias, strides=(2, 2), group=groups)
    check(b.output(b.conv(y, 5, 1)), expected)


def test_squeeze_and_excite():
    b = Builder()
    y = b.conv(b.input("x", 1, 3, 6, 6), 16, 3)
    gate = b.conv(b("Relu", b.conv(b("GlobalAveragePool", y), 4, 1)), 16, 1)
    check(b.output(b.conv(b("Mul", y, b("HardSigmoid", gate)), 5, 1)), [16, 4])


def test_flatten_into_gemm():
    b = Builder()
    y = b("MaxPool", b.conv(b.input("x", 1, 3, 8, 8), 6, 3), kernel_shape=(2, 2), strides=(2, 2))
    y = b("Gemm", b("Flatten", y), b.weight(10, 96), b.weight(10), transB=1)
    check(b.output(b("Gemm", b("Relu", y), b.weight(10, 3))), [10, 6])


def test_channel_shuffle_keeps_both_halves_alike():
    b = Builder()
    y = b.conv(b.input("x", 1, 3, 4, 4), 12, 1)
    y = b("Transpose", b("Reshape", y, [1, 2, 6, 4, 4]), perm=(0, 2, 1, 3, 4))
    check(b.output(b.conv(b("Reshape", y, [1, 12, 4, 4]), 5, 1)), [6])


def test_padded_shortcut_follows_the_channels_that_are_there():
    b = Builder()
    y = b.conv(b.input("x", 1, 3, 8, 8), 6, 3)
    shortcut = b("Pad", b("Slice", y, [0, 0], [8, 8], [2, 3], [2, 2]), [0, 2, 0, 0, 0, 3, 0, 0])
    y = b("Add", shortcut, b.conv(b("Relu", y), 11, 3, stride=2))
    check(b.output(b.conv(b("Relu", y), 4, 1)), [6, 5])


@pytest.mark.parametrize("mode", ["DCR", "CRD"])
def test_depth_to_space_and_back(mode):
    b = Builder()
    y = b("DepthToSpace", b.conv(b.input("x", 1, 3, 4, 4), 20, 1), blocksize=2, mode=mode)
    y = b("SpaceToDepth", b("Relu", y), blocksize=2)
    check(b.output(b.conv(y, 5, 1)), [5])


def test_attention_loses_whole_heads():
    b = Builder()
    x = b.input("x", 1, 7, 24)

    def heads(perm):
        y = b("Add", b("MatMul", x, b.weight(24, 24, scale=0.3)), b.weight(24))
        return b("Transpose", b("Reshape", y, [1, 7, 6, 4]), perm=perm)

    scores = b("Softmax", b("MatMul", heads((0, 2, 1, 3)), heads((0, 2, 3, 1))), axis=-1)
    y = b("Transpose", b("MatMul", scores, heads((0, 2, 1, 3))), perm=(0, 2, 1, 3))
    y = b("MatMul", b("Reshape", y, [1, 7, 24]), b.weight(24, 24))
    check(b.output(b("Add", x, y)), [6])


def test_joint_projection_of_attention_loses_whole_heads():
    b = Builder()
    x = b.input("x", 1, 7, 24)
    y = b("Transpose", b("Reshape", b("MatMul", x, b.weight(24, 72, scale=0.3)), [1, 7, 3, 6, 4]), perm=(2, 0, 3, 1, 4))
    q, k, v = (b("Gather", y, np.array(i, np.int64), axis=0) for i in range(3))
    scores = b("Softmax", b("MatMul", q, b("Transpose", k, perm=(0, 1, 3, 2))), axis=-1)
    y = b("Transpose", b("MatMul", scores, v), perm=(0, 2, 1, 3))
    check(b.output(b("MatMul", b("Reshape", y, [1, 7, 24]), b.weight(24, 24))), [6])


def test_attention_op_shares_keys_among_query_heads():
    b = Builder()
    x = b.input("x", 1, 4, 5, 3)
    q, k, v = (b("MatMul", b("Transpose", b("Reshape", b.conv(x, c, 1, pad=0), [1, c, 5, 3]), perm=(0, 1, 2, 3)),
                 b.weight(3, 3)) for c in (8, 4, 4))
    y = b("Attention", q, k, v)
    check(b.output(b.conv(y, 5, 1)), [4])


@pytest.mark.parametrize("op", ["LSTM", "GRU", "RNN"])
def test_recurrent_units_go_from_gates_and_readers(op):
    b = Builder()
    gates = {"LSTM": 4, "GRU": 3, "RNN": 1}[op]
    x = b("MatMul", b.input("x", 6, 1, 5), b.weight(5, 7))
    y = b(op, x, b.weight(1, gates * 9, 7), b.weight(1, gates * 9, 9), b.weight(1, 2 * gates * 9), hidden_size=9)
    check(b.output(b("MatMul", b("Squeeze", y, [1]), b.weight(9, 4))), [9, 7])


def test_normalizations_over_channels_block_and_say_so():
    b = Builder()
    y = b("MatMul", b.input("x", 1, 6, 8), b.weight(8, 12))
    y = b("LayerNormalization", y, b.weight(12), b.weight(12), axis=-1)
    graph = b.output(b("MatMul", y, b.weight(12, 3)))
    coupled = find_groups(graph)
    assert not coupled.groups
    assert coupled.blocked[0].channels == 12
    assert "LayerNormalization" in coupled.blocked[0].reason
    assert "takes statistics over it" in coupled.blocked[0].reason


def test_group_normalization_loses_whole_groups():
    b = Builder()
    y = b.conv(b.input("x", 1, 3, 5, 5), 12, 3)
    y = b("GroupNormalization", y, b.weight(12), b.weight(12), num_groups=4)
    check(b.output(b.conv(y, 5, 1)), [4])


def test_resize_reduce_and_instance_norm_pass_channels_on():
    b = Builder()
    y = b.conv(b.input("x", 1, 3, 5, 4), 8, 3)
    y = b("Resize", b("InstanceNormalization", y, b.weight(8), b.weight(8)), None, None, [1, 8, 10, 8])
    y = b("ReduceMean", b("Clip", y, 0.0, 6.0), [2, 3], keepdims=0)
    check(b.output(b("Gemm", y, b.weight(8, 3))), [8])


def test_two_axes_folded_into_two_others_block():
    b = Builder()
    y = b.conv(b.input("x", 1, 3, 4, 6), 8, 1)
    graph = b.output(b("MatMul", b("Reshape", b("Transpose", y, perm=(0, 2, 3, 1)), [1, 16, 12]), b.weight(12, 2)))
    coupled = find_groups(graph)
    assert not coupled.groups
    assert "mixes 3 axes into 2" in coupled.blocked[0].reason


def test_unknown_ops_block():
    b = Builder()
    y = b("Einsum", b.conv(b.input("x", 1, 3, 4, 4), 8, 1), equation="nchw->nhwc")
    coupled = find_groups(b.output(b("MatMul", y, b.weight(8, 2))))
    assert not coupled.groups
    assert "is not known" in coupled.blocked[0].reason


def test_quantized_graphs_are_refused():
    b = Builder()
    y = b.conv(b.input("x", 1, 3, 4, 4), 8, 1)
    y.quant = Quant(DType.INT8, np.float32(0.1), np.int8(0))
    with pytest.raises(UserError, match="quantized"):
        find_groups(b.output(y))


@pytest.mark.parametrize(("name", "called"), [("onnx::Conv_48", "/b/Conv"), ("143", "/b/Conv"),
                                              ("b.weight", "b.weight")])
def test_a_group_is_called_after_its_node_where_the_weight_has_a_made_up_name(name, called):
    b = Builder(7)
    y = b.conv(b.input("x", 1, 3, 6, 6), 8, 3)
    graph = b.output(b.conv(b("Relu", y), 5, 3))
    conv = next(n for n in graph.nodes if n.op == "Conv")
    conv.name, conv.inputs[1].name = "/b/Conv", name
    assert [g.name for g in find_groups(graph).groups] == [called]
