"""The C preprocessing of a bundle against edgec's own: equal, up to one of 255 where Pillow filters columns first."""

from __future__ import annotations

import ctypes
import platform
import subprocess
import sys

import numpy as np
import pytest

from edgec.backends.preprocess import picture_recipe, preprocess_files
from edgec.compress.request import Quantization
from edgec.data.pictures import apply
from edgec.data.preprocess import bind, parse
from edgec.driver import build
from tests.models import Builder
from tests.onnx_files import save

pytest.importorskip("PIL")
pytest.importorskip("ziglang")
pytestmark = pytest.mark.skipif(platform.machine() != "x86_64", reason="compiles for x86-64")

RECIPES = {
    "imagenet": ("imagenet", (1, 3, 224, 224), (300, 401)),
    "letterbox": ("resize=letterbox scale=1/255", (1, 3, 96, 128), (211, 97)),
    "corner_bgr": ("resize=letterbox align=corner color=BGR scale=1 mean=104,117,123", (1, 3, 64, 64), (50, 90)),
    "enlarged": ("resize=stretch scale=1/127.5 mean=1", (1, 3, 61, 53), (17, 29)),
    "grey": ("resize=short:40 crop=32 color=GRAY scale=1/255", (1, 1, 32, 32), (70, 55)),
    "nhwc": ("resize=stretch scale=1/255 layout=NHWC", (1, 20, 30, 3), (41, 67)),
    "as_it_is": ("scale=1/255", (1, 3, 12, 14), (12, 14)),
}
_FORMATS = {"RGB": 0, "BGR": 1, "GRAY": 2, "NV12": 3, "YUYV": 4}


def compile_recipe(folder, recipe: str, shape):
    b = Builder()
    graph = b.output(b("Relu", b.input("image", *shape)))
    bound = bind(parse(recipe), "image", graph.inputs[0].type)
    for name, text in preprocess_files(picture_recipe(bound.to_json(), graph), "net").items():
        (folder / name).write_text(text)
    (folder / "main.c").write_text(
        '#include "net_preprocess.h"\n'
        "int run(int format, int width, int height, int stride, const unsigned char *picture, float *input) {\n"
        "  edgec_placed job;\n"
        "  if (edgec_place(&job, &net_preprocess, format, width, height, stride)) return 1;\n"
        "  edgec_preprocess(&job, picture, input);\n  return 0;\n}\n")
    subprocess.run([sys.executable, "-m", "ziglang", "cc", "-target", "x86_64-linux-none", "-std=c11", "-O2", "-Wall",
                    "-Wextra", "-Werror", "-shared", "-fPIC", "-nostdlib", "-ffp-contract=off", "-fno-sanitize=all",
                    str(folder / "main.c"), "-o", str(folder / "pre.so")], check=True)
    library = ctypes.CDLL(str(folder / "pre.so"))

    def run(picture: np.ndarray, format: str, height: int, width: int) -> np.ndarray:
        out = np.zeros(shape, np.float32)
        picture = np.ascontiguousarray(picture)
        status = library.run(_FORMATS[format], width, height, picture.strides[0], picture.ctypes.data_as(
            ctypes.c_void_p), out.ctypes.data_as(ctypes.c_void_p))
        assert status == 0
        return out

    return bound, run


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_c_code_gives_the_numbers_of_the_pass_over_pictures(name, tmp_path):
    recipe, shape, (height, width) = RECIPES[name]
    bound, run = compile_recipe(tmp_path, recipe, shape)
    pixels = np.random.default_rng(3).integers(0, 256, (height, width, 3), np.uint8)
    expected, _ = apply(bound, pixels)
    got = run(pixels, "RGB", height, width)
    level = bound.scale / min(bound.std)
    assert np.abs(got - expected).max() <= 1.001 * level
    assert (got == expected).mean() > (0.9 if name == "letterbox" else 0.9999)
    np.testing.assert_array_equal(run(pixels[:, :, ::-1], "BGR", height, width), got)


def test_yuv_pictures_become_rgb(tmp_path):
    height, width = 12, 14
    _, run = compile_recipe(tmp_path, "scale=1", (1, 3, height, width))
    random = np.random.default_rng(5)
    luma = random.integers(16, 236, (height, width))
    u, v = random.integers(16, 241, (2, height // 2, width // 2))
    wide = [np.repeat(np.repeat(c, 2, 0), 2, 1) - 128.0 for c in (u, v)]
    exact = 1.164 * (luma - 16.0) + np.stack([1.596 * wide[1], -0.392 * wide[0] - 0.813 * wide[1], 2.017 * wide[0]])
    expected = np.clip(exact, 0, 255)[None]
    chroma = np.stack([u, v], -1).reshape(height // 2, width)
    nv12 = np.vstack([luma, chroma]).astype(np.uint8)
    assert np.abs(run(nv12, "NV12", height, width) - expected).max() < 1.5
    pairs = np.stack([luma[:, ::2], np.repeat(u, 2, 0), luma[:, 1::2], np.repeat(v, 2, 0)], -1)
    assert np.abs(run(pairs.reshape(height, 2 * width).astype(np.uint8), "YUYV", height, width) - expected).max() < 1.5


def test_a_picture_that_is_too_small_is_refused(tmp_path):
    _, run = compile_recipe(tmp_path, "crop=32 scale=1", (1, 3, 32, 32))
    with pytest.raises(AssertionError):
        run(np.zeros((31, 40, 3), np.uint8), "RGB", 31, 40)


def test_engines_for_cpus_carry_the_header_and_the_recipe(tmp_path):
    pytest.importorskip("tvm")
    b = Builder()
    model = save(b.output(b("Relu", b.conv(b.input("image", 1, 3, 16, 16), 4))), tmp_path / "net.onnx")
    folder = build(model, "x86-64-v3", tmp_path / "net", samples=1,
                   quantization=Quantization(preprocess=parse("resize=stretch scale=1/255")))
    recipe = (folder / "engine/net_preprocess.h").read_text()
    assert "static const edgec_recipe net_preprocess = {EDGEC_RESIZE_STRETCH, {16, 16}, {0, 0}," in recipe
    assert (folder / "engine/edgec_preprocess.h").is_file()
    assert not (folder / "engine/edgec_preprocess.cu").exists()
    plain = build(model, "x86-64-v3", tmp_path / "plain", samples=1)
    assert not (plain / "engine/edgec_preprocess.h").exists()


def test_files_are_written_only_where_a_picture_is_the_one_input():
    b = Builder()
    graph = b.output(b("Relu", b.input("x", 1, 16, 5)))
    assert picture_recipe({"scale": 1.0}, graph) == picture_recipe(None, graph) == {}
    assert preprocess_files({}, "net") == {}
