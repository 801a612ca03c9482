"""Pictures on the board: where they lie in the input, as the C header says, and from a camera's bytes to outputs."""

from __future__ import annotations

import ctypes
import json
import platform
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from edgec.backends.preprocess import picture_recipe
from edgec.backends.tensorrt.board.files import Failure
from edgec.backends.tensorrt.board.pictures import FORMATS, Pictures, Placed, place_picture
from edgec.compress.request import Quantization
from edgec.data.pictures import apply
from edgec.data.preprocess import bind, parse
from edgec.driver import build
from edgec.interchange.session import open_session, run_session
from edgec.ir.types import DType, Quant
from edgec.target import load_target
from tests.models import Builder
from tests.onnx_files import save
from tests.runtime.fake_jetson import make_jetson

pytest.importorskip("PIL")
pytest.importorskip("ziglang")
pytestmark = pytest.mark.skipif(platform.machine() != "x86_64", reason="compiles for x86-64")

HEADER = Path(__file__).resolve().parents[3] / "edgec/runtime/c"
RECIPES = {
    "imagenet": ("imagenet", (1, 3, 224, 224)), "letterbox": ("resize=letterbox scale=1/255", (1, 3, 96, 128)),
    "corner": ("resize=letterbox align=corner color=BGR mean=104,117,123 scale=1", (1, 3, 64, 64)),
    "stretch": ("resize=stretch scale=1/127.5 mean=1", (1, 3, 61, 53)),
    "grey": ("resize=short:40 crop=32 color=GRAY scale=1/255", (1, 1, 32, 32)),
    "nhwc": ("resize=stretch scale=1/255 layout=NHWC", (1, 20, 30, 3)),
    "box_crop": ("resize=letterbox:50x60 crop=41x32 scale=1", (1, 3, 41, 32)),
}


def net(shape):
    b = Builder()
    x = b.input("image", *shape)
    y = b("Transpose", x, perm=(0, 3, 1, 2)) if shape[-1] == 3 else x
    return b.output(b("GlobalAveragePool", b("Relu", b.conv(y, 5))))


def recipe(name):
    text, shape = RECIPES[name]
    graph = net(shape)
    bound = bind(parse(text), "image", graph.inputs[0].type)
    return bound, picture_recipe(bound.to_json(), graph)


@pytest.fixture(scope="module")
def in_c(tmp_path_factory):
    """edgec_place of the header: (status, the bytes of edgec_placed)."""
    folder = tmp_path_factory.mktemp("place")
    (folder / "main.c").write_text(
        '#include "edgec_preprocess.h"\n'
        'int place(edgec_placed *job, const edgec_recipe *r, int f, int w, int h, int s) {'
        ' return edgec_place(job, r, f, w, h, s); }\n')
    subprocess.run([sys.executable, "-m", "ziglang", "cc", "-target", "x86_64-linux-none", "-std=c11", "-O1", "-shared",
                    "-fPIC", "-nostdlib", "-w", f"-I{HEADER}", str(folder / "main.c"), "-o", str(folder / "p.so")],
                   check=True)
    library = ctypes.CDLL(str(folder / "p.so"))

    def place(given, form, width, height, stride):
        job = Placed()
        status = library.place(ctypes.byref(job), ctypes.byref(given), FORMATS.index(form), width, height, stride)
        return status, bytes(job)

    return place


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_place_picture_is_what_the_header_computes(name, in_c):
    _, row = recipe(name)
    random = np.random.default_rng(7)
    for width, height in [*random.integers(40, 900, (60, 2)).tolist(), [401, 300], [224, 224], [1, 900]]:
        form = FORMATS[int(random.integers(5))]
        try:
            placed = place_picture(row, form, width, height)
        except Failure:
            given = place_picture(row, form, 640, 480).recipe  # the recipe does not depend on the picture
            assert in_c(given, form, width, height, width)[0] == 1
            continue
        assert in_c(placed.recipe, form, width, height, placed.stride) == (0, bytes(placed))


def test_place_picture_refuses_formats_and_sizes_with_the_way_out():
    _, row = recipe("imagenet")
    with pytest.raises(Failure, match="no picture format 'I420'") as caught:
        place_picture(row, "I420", 640, 480)
    assert "NV12" in caught.value.hint
    _, row = recipe("box_crop")
    with pytest.raises(Failure, match="too small for a crop of 32 x 41"):
        place_picture({**row, "size": [40, 60]}, "RGB", 64, 48)
    plain = {**row, "resize": "none", "crop": [0, 0]}
    with pytest.raises(Failure, match="does not fill the input of 32 x 41") as caught:
        place_picture(plain, "RGB", 33, 41)
    assert "--preprocess" in caught.value.hint
    assert place_picture(plain, "YUYV", 32, 41).stride == 64


def test_recipe_tells_the_grid_of_the_input():
    assert recipe("imagenet")[1]["grid"] == 0.0
    b = Builder()
    x = b.input("image", 1, 3, 8, 8)
    entry = b("Identity", x)
    entry.quant = Quant(DType.INT8, np.float32(0.5), np.int8(0))
    graph = b.output(b("Relu", entry))
    assert picture_recipe({"resize": "stretch", "size": [8, 8]}, graph)["grid"] == 0.5


_ASK = """
import json, sys
import numpy
sys.path.insert(0, sys.argv[1])
from run import Engine
from build import Failure
engine, answers = Engine(), []
for name, form, width, height in json.loads(sys.argv[2]):
    try:
        outputs = engine.run_picture(numpy.load(name).tobytes(), width, height, form)
        answers.append({k: v.ravel().tolist() for k, v in outputs.items()})
    except Failure as failure:
        answers.append(failure.text())
engine.close()
print(json.dumps(answers))
"""


@pytest.fixture(scope="module")
def jetson(tmp_path_factory):
    folder = tmp_path_factory.mktemp("jetson")
    return str(make_jetson(folder) / "python3"), folder


def bundle(folder, name, with_recipe=True):
    text, shape = RECIPES[name]
    wish = Quantization(preprocess=parse(text)) if with_recipe else None
    return build(save(net(shape), folder / f"{name}.onnx"), load_target("jetson"), folder / f"{name}-{with_recipe}",
                 samples=1, quantization=wish)


def ask(python, stage, requests):
    done = subprocess.run([python, "-c", _ASK, str(stage), json.dumps(requests)], capture_output=True, text=True,
                          check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout), done.stderr


@pytest.mark.parametrize("name", ["imagenet", "corner", "grey", "nhwc"])
def test_picture_gives_what_edgecs_own_preprocessing_gives(name, jetson, tmp_path):
    python, _ = jetson
    stage = bundle(tmp_path, name) / "engine"
    bound, _ = recipe(name)
    pixels = np.random.default_rng(3).integers(0, 256, (300, 401, 3), np.uint8)
    np.save(tmp_path / "rgb.npy", pixels)
    np.save(tmp_path / "bgr.npy", pixels[:, :, ::-1])
    np.save(tmp_path / "short.npy", pixels[:9])
    requests = [[str(tmp_path / "rgb.npy"), "RGB", 401, 300], [str(tmp_path / "bgr.npy"), "BGR", 401, 300],
                [str(tmp_path / "short.npy"), "RGB", 401, 300]]
    (first, second, third), log = ask(python, stage, requests)
    array, _ = apply(bound, pixels)
    (expected,) = run_session(open_session(stage / "float16.onnx"), {"image": array}).values()
    (values,) = first.values()
    np.testing.assert_allclose(values, expected.ravel(), rtol=1e-3, atol=1e-4)  # one of 255 here and there
    assert first == second
    assert third == "error: the picture has 10827 bytes; RGB of 401 x 300 has 360900"
    assert "the kernel for pictures" in log
    assert "the kernel for pictures" not in ask(python, stage, requests[:1])[1]  # kept beside the engine
    assert len(list((stage / "built").glob("pictures-sm87-*.ptx"))) == 1


def test_bundle_without_preprocessing_says_how_to_get_it(jetson, tmp_path):
    python, _ = jetson
    np.save(tmp_path / "rgb.npy", np.zeros((9, 9, 3), np.uint8))
    stage = bundle(tmp_path, "imagenet", False) / "engine"
    (answer,), _ = ask(python, stage, [[str(tmp_path / "rgb.npy"), "RGB", 9, 9]])
    assert answer.startswith("error: this bundle does not say how a picture becomes its input")
    assert "--preprocess" in answer


def test_missing_compiler_is_an_error_with_the_way_out(tmp_path, monkeypatch):
    for name in ("edgec_preprocess.cu", "edgec_preprocess.h"):
        (tmp_path / name).write_text("text")

    def missing(name):
        raise OSError(name)

    monkeypatch.setattr(ctypes, "CDLL", missing)

    class Session:
        tensors = ({"name": "image", "dtype": "float32"}, {"name": "narrow", "dtype": "int8"})

    _, row = recipe("imagenet")
    with pytest.raises(Failure, match="libnvrtc") as caught:
        Pictures(str(tmp_path), str(tmp_path), row, 87, Session(), object())
    assert "apt install" in caught.value.hint
    with pytest.raises(Failure, match="no kernel makes an input of type int8"):
        Pictures(str(tmp_path), str(tmp_path), {**row, "input": "narrow"}, 87, Session(), object())
