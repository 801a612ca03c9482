"""Rows of array files: streamed, bounded, and never unpickled."""

from __future__ import annotations

import io
import tracemalloc
import zipfile

import numpy as np
import pytest

from edgec.data.rows import array_types, read_whole, rows
from edgec.errors import UserError


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_rows_come_side_by_side(tmp_path, save):
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((5, 3, 2)).astype(np.float32), np.arange(5, dtype=np.uint8)
    save(tmp_path / "a.npz", x=x, y=y, scale=np.float32(2))
    found = list(rows(tmp_path / "a.npz", ("y", "x")))
    assert [int(r[0]) for r in found] == [0, 1, 2, 3, 4]
    assert np.array_equal(np.stack([r[1] for r in found]), x)
    assert {n: str(t) for n, t in array_types(tmp_path / "a.npz").items()} == {
        "scale": "float32[]", "x": "float32[5,3,2]", "y": "uint8[5]"}


def test_rows_of_npy(tmp_path):
    np.save(tmp_path / "a.npy", np.arange(6).reshape(3, 2))
    assert [r[0].tolist() for r in rows(tmp_path / "a.npy", ("array",))] == [[0, 1], [2, 3], [4, 5]]


def test_rows_need_the_memory_of_one_row(tmp_path):
    np.savez_compressed(tmp_path / "a.npz", x=np.zeros((64, 1 << 18), np.float32))  # 64 MiB
    tracemalloc.start()
    total = sum(float(r[0].sum()) for r in rows(tmp_path / "a.npz", ("x",)))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert total == 0
    assert peak < 8 << 20


def cut(path, size):
    content = path.read_bytes()
    path.write_bytes(content[:size])


def test_rows_say_when_the_file_ends_early(tmp_path):
    np.save(tmp_path / "a.npy", np.ones((10, 100)))
    cut(tmp_path / "a.npy", 3000)
    with pytest.raises(UserError, match="ends within an array"):
        list(rows(tmp_path / "a.npy", ("array",)))


def test_pickles_are_refused(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.array([{"a": 1}, None], dtype=object))
    with pytest.raises(UserError, match="pickled objects"):
        array_types(tmp_path / "a.npz")


def stated(shape: str) -> bytes:
    head = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}".ljust(117).encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + len(head).to_bytes(2, "little") + head


@pytest.mark.parametrize("content", [
    b"", b"\x93NUMPY\x01", b"\x93NUMPY\x09\x00" + b" " * 200, b"PK\x03\x04broken", stated("(2, 99999999999)"),
    stated("(2, -4)"), stated("'x'"), stated("(((((1"), stated("(2, 1.5)")])
def test_hostile_heads_are_user_errors(tmp_path, content):
    (tmp_path / "a.npy").write_bytes(content)
    with pytest.raises(UserError):
        array_types(tmp_path / "a.npy")
    with pytest.raises(UserError):
        read_whole(content, "a.npy")


def test_fortran_order_is_refused_with_a_way_out(tmp_path):
    np.save(tmp_path / "a.npy", np.asfortranarray(np.ones((3, 4))))
    with pytest.raises(UserError, match="ascontiguousarray"):
        array_types(tmp_path / "a.npy")


def test_read_whole_gives_all_arrays_of_a_sample():
    buffer = io.BytesIO()
    np.savez(buffer, a=np.arange(3), b=np.float32(2))
    found = read_whole(buffer.getvalue(), "s.npz")
    assert found["a"].tolist() == [0, 1, 2]
    assert found["b"] == 2
    single = io.BytesIO()
    np.save(single, np.arange(4).reshape(2, 2))
    assert read_whole(single.getvalue(), "s.npy")["array"].tolist() == [[0, 1], [2, 3]]


def test_damaged_member_is_a_user_error(tmp_path):
    np.savez_compressed(tmp_path / "a.npz", x=np.arange(3000).reshape(10, 300))
    content = bytearray((tmp_path / "a.npz").read_bytes())
    with zipfile.ZipFile(tmp_path / "a.npz") as archive:
        start = archive.infolist()[0].header_offset
    content[start + 400:start + 440] = b"\xff" * 40
    (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(UserError):
        list(rows(tmp_path / "a.npz", ("x",)))
