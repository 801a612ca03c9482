"""Import the real Python modules of TensorRT without a GPU, and read or check their names.

Wheels come from PyPI into a cache folder (EDGEC_BINDINGS, by default ~/.cache/edgec/tensorrt-bindings) and stay there;
nothing of NVIDIA's is committed. Of each wheel only the Python module is unpacked; empty libraries that we make stand
in for those that it links. 8.5.3.1 is one wheel of 549 MB, the others have about 1 MB.

    tools/tensorrt_bindings            import every version, compare with tests/backends/tensorrt/api/VERSION.json
    tools/tensorrt_bindings --write    write these tables anew
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

TABLES = Path(__file__).resolve().parents[1] / "tests/backends/tensorrt/api"
CACHE = Path(os.environ.get("EDGEC_BINDINGS", Path.home() / ".cache/edgec/tensorrt-bindings"))
VERSIONS = {  # name of the table -> (package, version, Python of the wheel; empty: this one)
    "8.5": ("tensorrt", "8.5.3.1", "3.10"),
    "8.6": ("tensorrt_bindings", "8.6.1", "3.10"),
    "10.3": ("tensorrt_cu12_bindings", "10.3.0", ""),
    "10.13": ("tensorrt_cu13_bindings", "10.13.3.9", ""),
    "10.16": ("tensorrt_cu13_bindings", "10.16.1.11", ""),
    "11.0": ("tensorrt_cu13_bindings", "11.0.0.114", ""),
    "11.4": ("tensorrt_cu13_bindings", "11.4.0.106", ""),
}
_CLASSES = (  # what the board's files touch
    "Builder", "IBuilderConfig", "BuilderFlag", "NetworkDefinitionCreationFlag", "MemoryPoolType", "ProfilingVerbosity",
    "TacticSource", "OnnxParser", "ParserError", "INetworkDefinition", "ITensor", "Runtime", "ICudaEngine",
    "IExecutionContext", "EngineInspector", "LayerInformationFormat", "DeviceType", "EngineCapability", "DataType",
    "TensorFormat", "TensorIOMode", "ITimingCache", "IHostMemory", "ILogger", "IProgressMonitor",
    "IInt8EntropyCalibrator2")
_PROBE = TABLES.parent / "read_names.py"


def interpreter(wanted: str) -> str:
    """A Python of the version `wanted`; empty if there is none here."""
    if not wanted:
        return sys.executable
    others = sorted(Path.home().glob(f".pyenv/versions/{wanted}.*/bin/python"))
    places = [shutil.which(f"python{wanted}"), *map(str, others)]
    return next((p for p in places if p and subprocess.run([p, "-c", ""], capture_output=True).returncode == 0), "")


def unpack(name: str) -> Path:
    """The folder with the Python module of a version, unpacked once, and libraries that stand in beside it."""
    package, version, python = VERSIONS[name]
    folder = CACHE / f"{name}-{version}"
    if (folder / "ready").exists():
        return folder
    shutil.rmtree(folder, ignore_errors=True)
    wheels = CACHE / "wheels"
    wheels.mkdir(parents=True, exist_ok=True)
    tag = (python or f"{sys.version_info.major}.{sys.version_info.minor}")
    subprocess.run([sys.executable, "-m", "pip", "download", "-q", "--disable-pip-version-check", "--no-deps",
                    "-d", wheels, "--only-binary=:all:", "--python-version", tag, f"{package}=={version}"], check=True)
    plain = tag.replace(".", "")
    (wheel,) = wheels.glob(f"{package}-{version}-cp{plain}-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        for entry in archive.namelist():
            path = Path(entry)
            if path.parts[0] in ("tensorrt", "tensorrt_bindings") and (
                    path.suffix == ".py" or re.fullmatch(r"tensorrt(\..*)?\.so", path.name)):
                archive.extract(entry, folder)
    module = next(folder.rglob("tensorrt*.so"))
    stand_in(module, folder)
    (folder / "ready").touch()
    return folder


def stand_in(module: Path, folder: Path) -> None:
    """Make the libraries that `module` links, with every symbol that it misses; each function returns 0."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    from tests.backends.tensorrt.elf import needed, undefined

    source, ours = folder / "stand_in.c", re.compile(r"_ZN\d+nv|create|get(BuilderPlugin|Plugin|NvOnnx)|initLib")
    names = [n for n in undefined(module) if ours.match(n)]
    source.write_text("".join(f"void *{n}(void) {{ return 0; }}\n" for n in sorted(names)))
    for library in needed(module):
        if library.startswith("libnv"):
            subprocess.run([sys.executable, "-m", "ziglang", "cc", "-target", "x86_64-linux-gnu.2.17", "-shared",
                            "-fPIC", str(source), f"-Wl,-soname,{library}", "-o", str(folder / library)], check=True)


def read(name: str) -> dict:
    """What the module of a version says of itself. Raises FileNotFoundError if its Python is not here."""
    package, _, python = VERSIONS[name]
    program = interpreter(python)
    if not program:
        raise FileNotFoundError(f"Python {python} is not here, which the module of TensorRT {name} needs")
    folder = unpack(name)
    module = "tensorrt" if package == "tensorrt" else "tensorrt_bindings"
    environment = {**os.environ, "LD_LIBRARY_PATH": str(folder), "PYTHONPATH": str(folder)}
    done = subprocess.run([program, str(_PROBE), module, ",".join(_CLASSES)], env=environment, capture_output=True,
                          text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"TensorRT {name}: {done.stderr.strip().splitlines()[-1:]}")
    return json.loads(done.stdout.splitlines()[-1])


def main() -> int:
    """Read every version; returns 1 if a table differs from what the module says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("versions", nargs="*", choices=[*VERSIONS, []], help="default: all")
    parser.add_argument("--write", action="store_true", help="write the tables instead of comparing")
    chosen = parser.parse_args()
    wrong = 0
    for name in chosen.versions or VERSIONS:
        try:
            answer = read(name)
        except FileNotFoundError as error:
            print(f"{name:6} skipped: {error}")
            continue
        path = TABLES / f"{name}.json"
        text = json.dumps(answer["table"], indent=0, sort_keys=True) + "\n"
        if chosen.write:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        same = path.exists() and path.read_text() == text
        wrong += not same
        classes = answer["table"]["classes"]
        print(f"{name:6} {answer['table']['version']}: {len(classes)} classes, "
              f"{sum(len(c['members']) + len(c['enum']) for c in classes.values())} names; table "
              f"{'equal' if same else 'DIFFERS'}; Builder without a driver: {answer['builder'][:60]}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
