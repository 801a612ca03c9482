"""TensorPrograms become object code: plain C functions of pointers, with no runtime behind them.

TVM's own lowering ends in functions that take packed arguments, check shapes at run time and call TVM's runtime for
memory. Shapes are static here, so Buffer parameters become bare pointers, and large temporaries become further
parameters, which the entry function takes from the arena.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import tvm
import tvm_ffi
from tvm import s_tir, tirx

from edgec.backends.tvm.bindings import flatten
from edgec.backends.tvm.elf import undefined_symbols
from edgec.backends.tvm.exact import as_wished
from edgec.backends.tvm.phases import Phase, Scratch, split
from edgec.backends.tvm.symbols import is_ordinary
from edgec.errors import InternalError
from edgec.kernels.program import TensorProgram
from edgec.progress import Progress, silent
from edgec.target import Target


@dataclass(frozen=True, eq=False)
class Lowered:
    """Functions without Buffers, to be called in order. scratch: the pointers that follow the program's arguments."""

    phases: tuple[Phase, ...]
    scratch: tuple[Scratch, ...]


@dataclass(frozen=True)
class Code:
    """An object file. symbols: for each call the names of its phases; functions: how many there are;
    undefined: what the object needs from libc, libm or the compiler's runtime.
    """

    data: bytes
    symbols: tuple[tuple[str, ...], ...]
    functions: int
    undefined: tuple[str, ...]


def tvm_target(target: Target) -> Any:
    """TVM's form of the core and instruction sets of `target`."""
    cpu = target.cpu
    spec: dict[str, Any] = {"kind": "llvm", "mtriple": target.triple, "mcpu": cpu.core}
    if cpu.features:
        spec["mattr"] = [f if f[0] in "+-" else f"+{f}" for f in cpu.features]
    if cpu.arch == "thumb":
        spec["vector-width"] = max(32, cpu.vector_bits)
    return tvm.target.Target(spec)


def lower(programs: Sequence[TensorProgram], labels: Sequence[str], target: Target, progress: Progress = silent,
          shared: Sequence[bool] | None = None) -> list[Lowered]:
    """Each program as functions of pointers. Programs that differ only in names share one Lowered.

    labels: what to call each program in a message; shared: whether threads may share its loops, no for all by default.
    Raises InternalError for a program that TVM cannot lower.
    """
    known: dict[tuple[int, bool], list[tuple[Any, Lowered]]] = {}
    result = []
    for index, (program, label) in enumerate(zip(programs, labels, strict=True)):
        progress("lower", index / len(programs), label)
        func = program.func.without_attr("global_symbol") if "global_symbol" in program.func.attrs else program.func
        several = shared is not None and shared[index]
        twins = known.setdefault((tvm_ffi.structural_hash(func, map_free_vars=True), several), [])
        match = next((low for other, low in twins if tvm_ffi.structural_equal(func, other, map_free_vars=True)), None)
        if match is None:
            try:
                match = _lower_one(func, target, several)
            except Exception as error:  # TVM has no common base class for its errors
                raise InternalError(f"TVM cannot lower a kernel: {_last_line(error)}", where=label) from error
            twins.append((func, match))
        result.append(match)
    return result


def emit(lowered: Sequence[Lowered], labels: Sequence[str], exclusive: Sequence[bool], target: Target,
         prefix: str) -> Code:
    """Object code for the calls. exclusive: the pointers of this call never overlap, which lets LLVM reorder.

    Function names are `prefix` and a number in the order of first use, so the bytes depend on nothing else.
    Raises InternalError if LLVM fails, or if the object needs a symbol that no device is sure to have.
    """
    names: dict[tuple[int, bool], str] = {}
    functions: dict[str, Any] = {}
    owners: dict[str, str] = {}
    symbols = []
    for low, label, alone in zip(lowered, labels, exclusive, strict=True):
        own = []
        for phase in low.phases:
            name = names.setdefault((id(phase), alone), f"{prefix}{len(names)}")
            if name not in functions:
                functions[name] = phase.func.with_attr("global_symbol", name).with_attr("tirx.noalias", alone)
                owners[name] = label
            own.append(name)
        symbols.append(tuple(own))
    tvm_form = tvm_target(target)
    try:
        data = _build(functions, tvm_form)
    except Exception as error:  # as above
        raise InternalError(f"LLVM cannot compile a kernel: {_last_line(error)}",
                            where=_culprit(functions, owners, tvm_form)) from error
    undefined = undefined_symbols(data)
    foreign = [s for s in undefined if not is_ordinary(s)]
    if foreign:
        where = "; ".join(label for name, label in owners.items()
                          if set(undefined_symbols(_build({name: functions[name]}, tvm_form))) & set(foreign))
        raise InternalError("a kernel needs a symbol that the device may lack: " + ", ".join(foreign), where=where,
                            expected="only libm functions and memcpy, memmove, memset")
    return Code(data, tuple(symbols), len(functions), tuple(undefined))


@lru_cache(maxsize=1)
def _passes() -> tuple[Any, Any]:
    """S-TIR to loops over Buffers, and loops over Buffers to what LLVM's code generator takes."""
    s, t = s_tir.transform, tirx.transform
    blocks = [s.CanonicalizeLoop(), s.LowerInitBlock(), s.PlanAndUpdateBufferAllocationLocation(),
              s.ConvertBlocksToOpaque(), s.CompactBufferAllocation(), s.LowerMatchBuffer(), s.StmtSimplify(),
              s.LowerOpaqueBlock()]
    flat = [t.FlattenBuffer(), t.BF16ComputeLegalize(), t.NarrowDataType(32), s.LoopPartition(), t.VectorizeLoop(True),
            t.StorageRewrite(), s.HoistIfThenElse(), t.UnrollLoop(), s.RenormalizeSplitPattern(), t.StmtSimplify(),
            t.RemoveNoOp(), s.RewriteUnsafeSelect(), t.CommonSubexprElim(), t.FP8ComputeLegalize(),
            t.FP8StorageLegalize(), t.BF16StorageLegalize()]
    return tvm.transform.Sequential(blocks), tvm.transform.Sequential(flat)


def _lower_one(func: Any, target: Target, shared: bool) -> Lowered:
    tvm_form = tvm_target(target)
    blocks, flat = _passes()
    module = tvm.IRModule({"main": flatten(func).with_attr("global_symbol", "main")})
    module = blocks(tirx.transform.BindTarget(tvm_form.with_host(tvm_form))(module))
    module = flat(tvm.IRModule({"main": _pointer_parameters(module["main"])}))
    func = as_wished(module["main"], target)
    if str(tvm_form.attrs["mtriple"]).startswith("aarch64"):
        func = _native_extremes(func)
    phases, scratch = split(func, shared)
    intrinsics = tirx.transform.LowerIntrin()
    return Lowered(tuple(Phase(intrinsics(tvm.IRModule({"main": p.func}))["main"], p.extent) for p in phases), scratch)


def _native_extremes(func: Any) -> Any:
    """The function with maxima and minima of vectors of floats as LLVM's `maximum` and `minimum`: one instruction on
    AArch64, where a comparison and a choice are two. A NaN that the choice would take stays a NaN.
    """
    def native(node: Any, larger: bool, a: Any, b: Any) -> Any:
        return tirx.call_llvm_intrin(str(node.ty), "llvm.maximum" if larger else "llvm.minimum", a, b)

    def extreme(node: Any) -> Any:
        return native(node, isinstance(node, tirx.Max), node.a, node.b) if _is_float_vector(node) else node

    def choice(node: Any) -> Any:
        condition = node.condition
        if not _is_float_vector(node) or not isinstance(condition, (tirx.LT, tirx.GT)):
            return node
        low, high = condition.a, condition.b
        if isinstance(condition, tirx.GT):
            low, high = high, low
        for larger, yes, no in ((True, high, low), (False, low, high)):
            if tvm_ffi.structural_equal(yes, node.true_value) and tvm_ffi.structural_equal(no, node.false_value):
                return native(node, larger, low, high)
        return node

    body = func.body
    for kind, replace in ((tirx.Max, extreme), (tirx.Min, extreme), (tirx.Select, choice)):
        body = tvm_ffi.structural_map(body, (kind, replace), order="post")
    return tirx.PrimFunc(func.params, body, func.ret_type, func.attrs)


def _is_float_vector(node: Any) -> bool:
    return str(node.ty).startswith(("float32x", "float16x"))


def _pointer_parameters(func: Any) -> Any:
    """The function with bare pointers in place of Buffer parameters."""
    parameters, declarations = [], []
    for parameter in func.params:
        if tirx.buffer.is_buffer_var(parameter):
            pointer = tirx.Var(parameter.name, tirx.buffer.buffer_data_pointer_type(parameter))
            declarations.append(tirx.DeclBuffer(parameter, data=pointer))
            parameters.append(pointer)
        else:
            parameters.append(parameter)
    return tirx.PrimFunc(parameters, tirx.SeqStmt([*declarations, func.body]), func.ret_type, func.attrs)


def _build(functions: dict[str, Any], tvm_form: Any) -> bytes:
    module = tvm.get_global_func("target.build.llvm")(tvm.IRModule(functions), tvm_form)
    with tempfile.TemporaryDirectory(prefix="edgec-") as folder:
        path = Path(folder, "kernels.o")
        module.write_to_file(str(path), "o")
        return path.read_bytes()


def _culprit(functions: dict[str, Any], owners: dict[str, str], tvm_form: Any) -> str:
    """The label of the first function that fails alone."""
    for name, func in functions.items():
        try:
            _build({name: func}, tvm_form)
        except Exception:  # whatever it is, it comes from this function
            return owners[name]
    return ""


def _last_line(error: BaseException) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[-1].strip() if lines else type(error).__name__
