"""Targets: typed facts about devices, read from `targets/*.toml`. Facts have units in their names; policy is elsewhere."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Cpu:
    """One cluster of cores. core: LLVM's name; features: LLVM's names of the instruction sets that code may use."""

    core: str
    arch: str  # x86_64, aarch64 or thumb
    cores: int = 1
    mhz: int = 0
    l1d_kib: int = 0
    l2_kib: int = 0
    l3_kib: int = 0
    features: tuple[str, ...] = ()

    @property
    def vector_bits(self) -> int:
        """Width of the vectors that kernels use, in bits."""
        for feature, bits in (("avx512f", 512), ("avx2", 256), ("avx", 256), ("neon", 128), ("mve", 128)):
            if feature in self.features:
                return bits
        return 128 if self.arch == "x86_64" else 32


@dataclass(frozen=True)
class Target:
    """A device. backends: in order of preference; the first that supports a kernel gets it."""

    name: str
    cpu: Cpu
    backends: tuple[str, ...] = ("tvm", "onnxruntime")
    triple: str = "x86_64-linux-gnu"
    qemu_cpu: str = ""
    facts: dict[str, object] = field(default_factory=dict, compare=False, hash=False)
