"""The real models and labelled samples that tests measure on: `EDGEC_DATA`, or `shared/data` beside the checkout."""

from __future__ import annotations

import io
import json
import os
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

DATA = Path(os.environ.get("EDGEC_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))

Samples = Callable[[], Iterator[dict[str, np.ndarray]]]


@dataclass(frozen=True)
class RealModel:
    """One model file. inputs: shapes to bind; values: inputs bound to constants; samples: real inputs, one by one.

    submodule: the part of a TorchScript file that is meant.
    classes: True if the argmax of the first output is a prediction, so that predictions must equal the reference's.
    """

    file: str
    samples: Samples
    inputs: dict[str, tuple[int, ...]] = field(default_factory=dict)
    values: dict[str, np.ndarray] = field(default_factory=dict)
    classes: bool = False
    submodule: str = ""

    @property
    def path(self) -> Path:
        """Where the file lies."""
        return DATA / self.file

    def __str__(self) -> str:
        return self.file.replace("/", "-")


def _image(data: bytes | Path) -> np.ndarray:
    from PIL import Image

    return np.asarray(Image.open(io.BytesIO(data) if isinstance(data, bytes) else data).convert("RGB"))


def _resized(path: Path, width: int, height: int) -> np.ndarray:
    from PIL import Image

    return np.asarray(Image.open(path).convert("RGB").resize((width, height), Image.Resampling.BILINEAR))


def _nchw(image: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(image.transpose(2, 0, 1)[None], dtype=np.float32)


def cifar(name: str, normalize: Callable[[np.ndarray], np.ndarray]) -> Samples:
    """The CIFAR-10 test pictures, the ten classes in turn."""
    def samples() -> Iterator[dict[str, np.ndarray]]:
        with zipfile.ZipFile(DATA / "cifar10/cifar10_test_jpeg.zip") as archive:
            names = sorted((n for n in archive.namelist() if n.endswith(".jpg")), key=lambda n: n.split("/")[::-1])
            for entry in names:
                yield {name: normalize(_image(archive.read(entry)).astype(np.float32))}
    return samples


def _cifar_nchw(image: np.ndarray) -> np.ndarray:
    return _nchw((image / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225])


def imagenet(name: str) -> Samples:
    """The ImageNet sample pictures, centre crop 224, x / 127.5 - 1."""
    def samples() -> Iterator[dict[str, np.ndarray]]:
        for path in sorted((DATA / "imagenet/images").glob("*.jpg")):
            image = _image(path)
            top, left = (image.shape[0] - 224) // 2, (image.shape[1] - 224) // 2
            yield {name: _nchw(image[top:top + 224, left:left + 224] / 127.5 - 1)}
    return samples


def pictures(folder: str, name: str, width: int, height: int, convert: Callable[[np.ndarray], np.ndarray]) -> Samples:
    """All pictures of a folder, plainly resized."""
    def samples() -> Iterator[dict[str, np.ndarray]]:
        for path in sorted((DATA / folder).glob("*.jpg")):
            yield {name: convert(_resized(path, width, height).astype(np.float32))}
    return samples


def arrays(file: str, key: str, name: str, convert: Callable[[np.ndarray], np.ndarray]) -> Samples:
    """Rows of one array of an npz file."""
    def samples() -> Iterator[dict[str, np.ndarray]]:
        with np.load(DATA / file) as data:
            for row in data[key]:
                yield {name: np.ascontiguousarray(convert(row))}
    return samples


def _kws01() -> Iterator[dict[str, np.ndarray]]:
    with np.load(DATA / "kws/mlperf_kws01_int8_mfcc.npz") as data:
        for row in data["x"]:
            yield {"input_1": ((row.astype(np.float32) - 83) * np.float32(0.5847029)).reshape(1, 49, 10, 1)}


def _anomaly() -> Iterator[dict[str, np.ndarray]]:
    frames = np.fromfile(DATA / "anomaly/normal_id_01_f32.bin", np.float32).reshape(200, 128)
    for start in range(196):
        yield {"input_1": frames[start:start + 5].reshape(1, 640)}


def _speech(state: str, shape: tuple[int, ...], block: int, name: str) -> Samples:
    """Blocks of noisy speech with a random recurrent state of the size that the net itself makes."""
    def samples() -> Iterator[dict[str, np.ndarray]]:
        rng = np.random.default_rng(5)
        with np.load(DATA / "audio/denoise_pairs.npz") as data:
            for clip in data["noisy"]:
                wave = clip.astype(np.float32) / 32768
                start = 16000
                piece = wave[start:start + (512 if block == 257 else block)]
                piece = np.abs(np.fft.rfft(piece)).astype(np.float32) if block == 257 else piece
                yield {name: piece.reshape((1, block) if name in ("input", "x") else (1, 1, block)),
                       state: (rng.standard_normal(shape) * 0.3).astype(np.float32)}
    return samples


_TEXT = arrays("text/eval_tokens.npz", "ids", "ids", lambda x: x[None].astype(np.int64))
_CIFAR, _IMAGENET, _N1000 = (1, 3, 32, 32), (1, 3, 224, 224), imagenet("input")


def _fashion(name: str) -> Samples:
    return arrays("fashion_mnist/fashion_test.npz", "x", name,
                  lambda x: ((x.astype(np.float32) / 255 - 0.2860) / 0.3530)[None, None].astype(np.float32))


def _mfcc(key: str) -> Samples:
    return arrays("kws/speech_commands_mfcc.npz", key, "mfcc", lambda x: x.reshape(1, -1).astype(np.float32))


MODELS = (
    RealModel("anomaly/mlperf_ad01_autoencoder.onnx", _anomaly, {"input_1": (1, 640)}),
    RealModel("audio/dtln_1_opset11.onnx", _speech("input_3", (1, 2, 128, 2), 257, "input_2")),
    RealModel("audio/dtln_2_opset11.onnx", _speech("input_5", (1, 2, 128, 2), 512, "input_4")),
    RealModel("audio/silero_vad_16k_opset15.onnx", _speech("state", (2, 1, 128), 576, "input"),
              {"input": (1, 576), "state": (2, 1, 128)}, {"sr": np.array(16000, np.int64)}),
    RealModel("audio/silero_vad.ts.pt", _speech("state", (2, 1, 128), 576, "x"), {"x": (1, 576), "state": (2, 1, 128)},
              submodule="_model"),
    RealModel("cifar10/mlperf_resnet8.onnx", cifar("input_1", lambda x: x[None]), {"input_1": (1, 32, 32, 3)},
              classes=True),
    RealModel("cifar10/resnet20_cifar10.onnx", cifar("input", _cifar_nchw), {"input": _CIFAR}, classes=True),
    RealModel("cifar10/resnet20_cifar10.pt2", cifar("x", _cifar_nchw), {"x": _CIFAR}, classes=True),
    RealModel("cifar10/resnet20_cifar10.ts.pt", cifar("x", _cifar_nchw), {"x": _CIFAR}, classes=True),
    RealModel("coco/yolox_nano_opset11.onnx",
              pictures("coco/images", "images", 416, 416, lambda x: _nchw(x[:, :, ::-1]))),
    RealModel("faces/blazeface_short_range.onnx",
              pictures("faces/images", "input", 128, 128, lambda x: x[None] / np.float32(127.5) - 1)),
    RealModel("faces/ultraface_rfb320_opset9.onnx",
              pictures("faces/images", "input", 320, 240, lambda x: _nchw((x - 127) / 128))),
    RealModel("fashion_mnist/vit_fashion.onnx", _fashion("input"), {"input": (1, 1, 28, 28)}, classes=True),
    RealModel("fashion_mnist/vit_fashion.pt2", _fashion("x"), {"x": (1, 1, 28, 28)}, classes=True),
    RealModel("fashion_mnist/vit_fashion.ts.pt", _fashion("x"), {"x": (1, 1, 28, 28)}, classes=True),
    RealModel("imagenet/mobilenetv1_025.onnx", _N1000, {"input": _IMAGENET}, classes=True),
    RealModel("imagenet/mobilenetv1_025.pt2", imagenet("x"), {"x": _IMAGENET}, classes=True),
    RealModel("imagenet/mobilenetv1_025.ts.pt", imagenet("x"), {"x": _IMAGENET}, classes=True),
    RealModel("imagenet/mobilenetv1_025_keras.onnx", _N1000, {"input": _IMAGENET}, classes=True),
    RealModel("kws/arm_DS_CNN_S.onnx", _mfcc("mfcc_hop20"), {"mfcc": (1, 490)}, classes=True),
    RealModel("kws/arm_Basic_LSTM_S.onnx", _mfcc("mfcc_hop20"), {"mfcc": (1, 490)}, classes=True),
    RealModel("kws/arm_GRU_S.onnx", _mfcc("mfcc_hop40"), {"mfcc": (1, 250)}, classes=True),
    RealModel("kws/mlperf_kws_dscnn.onnx", _kws01, {"input_1": (1, 49, 10, 1)}, classes=True),
    RealModel("mnist/mnist_cntk_opset8.onnx", arrays("mnist/mnist_test.npz", "x", "Input3",
              lambda x: x[None, None].astype(np.float32)), classes=True),
    RealModel("segmentation/selfie_segmentation.onnx",
              pictures("coco/images", "input_1", 256, 256, lambda x: x[None] / np.float32(255))),
    RealModel("text/stories260k.onnx", _TEXT, {"ids": (1, 128)}),
    RealModel("text/stories260k.pt2", _TEXT, {"ids": (1, 128)}),
    RealModel("vww/mlperf_vww_mobilenetv1_025_96.onnx", arrays("vww/vww96.npz", "x", "input_1",
              lambda x: x[None].astype(np.float32) / 255), {"input_1": (1, 96, 96, 3)}, classes=True),
)


def find(file: str) -> RealModel:
    """The model of that file. Raises KeyError if there is none."""
    return {m.file: m for m in MODELS}[file]


def boxes() -> dict[str, object]:
    """The labelled boxes of the COCO pictures."""
    answer: dict[str, object] = json.loads((DATA / "coco/boxes.json").read_text())
    return answer
