"""`tools/prune_speed`: pruned engines beside the whole ones, in turns, on this machine."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

import edgec
from edgec.bundle import read_bundle
from edgec.compress import stages
from edgec.compress.prune.channels import RANKINGS, PruneOptions, count_macs
from edgec.compress.prune.select import Limits
from edgec.ir import checkpoint
from edgec.plan.forecast import measured_forecast
from edgec.runtime.layers import measure_layers, open_machine
from edgec.target import load_target
from tools.bench_suite.__main__ import machine
from tools.bench_suite.catalogue import Missing, find, prepare
from tools.bench_suite.places import ROOT, Places

_MODELS = ("resnet20_cifar10", "resnet18", "mobilenet_v2")
_GOAL = 1.6  # times faster that half of the multiply-adds must be
_RUNS = 50  # of the kernels one by one
_WARM = 3  # runs before the clock counts in each turn


@dataclass
class Row:
    """One pruned model. macs, predicted: share of the whole model's; seconds: by turn, of the whole and the pruned."""

    model: str
    macs: float
    predicted: float
    seconds: list[list[float]] = field(default_factory=list)

    @property
    def speedup(self) -> float:
        """Median over the turns of the whole engine's time by the pruned one's."""
        return float(np.median([whole / small for whole, small in self.seconds]))


def build(name: str, options: PruneOptions, predicted: bool, places: Places) -> tuple[Row, list[Path]]:
    """Both bundles; the kernels of the whole one are timed first, and what they took says where pruning pays.

    predicted: the share is one of the predicted time. Raises Missing if the model cannot be had.
    """
    model, device = prepare(find(name), places), load_target("host")
    folder = places.work(name, "pruned", "float32")
    folder.mkdir(parents=True, exist_ok=True)
    whole = edgec.build(model.path, device, folder / "whole", samples=1)
    bundle = read_bundle(whole)
    with open_machine("local", device) as place:
        layers = measure_layers(bundle, place, _RUNS)
    graph = stages.prepare(edgec.load(model.path).graph)
    seconds = measured_forecast(device, graph, layers.seconds, layers.ghz).seconds
    stage = stages.prune(graph, options, cost=seconds if predicted else count_macs, steer=seconds)
    row = Row(name, count_macs(stage.graph) / count_macs(graph), seconds(stage.graph) / seconds(graph))
    small = folder / "small.edgec"
    checkpoint.save(stage.graph, small)
    return row, [whole, edgec.build(small, device, folder / "small", samples=1)]


def measure(row: Row, bundles: Sequence[Path], turns: int) -> None:
    """Time both in turns; each turn lasts some tenths of a second."""
    engines = [edgec.open_bundle(folder, threads=1) for folder in bundles]
    rng = np.random.default_rng(0)
    feeds = [{p.name: rng.standard_normal(p.shape).astype(p.dtype) for p in e.inputs} for e in engines]
    runs = [max(10, int(0.3 / np.median(e.time(f, 5)))) for e, f in zip(engines, feeds, strict=True)]
    for _ in range(turns):
        row.seconds.append([float(np.median(e.time(f, _WARM + n)[_WARM:]))
                            for e, f, n in zip(engines, feeds, runs, strict=True)])
    for engine in engines:
        engine.close()


def main() -> int:
    """Build, measure, print; 1 if a model gains less than it must."""
    parser = argparse.ArgumentParser(prog="tools/prune_speed", description=(
        "Prune models with random weights, build them whole and pruned for this machine, and time both in turns."))
    parser.add_argument("models", nargs="*", default=list(_MODELS), help="as of tools/bench; default: %(default)s")
    parser.add_argument("--share", type=float, default=0.5, help="of the multiply-adds; default: %(default)s")
    parser.add_argument("--predicted", action="store_true", help="the share is one of the predicted time")
    parser.add_argument("--ranking", default="cost", choices=RANKINGS, help="default: %(default)s")
    parser.add_argument("--align", type=int, default=0, help="default: what the kernels of this machine want")
    parser.add_argument("--turns", type=int, default=7, help="default: %(default)s")
    parser.add_argument("--prepare", action="store_true", help="build only; the next call with --built measures")
    parser.add_argument("--built", action="store_true", help="measure what was built before")
    asked = parser.parse_args()
    places = Places(Path(os.environ.get("EDGEC_BENCH", ROOT / ".bench")).resolve())
    device = load_target("host")
    options = PruneOptions(None, asked.share, asked.ranking, "l2", Limits(align=asked.align or device.channel_block))
    rows = []
    for name in asked.models:
        stored = places.work(name, "pruned", "float32") / "row.json"
        try:
            if asked.built:
                row = Row(**json.loads(stored.read_text()))
                bundles = [stored.parent / kind for kind in ("whole", "small")]
            else:
                row, bundles = build(name, options, asked.predicted, places)
                stored.write_text(json.dumps(asdict(row)))
        except Missing as reason:
            print(f"{name}: {reason}", file=sys.stderr)
            continue
        if not asked.prepare:
            measure(row, bundles, asked.turns)
        rows.append(row)
    if asked.prepare:
        return 0
    print("| model | multiply-adds | predicted time | whole | pruned | faster |\n|---|---|---|---|---|---|")
    for row in rows:
        whole, small = np.median(np.array(row.seconds), axis=0) * 1000
        print(f"| {row.model} | {row.macs:.2f} | {row.predicted:.2f} | {whole:.3f} ms | {small:.3f} ms | "
              f"{row.speedup:.2f}x |")
    print(f"\n{machine()}, one thread, {asked.turns} turns")
    return int(any(row.speedup < _GOAL for row in rows))


if __name__ == "__main__":
    sys.exit(main())
