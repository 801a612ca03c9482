"""`edgec bench`: how long one inference takes, alone or in turns with ONNX Runtime."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from edgec.bundle import Bundle
from edgec.cli.arguments import AsJson, Cores, Quiet, RunThreads, describe_threads, parse_threads
from edgec.cli.console import Steps, print_json, print_table
from edgec.cli.devices import OnDevice, describe_engines, open_engine
from edgec.cli.guard import guarded
from edgec.errors import UserError
from edgec.progress import many
from edgec.report.units import seconds
from edgec.runtime.device import LOCAL

NAME = "bench"
_TURNS = 10  # blocks of runs; the two engines take turns, so that both meet the same load and clock


@guarded
def command(
    folder: Annotated[Path, typer.Argument(metavar="BUNDLE", help="A folder made by `edgec build`.")],
    against: Annotated[Path | None, typer.Option(help="An ONNX model to run in turns with ONNX Runtime.")] = None,
    runs: Annotated[int, typer.Option(min=1, help="Timed runs of each.")] = 100,
    warmup: Annotated[int, typer.Option(min=0, help="Runs before the clock starts.")] = 10,
    threads: RunThreads = None,
    cores: Cores = "",
    layers: Annotated[bool, typer.Option(
        "--layers", help="Time each kernel on one thread and add that to the bundle's report.")] = False,
    device: OnDevice = LOCAL,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Time a bundle here or on a board: median, percentiles and fastest of many runs; on a board also its power mode,
    clocks, temperatures and power rails while it ran.
    """
    from edgec.bundle import read_bundle
    from edgec.runtime.board_state import Watch, summary
    from edgec.runtime.remote import engine_facts

    bundle, chosen = read_bundle(folder), parse_threads(threads, cores)
    if layers:
        _layers(bundle, device, max(3, runs // 5), quiet, as_json)
        return
    if device != LOCAL and against is not None:
        raise UserError("--against is for this machine: two engines that take turns must run in one place",
                        hint="run `edgec bench --against` on the board, or leave out one of the two options")
    feeds = bundle.golden().inputs[0]
    with Steps(quiet) as steps, open_engine(bundle, device, steps, chosen) as place:
        engine = place.engine
        contenders: dict[str, Any] = {f"{bundle.name} for {bundle.target.name}": lambda n: engine.time(feeds, n)}
        if against is not None:
            contenders[f"{against.name} in ONNX Runtime {_version()}"] = _peer(against, feeds, chosen.count)
        watch = Watch(place.board) if place.board is not None else None
        with watch or nullcontext():
            times = _measure(contenders, runs, warmup, steps)
        state = summary(watch.states) if watch is not None else {}
        emulated, note, prepared = engine.emulated, engine.note, place.prepared
    rows: list[dict[str, Any]] = [{"name": name, **_statistics(values)} for name, values in times.items()]
    ratio = rows[0]["median"] / rows[1]["median"] if against is not None else None
    if as_json:
        print_json({"runs": runs, "emulated": emulated, "threads": chosen.count, "cores": list(chosen.cores),
                    "engines": rows, "ratio": ratio, "device": device, "board": state,
                    "built": [engine_facts(p) for p in prepared]})
        return
    print(describe_threads(chosen))
    print_table(["engine", "#median", "#p90", "#p99", "#min", "#per second", "#runs"],
                [[r["name"], *(seconds(r[k]) for k in ("median", "p90", "p99", "min")), f"{1 / r['median']:.1f}", runs]
                 for r in rows])
    if ratio is not None:
        verdict = "slower" if ratio > 1 else "faster"
        print(f"ratio of the medians: {ratio:.2f} ({verdict} than ONNX Runtime with {many(chosen.count, 'thread')})")
    for line in (*describe_engines(prepared), *_describe_board(state)):
        print(line)
    if emulated:
        how = f"this was {note}" if note else "this engine ran under emulation"
        print(f"{how}: its time says nothing about the device")


def _describe_board(state: Mapping[str, Any]) -> list[str]:
    """Lines about the board while it ran, then what to warn of."""
    if not state:
        return []
    lines = ["board: " + ", ".join(filter(None, (state["model"], f"Linux {state['kernel']}", state["power_mode"])))]
    for name, key, unit in (("clocks", "clocks_mhz", "MHz"), ("power", "rails_w", "W"),
                            ("hottest", "temperatures_c", "C")):
        if state[key]:
            lines.append(f"{name}: " + ", ".join(f"{k} {v:.5g} {unit}" for k, v in state[key].items()))
    return [*lines, *(f"warning: {text}" for text in state["warnings"])]


def _layers(bundle: Bundle, device: str, runs: int, quiet: bool, as_json: bool) -> None:
    """Time each kernel, print it beside what was expected, and put it into the report."""
    from edgec.bundle import rewrite_report
    from edgec.report import add_measured, render, share_of_roof
    from edgec.runtime.layers import measure_layers, open_machine

    with open_machine(device, bundle.target) as machine, Steps(quiet) as steps:
        steps("measure", None, f"{runs} inferences on {machine.name}")
        found = measure_layers(bundle, machine, runs)
    report = bundle.report()
    times = add_measured(report["times"], found.seconds, found.ghz, machine.name)
    if not machine.emulated:
        rewrite_report(bundle, {**report, "times": times}, render({**report, "times": times}))
    if as_json:
        print_json({"machine": machine.name, "emulated": machine.emulated, "ghz": found.ghz, "total": found.total,
                    "runs": runs, "kernels": times["rows"]})
        return
    whole = sum(r.get("seconds", 0.0) for r in times["rows"])
    rows = []
    for row in sorted((r for r in times["rows"] if "seconds" in r), key=lambda r: -r["seconds"]):
        share = share_of_roof(row, found.ghz)
        rows.append([row["kernel"], row["algorithm"], seconds(row["seconds"]), f"{row['seconds'] / whole:.1%}",
                     seconds(row["cycles"] / found.ghz / 1e9), row["bound"], f"{share:.0%}" if share else "-"])
    print_table(["kernel", "algorithm", "#measured", "#of all", "#expected", "bound by", "#of the roof"], rows)
    expected = sum(r["cycles"] for r in times["rows"]) / found.ghz / 1e9
    print(f"{seconds(found.total)} in all, {seconds(expected)} expected, on one thread of {machine.name} at "
          f"{found.ghz:.2f} GHz")
    if machine.emulated:
        print("these kernels ran under emulation: their times say nothing about the device")


def _measure(contenders: Mapping[str, Any], runs: int, warmup: int, steps: Steps) -> dict[str, list[float]]:
    turns = min(_TURNS, runs)
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for name, run in contenders.items():
        steps("warm up", None, name)
        run(warmup)
    for turn in range(turns):
        size = runs // turns + (turn < runs % turns)
        for name, run in contenders.items():
            steps("measure", turn / turns, f"{runs} runs each, in {turns} turns")
            times[name] += run(size)
    return times


def _peer(path: Path, feeds: Mapping[str, np.ndarray], threads: int) -> Any:
    """A function that times ONNX Runtime on `path` with the engine's inputs, matched by name or else by position."""
    from edgec.interchange.session import open_session, time_session

    if not path.is_file():
        raise UserError("there is no such file", where=str(path), expected="an ONNX model")
    session = open_session(path, threads, integers=True)
    names = [i.name for i in session.get_inputs()]
    if set(names) != set(feeds):
        if len(names) != len(feeds):
            raise UserError(f"{path.name} has the inputs {', '.join(names)}", where=str(path),
                            expected=", ".join(feeds))
        feeds = dict(zip(names, feeds.values(), strict=True))
    return lambda n: time_session(session, feeds, n)


def _statistics(values: Sequence[float]) -> dict[str, float]:
    return {"median": float(np.median(values)), "p90": float(np.percentile(values, 90)),
            "p99": float(np.percentile(values, 99)), "min": min(values), "max": max(values),
            "mean": float(np.mean(values))}


def _version() -> str:
    from importlib.metadata import version

    return version("onnxruntime")
