"""Numbers for people: counts and bytes with a unit."""

from __future__ import annotations


def count(number: float) -> str:
    """A count with three digits and a unit: 1,234 below ten thousand, else 12.3 k, 1.82 G."""
    if number < 10_000:
        return f"{number:,.0f}"
    for unit in ("k", "M", "G", "T"):
        number /= 1000
        if number < 999.5 or unit == "T":
            break
    return f"{number:,.3g} {unit}"


def size(nbytes: float) -> str:
    """Bytes with a binary unit: 512 B, 44.6 MiB."""
    if nbytes < 1000:
        return f"{nbytes:.0f} B"
    for unit in ("KiB", "MiB", "GiB", "TiB"):
        nbytes /= 1024
        if nbytes < 999.5 or unit == "TiB":
            break
    return f"{nbytes:,.3g} {unit}"


def seconds(time: float) -> str:
    """A time with three digits: 12.3 us, 4.56 ms, 7.89 s, 75 s."""
    for unit, scale in (("us", 1e6), ("ms", 1e3)):
        if time * scale < 999.5:
            return f"{time * scale:.3g} {unit}"
    return f"{time:.3g} s" if time < 60 else f"{time:,.0f} s"


def share(part: float) -> str:
    """A share in per cent: 12 %, 3.4 %, 0.05 %, 100 %; what is not all of it is never said to be 100 %."""
    percent = 100 * part
    if percent >= 9.95:
        return f"{min(percent, 99) if percent < 100 else percent:.0f} %"
    return f"{percent:.1f} %" if percent >= 0.1 else f"{percent:.2g} %" if percent else "0 %"
