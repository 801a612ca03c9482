"""`tools/bench`: our engine beside the peers, in turns, on this machine."""

from __future__ import annotations

import argparse
import datetime
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from edgec.target import load_target
from tools.bench_suite import results
from tools.bench_suite.catalogue import ENTRIES, Entry, Missing, find, prepare
from tools.bench_suite.contenders import ENGINE, Contender, Setting, differs, start, take_turns
from tools.bench_suite.places import PEERS, ROOT, Places, engine_digest

_REFERENCE = "onnxruntime"  # the outputs that the others must have


def arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    """What was asked for."""
    parser = argparse.ArgumentParser(prog="tools/bench", description=(
        "Measure edgec's CPU engine against ONNX Runtime, OpenVINO, ncnn and MNN: in turns, with the same threads. "
        "What was measured before with the same engine is not measured again."))
    names = [entry.name for entry in ENTRIES]
    parser.add_argument("--models", default=",".join(names), help="names with commas between them; default: all. "
                        f"There are {', '.join(names)}")
    parser.add_argument("--peers", default=",".join(PEERS), help="default: %(default)s")
    parser.add_argument("--threads", default="1", help="one or more numbers; default: %(default)s")
    parser.add_argument("--precision", default="float32", help="float32, int8, float16 on Arm; default: %(default)s")
    parser.add_argument("--target", help="what our engine is built for; default: host, or rpi5 with --instructions")
    parser.add_argument("--rounds", type=int, default=5, help="how often all take turns; default: %(default)s")
    parser.add_argument("--runs", type=int, default=0, help="runs in a turn; default: what fills 0.3 s")
    parser.add_argument("--output", type=Path, help="folder of the results; default: results below EDGEC_BENCH")
    parser.add_argument("--prepare", action="store_true", help="convert and build only")
    parser.add_argument("--built", action="store_true",
                        help="take the engines that are there, even if sources changed since they were built")
    parser.add_argument("--again", action="store_true", help="measure also what was measured before")
    parser.add_argument("--instructions", action="store_true",
                        help="count instructions of the AArch64 engines and the peers' aarch64 wheels under qemu")
    parser.add_argument("--layers", action="store_true",
                        help="the layers at which ONNX Runtime or OpenVINO, by their own profiles, are faster than "
                        "ours: float32, one thread")
    parser.add_argument("--caches", nargs="?", const="target", metavar="L1D,L2",
                        help="with --instructions: count misses of these data caches too, each KiB:ways:line; without "
                        "a value those of the target")
    found = parser.parse_args(words)
    found.target = found.target or ("rpi5" if found.instructions else "host")
    if found.rounds < 1 or found.runs < 0:
        parser.error("rounds must be at least 1 and runs at least 0")
    return found


def measure(entry: Entry, setting: Setting, names: Sequence[str], places: Places, rounds: int, runs: int,
            built: bool) -> results.Row:
    """One row; rounds = 0 prepares only."""
    row = results.Row(entry.name, setting.precision, setting.threads, setting.target, setting.digest,
                      datetime.date.today().isoformat(), machine())
    contenders: list[Contender] = []
    try:
        model = prepare(entry, places)
        for name in names:
            say(f"{entry.name} {setting.precision}: loading {name}")
            try:
                contenders.append(start(name, model, setting, places, built))
            except Missing as reason:
                row.reasons[name] = str(reason)
        if setting.precision == "float32":
            contenders = _alike(contenders, row)
        row.versions = {c.name: c.version for c in contenders}
        row.digest = row.versions.get(ENGINE, row.digest)
        row.details = {c.name: c.detail for c in contenders if c.detail}
        if rounds and contenders:
            row.medians = take_turns(contenders, rounds, runs, lambda text: say(f"{entry.name}: {text}"))
    except Missing as reason:
        row.missing = str(reason)
    finally:
        for c in contenders:
            c.close()
    return row


def _alike(contenders: list[Contender], row: results.Row) -> list[Contender]:
    """The contenders that compute what the reference does; the others get their reason into the row."""
    reference = next((c for c in contenders if c.name == _REFERENCE), None)
    if reference is None:
        return contenders
    kept = []
    for c in contenders:
        reason = differs(reference, c)
        if reason:
            row.reasons[c.name] = reason
            c.close()
        else:
            kept.append(c)
    return kept


def machine() -> str:
    """The machine at hand in words."""
    cores = len(os.sched_getaffinity(0))
    return f"{load_target('host').summary}, {cores} virtual core{'s' * (cores > 1)}"


def say(text: str) -> None:
    """What happens now, on one line."""
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)


def main() -> int:
    """Measure, and write the results after each model."""
    asked = arguments()
    places = Places(Path(os.environ.get("EDGEC_BENCH", ROOT / ".bench")).resolve())
    output = asked.output or places.folder / "results"
    output.mkdir(parents=True, exist_ok=True)
    names = [ENGINE, *(p for p in asked.peers.split(",") if p)]
    try:
        entries = [find(name) for name in asked.models.split(",")]
    except Missing as reason:
        print(reason, file=sys.stderr)
        return 2
    if asked.instructions:
        return _count(asked, entries, places, output)
    if asked.layers:
        return _layers(asked, entries, places, output)
    rows, digest, shown = results.read(output / "results.json"), engine_digest(), []
    for precision in asked.precision.split(","):
        for threads in map(int, asked.threads.split(",")):
            setting = Setting(threads, precision, asked.target, digest)
            for entry in entries:
                old = next((r for r in rows if r.key == (entry.name, precision, threads, asked.target)), None)
                if old is None or asked.again or asked.prepare or not old.covers(names, digest, asked.rounds):
                    old = measure(entry, setting, names, places, 0 if asked.prepare else asked.rounds, asked.runs,
                                  asked.built)
                    if not asked.prepare:
                        rows = results.replaced(rows, old)
                        results.write(output / "results.json", rows)
                shown.append(old)
    say("")
    if asked.prepare:
        for row in shown:
            print(f"{row.model} {row.precision}: {', '.join(row.versions) or 'nothing'} ready")
    else:
        print(results.aligned(results.table(shown)))
        print(results.summary(shown))
        _pages(shown, output, places)
    for row in shown:
        for name, reason in [*row.reasons.items(), *([("all", row.missing)] if row.missing else [])]:
            print(f"{row.model} {row.precision}, {name}: {reason}")
    return 0


def _count(asked: argparse.Namespace, entries: Sequence[Entry], places: Places, output: Path) -> int:
    """Count instructions instead of time."""
    from tools.bench_suite import counting
    from tools.bench_suite.instructions import Caches, caches_of

    target = load_target(asked.target)
    caches = None
    if asked.caches == "target":
        caches = caches_of(target)
    elif asked.caches:
        first, second = ((int(a), int(b), int(c)) for a, b, c in (x.split(":") for x in asked.caches.split(",")))
        caches = Caches(first, second)
    try:
        rows = counting.count(entries, asked.precision.split(","), asked.peers.split(","), target, places, caches,
                              engine_digest(), output / "instructions.json", asked.again)
    except Missing as reason:
        print(reason, file=sys.stderr)
        return 2
    print(results.aligned(counting.table(rows)))
    (output / "instructions.md").write_text(results.piped(counting.table(rows)) + "\n")
    for row in rows:
        if row.reason:
            print(f"{row.model} {row.precision}, {row.contender}: {row.reason}")
    return 0


def _layers(asked: argparse.Namespace, entries: Sequence[Entry], places: Places, output: Path) -> int:
    """Compare layer by layer, with the engines that `--prepare` or a measurement has built."""
    from tools.bench_suite import layers

    peers = [p for p in asked.peers.split(",") if p in layers.PEERS]
    lines, versions = [layers.HEAD], dict[str, str]()
    for entry in entries:
        bundle = places.work(entry.name, ENGINE, "float32") / f"bundle-{asked.target}-1"
        if not bundle.exists():
            print(f"{entry.name}: our engine is not built; run `tools/bench --prepare` first", file=sys.stderr)
            return 2
        say(f"{entry.name}: layers")
        try:
            pairs, found = layers.measure(prepare(entry, places), peers, bundle, places, asked.rounds, asked.runs or 20)
        except Missing as reason:
            print(f"{entry.name}: {reason}", file=sys.stderr)
            return 2
        versions.update(found)
        for peer in peers:
            lines += layers.rows(entry.name, peer, pairs[peer])
    say("")
    text = results.piped(lines)
    said = ", ".join(f"{name} {version}" for name, version in versions.items())
    (output / "layers.md").write_text(f"{text}\n\n{machine()}; {datetime.date.today().isoformat()}; {said}.\n")
    print(results.aligned(lines))
    return 0


def _pages(rows: Sequence[results.Row], output: Path, places: Places) -> None:
    (output / "results.md").write_text(results.markdown(rows))
    data = output / "plot.json"
    data.write_text(json.dumps(results.plot_data(rows)))
    done = subprocess.run([str(places.python()), str(Path(__file__).with_name("plot.py")), str(data),
                           str(output / "results.png")], capture_output=True, text=True)
    print(f"{output}/results.json, results.md" + (", results.png" if done.returncode == 0 else
          f"; no plot: {done.stderr.strip().splitlines()[-1] if done.stderr.strip() else 'no reason given'}"))


if __name__ == "__main__":
    sys.exit(main())
