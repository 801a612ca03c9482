"""The CPU engine: ahead of time, through TVM and LLVM, for x86-64, AArch64 and Cortex-M."""

from edgec.backends.tvm.backend import BACKEND

__all__ = ["BACKEND"]
