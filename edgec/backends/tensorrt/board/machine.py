"""The machine: its board, memory and versions, whether they fit the bundle, and the key of engines built on it."""

import hashlib
import json
import os
import platform
import re
from typing import Any, Dict, List, Optional, Tuple

from edgec.backends.tensorrt.board.files import CANNOT, Failure

GIB = 1 << 30
_LEAST = 700 << 20  # bytes of free memory below which no build was seen to end well
_KERNELS = int(1.5 * GIB)  # what the builder's own kernels take. Source: NVIDIA/TensorRT issue 3566
_WORKSPACE = (64 << 20, GIB)  # bytes: least and most
_SWAP = ("stop the desktop (sudo systemctl isolate multi-user), add swap (sudo fallocate -l 8G /swap && sudo chmod 600 "
         "/swap && sudo mkswap /swap && sudo swapon /swap), and close other programs")


def numbers(version: str) -> Tuple[int, ...]:
    """The numbers of a version: (10, 3, 0) for `10.3.0.26`."""
    return tuple(int(n) for n in re.findall(r"\d+", version)[:3])


def load_tensorrt() -> Any:
    """The board's own module. Raises Failure that says why it cannot be imported."""
    try:
        import tensorrt
    except ImportError as error:
        if "Python version" in str(error):
            raise Failure(f"TensorRT's Python module is for another Python than this one ({platform.python_version()})",
                          "use the system's own python3: /usr/bin/python3 build.py", CANNOT) from error
        raise Failure(f"TensorRT's Python module cannot be imported: {error}", "on a Jetson: sudo apt install "
                      "python3-libnvinfer, and use /usr/bin/python3, outside of virtual environments",
                      CANNOT) from error
    return tensorrt


def check_version(version: str, description: Dict[str, Any]) -> None:
    """Raise Failure unless the bundle's files are for this TensorRT version."""
    wanted = description["tensorrt"]
    here = numbers(version)[:2]
    if not tuple(wanted["from"][:2]) <= here < tuple(wanted["below"][:2]):
        raise Failure(
            "this bundle is for TensorRT {} (JetPack {}), and this machine has {}".format(
                wanted["built_for"], description["board"].get("jetpack") or "unknown", version),
            "build the bundle again for this machine: edgec build --target {} --jetpack ...; `edgec targets {}` lists "
            "what each JetPack has".format(*[description["board"].get("target", "jetson")] * 2), CANNOT)


def find_machine(driver: Dict[str, Any], version: str, root: str = "/") -> Dict[str, Any]:
    """Everything that an engine depends on, and the memory that is free now. root: where proc, etc and sys are."""
    memory = _meminfo(os.path.join(root, "proc/meminfo"))
    model = _read(os.path.join(root, "proc/device-tree/model")) or driver.get("name", "")
    release = re.search(r"R(\d+).*?REVISION: ([\d.]+)", _read(os.path.join(root, "etc/nv_tegra_release")))
    return {"device": model, "gpu": driver["name"], "sm": driver["sm"], "cuda": driver["cuda"],
            "l4t": "{}.{}".format(*release.groups()) if release else "", "tensorrt": version,
            "memory": memory.get("MemTotal", 0), "free": memory.get("MemAvailable", 0),
            "swap": memory.get("SwapFree", 0), "integrated": driver["integrated"]}


def check_memory(machine: Dict[str, Any], model_bytes: int, force: bool = False) -> List[str]:
    """Warnings about memory for a build. Raises Failure if it would be killed, unless `force`."""
    room = machine["free"] + machine["swap"]
    need = _KERNELS + 3 * model_bytes
    if room < _LEAST and not force:
        raise Failure(f"only {room / GIB:.1f} GiB of memory are free; the build would be killed", _SWAP, CANNOT)
    if room < need:
        return [f"{room / GIB:.1f} GiB of memory are free and the build may need {need / GIB:.1f}; "
                f"if it is killed: {_SWAP}"]
    return []


def workspace(machine: Dict[str, Any], wanted_mib: Optional[int] = None) -> int:
    """Bytes of scratch memory that tactics may use: what was asked for, else a quarter of the free memory, 64 MiB to
    1 GiB. A power of two, so that the key of an engine does not change with every program that starts.
    """
    if wanted_mib:
        return int(wanted_mib) << 20
    share = min(max(machine["free"] // 4, _WORKSPACE[0]), _WORKSPACE[1])
    return 1 << (int(share).bit_length() - 1)


def engine_key(machine: Dict[str, Any], variant: Dict[str, Any], options: Dict[str, Any]) -> str:
    """What names an engine: everything that makes another one. 24 hexadecimal digits of a SHA-256."""
    facts = {"sha256": variant["sha256"], "flags": variant["flags"], "typed": variant["typed"], "options": options}
    for name in ("device", "gpu", "sm", "cuda", "l4t", "tensorrt"):
        facts[name] = machine[name]
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode("utf-8")).hexdigest()[:24]


def differences(built: Dict[str, Any], machine: Dict[str, Any]) -> List[str]:
    """What is different between the machine that an engine was built on and this one, in words."""
    words = {"device": "board", "gpu": "GPU", "sm": "compute capability", "cuda": "driver's CUDA", "l4t": "L4T",
             "tensorrt": "TensorRT"}
    return ["{}: built with {}, here {}".format(words[name], built.get(name) or "none", machine[name] or "none")
            for name in sorted(words) if built.get(name) != machine[name]]


def _meminfo(path: str) -> Dict[str, int]:
    found = {}
    for line in _read(path).splitlines():
        parts = line.replace(":", " ").split()
        if len(parts) >= 2 and parts[1].isdigit():
            found[parts[0]] = int(parts[1]) * 1024
    return found


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read().strip("\0\n ")
    except OSError:
        return ""
