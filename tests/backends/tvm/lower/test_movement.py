import numpy as np
import pytest

from tests.backends.tvm.composed import case, check

RNG = np.random.default_rng(2)
X = RNG.standard_normal((2, 3, 5, 7)).astype(np.float32)


def ints(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def test_views_keep_the_order_of_elements() -> None:
    check([case("Reshape", X, ints(6, -1), constants=(1,)), case("Reshape", X, ints(0, 5, 3, 7), constants=(1,)),
           case("Flatten", X, axis=2), case("Unsqueeze", X, ints(0, -1), constants=(1,)),
           case("Squeeze", X[:1, :, :1], ints(0, 2), constants=(1,)), case("Squeeze", X[:1]), case("Dropout", X)])


def test_transposes_of_every_kind() -> None:
    check([case("Transpose", X, perm=p) for p in ((0, 2, 3, 1), (3, 2, 1, 0), (1, 0, 3, 2))] + [case("Transpose", X)])


def test_slices_with_negative_steps_and_bounds_outside() -> None:
    c = (1, 2, 3, 4)
    check([
        case("Slice", X, ints(1, 0), ints(5, 2), ints(2, 1), ints(2, 1), constants=c),
        case("Slice", X, ints(-1), ints(-100), ints(3), ints(-2), constants=c),
        case("Slice", X, ints(20), ints(0), ints(-1), ints(-1), constants=c),
        case("Slice", X, ints(0, -3), ints(9, 9), ints(0, -2), constants=c),
        case("Slice", X, ints(0, 1), ints(2, 3), constants=c),
        case("Slice", X, ints(2**40), ints(-(2**60)), ints(2), ints(-3), constants=c),
    ])


def test_concat_of_uneven_parts_and_of_one_tensor_twice() -> None:
    parts = [RNG.standard_normal((2, k, 5)).astype(np.float32) for k in (3, 1, 4)]
    check([case("Concat", *parts, axis=1), case("Concat", parts[0], parts[0], axis=-1),
           case("Concat", parts[0], axis=0),
           case("Concat", *[p[..., :3].transpose(0, 2, 1).copy() for p in parts], axis=2)])


def test_split_into_equal_and_given_parts() -> None:
    check([case("Split", X, ints(2, 4, 1), constants=(1,), axis=3, outputs=3),
           case("Split", X, axis=-1, num_outputs=2, outputs=2)])


@pytest.mark.parametrize("mode", ["constant", "reflect", "edge", "wrap"])
def test_pad_in_every_mode(mode: str) -> None:
    cases = [case("Pad", X, ints(0, 1, 2, 3, 0, 0, 1, 2), constants=(1,), mode=mode),
             case("Pad", X, ints(2, 4, 1, 3), None, ints(-1, 2), constants=(1, 3), mode=mode)]
    if mode == "constant":
        cases += [case("Pad", X, ints(0, 0, 1, 2, 0, 0, 1, 0), np.float32(1.5), constants=(1,), mode=mode),
                  case("Pad", X, ints(0, 0, 1, 1, 0, 0, 1, 1), np.float32(-2), constants=(1, 2), mode=mode)]
    check(cases)


def test_expand_tile_and_blocks() -> None:
    blocks = RNG.standard_normal((2, 12, 3, 5)).astype(np.float32)
    wide = RNG.standard_normal((2, 3, 6, 4)).astype(np.float32)
    check([case("Expand", X[:, :1, :, :1].copy(), ints(2, 3, 5, 7), constants=(1,)),
           case("Expand", X[0, 0, 0].copy(), ints(4, 1, 7), constants=(1,)),
           case("Tile", X, ints(1, 2, 1, 3), constants=(1,)), case("DepthToSpace", blocks, blocksize=2),
           case("DepthToSpace", blocks, blocksize=2, mode="CRD"), case("SpaceToDepth", wide, blocksize=2)])


def test_triangles_and_sequences() -> None:
    check([case("Trilu", X, upper=0), case("Trilu", X, np.array(2, np.int64), constants=(1,)),
           case("Trilu", X, np.array(-1, np.int64), constants=(1,), upper=0),
           case("ReverseSequence", RNG.standard_normal((4, 3, 2)).astype(np.float32), ints(4, 1, 2)),
           case("CenterCropPad", X, ints(7, 4), constants=(1,), axes=(2, 3))])


def test_range_and_identity_matrices() -> None:
    check([case("EyeLike", RNG.standard_normal((4, 6)).astype(np.float32), k=1),
           case("ConstantOfShape", ints(3, 2), constants=(0,), value=np.array([2.5], np.float32))])
