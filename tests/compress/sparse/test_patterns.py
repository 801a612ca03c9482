import numpy as np
import pytest

from edgec.compress.sparse.patterns import (
    as_matrix,
    as_tensor,
    block_masks,
    input_axis,
    pattern_mask,
    products,
    violations,
)
from edgec.ir import Sparsity
from tests.models import Builder


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_pattern_mask_keeps_the_largest_and_has_no_violation(axis):
    array = np.random.default_rng(0).standard_normal((8, 12, 4))
    pattern = Sparsity(2, 4, axis)
    mask = pattern_mask(array, pattern)
    assert violations(array * mask, pattern) == 0
    assert violations(array, pattern) == 96
    groups = np.moveaxis(np.abs(array), axis, -1).reshape(-1, 4)
    kept = np.moveaxis(mask, axis, -1).reshape(-1, 4)
    assert all(g[k].min() >= g[~k].max() for g, k in zip(groups, kept, strict=True))


def test_violations_count_a_short_last_group():
    array = np.ones((1, 7))
    array[0, :2] = 0
    assert violations(array, Sparsity(2, 4, 1)) == 1


def test_products_give_each_weight_with_its_input_axis():
    b = Builder()
    y = b.conv(b.input("x", 1, 4, 5, 5), 8, 3)
    y = b.conv(y, 8, 3, groups=8)
    y = b("ConvTranspose", y, b.weight(8, 6, 2, 2), strides=(2, 2))
    y = b("Gemm", b("Flatten", y), b.weight(10, 600), transB=1)
    graph = b.output(b("MatMul", b("Gemm", y, b.weight(10, 7)), b.weight(7, 3)))
    assert [(n.op, axis) for n, _, axis in products(graph)] == [
        ("Conv", 1), ("ConvTranspose", 0), ("Gemm", 1), ("Gemm", 0), ("MatMul", 0)]
    assert input_axis(graph.nodes[1]) is None


def test_block_masks_share_a_threshold_or_have_their_own():
    random = np.random.default_rng(0)
    arrays = {"small": 0.1 * random.standard_normal((10, 10)), "large": random.standard_normal((10, 10))}
    own = block_masks(arrays, (1, 1), 0.5, common=False)
    assert [int(m.sum()) for m in own.values()] == [50, 50]
    common = block_masks(arrays, (1, 1), 0.4, common=True)
    assert sum(int(m.sum()) for m in common.values()) == pytest.approx(120, abs=8)  # every row keeps one element
    assert common["small"].sum() < 40
    assert all(m.all() for m in block_masks(arrays, (1, 1), 0.0, common=True).values())


@pytest.mark.parametrize("share", [0.5, 0.999])
def test_no_output_and_no_layer_dies(share):
    random = np.random.default_rng(0)
    arrays = {"small": 0.001 * random.standard_normal((6, 40)), "large": random.standard_normal((6, 40))}
    for common in (False, True):
        for mask in block_masks(arrays, (1, 4), share, common=common, most=0.8).values():
            assert mask.any(1).all()
    assert block_masks(arrays, (1, 1), 0.6, common=True, most=0.8)["small"].sum() == 48


@pytest.mark.parametrize("block", [(1, 4), (4, 4), (16, 1)])
def test_block_masks_remove_whole_blocks_with_the_least_energy(block):
    array = np.random.default_rng(0).standard_normal((18, 45))
    mask = block_masks({"w": array}, block, 0.5, common=False)["w"]
    blocks = [mask[r:r + block[0], c:c + block[1]] for r in range(0, 18, block[0]) for c in range(0, 45, block[1])]
    assert all(b.all() or not b.any() for b in blocks)
    assert sum(not b.any() for b in blocks) == round(0.5 * len(blocks))
    assert np.square(array[mask]).mean() > np.square(array[~mask]).mean()


@pytest.mark.parametrize(("shape", "axis"), [((6, 5, 3, 2), 1), ((5, 6, 3), 0), ((7, 3), 0)])
def test_matrices_have_a_row_for_each_output_and_adjacent_inputs(shape, axis):
    array = np.arange(np.prod(shape)).reshape(shape)
    matrix = as_matrix(array, axis)
    assert matrix.shape[0] == shape[1 - axis]
    first = array.take(0, 1 - axis)
    np.testing.assert_array_equal(matrix[0, :shape[axis]], first[(slice(None), *(0,) * (first.ndim - 1))])
    np.testing.assert_array_equal(as_tensor(matrix, shape, axis), array)
