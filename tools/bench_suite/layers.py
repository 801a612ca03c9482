"""Layer by layer beside a peer: its own profile, and our kernels under a clock, paired by what they compute.

A layer is a product (convolution, matrix product, recurrent cell) with the pointwise nodes behind it. The n-th product
with so many results of so many terms is the n-th one of the peer, if both have equally many of them, first as the
numbers are, then with channels rounded up to whole vectors, as a peer may compute them. All else is the rest: pools,
moves, conversions of layouts, softmax, normalization, and products that have no counterpart.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from edgec.bundle import read_bundle
from edgec.runtime.layers import measure_layers, open_machine
from tools.bench_suite.catalogue import Missing, Model
from tools.bench_suite.places import Places

PEERS = ("onnxruntime", "openvino")  # those that tell the time of their nodes
_PRODUCTS = frozenset((
    "Conv", "FusedConv", "ConvTranspose", "Gemm", "FusedGemm", "MatMul", "FusedMatMul", "LSTM", "GRU", "RNN",
    "Convolution", "GroupConvolution", "Deconvolution", "GroupDeconvolution", "FullyConnected", "LSTMSequence",
    "GRUSequence", "RNNSeq"))
_POINTWISE = frozenset((
    "Relu", "Clip", "Sigmoid", "Mul", "Add", "Sub", "Div", "HardSigmoid", "HardSwish", "QuickGelu", "Gelu", "FastGelu",
    "BiasGelu", "LeakyRelu", "PRelu", "Tanh", "Erf", "Subgraph", "Eltwise", "Swish", "Clamp"))
_LANES = 16  # channels of a vector
_AHEAD = 1.05  # a peer wins a layer if we take longer by more than what differs from run to run
REST = "the rest"


@dataclass(frozen=True)
class Layer:
    """One product with what follows it, or all the rest. shape: of its results, each of which is a sum of `terms`."""

    name: str
    work: str
    shape: tuple[int, ...]
    seconds: float
    terms: int = 0

    @property
    def results(self) -> int:
        """How many numbers it computes; 0 for the rest."""
        return prod(self.shape) if self.shape else 0

    @property
    def rounded(self) -> tuple[int, ...]:
        """Shape and terms with whole vectors of channels."""
        shape = [-(-d // _LANES) * _LANES if axis == 1 and len(self.shape) > 2 else d
                 for axis, d in enumerate(self.shape)]
        return (*shape, -(-self.terms // _LANES) * _LANES)


@dataclass(frozen=True)
class Pair:
    """One of our layers, and the seconds of the peer's."""

    layer: Layer
    peer: float

    @property
    def ratio(self) -> float:
        """Our time over the peer's."""
        return self.layer.seconds / self.peer if self.peer else float("inf")


def of_peer(nodes: Sequence[Mapping[str, Any]]) -> list[Layer]:
    """Layers of a profile; the last one is the rest."""
    layers: list[Layer] = []
    rest = 0.0
    for node in nodes:
        results = prod(node["shape"])
        if node["op"] in _PRODUCTS:
            layers.append(Layer(node["name"], node["op"], tuple(node["shape"]), node["seconds"], _terms(node)))
        elif node["op"] in _POINTWISE and layers and layers[-1].results == results:
            last = layers[-1]
            layers[-1] = replace(last, work=f"{last.work}+{node['op']}", seconds=last.seconds + node["seconds"])
        else:
            rest += node["seconds"]
    return [*layers, Layer(REST, "", (), rest)]


def of_report(report: Mapping[str, Any], seconds: Mapping[str, float]) -> list[Layer]:
    """Layers of our engine: seconds by kernel, and the report that says what each kernel computes."""
    rows = {row["name"]: row for row in report["kernels"]}
    algorithms = {row["kernel"]: row["algorithm"] for row in report["times"]["rows"]}
    layers = []
    rest = 0.0
    for name, value in seconds.items():
        row = rows.get(name)
        if row is None or not row["macs"] or not row["outputs"]:
            rest += value
            continue
        shape = tuple(int(d) for d in re.findall(r"\d+", row["outputs"][0].partition("[")[2]))
        work = f"{'+'.join(row['ops'])} to {'x'.join(map(str, shape))}, {algorithms.get(name, '')}"
        layers.append(Layer(name, work, shape, value, row["macs"] // prod(shape)))
    return [*layers, Layer(REST, "", (), rest)]


def pair(ours: Sequence[Layer], theirs: Sequence[Layer]) -> list[Pair]:
    """The layers of both, ours in their order; the last pair is the rest. Nothing is left out."""
    peers: dict[int, Layer] = {}
    left = [x for x in ours if x.shape], [x for x in theirs if x.shape]
    keys: list[Callable[[Layer], tuple[int, ...]]] = [lambda x: (x.results, x.terms), lambda x: x.rounded]
    for key in keys:
        wanted, found = _grouped(left[0], key), _grouped(left[1], key)
        for k, own in wanted.items():
            if len(own) == len(found.get(k, ())):
                peers.update({id(a): b for a, b in zip(own, found[k], strict=True)})
        taken = {id(b) for b in peers.values()}
        left = [x for x in left[0] if id(x) not in peers], [x for x in left[1] if id(x) not in taken]
    rest = [sum(x.seconds for x in (*(x for x in side if not x.shape), *unpaired))
            for side, unpaired in zip((ours, theirs), left, strict=True)]
    paired = [Pair(x, peers[id(x)].seconds) for x in ours if id(x) in peers]
    return [*paired, Pair(Layer(REST, "", (), rest[0]), rest[1])]


def _grouped(layers: Sequence[Layer], key: Callable[[Layer], tuple[int, ...]]) -> dict[tuple[int, ...], list[Layer]]:
    groups: dict[tuple[int, ...], list[Layer]] = defaultdict(list)
    for layer in layers:
        groups[key(layer)].append(layer)
    return groups


def _terms(node: Mapping[str, Any]) -> int:
    """Products in a sum: a convolution's weights for one channel, else a row of a matrix product's first factor."""
    if "Conv" in node["op"] and len(node["inputs"]) > 1:
        return prod(node["inputs"][1]) // node["shape"][1]
    return node["inputs"][0][-1] if node["inputs"] and node["inputs"][0] else 0


def measure(model: Model, peers: Sequence[str], bundle: Path, places: Places, rounds: int,
            runs: int) -> tuple[dict[str, list[Pair]], dict[str, str]]:
    """Pairs and version by peer. Everyone takes a turn in each round; a layer's time is the median of the rounds.

    Raises Missing if a peer cannot be profiled.
    """
    opened = read_bundle(bundle)
    report = opened.report()
    own: list[Mapping[str, float]] = []
    others: dict[str, list[list[Mapping[str, Any]]]] = {p: [] for p in peers}
    versions: dict[str, str] = {}
    with open_machine("local", opened.target) as machine:
        for _ in range(rounds):
            own.append(measure_layers(opened, machine, runs).seconds)
            for peer in peers:
                told = _profile(peer, model, places, runs)
                versions[peer] = told["version"]
                others[peer].append(told["nodes"])
    ours = of_report(report, {name: float(np.median([turn[name] for turn in own])) for name in own[0]})
    return {peer: pair(ours, of_peer(_median(turns))) for peer, turns in others.items()}, versions


def _median(turns: Sequence[Sequence[Mapping[str, Any]]]) -> list[dict[str, Any]]:
    """One profile of several, in the order of the first: a node is the n-th one of its name."""
    times: dict[tuple[str, int], list[float]] = defaultdict(list)
    keys = []
    for turn in turns:
        seen: Counter[str] = Counter()
        keys.append([(node["name"], seen.update([node["name"]]) or seen[node["name"]]) for node in turn])
        for key, node in zip(keys[-1], turn, strict=True):
            times[key].append(node["seconds"])
    return [{**node, "seconds": float(np.median(times[key]))} for key, node in zip(keys[0], turns[0], strict=True)]


def _profile(peer: str, model: Model, places: Places, runs: int) -> Any:
    folder = places.work(model.entry.name, peer, "float32")
    command = [str(places.python()), str(Path(__file__).with_name("profile_worker.py")), peer, str(model.path),
               str(model.feeds), str(folder), str(runs)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        raise Missing(f"{peer} cannot be profiled: {lines[-1] if lines else 'no reason given'}")
    return json.loads(done.stdout)


def rows(model: str, peer: str, pairs: Sequence[Pair]) -> list[list[str]]:
    """Cells of the layers that the peer wins, those with the largest loss first; one line that says so if none is."""
    total = sum(p.layer.seconds for p in pairs)
    lost = sorted((p for p in pairs if p.ratio > _AHEAD), key=lambda p: p.peer - p.layer.seconds)
    matched = sum(p.layer.seconds for p in pairs[:-1]) / total if total else 0.0
    cells = [[model, peer, p.layer.name, p.layer.work, f"{p.layer.seconds * 1e6:.1f}", f"{p.peer * 1e6:.1f}",
              f"{p.ratio:.2f}", f"{p.layer.seconds / total:.1%}"] for p in lost]
    return cells or [[model, peer, f"none of {len(pairs) - 1}, nor the rest", "", "", "", "", f"{matched:.1%}"]]


HEAD = ["model", "peer", "layer", "what it computes, and how", "edgec us", "peer us", "ratio", "of our time"]
