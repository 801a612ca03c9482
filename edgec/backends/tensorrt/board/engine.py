"""The engine of this bundle on this machine: found, or built, checked and kept; and the command line."""

import argparse
import hashlib
import json
import os
import sys
from typing import Any, Callable, Dict, List, Optional

from edgec.backends.tensorrt.board.builder import Settings, build_plan
from edgec.backends.tensorrt.board.driver import probe_driver
from edgec.backends.tensorrt.board.files import (
    CANNOT,
    FAILED,
    Failure,
    read_json,
    remove_leftovers,
    say,
    sha256_of,
    write_whole,
)
from edgec.backends.tensorrt.board.layers import findings, read_layers, warnings
from edgec.backends.tensorrt.board.machine import (
    check_memory,
    check_version,
    differences,
    engine_key,
    find_machine,
    load_tensorrt,
    workspace,
)
from edgec.backends.tensorrt.board.messages import Clock, Log, duration
from edgec.backends.tensorrt.board.session import Session

HERE = os.path.dirname(os.path.abspath(__file__))
_RUNS = 50  # timed inferences of each twin, in turns
_TURNS = 5
_FASTER = 0.98  # a twin must be this much faster to be preferred over the first choice


class Board:
    """The machine at hand, ready to build: TensorRT, its facts, the bundle and where engines are kept."""

    def __init__(self, folder: str = HERE, keep: str = "", options: Optional[Dict[str, Any]] = None,
                 trt: Any = None, driver: Optional[Dict[str, Any]] = None, root: str = "/",
                 tell: Callable[..., None] = say) -> None:
        """Raises Failure, with the way out, if this machine cannot run the bundle's engine."""
        self.folder, self.options, self.tell = folder, dict(options or {}), tell
        self.description = read_json(os.path.join(folder, "engine.json"))
        if not self.description:
            raise Failure("there is no engine.json beside build.py", "copy the whole bundle", CANNOT)
        self.driver = driver if driver is not None else probe_driver()
        self.trt = trt if trt is not None else load_tensorrt()
        check_version(self.trt.__version__, self.description)
        self.machine = find_machine(self.driver, self.trt.__version__, root)
        self.keep = keep or _place(folder)

    # -- engines that are there --

    def build_options(self) -> Dict[str, Any]:
        """What of the options makes another engine, without what each machine decides for itself."""
        return {"dla": self.description["dla"], "gpu_fallback": self.description["gpu_fallback"],
                "sparse": bool(self.description["sparse_layers"]) and not self.options.get("dense", False),
                "level": self.options.get("level"), "workspace": self.options.get("workspace"),
                "standalone": self.options.get("standalone", False),
                "library_kernels": not self.options.get("no_libraries", False)}

    def wanted(self) -> List[Dict[str, Any]]:
        """Variants to build, the first choice first. Raises Failure for a precision that the bundle does not have."""
        precision = self.options.get("precision") or "auto"
        rows = [v for v in self.description["variants"] if precision in ("auto", v["name"])]
        if not rows:
            raise Failure(f"this bundle has no {precision} model", "it has " + ", ".join(
                v["name"] for v in self.description["variants"]), CANNOT)
        return rows

    def path(self, variant: Dict[str, Any]) -> str:
        """Where the engine of `variant` belongs on this machine; its record is beside it as .json."""
        key = engine_key(self.machine, variant, self.build_options())
        return os.path.join(self.keep, "{}-{}-{}.plan".format(self.description["name"], variant["name"], key))

    def record(self, variant: Dict[str, Any]) -> Dict[str, Any]:
        """What is known of the engine of `variant`; empty unless it is there whole: size and SHA-256 are compared."""
        path = self.path(variant)
        record = read_json(path + ".json")
        if record and os.path.isfile(path) and os.path.getsize(path) == record.get("bytes") \
                and sha256_of(path) == record.get("sha256"):
            return record
        return {}

    def strangers(self) -> List[str]:
        """Why engines that lie here are not for this machine: for the message before a build."""
        texts = []
        for name in sorted(os.listdir(self.keep)) if os.path.isdir(self.keep) else []:
            built = read_json(os.path.join(self.keep, name)).get("machine") if name.endswith(".plan.json") else None
            texts += differences(built, self.machine) if built else []
        return sorted(set(texts))

    # -- building --

    def engine(self) -> Dict[str, Any]:
        """The record of the engine to run: the fastest of those wanted. Builds what is missing.

        The record has `path`, `variant`, `layers`, `findings`, and `milliseconds` by variant if several were compared.
        """
        os.makedirs(self.keep, exist_ok=True)
        remove_leftovers(self.keep)
        rows = self.wanted()
        missing = [v for v in rows if not self.record(v) or self.options.get("rebuild")]
        if missing:
            prepared = self.description.get("sm")
            if prepared and prepared != self.machine["sm"]:
                self.tell("warning", "the bundle was prepared for a GPU of sm_{}, and this one is sm_{}: it works, but "
                          "`edgec build --target` for this board may choose better".format(
                              prepared, self.machine["sm"]))
            for text in self.strangers():
                self.tell("build", "an engine that is here does not fit: " + text)
            size = max(os.path.getsize(os.path.join(self.folder, v["model"])) for v in missing)
            for text in check_memory(self.machine, size, bool(self.options.get("force"))):
                self.tell("memory", text)
        rows = self._build_all(rows, missing)
        if len(rows) == 1:
            return dict(self.record(rows[0]), path=self.path(rows[0]))
        return self._fastest(rows)

    def _build_all(self, rows: List[Dict[str, Any]], missing: List[Dict[str, Any]]) -> List[Dict[str, Any]]:
        """Build what is missing; the rows that have an engine. One variant that TensorRT cannot build on this GPU does
        not stop the others, and is not tried again at every start; if none is left, its Failure is raised.
        """
        good: List[Dict[str, Any]] = []
        failures: List[Failure] = []
        for variant in rows:
            note = self.path(variant) + ".failed.json"
            before = "" if self.options.get("rebuild") else read_json(note).get("error", "")
            if variant in missing and before and len(rows) > 1:
                failures.append(Failure(before, "python3 build.py --rebuild tries again"))
            elif variant in missing:
                try:
                    self._build(variant)
                except Failure as failure:
                    if len(rows) == 1 or failure.code == CANNOT:
                        raise
                    write_whole(note, {"error": failure.what})
                    failures.append(failure)
                else:
                    good.append(variant)
            else:
                good.append(variant)
        for left_out in failures:
            self.tell("warning", "a variant is left out: " + left_out.what)
        if not good:
            raise failures[0]
        return good

    def _build(self, variant: Dict[str, Any]) -> None:
        path, log = self.path(variant), Log(bool(self.options.get("verbose")))
        timing = os.path.join(self.keep, "timing-{}-sm{}.cache".format(self.machine["tensorrt"], self.machine["sm"]))
        options = self.build_options()
        settings = Settings(
            self.folder, variant, workspace(self.machine, options["workspace"]), options["sparse"], options["dla"],
            options["gpu_fallback"], options["standalone"], _bytes_of(timing), options["level"],
            options["library_kernels"])
        times = os.path.join(self.keep, "durations.json")
        expected = float(read_json(times).get(variant["name"], 0.0))
        with Clock(variant["name"], expected, self.tell) as clock:
            built = build_plan(self.trt, settings, log, clock)
        if built.cache:
            write_whole(timing, built.cache)
        write_whole(times, dict(read_json(times), **{variant["name"]: built.seconds}))
        record = {"variant": variant["name"], "machine": self.machine, "options": options, "seconds": built.seconds,
                  "log": log.lines, "layers": [], "findings": {}}
        if not options["standalone"]:
            rows = self._inspect(built.plan, log)
            found = findings(rows, log.lines, self.description, variant["name"] == "int8")
            record.update(layers=rows, findings=found)
            for text in warnings(found):
                self.tell("warning", text)
        write_whole(path, built.plan)
        record.update(bytes=os.path.getsize(path), sha256=sha256_of(path))
        write_whole(path + ".json", record)  # last: an engine without its record does not count
        self.tell("built", "{} in {}: {} layers, {:.1f} MiB".format(
            variant["name"], duration(built.seconds), len(record["layers"]), record["bytes"] / float(1 << 20)))

    def _inspect(self, plan: Any, log: Log) -> List[Dict[str, Any]]:
        runtime = self.trt.Runtime(log.logger(self.trt))
        engine = runtime.deserialize_cuda_engine(plan)
        if engine is None:
            raise Failure("TensorRT refuses the engine that it has just built:\n    " + "\n    ".join(log.errors[-3:]))
        text = engine.create_engine_inspector().get_engine_information(self.trt.LayerInformationFormat.JSON)
        return read_layers(json.loads(text))

    def _fastest(self, rows: List[Dict[str, Any]]) -> Dict[str, Any]:
        """Compare the variants in turns and keep the faster; the choice is written down, so it is made once."""
        paths = {v["name"]: self.path(v) for v in rows}
        choice = os.path.join(self.keep, "choice.json")
        identity = {name: os.path.basename(path) for name, path in paths.items()}
        known = read_json(choice)
        if known.get("engines") != identity or self.options.get("rebuild"):
            milliseconds = self._compare(paths)
            first = rows[0]["name"]
            best = min(milliseconds, key=lambda name: milliseconds[name] * (_FASTER if name == first else 1.0))
            known = {"engines": identity, "milliseconds": milliseconds, "best": best}
            write_whole(choice, known)
            self.tell("chosen", "{}: {}".format(best, ", ".join(
                f"{name} {t:.3f} ms" for name, t in sorted(milliseconds.items()))))
        variant = next(v for v in rows if v["name"] == known["best"])
        return dict(self.record(variant), path=self.path(variant), milliseconds=known["milliseconds"])

    def _compare(self, paths: Dict[str, str]) -> Dict[str, float]:
        """Median milliseconds of each engine, measured in turns."""
        log = Log()
        sessions = {name: Session(self.trt, _bytes_of(path), log.logger(self.trt)) for name, path in paths.items()}
        times: Dict[str, List[float]] = {name: [] for name in paths}
        try:
            for turn in range(_TURNS):
                for name, session in sessions.items():
                    times[name] += session.time(_RUNS // _TURNS, warmup=10 if turn == 0 else 2)
        finally:
            for session in sessions.values():
                session.close()
        return {name: 1000.0 * sorted(values)[len(values) // 2] for name, values in times.items()}

    def open(self) -> Session:
        """The engine, built if necessary, ready to run."""
        record = self.engine()
        return Session(self.trt, _bytes_of(record["path"]), Log().logger(self.trt))


def _place(folder: str) -> str:
    """Where engines are kept: beside the bundle if that can be written, else in the user's cache."""
    if os.access(folder, os.W_OK):
        return os.path.join(folder, "built")
    name = f"{os.path.basename(os.path.dirname(folder))}-{hashlib.sha256(folder.encode('utf-8')).hexdigest()[:8]}"
    return os.path.join(os.path.expanduser("~"), ".cache", "edgec", "tensorrt", name)


def _bytes_of(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError:
        return b""


def main(arguments: Optional[List[str]] = None) -> int:
    """The command line; returns the exit code: 0 good, 1 the build failed, 3 this machine cannot."""
    parser = argparse.ArgumentParser(description="Build the TensorRT engine of this bundle here, and keep it.")
    parser.add_argument("--folder", default="", help="where engines are kept (default: `built` beside this file)")
    parser.add_argument("--precision", default="auto", help="auto builds every variant and keeps the fastest")
    parser.add_argument("--workspace", type=int, help="MiB of scratch memory (default: a quarter of what is free)")
    parser.add_argument("--level", type=int, choices=range(6), help="optimization level, from TensorRT 8.6 on")
    parser.add_argument("--dense", action="store_true", help="no sparse kernels, even for 2:4 weights")
    parser.add_argument("--standalone", action="store_true", help="a DLA loadable for cuDLA instead of an engine")
    parser.add_argument("--no-libraries", action="store_true", help="no kernels of cuDNN and cuBLAS")
    parser.add_argument("--rebuild", action="store_true", help="build again, whatever is there")
    parser.add_argument("--force", action="store_true", help="build although memory is short")
    parser.add_argument("--check", action="store_true", help="say what this machine is and whether the bundle fits")
    parser.add_argument("--json", action="store_true", help="print the whole record of the engine")
    parser.add_argument("--verbose", action="store_true", help="show TensorRT's log")
    chosen = vars(parser.parse_args(arguments))
    try:
        board = Board(HERE, chosen["folder"], chosen)
        if chosen["check"]:
            sys.stdout.write(json.dumps(board.machine, indent=1, sort_keys=True) + "\n")
            return 0
        record = board.engine()
        sys.stdout.write((json.dumps(record, indent=1, sort_keys=True) if chosen["json"] else record["path"]) + "\n")
        return 0
    except Failure as failure:
        sys.stderr.write(failure.text() + "\n")
        return failure.code
    except MemoryError:
        sys.stderr.write("error: there is not enough memory\n  do: close other programs, add swap\n")
        return FAILED
