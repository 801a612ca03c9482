"""The models that are measured: networks of networks.py, and the real models of the data folder."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx

from tools.bench_suite.places import DATA, Places

_MOST_INTEGERS = 100  # random whole numbers are below: every vocabulary here is larger
NETWORKS = ("resnet18", "resnet50", "mobilenet_v2", "mobilenet_v3_small", "mobilenet_v3_large", "efficientnet_b0",
            "shufflenet_v2_x1_0", "squeezenet1_1", "vgg11", "yolo", "ds_cnn", "vit_tiny", "lstm")


class Missing(Exception):
    """A model or a contender cannot be had; the text is the reason."""


@dataclass(frozen=True)
class Entry:
    """file: below the data folder, empty for a network. shapes: to bind; values: inputs with a fixed meaning."""

    name: str
    file: str = ""
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    values: Mapping[str, np.ndarray] = field(default_factory=dict)


ENTRIES = (
    *(Entry(name) for name in NETWORKS),
    Entry("mobilenetv1_025", "imagenet/mobilenetv1_025.onnx", {"input": (1, 3, 224, 224)}),
    Entry("mobilenetv1_025_keras", "imagenet/mobilenetv1_025_keras.onnx", {"input": (1, 3, 224, 224)}),
    Entry("yolox_nano", "coco/yolox_nano_opset11.onnx"),
    Entry("resnet20_cifar10", "cifar10/resnet20_cifar10.onnx", {"input": (1, 3, 32, 32)}),
    Entry("mlperf_resnet8", "cifar10/mlperf_resnet8.onnx", {"input_1": (1, 32, 32, 3)}),
    Entry("mlperf_vww", "vww/mlperf_vww_mobilenetv1_025_96.onnx", {"input_1": (1, 96, 96, 3)}),
    Entry("mlperf_kws_dscnn", "kws/mlperf_kws_dscnn.onnx", {"input_1": (1, 49, 10, 1)}),
    Entry("mlperf_autoencoder", "anomaly/mlperf_ad01_autoencoder.onnx", {"input_1": (1, 640)}),
    Entry("arm_ds_cnn_s", "kws/arm_DS_CNN_S.onnx", {"mfcc": (1, 490)}),
    Entry("arm_lstm_s", "kws/arm_Basic_LSTM_S.onnx", {"mfcc": (1, 490)}),
    Entry("arm_gru_s", "kws/arm_GRU_S.onnx", {"mfcc": (1, 250)}),
    Entry("selfie_segmentation", "segmentation/selfie_segmentation.onnx"),
    Entry("ultraface", "faces/ultraface_rfb320_opset9.onnx"),
    Entry("blazeface", "faces/blazeface_short_range.onnx"),
    Entry("vit_fashion", "fashion_mnist/vit_fashion.onnx", {"input": (1, 1, 28, 28)}),
    Entry("mnist_cntk", "mnist/mnist_cntk_opset8.onnx"),
    Entry("dtln_1", "audio/dtln_1_opset11.onnx"),
    Entry("dtln_2", "audio/dtln_2_opset11.onnx"),
    Entry("silero_vad", "audio/silero_vad_16k_opset15.onnx", {"input": (1, 576), "state": (2, 1, 128)},
          {"sr": np.array(16000, np.int64)}),
    Entry("stories260k", "text/stories260k.onnx", {"ids": (1, 128)}),
)


@dataclass(frozen=True)
class Model:
    """An ONNX file with static shapes, and inputs for it."""

    entry: Entry
    path: Path
    feeds: Path


def find(name: str) -> Entry:
    """The entry of that name. Raises Missing with the names that exist."""
    for entry in ENTRIES:
        if entry.name == name:
            return entry
    raise Missing(f"there is no model {name}; there are {', '.join(e.name for e in ENTRIES)}")


def prepare(entry: Entry, places: Places) -> Model:
    """The model's files, made if they are not there. Raises Missing if they cannot be had."""
    folder = places.models / entry.name
    model = Model(entry, folder / "model.onnx", folder / "feeds.npz")
    if model.path.exists() and model.feeds.exists():
        return model
    folder.mkdir(parents=True, exist_ok=True)
    made = folder / "making.onnx"
    if entry.file:
        _bind(entry, DATA / entry.file, made)
    else:
        _export(entry, made, places)
    rng = np.random.default_rng(0)
    graph = onnx.load(made, load_external_data=False).graph
    constants = {tensor.name for tensor in graph.initializer}
    np.savez(model.feeds, **{i.name: _feed(entry, i, rng) for i in graph.input if i.name not in constants})
    made.replace(model.path)
    return model


def _export(entry: Entry, made: Path, places: Places) -> None:
    """In a process of its own: torch stays out of this one."""
    environment = {**os.environ, "PYTHONPATH": str(places.torchvision()), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(Path(__file__).with_name("networks.py")), entry.name, str(made)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        raise Missing(f"cannot be exported: {lines[-1] if lines else 'no reason given'}")


def _bind(entry: Entry, source: Path, made: Path) -> None:
    if not source.is_file():
        raise Missing(f"{source} is not there; EDGEC_DATA names the data folder")
    model = onnx.load(source)
    for value in model.graph.input:
        if value.name in entry.shapes:
            dims = value.type.tensor_type.shape.dim
            for dim, size in zip(dims, entry.shapes[value.name], strict=True):
                dim.dim_value = size
    del model.graph.value_info[:]  # inferred for other shapes
    for value in model.graph.output:
        for dim in value.type.tensor_type.shape.dim:
            dim.ClearField("value")
    onnx.save(onnx.shape_inference.infer_shapes(model, data_prop=True), made)


def _feed(entry: Entry, value: onnx.ValueInfoProto, rng: np.random.Generator) -> np.ndarray:
    if value.name in entry.values:
        return entry.values[value.name]
    kind = onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
    shape = [dim.dim_value for dim in value.type.tensor_type.shape.dim]
    if not all(shape):
        raise Missing(f"the input {value.name} has no static shape")
    if kind.kind in "iu":
        return rng.integers(0, _MOST_INTEGERS, shape).astype(kind)
    return rng.standard_normal(shape).astype(kind)
