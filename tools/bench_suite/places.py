"""Where everything lies, and the peers' own environment: what `pip` installs stays out of edgec's."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DATA = Path(os.environ.get("EDGEC_DATA", ROOT.parent / "shared" / "data"))
PEERS = ("onnxruntime", "openvino", "ncnn", "mnn")
_PACKAGES = ("numpy", "onnx", "onnxruntime", "openvino", "ncnn", "MNN", "sympy", "matplotlib")
_BARE = ("pnnx",)  # without what it depends on: a program that needs no torch
_TORCHVISION = "torchvision==0.28.*"  # the release that belongs to the torch of tools/environment


@dataclass(frozen=True)
class Places:
    """The folder for models, environments, engines and results."""

    folder: Path

    @property
    def models(self) -> Path:
        """One folder for each model."""
        return self.folder / "models"

    def work(self, model: str, contender: str, precision: str) -> Path:
        """What a contender makes of a model."""
        return self.folder / "work" / model / f"{contender}-{precision}"

    def python(self) -> Path:
        """The Python of the peers' environment, which is installed at the first call; a package that fails is left out.

        Raises RuntimeError if there is no environment at all.
        """
        python = self.folder / "peers" / "bin" / "python"
        wanted = " ".join((*_PACKAGES, *_BARE))
        stamp = self.folder / "peers" / ".installed"
        if python.exists() and stamp.exists() and stamp.read_text() == wanted:
            return python
        print(f"installing the peers into {python.parents[1]}: {wanted}", file=sys.stderr)
        _run([sys.executable, "-m", "venv", str(python.parents[1])])
        pip = [str(python), "-m", "pip", "--disable-pip-version-check", "install", "-q"]
        for packages, options in ((_PACKAGES, []), (_BARE, ["--no-deps"])):
            for package in packages:
                try:
                    _run([*pip, *options, package])
                except RuntimeError as error:
                    print(f"cannot install {package}: {error}", file=sys.stderr)
        stamp.write_text(wanted)
        return python

    def torchvision(self) -> Path:
        """A folder for PYTHONPATH with torchvision alone; empty if it cannot be installed."""
        folder = self.folder / "torchvision"
        if not folder.exists():
            try:
                _run([sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "-q", "--no-deps",
                      "--target", str(folder), _TORCHVISION])
            except RuntimeError as error:
                print(f"cannot install torchvision: {error}", file=sys.stderr)
                folder.mkdir(parents=True, exist_ok=True)
        return folder


def engine_digest() -> str:
    """A short hash of everything that decides what our engine is: the compiler, its kernels, its targets."""
    digest = hashlib.sha256()
    for top in ("edgec", "kernels", "targets"):
        for path in sorted((ROOT / top).rglob("*")):
            if path.suffix in (".py", ".toml", ".json", ".c", ".h", ".zig"):
                digest.update(str(path.relative_to(ROOT)).encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:12]


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if "ERROR" in line or "rror:" in line]
        raise RuntimeError(lines[-1] if lines else f"{Path(command[0]).name} ended with code {done.returncode}")
