"""Cores: what each can do, by LLVM's names, and which model of QEMU runs its code."""

from __future__ import annotations

from dataclasses import dataclass
from difflib import get_close_matches

from edgec.errors import UserError

_CLASS_FEATURES = {  # kernel class -> LLVM features that generated code may use
    "neon": ("neon",),
    "neon_fp16": ("neon", "fullfp16"),
    "neon_dot": ("neon", "fullfp16", "dotprod"),
    "i8mm": ("neon", "fullfp16", "dotprod", "i8mm", "bf16"),
}
_AARCH64_CLASS = {  # Source: LLVM, AArch64Processors.td
    "generic": "neon", "cortex-a35": "neon", "cortex-a53": "neon", "cortex-a57": "neon", "cortex-a72": "neon",
    "cortex-a73": "neon", "carmel": "neon_fp16", "cortex-a55": "neon_dot", "cortex-a75": "neon_dot",
    "cortex-a76": "neon_dot", "cortex-a78": "neon_dot", "cortex-a78ae": "neon_dot", "cortex-x1": "neon_dot",
    "neoverse-n1": "neon_dot", "neoverse-v1": "i8mm", "neoverse-n2": "i8mm", "neoverse-v2": "i8mm",
    "neoverse-v3ae": "i8mm", "cortex-a510": "i8mm", "cortex-a520": "i8mm", "cortex-a710": "i8mm",
    "cortex-a715": "i8mm", "cortex-a720": "i8mm",
}
_X86_V2 = ("sse3", "ssse3", "sse4.1", "sse4.2", "popcnt", "cx16")
_X86_V3 = (*_X86_V2, "avx", "avx2", "bmi", "bmi2", "f16c", "fma", "lzcnt", "movbe")
_X86_V4 = (*_X86_V3, "avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl")
_X86_FEATURES = {"x86-64": (), "x86-64-v2": _X86_V2, "x86-64-v3": _X86_V3, "x86-64-v4": _X86_V4}
MCU = {  # core -> (triple, features, QEMU machine). Four-part triples: with three LLVM reads "eabihf" as the system
    "cortex-m3": ("thumbv7m-unknown-none-eabi", (), "mps2-an385"),
    "cortex-m4": ("thumbv7em-unknown-none-eabihf", ("dsp",), "mps2-an386"),
    "cortex-m7": ("thumbv7em-unknown-none-eabihf", ("dsp",), "mps2-an500"),
    "cortex-m33": ("thumbv8m.main-unknown-none-eabihf", ("dsp",), "mps2-an505"),
    "cortex-m55": ("thumbv8.1m.main-unknown-none-eabihf", ("dsp", "mve"), "mps3-an547"),
}
_QEMU_CPUS = ("cortex-a35", "cortex-a53", "cortex-a57", "cortex-a72", "cortex-a76", "neoverse-n1")
_CLASS_QEMU_CPU = {  # for cores that QEMU has no model of: one that traps what the core lacks
    "neon": "cortex-a72",
    "neon_fp16": "a64fx",  # fp16 without the dot product; it also has SVE, which no kernel of this class uses
    "neon_dot": "cortex-a76",
    "i8mm": "max,sve-default-vector-length=16",  # bytes, the width of Neoverse V3AE
}


@dataclass(frozen=True)
class Cpu:
    """One cluster of cores. core: LLVM's name; features: LLVM's names of the instruction sets that code may use.

    arch is `x86_64`, `aarch64` or `thumb`. A size of 0 means not known, or not there. l2_kib is the size of one L2,
    which `l2_shared_by` cores share; l3_kib is the whole L3. fma_per_cycle: multiply-adds of whole vectors (of
    `vector_bits`, of float32) that a core can start in a cycle; issue_width: instructions that it takes in a cycle.
    """

    core: str
    arch: str
    cores: int = 1
    mhz: int = 0
    l1d_kib: int = 0
    l1i_kib: int = 0
    l2_kib: int = 0
    l2_shared_by: int = 1
    l3_kib: int = 0
    features: tuple[str, ...] = ()
    fma_per_cycle: int = 0
    issue_width: int = 0

    @property
    def vector_bits(self) -> int:
        """Width of the vectors that kernels use, in bits."""
        for feature, bits in (("avx512f", 512), ("avx2", 256), ("avx", 256), ("neon", 128), ("mve", 128)):
            if feature in self.features:
                return bits
        return 128 if self.arch == "x86_64" else 32

    @property
    def has_half(self) -> bool:
        """True if kernels can compute in float16: the core multiplies and adds vectors of it."""
        return "fullfp16" in self.features

    @property
    def kernel_class(self) -> str:
        """Which kernels fit: `neon`, `neon_fp16`, `neon_dot` or `i8mm` on Arm, `sse`, `avx2`, `avx512`, `avx512vnni`
        or `amx` on x86, `scalar`, `dsp` or `mve` on microcontrollers.
        """
        order = {
            "aarch64": (("i8mm", "i8mm"), ("dotprod", "neon_dot"), ("fullfp16", "neon_fp16"), ("neon", "neon")),
            "x86_64": (("amx-int8", "amx"), ("avx512vnni", "avx512vnni"), ("avx512f", "avx512"), ("avx2", "avx2")),
            "thumb": (("mve", "mve"), ("dsp", "dsp")),
        }
        for feature, name in order.get(self.arch, ()):
            if feature in self.features:
                return name
        return "sse" if self.arch == "x86_64" else "scalar"


def core_features(core: str, arch: str, *, where: str = "") -> tuple[str, ...]:
    """LLVM features that code for a core may use. Raises UserError for a core that edgec has no settings for."""
    known: dict[str, tuple[str, ...]]
    if arch == "aarch64":
        known = {name: _CLASS_FEATURES[kind] for name, kind in _AARCH64_CLASS.items()}
    elif arch == "x86_64":
        known = _X86_FEATURES
    elif arch == "thumb":
        known = {name: features for name, (_, features, _) in MCU.items()}
    else:
        raise UserError(f"unknown architecture {arch!r}", where=where, expected="x86_64, aarch64 or thumb")
    if core not in known:
        near = get_close_matches(core, known, n=3, cutoff=0.4)
        raise UserError(f"edgec has no settings for the core {core!r}", where=where,
                        expected="one of " + ", ".join(near or known))
    return known[core]


def qemu_cpu(cpu: Cpu) -> str:
    """The CPU model of `qemu-aarch64` that runs code for `cpu` and traps what it lacks; empty where there is none."""
    if cpu.arch != "aarch64":
        return ""
    return cpu.core if cpu.core in _QEMU_CPUS else _CLASS_QEMU_CPU[cpu.kernel_class]
