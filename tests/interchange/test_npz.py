import zipfile

import numpy as np
import pytest

from edgec.errors import UserError
from edgec.interchange.npz import read_npz, write_npz


def test_write_npz_gives_the_same_bytes_when_order_differs(tmp_path):
    write_npz(tmp_path / "a.npz", {"x": np.arange(3), "y": np.ones(2)})
    write_npz(tmp_path / "b.npz", {"y": np.ones(2), "x": np.arange(3)})
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()


def test_read_npz_refuses_when_the_file_would_unpack_to_too_much(tmp_path):
    with zipfile.ZipFile(tmp_path / "bomb.npz", "w") as archive:
        archive.writestr("x.npy", b"")
        archive.getinfo("x.npy").file_size = 1 << 40
    with pytest.raises(UserError, match="unpacks to"):
        read_npz(tmp_path / "bomb.npz")


def test_read_npz_refuses_when_objects_are_pickled(tmp_path):
    np.savez(tmp_path / "p.npz", x=np.array([{"a": 1}], object))
    with pytest.raises(UserError, match="cannot read the arrays"):
        read_npz(tmp_path / "p.npz")


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04broken", b"hello"], ids=["empty", "zip", "text"])
def test_read_npz_refuses_when_the_file_is_something_else(tmp_path, content):
    (tmp_path / "f.npz").write_bytes(content)
    with pytest.raises(UserError, match="cannot read the arrays"):
        read_npz(tmp_path / "f.npz")
