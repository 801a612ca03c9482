import numpy as np
import pytest

from edgec.bundle import read_bundle
from edgec.cli.arrays import read_feeds
from edgec.errors import UserError
from edgec.runtime import open_bundle

SHAPE = (1, 4, 9, 7)


def test_run_uses_the_golden_set_when_nothing_is_given(edgec, bundle):
    done = edgec("run", bundle, "--json")
    (output,) = done.json
    expected = next(iter(read_bundle(bundle).golden().outputs[0].values()))
    np.testing.assert_allclose(output["values"], expected, rtol=1e-4, atol=1e-5)
    assert output["shape"] == [1, 3]


@pytest.mark.parametrize("form", ["{}.npy", "x={}.npy", "{}.npz", "x={}.npz"])
def test_run_reads_files_in_every_form(edgec, bundle, tmp_path, form):
    x = np.random.default_rng(0).standard_normal(SHAPE).astype(np.float32)
    np.save(tmp_path / "f.npy", x)
    np.savez(tmp_path / "f.npz", x=x)
    done = edgec("run", bundle, "--input", form.format(tmp_path / "f"), "-o", tmp_path / "out.npz", "--top", 2)
    assert done.code == 0
    with open_bundle(bundle) as engine:
        expected = engine.run({"x": x})
    with np.load(tmp_path / "out.npz") as written:
        for name, array in expected.items():
            np.testing.assert_array_equal(written[name], array)
    best = int(next(iter(expected.values())).argmax())
    assert f": {best} (" in done.out


def test_random_inputs_depend_on_the_seed(edgec, bundle):
    one, same, other = (edgec("run", bundle, "--input", "random", "--seed", s, "--json").json for s in (1, 1, 2))
    assert one == same != other


@pytest.mark.parametrize(("array", "text"), [
    (np.zeros((1, 4, 9, 8), np.float32), "shape"), (np.zeros(SHAPE, complex), "dtype complex128"),
], ids=["shape", "dtype"])
def test_run_refuses_when_an_array_does_not_fit(edgec, bundle, tmp_path, array, text):
    np.save(tmp_path / "x.npy", array)
    done = edgec("run", bundle, "--input", tmp_path / "x.npy")
    assert (done.code, text in done.err) == (2, True)


def test_read_feeds_normalizes_pictures(tmp_path):
    from PIL import Image

    from edgec.backends.base import Port
    from edgec.bundle import Bundle
    from edgec.ir.types import DType, TensorType

    pixels = np.random.default_rng(0).integers(0, 256, (6, 5, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "p.png")

    stated = None

    def feeds(shape, dtype=DType.FLOAT32, **options):
        port = Port("x", TensorType(dtype, shape))
        bundle = Bundle(tmp_path, "n", None, (port,), (), (), {"options": {"preprocess": stated}})
        return read_feeds(bundle, [str(tmp_path / "p.png")], **options)["x"]

    got = feeds((1, 3, 6, 5), preprocess="scale=1 mean=100,110,120 std=2")
    want = ((pixels.astype(np.float32) - [100, 110, 120]) / 2).transpose(2, 0, 1)[None]
    np.testing.assert_allclose(got, want.astype(np.float32), rtol=1e-6)
    stated = {"scale": 1, "mean": [100, 110, 120], "std": [2]}
    np.testing.assert_array_equal(feeds((1, 3, 6, 5)), got)
    stated = None
    np.testing.assert_array_equal(feeds((1, 6, 5, 3), DType.UINT8)[0], pixels)
    assert feeds((1, 1, 12, 10), preprocess="resize=stretch unit").shape == (1, 1, 12, 10)
    with pytest.raises(UserError, match="needs a stated preprocessing"):
        feeds((1, 3, 6, 5))
    with pytest.raises(UserError, match="takes no picture"):
        feeds((1, 7, 6, 5), preprocess="unit")
    with pytest.raises(UserError, match="gives pictures of 4x4"):
        feeds((1, 3, 6, 5), preprocess="unit crop=4")


def test_run_refuses_when_a_picture_is_damaged(edgec, bundle, tmp_path):
    (tmp_path / "p.png").write_bytes(b"\x89PNG\r\n\x1a\nbroken")
    assert edgec("run", bundle, "--input", tmp_path / "p.png").code == 2


def test_run_refuses_when_the_outputs_cannot_be_written(edgec, bundle, tmp_path):
    done = edgec("run", bundle, "-o", tmp_path / "nowhere" / "out.npz")
    assert done.code == 2
    assert "cannot write the outputs" in done.err
