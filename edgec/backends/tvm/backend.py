"""The backend `tvm`: a stage becomes a C library, compiled ahead of time, with nothing of TVM in it."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, replace
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgec.backends.base import ONE_THREAD, Artifact, Availability, CompileOptions, Port, Runner, Service, Threads
from edgec.backends.preprocess import picture_recipe, preprocess_files
from edgec.backends.tvm import entry, link
from edgec.backends.tvm.elf import data_object
from edgec.errors import InternalError, Refusal, Unsupported, UserError
from edgec.ir.graph import Node, Value
from edgec.ir.types import DType
from edgec.kernels.program import TensorProgram
from edgec.kernels.tables import Table
from edgec.ops import KernelRole, table
from edgec.plan.placement import extract
from edgec.plan.plan import Kernel, Plan, in_bytes
from edgec.progress import many
from edgec.target import Target

if TYPE_CHECKING:
    from edgec.compress.quantize.policy import Policy

_MOST_CONSTANTS = (1 << 31) - (1 << 24)  # signed 32-bit offsets from the code, less room for the code
_RUNTIME = Path(__file__).parents[2] / "runtime" / "c"


class TvmBackend:
    """See edgec.backends.base.Backend."""

    name = "tvm"
    exact = True

    def probe(self) -> Availability:
        """What is installed here; imports nothing."""
        missing = [f"{package} is not installed: pip install {package}"
                   for package, module in (("apache-tvm", "tvm"), ("ziglang", "ziglang")) if find_spec(module) is None]
        version = "" if find_spec("tvm") is None else metadata.version("apache-tvm")
        return Availability(not missing, version, tuple(missing))

    def supports(self, kernel: Kernel, target: Target) -> Refusal | None:
        """Why this engine cannot compute `kernel`.

        Rules: `tvm.arch` no code for this architecture; `tvm.quant` a grid that is not of integers, or not of float32
        numbers; `tvm.dynamic` a shape depends on data; `tvm.dtype` an element type without C counterpart, or float16
        on a core without arithmetic for it; `tvm.empty` a tensor without elements; and those of the op's own lowering.
        """
        from edgec.backends.tvm import lower

        first = kernel.nodes[0]
        if target.cpu.arch not in ("x86_64", "aarch64", "thumb"):
            text = f"there is no code for {target.cpu.arch}"
            return Refusal(first.name, "tvm.arch", text, first.source)
        for node in kernel.nodes:
            for value in (*node.input_values, *node.outputs):
                reason = _refuse_value(value, target)
                if reason is not None:
                    return _refusal(node, reason)
            reason = None if kernel.algorithm == "alias" else lower.refuse(node)
            if reason is not None:
                return _refusal(node, reason)
        return None

    def policy(self, target: Target) -> Policy:
        """That of all CPU engines, less the products that int8 makes slower; without TVM nothing is known of those."""
        from edgec.compress.quantize.policy import CPU

        if not self.probe().ok:
            return CPU
        from edgec.backends.tvm.worth import why_slower

        return replace(CPU, why_float=why_slower(target))

    def compile(self, plan: Plan, target: Target, options: CompileOptions) -> Artifact:
        """Write libNAME.a, libNAME.so (not for microcontrollers), NAME.h, edgec_engine.h, NAME.bin and example/.

        Raises UserError for a name that C cannot have or a toolchain that is not there, InternalError for a kernel
        that cannot be compiled.
        """
        from edgec.kernels.tables import known

        return compile_tuned(plan, target, options, known(target.cpu, tables_folder()))

    def load(self, artifact: Artifact, target: Target, threads: Threads = ONE_THREAD) -> Runner:
        """Natively where this machine has the target's instruction sets, else under qemu's user mode.

        Raises UserError if neither is possible here or a core is not there, InternalError if the files are not those of
        the artifact.
        """
        from edgec.backends.tvm.runner import open_engine

        return open_engine(artifact, target, threads)

    def serve(self, artifact: Artifact, target: Target, work: Path, threads: Threads = ONE_THREAD) -> Service:
        """A static program for Linux. Raises Unsupported for microcontrollers, UserError for too many threads."""
        from edgec.backends.tvm.runner import serve_engine

        return serve_engine(artifact, target, work, threads)


def tables_folder() -> Path:
    """Where the tables lie that this user has measured."""
    return link.cache_folder() / "tuned"


def own_table(core: str) -> Path:
    """The table that this user measures for a kind of core, and every build reads.

    Raises UserError if the user has no folder that lasts.
    """
    folder = link.own_folder()
    if folder is None:
        raise UserError("you have no folder in which a table of schedules would last",
                        expected="a home, or $XDG_CACHE_HOME, that may be written",
                        hint="set XDG_CACHE_HOME for this command and for the builds that are to read the table")
    return tables_folder() / f"{core}.json"


def compile_tuned(plan: Plan, target: Target, options: CompileOptions, tuned: Table) -> Artifact:
    """The engine of a plan with the kernels of a table, and by rules what it does not hold; raises as `compile`."""
    from edgec.backends.tvm import growth
    from edgec.kernels.tables import signature

    entry.check_name(options.name)
    plan = _with_layouts(plan, target, tuned)
    exact = any(in_bytes(v.quant) for v in plan.graph.values() if v.const is None)
    programs = {i: _program(k, target, exact, tuned) for i, k in enumerate(plan.kernels) if not k.is_view}
    grown = growth.measure(plan, programs)
    if options.max_growth:
        programs, grown = growth.within(plan, programs, target, options.max_growth,
                                        lambda kernel: _alternatives(kernel, target, exact, tuned))
    artifact = compile_programs(plan, programs, target, options)
    names = [k.name for k in plan.kernels if signature(k) in tuned.entries and k.name not in grown.given_up]
    return replace(artifact, meta={**artifact.meta, "tuned": sorted(names), "weights": asdict(grown)})


def compile_programs(plan: Plan, programs: dict[int, TensorProgram], target: Target,
                     options: CompileOptions) -> Artifact:
    """The engine of a plan whose programs are there: by index of the kernel, none for an alias.

    Raises InternalError for a program that cannot be compiled, Unsupported for too many constants.
    """
    from edgec.backends.tvm import codegen, rounding, work
    from edgec.backends.tvm.memory import calls, place_everything

    labels = [plan.kernels[i].where for i in programs]
    shared = [options.threads > 1 and work.is_shared(plan.kernels[i], p, target.cpu) for i, p in programs.items()]
    lowered = codegen.lower(list(programs.values()), labels, target, options.progress, shared)
    by_kernel = dict(zip(programs, lowered, strict=True))
    layout = place_everything(plan, programs, by_kernel)
    if len(layout.constants) > _MOST_CONSTANTS:
        raise Unsupported(f"the constants take {len(layout.constants)} bytes", where=options.name,
                          expected=f"at most {_MOST_CONSTANTS}, which code can reach by 32-bit offsets")
    options.progress("compile", None, many(len({id(low) for low in lowered}), "function") + " with LLVM")
    code = codegen.emit(lowered, labels, [layout.exclusive[i] for i in programs], target, f"{options.name}_kernel")
    steps = calls(layout, plan, programs, by_kernel, code)
    ports = [tuple(Port(v.name, v.type) for v in values) for values in (plan.graph.inputs, plan.graph.outputs)]
    described = entry.Entry(options.name, target.name, metadata.version("edgec"), ports[0], ports[1],
                            layout.arena.nbytes, len(layout.constants), tuple(steps), layout.thread_nbytes,
                            options.threads)
    options.progress("link", None, many(len(layout.constants) + len(code.data), "byte"))
    files = _write(described, code.data, layout.constants, target, options)
    for name, text in preprocess_files(picture_recipe(options.preprocess, plan.graph), options.name).items():
        (options.folder / name).write_text(text, encoding="utf-8", newline="\n")
        files[name] = "from a camera's picture to the input, in C"
    meta: dict[str, Any] = {
        "name": options.name, "abi": entry.ABI, "triple": target.triple, "arena_bytes": layout.arena.nbytes,
        "arena_lower_bound": layout.arena.lower_bound, "constant_bytes": len(layout.constants),
        "kernels": len(plan.kernels), "functions": code.functions, "undefined": list(code.undefined),
        "threads": options.threads, "thread_bytes": layout.thread_nbytes,
        "shared_kernels": sum(any(p.extent for p in low.phases) for low in lowered),
        "algorithms": dict(sorted(Counter(p.algorithm for p in programs.values()).items())),
        "kernel_algorithms": {**{plan.kernels[i].name: p.algorithm for i, p in programs.items()},
                              **{k.name: k.algorithm for k in plan.kernels if k.slices}},
        "steps": entry.step_rows(steps), "tolerance": rounding.tolerance(plan, programs),
        "predicted": work.predictions(plan, programs, target, len(layout.constants) + layout.arena.nbytes),
    }
    return Artifact("tvm", options.folder, ports[0], ports[1], files, meta)


def _refusal(node: Node, reason: tuple[str, str]) -> Refusal:
    """What is wrong with a node, and what a user can do about it."""
    return Refusal(node.name, reason[0], "; ".join(filter(None, (reason[1], table.advice(node)))), node.source)


def _refuse_value(value: Value, target: Target) -> tuple[str, str] | None:
    kind = value.type
    if not kind.is_static:
        return "tvm.dynamic", f"the shape of {value.name} {kind} depends on data"
    if kind.dtype not in entry.DTYPES:
        return "tvm.dtype", f"{value.name} has elements of type {kind.dtype.name.lower()}"
    if kind.dtype is DType.FLOAT16 and not target.cpu.has_half:
        return "tvm.dtype", f"{value.name} is float16, and {target.cpu.core} has no arithmetic for it"
    if kind.size == 0 and value.const is None:  # an empty parameter, such as no axes, is not read at run time
        return "tvm.empty", f"{value.name} {kind} has no elements"
    quant = value.quant
    if quant is not None and (not quant.dtype.is_integer or kind.dtype is not DType.FLOAT32):
        name = quant.dtype.name.lower()
        return "tvm.quant", f"{value.name} {kind} lies on a grid of {name}; only float32 on integers is supported"
    return None


def _with_layouts(plan: Plan, target: Target, tuned: Table) -> Plan:
    """A copy of the plan with the grids and layouts that the kernels want, and the conversions between them."""
    from edgec.kernels import registry
    from edgec.plan.grids import settle
    from edgec.plan.layout import assign
    from edgec.plan.slices import share

    own = extract(plan.graph, plan.kernels, plan.backend, target, plan.refusals)
    known = {v.name: v for v in own.graph.inputs}
    own.graph.inputs = [known.get(v.name, v) for v in plan.graph.inputs]
    own.kernels = settle(own.graph, own.kernels, signed=target.cpu.arch != "x86_64")
    own.kernels = assign(own.graph, own.kernels, lambda kernel: registry.demand(kernel, target, tuned))
    own.kernels = share(own.graph, own.kernels, registry.slices)
    return own


def _program(kernel: Kernel, target: Target, exact: bool, tuned: Table) -> Any:
    """The tuned program of a kernel, or what the generic composition makes of it.

    exact: in a graph with quantized activations, kernels that read or write such, and kernels of pointwise nodes, give
    the bits of the interpreter.
    """
    from edgec.backends.tvm import compose, lower
    from edgec.kernels import registry

    program = registry.program(kernel, target, lower.lower, tuned)
    program = compose.build(kernel, target, lower.lower) if program is None else program
    return _finished(kernel, program, exact)


def _alternatives(kernel: Kernel, target: Target, exact: bool, tuned: Table) -> Iterator[TensorProgram]:
    """Other tuned programs of a kernel, in the order of preference."""
    from edgec.backends.tvm import lower
    from edgec.kernels import registry

    for program in registry.alternatives(kernel, target, lower.lower, tuned):
        yield _finished(kernel, program, exact)


def _finished(kernel: Kernel, program: TensorProgram, exact: bool) -> TensorProgram:
    """The program without contraction where the bits of the interpreter are wanted."""
    from edgec.backends.tvm.exact import uncontracted

    pointwise = all(table.role(n) is KernelRole.POINTWISE for n in kernel.nodes)
    if exact and (pointwise or any(in_bytes(v.quant) for v in (*kernel.inputs, *kernel.outputs))):
        return replace(program, func=uncontracted(program.func))
    return program


def _write(described: entry.Entry, code: bytes, constants: bytes, target: Target,
           options: CompileOptions) -> dict[str, str]:
    """Every file of the engine; path below the folder -> what it is."""
    name, folder = described.name, options.folder
    tools = link.find_toolchain(target, options.toolchain)
    headers = {"edgec_engine.h": "what all engines share"}
    pooled = described.threads > 1
    if pooled:
        headers["edgec_pool.h"] = "threads for it, which the libraries hold"
    texts = {f"{name}.h": entry.header(described), **{h: (_RUNTIME / h).read_text(encoding="utf-8") for h in headers}}
    for path in ("main.c", "CMakeLists.txt"):
        template = (_RUNTIME / f"example_{path}").read_text(encoding="utf-8")
        texts[f"example/{path}"] = template.replace("@NAME@", name).replace("@MACRO@", name.upper())
    (folder / "example").mkdir()
    for path, text in texts.items():
        (folder / path).write_text(text, encoding="utf-8", newline="\n")
    (folder / f"{name}.bin").write_bytes(constants)
    with tempfile.TemporaryDirectory(prefix="edgec-") as temporary:
        work = Path(temporary)
        (work / f"{name}_entry.c").write_text(entry.source(described), encoding="utf-8")
        (work / f"{name}_code.o").write_bytes(code)
        data = work / f"{name}_constants.o"
        data.write_bytes(data_object(f"{name}_constants", constants, target.cpu.arch))
        link.compile_c(tools, work / f"{name}_entry.c", work / f"{name}_entry.o", folder)
        objects, others = [work / f"{name}_entry.o", work / f"{name}_code.o"], [data]
        if pooled:
            pool = work / "edgec_pool.c"
            pool.write_bytes((_RUNTIME / "edgec_pool.c").read_bytes())
            others.append(pool.with_suffix(".o"))
            link.compile_c(tools, pool, others[-1], folder)
        link.archive(tools, folder, name, objects, others)
        if target.cpu.arch != "thumb":
            link.shared(tools, folder, name, [*objects, *others], [f"{name}_run", f"{name}_engine",
                                                                  *(entry.POOL_FUNCTIONS if pooled else ())])
    files = {f"lib{name}.a": "the engine, to be linked into a program", f"{name}.h": "its C interface",
             **headers, f"{name}.bin": "the constants by themselves",
             "example/main.c": "a C program that runs the engine", "example/CMakeLists.txt": "how to build it"}
    if target.cpu.arch != "thumb":
        files[f"lib{name}.so"] = "the engine, to be loaded at run time"
    for path in files:
        if not (folder / path).is_file():
            raise InternalError("the linker wrote no file and reported no error", where=path)
    return files


BACKEND = TvmBackend()
