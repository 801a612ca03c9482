"""What TensorRT says while it builds: what is kept of its log, and how far it is."""

import threading
import time
from typing import Any, Callable, Dict, List

from edgec.backends.tensorrt.board.files import say

KEPT = ("(Sparsity)", "alibration", "DLA", "Unable to load", "actic source")  # of INFO lines
_MOST = 2000  # lines that are kept; a build with warnings per layer stays readable
_EVERY = 15.0  # seconds between signs of life


class Log:
    """The lines of TensorRT's log that matter. `logger` makes the object that TensorRT wants."""

    def __init__(self, verbose: bool = False) -> None:
        self.verbose = verbose
        self.lines: List[str] = []
        self.errors: List[str] = []

    def take(self, level: str, text: str) -> None:
        """Keep a line: warnings, errors, and INFO lines about sparsity, calibration and DLA."""
        serious = level in ("INTERNAL_ERROR", "ERROR")
        if serious:
            self.errors.append(text)
        if (serious or level == "WARNING" or any(k in text for k in KEPT)) and len(self.lines) < _MOST:
            self.lines.append(f"{level}: {text}")
        if self.verbose or serious:
            say("tensorrt", f"{level}: {text}")

    def logger(self, trt: Any) -> Any:
        """A logger for TensorRT that feeds this log."""
        log = self

        class Logger(trt.ILogger):  # type: ignore[misc]
            def __init__(self) -> None:
                trt.ILogger.__init__(self)

            def log(self, severity: Any, text: str) -> None:
                log.take(severity.name, text)

        return Logger()


class Clock:
    """Tells every few seconds that the build goes on, how long it has taken, and how long it may still take.

    expected: seconds that the same build took before, 0 if it is the first.
    """

    def __init__(self, name: str, expected: float = 0.0, tell: Callable[..., None] = say,
                 every: float = _EVERY) -> None:
        self.name, self.expected, self.share, self.phase = name, expected, -1.0, ""
        self._tell, self._every = tell, every
        self._start = time.time()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> "Clock":
        self._tell("build", "{}{}".format(self.name, f", {duration(self.expected)} last time"
                                          if self.expected else "; the first build of a model takes minutes"))
        self._thread.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._over.set()
        self._thread.join()

    @property
    def seconds(self) -> float:
        """Since the start."""
        return time.time() - self._start

    def line(self) -> str:
        """What is told: time so far, time left by the share that is done or by the last build."""
        left = ""
        if self.share > 0.05:
            left = f", about {duration(self.seconds * (1 - self.share) / self.share)} left"
        elif self.expected > self.seconds:
            left = f", about {duration(self.expected - self.seconds)} left"
        return f"{self.name}: {duration(self.seconds)}{left}" + (f" ({self.phase})" if self.phase else "")

    def _run(self) -> None:
        while not self._over.wait(self._every):
            self._tell("build", self.line(), self.share)

    def monitor(self, trt: Any) -> Any:
        """TensorRT's own progress (from 10.0 on) as the clock's share; None where TensorRT has none."""
        if not hasattr(trt, "IProgressMonitor"):
            return None
        clock = self

        class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
            def __init__(self) -> None:
                trt.IProgressMonitor.__init__(self)
                self.steps: Dict[str, Any] = {}

            def phase_start(self, phase_name: str, parent_phase: Any, num_steps: int) -> None:
                self.steps[phase_name] = [parent_phase, max(1, num_steps), 0]
                clock.phase = phase_name

            def step_complete(self, phase_name: str, step: int) -> bool:
                if phase_name in self.steps:
                    self.steps[phase_name][2] = step + 1
                clock.share = max(clock.share, total_share(self.steps))
                return True

            def phase_finish(self, phase_name: str) -> None:
                if phase_name in self.steps:
                    self.steps[phase_name][2] = self.steps[phase_name][1]
                clock.share = max(clock.share, total_share(self.steps))

        return Monitor()


def total_share(steps: Dict[str, Any]) -> float:
    """Share of the whole from phases: name -> [parent, steps in all, steps done]. A phase is one step of its parent."""

    def share(name: str) -> float:
        _, count, done = steps[name]
        inner = [share(other) for other, row in steps.items() if row[0] == name and row[2] < row[1]]
        done_now: float = done + max(inner or [0.0])
        return min(1.0, done_now / float(count))

    roots = [name for name, row in steps.items() if row[0] not in steps]
    return float(sum(map(share, roots))) / max(1, len(roots))


def duration(seconds: float) -> str:
    """Seconds as people say them."""
    whole = round(seconds)
    return f"{whole} s" if whole < 100 else f"{whole // 60} min {whole % 60:02d} s"
