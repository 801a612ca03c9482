import copy
import io
import os
import stat
import zipfile

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgec.errors import UserError
from edgec.ir import Graph, Node, TensorType, Value
from edgec.ir.checkpoint import load, save
from edgec.ir.text import dump
from edgec.ir.types import DType
from tests.models import attention_block


def graph_of(array):
    graph = Graph("g")
    graph.add(Node("Neg", [Value.constant("../../etc/passwd", array)], [Value("y", TensorType(DType.BOOL, ()))]))
    return graph


def members(path):
    with zipfile.ZipFile(path) as archive:
        return {i.filename: archive.read(i) for i in archive.infolist()}


def write(path, contents, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in contents.items():
            archive.writestr(name, data)


def test_load_gives_back_what_was_saved(tmp_path):
    graph = attention_block()
    save(graph, tmp_path / "a.edgec")
    again = load(tmp_path / "a.edgec")
    assert dump(again)[0] == dump(graph)[0]
    for old, new in zip(graph.constants(), again.constants(), strict=True):
        np.testing.assert_array_equal(old.const, new.const)
        assert not new.const.flags.writeable


@pytest.mark.parametrize("dtype", [ml_dtypes.bfloat16, ml_dtypes.int4, ml_dtypes.float8_e4m3fn, np.float16, np.bool_,
                                   np.complex64, np.uint64])
@pytest.mark.parametrize("shape", [(5, 5), (20,), (0, 30), ()])
def test_load_gives_back_each_element_type(tmp_path, dtype, shape):
    array = np.random.default_rng(0).integers(0, 2, shape).astype(dtype)
    save(graph_of(array), tmp_path / "a.edgec")
    again = next(load(tmp_path / "a.edgec").constants()).const
    assert (again.dtype, again.shape, again.tobytes()) == (array.dtype, shape, array.tobytes())


def test_load_gives_back_arrays_in_column_order(tmp_path):
    array = np.asfortranarray(np.arange(30.0).reshape(5, 6))
    save(graph_of(array), tmp_path / "a.edgec")
    np.testing.assert_array_equal(next(load(tmp_path / "a.edgec").constants()).const, array)


def test_save_writes_the_same_bytes_again(tmp_path):
    for name in ("a", "b"):
        save(attention_block(), tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_save_keeps_the_old_file_and_leaves_nothing_when_it_fails(tmp_path, monkeypatch):
    path = tmp_path / "a.edgec"
    path.write_bytes(b"old")

    def full(*_args, **_kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np.lib.format, "write_array", full)
    with pytest.raises(UserError, match="cannot write"):
        save(graph_of(np.arange(30.0)), path)
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a.edgec"]


def test_save_says_so_when_the_folder_is_missing(tmp_path):
    with pytest.raises(UserError, match="cannot write"):
        save(attention_block(), tmp_path / "missing" / "a.edgec")


def test_save_makes_a_file_that_others_may_read(tmp_path):
    save(attention_block(), tmp_path / "a.edgec")
    (tmp_path / "plain").write_bytes(b"")
    assert stat.S_IMODE(os.stat(tmp_path / "a.edgec").st_mode) == stat.S_IMODE(os.stat(tmp_path / "plain").st_mode)


def broken(change):
    """A function that damages the members of a good checkpoint."""
    def apply(tmp_path):
        save(graph_of(np.arange(30.0)), tmp_path / "a.edgec")
        contents = members(tmp_path / "a.edgec")
        change(contents)
        write(tmp_path / "a.edgec", contents)
    return apply


def npy(array, pickle=False):
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=pickle)
    return stream.getvalue()


CASES = {
    "no_zip": lambda t: (t / "a.edgec").write_bytes(b"PK\x03\x04 nothing"),
    "empty": lambda t: (t / "a.edgec").write_bytes(b""),
    "no_text": broken(lambda m: m.pop("graph.txt")),
    "no_index": broken(lambda m: m.pop("arrays.json")),
    "no_array": broken(lambda m: m.pop("arrays/0.npy")),
    "text_not_utf8": broken(lambda m: m.update({"graph.txt": b"\xff\xfe"})),
    "index_not_json": broken(lambda m: m.update({"arrays.json": b"{"})),
    "index_no_list": broken(lambda m: m.update({"arrays.json": b"3"})),
    "index_strange": broken(lambda m: m.update({"arrays.json": b'[{"key": 3, "dtype": "float64"}]'})),
    "index_other_type": broken(lambda m: m.update({"arrays.json": b'[{"key": "x", "dtype": "float16"}]'})),
    "index_deep": broken(lambda m: m.update({"arrays.json": b"[" * 200_000})),
    "object_array": broken(lambda m: m.update({"arrays/0.npy": npy(np.array([print], object), pickle=True)})),
    "wrong_shape": broken(lambda m: m.update({"arrays/0.npy": npy(np.arange(29.0))})),
    "huge_shape": broken(lambda m: m.update(
        {"arrays/0.npy": m["arrays/0.npy"].replace(b"(30,), }         ", b"(3000000000000,), }")[:300]})),
    "cut_array": broken(lambda m: m.update({"arrays/0.npy": m["arrays/0.npy"][:-1]})),
}


@pytest.mark.parametrize("case", CASES)
def test_load_says_what_is_wrong(tmp_path, case):
    CASES[case](tmp_path)
    with pytest.raises(UserError) as caught:
        load(tmp_path / "a.edgec")
    assert "a.edgec" in caught.value.where
    assert os.listdir(tmp_path) == ["a.edgec"]


def test_load_refuses_members_that_could_unpack_to_any_size(tmp_path):
    save(graph_of(np.arange(30.0)), tmp_path / "a.edgec")
    contents = members(tmp_path / "a.edgec")
    write(tmp_path / "a.edgec", contents, zipfile.ZIP_DEFLATED)
    with pytest.raises(UserError, match="compressed"):
        load(tmp_path / "a.edgec")
    write(tmp_path / "a.edgec", contents)
    load(tmp_path / "a.edgec")


def test_load_refuses_members_that_share_their_bytes(tmp_path):
    save(graph_of(np.arange(300.0)), tmp_path / "a.edgec")
    with zipfile.ZipFile(tmp_path / "a.edgec", "a") as archive:
        for number in range(9):
            alias = copy.copy(archive.getinfo("arrays/0.npy"))
            alias.filename = f"arrays/{number + 1}.npy"
            archive.filelist.append(alias)
        archive.writestr("more", b"")
    with pytest.raises(UserError, match="members larger than the file"):
        load(tmp_path / "a.edgec")


def test_load_says_so_when_there_is_no_file(tmp_path):
    with pytest.raises(UserError, match="cannot read"):
        load(tmp_path / "none.edgec")


@given(st.integers(0, 10**6), st.integers(0, 255), st.booleans())
def test_load_fails_with_user_error_when_a_byte_is_wrong(tmp_path_factory, position, byte, cut):
    path = tmp_path_factory.mktemp("bytes") / "a.edgec"
    save(graph_of(np.arange(30.0)), path)
    data = bytearray(path.read_bytes())
    position %= len(data)
    data[position] = byte
    path.write_bytes(data[:position] if cut else data)
    where = str(path)
    try:
        load(path)
    except UserError as error:
        where = error.where
    assert str(path) in where
