"""What state a board is in while it is measured: power mode, clocks, temperatures, power rails, and what to warn of.

One shell script reads it all from sysfs and from the board's own tools; what a board lacks is just not there.
Source: Linux, Documentation/hwmon, devfreq, cpufreq and thermal; NVIDIA's nvpmodel; Raspberry Pi's vcgencmd.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import TracebackType

from edgec.errors import UserError
from edgec.runtime.device import Device

_EVERY = 1.0  # seconds between two looks during a measurement; each costs the board a few milliseconds
_HOT = 85.0  # degrees Celsius; Jetson's software throttling starts between 95 and 99, a Pi's at 80 to 85
_SLACK = 0.97  # a clock below this share of its maximum is not fixed at it

SCRIPT = r"""
say() { printf '%s=%s\n' "$1" "$2"; }
for f in /proc/device-tree/model /sys/devices/virtual/dmi/id/product_name; do
  [ -r $f ] && say model "$(tr -d '\0' <$f)" && break; done
say kernel "$(uname -r)"
command -v nvpmodel >/dev/null 2>&1 && say power_mode "$(nvpmodel -q 2>/dev/null | sed -n 's/^NV Power Mode: //p')"
command -v vcgencmd >/dev/null 2>&1 && say throttled "$(vcgencmd get_throttled 2>/dev/null | cut -d= -f2)"
for d in /sys/devices/system/cpu/cpufreq/policy*; do
  [ -r $d/scaling_cur_freq ] || continue
  say "clock cpu-${d##*policy}" "$(cat $d/scaling_cur_freq) $(cat $d/cpuinfo_max_freq) 1000"
  say "governor ${d##*policy}" "$(cat $d/scaling_governor)"; done
for d in /sys/class/devfreq/*; do
  [ -r $d/cur_freq ] || continue
  say "clock ${d##*/}" "$(cat $d/cur_freq) $(cat $d/max_freq 2>/dev/null || echo 0) 1"; done
for d in /sys/class/thermal/thermal_zone*; do
  t=$(cat $d/temp 2>/dev/null) && say "temperature $(cat $d/type)" "$t"; done
for d in /sys/class/hwmon/hwmon*; do
  for l in $d/in*_label; do
    n=${l##*/in}; n=${n%_label}
    [ -r $d/curr${n}_input ] || continue
    say "rail $(cat $l)" "$(cat $d/in${n}_input) $(cat $d/curr${n}_input)"; done; done 2>/dev/null
true
"""


@dataclass(frozen=True)
class BoardState:
    """One look. clocks: name -> (MHz now, MHz at most); temperatures: name -> degrees Celsius; rails: name -> watts."""

    model: str = ""
    kernel: str = ""
    power_mode: str = ""
    throttled: str = ""
    clocks: dict[str, tuple[float, float]] = field(default_factory=dict)
    governors: tuple[str, ...] = ()
    temperatures: dict[str, float] = field(default_factory=dict)
    rails: dict[str, float] = field(default_factory=dict)


def read_state(device: Device) -> BoardState:
    """The state of a board now. Raises UserError if it cannot be reached."""
    return parse_state(device.run(["sh", "-s"], folder="", data=SCRIPT.encode(), timeout=30).text)


def parse_state(text: str) -> BoardState:
    """The state from what the script says; lines that cannot be read are left out."""
    plain: dict[str, str] = {}
    clocks: dict[str, tuple[float, float]] = {}
    temperatures, rails, governors = {}, {}, set()
    for line in text.splitlines():
        key, _, value = line.partition("=")
        kind, _, name = key.partition(" ")
        try:
            numbers = [float(v) for v in value.split()]
        except ValueError:
            numbers = []
        if kind == "clock" and len(numbers) == 3:
            clocks[name] = (numbers[0] * numbers[2] / 1e6, numbers[1] * numbers[2] / 1e6)
        elif kind == "temperature" and numbers:
            temperatures[name] = numbers[0] / 1000  # millidegrees
        elif kind == "rail" and len(numbers) == 2:
            rails[name] = numbers[0] * numbers[1] / 1e6  # millivolts times milliamperes
        elif kind == "governor":
            governors.add(value)
        elif not name:
            plain[kind] = value
    return BoardState(plain.get("model", ""), plain.get("kernel", ""), plain.get("power_mode", ""),
                      plain.get("throttled", ""), clocks, tuple(sorted(governors)), temperatures, rails)


def warnings(states: Sequence[BoardState]) -> list[str]:
    """Why times that were measured during these looks may not be what the board can do."""
    if not states:
        return []
    last, texts = states[-1], []
    if last.power_mode and not last.power_mode.startswith("MAXN"):
        texts.append(f"the power mode is {last.power_mode}: `sudo nvpmodel -m 0` gives full power")
    slow = [f"{name} {now:.0f} of {most:.0f} MHz" for name, (now, most) in sorted(last.clocks.items())
            if most and now < _SLACK * most]
    if slow:
        repair = "sudo jetson_clocks" if last.power_mode else "sudo cpupower frequency-set -g performance"
        texts.append(f"clocks are not at their maximum ({', '.join(slow[:3])}): `{repair}` fixes them")
    hottest = max((t for s in states for t in s.temperatures.values()), default=0.0)
    if hottest >= _HOT:
        texts.append(f"the board reached {hottest:.0f} degrees and may have slowed down")
    if last.throttled not in ("", "0x0"):
        texts.append(f"the board reports throttling or low voltage ({last.throttled})")
    return texts


def summary(states: Sequence[BoardState]) -> dict[str, object]:
    """All looks in one, fit for JSON: means of rails and clocks, the highest temperatures."""
    if not states:
        return {}
    last = states[-1]

    def mean(rows: Sequence[dict[str, float]]) -> dict[str, float]:
        return {name: round(sum(r[name] for r in rows if name in r) / sum(name in r for r in rows), 3)
                for name in sorted({n for r in rows for n in r})}

    return {"model": last.model, "kernel": last.kernel, "power_mode": last.power_mode, "throttled": last.throttled,
            "governors": list(last.governors), "looks": len(states),
            "clocks_mhz": mean([{n: now for n, (now, _) in s.clocks.items()} for s in states]),
            "most_mhz": {n: most for n, (_, most) in sorted(last.clocks.items())},
            "rails_w": mean([s.rails for s in states]),
            "temperatures_c": {name: max(s.temperatures[name] for s in states if name in s.temperatures)
                               for name in sorted({n for s in states for n in s.temperatures})},
            "warnings": warnings(states)}


class Watch:
    """Looks at a board every second while the block runs; `states` has what was seen."""

    def __init__(self, device: Device, every: float = _EVERY) -> None:
        self.states: list[BoardState] = []
        self._device, self._every = device, every
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self._over.set()
        self._thread.join()

    def _look(self) -> None:
        while True:
            try:
                self.states.append(read_state(self._device))
            except UserError:  # the measurement itself reports a lost board
                return
            if self._over.wait(self._every):
                return
