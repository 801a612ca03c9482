"""The real models that int8 must not hurt: which samples calibrate, which measure, by which metric, how much may go.

Calibration takes training parts, or samples that the score leaves out.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from edgec.data.dataset import Data, Sample, open_data
from edgec.data.metrics import find_metric, si_snr
from edgec.frontends import load
from edgec.interchange.onnx_export import to_model
from edgec.interchange.session import open_session, run_session
from edgec.ir.graph import Graph
from edgec.passes.pipelines import optimize
from tests import real_models
from tests.real_models import DATA

Run = Callable[[Mapping[str, np.ndarray]], Mapping[str, np.ndarray]]
Split = Callable[[Graph], tuple[Data, Data]]


@dataclass(frozen=True)
class Case:
    """limit: points of the metric that int8 may lose. split: data for calibration and for the score.

    score: for models that no metric of single samples fits: from a run function to the score.
    """

    name: str
    file: str
    limit: float
    split: Split
    metric: str = "top1"
    score: Callable[[Run], float] | None = None
    values: Mapping[str, np.ndarray] = field(default_factory=dict)

    def graph(self) -> Graph:
        """The float graph after the passes."""
        known = real_models.find(self.file)
        model = load(known.path, inputs=known.inputs, values=known.values)
        return optimize(model.graph)[0]

    def measure(self, run: Run, samples: Iterable[Sample]) -> float:
        """The score of a model, given as a function from feeds to outputs."""
        if self.score is not None:
            return self.score(run)
        metric = find_metric(self.metric)
        return metric.score([metric.measure(run(s.feeds), s.feeds if metric.truth == "feeds" else s.label, s)
                             for s in samples])

    def __str__(self) -> str:
        return self.name


def runner(graph: Graph) -> Run:
    """Runs a graph, with Q and DQ nodes for its grids, in ONNX Runtime."""
    session = open_session(to_model(graph).SerializeToString())
    return lambda feeds: run_session(session, feeds)


def _two_files(first: str, second: str, calibration: int, score: int | None, preprocess: str) -> Split:
    def split(graph: Graph) -> tuple[Data, Data]:
        a, b = (open_data(DATA / f, graph.inputs, preprocess=preprocess or None) for f in (first, second))
        return a.take(calibration), b if score is None else b.take(score)
    return split


def _one_file(file: str, share: float, preprocess: str = "", labels: str = "") -> Split:
    def split(graph: Graph) -> tuple[Data, Data]:
        name, _, key = file.partition(":")
        path: Any = DATA / name if not key else f"{DATA / name}:{key}"
        data = open_data(path, graph.inputs, preprocess=preprocess or None, labels=DATA / labels if labels else None)
        return data.split(share)
    return split


def _selfie(graph: Graph) -> tuple[Data, Data]:
    """Masks exist for some of the pictures only; the others calibrate."""
    data = open_data(DATA / "coco/images", graph.inputs, preprocess="resize=stretch scale=1/255")
    masked = {p.stem for p in (DATA / "segmentation/masks").glob("*.png")}

    def scored() -> Iterator[tuple[dict[str, np.ndarray], np.ndarray]]:
        from PIL import Image

        for sample in data:
            stem = sample.name.rpartition("/")[2].removesuffix(".jpg")
            if stem in masked:
                mask = np.asarray(Image.open(DATA / f"segmentation/masks/{stem}.png"))
                yield dict(sample.feeds), mask > 0

    def rest() -> Iterator[dict[str, np.ndarray]]:
        yield from (dict(s.feeds) for s in data
                    if s.name.rpartition("/")[2].removesuffix(".jpg") not in masked)

    return open_data(rest, graph.inputs), open_data(scored, graph.inputs)


def _faces(graph: Graph) -> tuple[Data, Data]:
    """Pictures of everyday scenes calibrate, group photos with pseudo-labels measure."""
    recipe = "resize=stretch scale=1/128 mean=0.9921875"
    scenes = open_data(DATA / "coco/images", graph.inputs, preprocess=recipe)
    photos = open_data(DATA / "faces/images", graph.inputs, preprocess=recipe)
    boxes = json.loads((DATA / "faces/consensus_boxes.json").read_text())

    def scored() -> Iterator[tuple[dict[str, np.ndarray], np.ndarray]]:
        for sample in photos:
            p = sample.placement
            assert p is not None
            found = np.array(boxes[sample.name.rpartition("/")[2]], np.float64).reshape(-1, 4)
            found *= [p.scale_x, p.scale_y, p.scale_x, p.scale_y]
            yield dict(sample.feeds), np.concatenate([np.zeros((len(found), 1)), found], 1)

    return scenes, open_data(scored, graph.inputs)


def _blocks(wave: np.ndarray, size: int, step: int) -> Iterator[np.ndarray]:
    for start in range(0, len(wave) - size + 1, step):
        yield wave[start:start + size]


def _silero(run: Run, clip: np.ndarray) -> Iterator[tuple[dict[str, np.ndarray], Mapping[str, np.ndarray]]]:
    """Feeds and outputs of every block of a clip: 64 samples of the past and 512 new ones, with the state."""
    state = np.zeros((2, 1, 128), np.float32)
    wave = np.concatenate([np.zeros(64, np.float32), clip.astype(np.float32) / 32768])
    for block in _blocks(wave, 576, 512):
        feeds = {"input": block[None], "state": state}
        outputs = run(feeds)
        state = next(a for a in outputs.values() if a.shape == state.shape)
        yield feeds, outputs


def _clips() -> list[tuple[np.ndarray, int]]:
    with np.load(DATA / "audio/vad_clips.npz") as data:
        return list(zip(data["pcm"], data["speech"].tolist(), strict=True))


def _silero_split(graph: Graph) -> tuple[Data, Data]:
    float_run = runner(graph)

    def every_fifth() -> Iterator[dict[str, np.ndarray]]:
        for clip, _ in _clips()[::5]:
            yield from (feeds for feeds, _ in _silero(float_run, clip))

    data = open_data(every_fifth, graph.inputs)
    return data, data


def _silero_score(run: Run) -> float:
    """Percent of the clips that do not calibrate whose largest probability is on the right side of one half."""
    right = []
    for index, (clip, speech) in enumerate(_clips()):
        if index % 5:
            most = max(float(next(a for a in out.values() if a.size == 1).reshape(())) for _, out in _silero(run, clip))
            right.append((most > 0.5) == bool(speech))
    return 100 * float(np.mean(right))


CASES = (
    Case("resnet20", "cifar10/resnet20_cifar10.onnx", 0.1, _two_files(
        "cifar10/cifar10_train_jpeg.zip", "cifar10/cifar10_test_jpeg.zip", 256, None,
        "scale=1/255 mean=0.485,0.456,0.406 std=0.229,0.224,0.225")),
    Case("resnet8", "cifar10/mlperf_resnet8.onnx", 0.1, _two_files(
        "cifar10/cifar10_train_jpeg.zip", "cifar10/cifar10_test_jpeg.zip", 256, None, "raw")),
    Case("vit", "fashion_mnist/vit_fashion.onnx", 0.1, _two_files(
        "fashion_mnist/fashion_train.npz", "fashion_mnist/fashion_test.npz", 256, None,
        "scale=1/255 mean=0.2860 std=0.3530")),
    Case("mobilenetv1", "imagenet/mobilenetv1_025.onnx", 0.6, _one_file(
        "imagenet/images", 0.2, "resize=none crop=224 scale=1/127.5 mean=1", "imagenet/labels.csv")),
    Case("ds_cnn", "kws/arm_DS_CNN_S.onnx", 0.3, _one_file("kws/speech_commands_mfcc.npz:mfcc_hop20", 0.1)),
    Case("vww", "vww/mlperf_vww_mobilenetv1_025_96.onnx", 0.4, _one_file("vww/vww96.npz:x", 0.2, "unit")),
    Case("yolox", "coco/yolox_nano_opset11.onnx", 0.5, _one_file(
        "coco/images", 0.25, "resize=letterbox align=corner color=BGR scale=1", "coco/boxes.json"), "ap50:yolox"),
    Case("selfie", "segmentation/selfie_segmentation.onnx", 0.5, _selfie, "iou"),
    Case("ultraface", "faces/ultraface_rfb320_opset9.onnx", 0.5, _faces, "ap50:ssd"),
    Case("silero", "audio/silero_vad_16k_opset15.onnx", 0.0, _silero_split, score=_silero_score),
    Case("stories", "text/stories260k.onnx", 0.5, _one_file("text/eval_tokens.npz:ids", 0.1), "next-token"),
)


def dtln(first: Run, second: Run) -> float:
    """Mean SI-SNR in dB of the denoised clips: both nets in turn, blocks of 512 with a shift of 128."""
    scores = []
    with np.load(DATA / "audio/denoise_pairs.npz") as data:
        for noisy, clean in zip(data["noisy"], data["clean"], strict=True):
            found = np.zeros(len(noisy), np.float64)
            for start, _, block in dtln_blocks(first, second, noisy):
                found[start:start + 512] += block
            shift = 384  # samples by which the overlap of blocks delays the output
            scores.append(si_snr(found[shift:], clean[:len(found) - shift].astype(np.float64)))
    return float(np.mean(scores))


def dtln_blocks(first: Run, second: Run, noisy: np.ndarray) -> Iterator[tuple[int, tuple[dict[str, np.ndarray], ...],
                                                                              np.ndarray]]:
    """(start, feeds of both nets, denoised block) of every block of a clip."""
    states = [np.zeros((1, 2, 128, 2), np.float32) for _ in range(2)]
    wave = noisy.astype(np.float32) / 32768
    buffer = np.zeros(512, np.float32)
    for start in range(0, len(wave) - 127, 128):
        buffer = np.concatenate([buffer[128:], wave[start:start + 128]])
        spectrum = np.fft.rfft(buffer)
        one = {"input_2": np.abs(spectrum).astype(np.float32).reshape(1, 1, 257), "input_3": states[0]}
        mask, states[0] = _mask_and_state(first(one))
        estimate = np.fft.irfft(spectrum * mask.reshape(-1)).astype(np.float32)
        two = {"input_4": estimate.reshape(1, 1, 512), "input_5": states[1]}
        block, states[1] = _mask_and_state(second(two))
        yield start, (one, two), block.reshape(-1)[:len(wave) - start]


def _mask_and_state(outputs: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    state = next(a for a in outputs.values() if a.ndim == 4)
    return next(a for a in outputs.values() if a.ndim != 4), state
