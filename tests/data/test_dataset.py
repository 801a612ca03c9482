"""Data from every kind of source: feeds in the model's shape, order, parts, labels, and what is refused."""

from __future__ import annotations

import zipfile

import numpy as np
import pytest

from edgec.data.dataset import open_data
from edgec.errors import UserError
from edgec.ir.graph import Value
from edgec.ir.types import DType, TensorType

Image = pytest.importorskip("PIL.Image")
RNG = np.random.default_rng(7)


def port(name: str, *shape: int, dtype: DType = DType.FLOAT32) -> Value:
    return Value(name, TensorType(dtype, shape))


PICTURE, VECTOR = port("x", 1, 3, 8, 6), port("x", 1, 12)


@pytest.fixture
def folder(tmp_path):
    """Nine pictures in three folders."""
    for kind in ("cat", "ant", "dog"):
        (tmp_path / "set" / kind).mkdir(parents=True)
        for i in range(3):
            pixels = RNG.integers(0, 256, (9, 11, 3)).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / "set" / kind / f"{i}.png")
    return tmp_path / "set"


def test_folders_are_classes_in_alphabetical_order(folder):
    data = open_data(folder, [PICTURE], preprocess="resize=stretch unit")
    samples = list(data)
    assert [(s.name, s.label) for s in samples][::4] == [("ant/0.png", 0), ("cat/1.png", 1), ("dog/2.png", 2)]
    assert data.classes == ("ant", "cat", "dog")
    assert data.labelled
    assert all(s.feeds["x"].shape == (1, 3, 8, 6) and s.feeds["x"].dtype == np.float32 for s in samples)
    assert max(s.feeds["x"].max() for s in samples) <= 1
    again = [s.feeds["x"] for s in data]
    assert all(np.array_equal(a, s.feeds["x"]) for a, s in zip(again, samples, strict=True))


def test_zip_gives_what_its_folder_gives(folder, tmp_path):
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        for path in sorted(folder.rglob("*.png")):
            archive.write(path, path.relative_to(folder).as_posix())
        archive.writestr("__MACOSX/cat/._0.png", b"no picture")
    one, other = (open_data(s, [PICTURE], preprocess="resize=stretch unit") for s in (folder, tmp_path / "set.zip"))
    for a, b in zip(one, other, strict=True):
        assert (a.name, a.label) == (b.name, b.label)
        assert np.array_equal(a.feeds["x"], b.feeds["x"])


def test_pictures_need_a_preprocessing_unless_the_input_takes_pixels(folder):
    with pytest.raises(UserError, match="need a stated preprocessing"):
        open_data(folder, [PICTURE])
    data = open_data(folder, [port("x", 1, 8, 6, 3, dtype=DType.UINT8)])
    sample = next(iter(data))
    assert sample.feeds["x"].dtype == np.uint8
    assert sample.feeds["x"].max() > 1


def test_broken_pictures_are_all_named(folder):
    for name in ("ant/1.png", "dog/0.png"):
        (folder / name).write_bytes(b"broken")
    data = open_data(folder, [PICTURE], preprocess="resize=stretch unit")
    seen = []
    with pytest.raises(UserError, match=r"2 samples cannot be used: ant/1\.png.*dog/0\.png"):
        seen.extend(s.name for s in data)
    assert not seen or seen == ["ant/0.png"]
    stream = iter(data)
    assert next(stream).name == "ant/0.png"
    with pytest.raises(UserError):  # nothing comes between the first broken one and the error
        next(stream)


def test_take_spreads_over_sorted_classes(folder):
    data = open_data(folder, [PICTURE], preprocess="resize=stretch unit")
    assert [s.name for s in data.take(3)] == ["ant/0.png", "cat/0.png", "dog/0.png"]
    assert data.take(100).count == 9
    assert data.take(4).take(2).count == 2
    with pytest.raises(UserError, match="at least 1"):
        data.take(0)


def rows(tmp_path, count: int = 40):
    x, y = RNG.standard_normal((count, 12)).astype(np.float32), RNG.integers(0, 5, count).astype(np.uint8)
    np.savez(tmp_path / "rows.npz", x=x, y=y, name=np.array([f"r{i}" for i in range(count)]))
    return x, y


def test_split_has_no_sample_in_both_parts_and_does_not_depend_on_others(tmp_path):
    rows(tmp_path)
    data = open_data(tmp_path / "rows.npz", [VECTOR])
    first, second = data.split(0.3)
    names = [s.name for s in first], [s.name for s in second]
    assert (first.count, second.count) == (12, 28)
    assert sorted(map(int, names[0] + names[1])) == list(range(40))
    assert names[0] == [s.name for s in data.split(0.3)[0]]
    assert names[0] != list(map(str, range(12)))  # by hash, not by place
    inner = second.split(0.5)[0]
    assert {s.name for s in inner} < set(names[1])


@pytest.mark.parametrize("share", [0, 1, -0.5, 1.5])
def test_split_refuses_shares_without_two_parts(tmp_path, share):
    rows(tmp_path)
    with pytest.raises(UserError, match="share"):
        open_data(tmp_path / "rows.npz", [VECTOR]).split(share)


def test_rows_of_npz_have_their_labels(tmp_path):
    x, y = rows(tmp_path)
    samples = list(open_data(tmp_path / "rows.npz", [VECTOR]))
    assert [s.label for s in samples] == y.tolist()
    assert np.array_equal(np.concatenate([s.feeds["x"] for s in samples]), x)


def test_named_key_is_taken_for_the_only_input(tmp_path):
    a, b = np.ones((3, 12), np.float32), np.zeros((3, 5), np.float32)
    np.savez(tmp_path / "two.npz", a=a, b=b)
    for source in ("two.npz:a", "two.npz"):  # only a fits
        samples = list(open_data(tmp_path / source, [port("mfcc", 1, 12)]))
        assert [s.feeds["mfcc"].sum() for s in samples] == [12, 12, 12]
    np.savez(tmp_path / "same.npz", a=a, b=a)
    with pytest.raises(UserError, match=r"name it: same\.npz:a"):
        open_data(tmp_path / "same.npz", [port("mfcc", 1, 12)])


def test_several_inputs_come_by_name(tmp_path):
    np.savez(tmp_path / "two.npz", x=np.ones((2, 12), np.float32), state=np.zeros((2, 2, 3), np.float32))
    sample = next(iter(open_data(tmp_path / "two.npz", [VECTOR, port("state", 2, 1, 3)])))
    assert {n: a.shape for n, a in sample.feeds.items()} == {"x": (1, 12), "state": (2, 1, 3)}
    with pytest.raises(UserError, match="an array for each of the inputs"):
        open_data(tmp_path / "two.npz", [VECTOR, port("memory", 2, 1, 3)])


def test_pixel_rows_are_pictures_when_a_preprocessing_is_stated(tmp_path):
    x = RNG.integers(0, 256, (4, 8, 6, 3)).astype(np.uint8)
    np.save(tmp_path / "p.npy", x)
    sample = next(iter(open_data(tmp_path / "p.npy", [PICTURE], preprocess="unit")))
    np.testing.assert_allclose(sample.feeds["x"][0], x[0].transpose(2, 0, 1) / 255, atol=1e-6)
    with pytest.raises(UserError, match="has shape"):
        list(open_data(tmp_path / "p.npy", [PICTURE]))


def test_numbers_are_scaled_but_not_resized(tmp_path):
    np.save(tmp_path / "q.npy", np.arange(24, dtype=np.int8).reshape(2, 12))
    sample = next(iter(open_data(tmp_path / "q.npy", [VECTOR], preprocess="scale=0.5 mean=2")))
    assert sample.feeds["x"][0, :3].tolist() == [-2, -1.5, -1]
    with pytest.raises(UserError, match="is no picture"):
        list(open_data(tmp_path / "q.npy", [VECTOR], preprocess="scale=1 resize=stretch:4"))


def test_files_of_arrays_are_one_sample_each(tmp_path):
    for i in range(3):
        np.save(tmp_path / f"{i}.npy", np.full(12, i, np.float32))
    (tmp_path / "l.csv").write_text("0.npy,4\n1.npy,5\n2.npy,6\n")
    samples = list(open_data(tmp_path, [VECTOR], labels=tmp_path / "l.csv"))
    assert [(s.feeds["x"][0, 0], s.label) for s in samples] == [(0, 4), (1, 5), (2, 6)]


def yields_pairs():
    for i in range(5):
        yield {"x": np.full((1, 12), i, np.float32)}, i


def yields_dicts():
    return [{"x": np.zeros(12, np.float32)}]


def yields_numbers():
    yield 3


def fails():
    yield {"x": np.zeros(12, np.float32)}
    raise RuntimeError("no disk")


def test_function_gives_samples_with_and_without_labels():
    data = open_data("tests.data.test_dataset:yields_pairs", [VECTOR])
    assert [s.label for s in data] == [0, 1, 2, 3, 4]
    assert [s.label for s in data.take(2)] == [0, 1]
    assert data.count is None
    assert [s.label for s in open_data(yields_dicts, [VECTOR])] == [None]
    with pytest.raises(UserError, match="cannot be split"):
        data.split(0.5)


@pytest.mark.parametrize(("function", "part"), [
    (yields_numbers, "is a int"), (fails, "RuntimeError: no disk"), ("tests.data.test_dataset:nothing", "is not there"),
    ("no_such_module:f", "cannot import"), (lambda: [], "there is no sample"), (lambda: None, "TypeError")])
def test_function_that_gives_no_samples_is_explained(function, part):
    with pytest.raises(UserError, match=part):
        list(open_data(function, [VECTOR]))


@pytest.mark.parametrize(("make", "part"), [
    (lambda p: p / "missing", "no such samples"), (lambda p: p / "missing.npz", "no such samples"),
    (lambda p: p / "missing.zip", "no such samples"), (lambda p: p, "no picture and no array")])
def test_source_that_is_not_there_is_explained(tmp_path, make, part):
    with pytest.raises(UserError, match=part):
        open_data(make(tmp_path), [VECTOR])


def test_wrong_types_are_refused(tmp_path):
    np.save(tmp_path / "f.npy", np.ones((2, 12), np.float64))
    assert next(iter(open_data(tmp_path / "f.npy", [VECTOR]))).feeds["x"].dtype == np.float32
    with pytest.raises(UserError, match="has dtype float64"):
        list(open_data(tmp_path / "f.npy", [port("ids", 1, 12, dtype=DType.INT64)]))


def test_batches_and_facts(tmp_path):
    rows(tmp_path, 7)
    data = open_data(tmp_path / "rows.npz", [VECTOR])
    assert [len(b) for b in data.batches(3)] == [3, 3, 1]
    assert data.facts() == {"name": "rows.npz", "kind": "arrays", "samples": 7, "labelled": True, "preprocess": None}
    assert sum(1 for _ in data.feeds()) == 7
    with pytest.raises(ValueError, match="at least one"):
        next(data.batches(0))
