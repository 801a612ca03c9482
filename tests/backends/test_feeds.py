import numpy as np
import pytest

from edgec.backends.base import Port
from edgec.backends.feeds import check_feeds
from edgec.errors import UserError
from edgec.ir import DType, TensorType

PORTS = (Port("image", TensorType(DType.FLOAT32, (1, 2, 3))), Port("ids", TensorType(DType.INT64, (None, 2))))
IMAGE, IDS = np.zeros((1, 2, 3), np.float32), np.zeros((4, 2), np.int64)


def test_check_feeds_copies_nothing_when_arrays_fit():
    checked = check_feeds(PORTS, {"ids": IDS, "image": IMAGE})
    assert list(checked) == ["image", "ids"]
    assert checked["image"] is IMAGE
    assert checked["ids"] is IDS


def test_check_feeds_makes_contiguous_when_an_array_has_strides():
    strided = np.arange(12, dtype=np.float32).reshape(1, 3, 4)[:, :2, ::-1][:, :, :3]
    checked = check_feeds(PORTS, {"image": strided, "ids": IDS})["image"]
    assert checked.flags.c_contiguous
    np.testing.assert_array_equal(checked, strided)


@pytest.mark.parametrize(("feeds", "message"), [
    ({"image": IMAGE}, "'ids' is missing"),
    ({"image": IMAGE, "ids": IDS, "imagf": IMAGE}, "did you mean 'image'"),
    ({"image": IMAGE.astype(np.float64), "ids": IDS}, "dtype float64"),
    ({"image": IMAGE[0], "ids": IDS}, "shape \\[2, 3\\]"),
    ({"image": IMAGE, "ids": IDS.reshape(2, 4)}, "shape \\[2, 4\\]"),
], ids=["missing", "unknown", "dtype", "rank", "extent"])
def test_check_feeds_refuses_when_arrays_do_not_fit(feeds, message):
    with pytest.raises(UserError, match=message):
        check_feeds(PORTS, feeds)
