"""Read torch models: exported programs, TorchScript, saved modules, state dicts, and modules in Python.

All of them become ONNX through torch's own exporters; the result is compared with torch on one random input.
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
import inspect
import io
import pickle  # noqa: TID251  only the names of its errors; every load goes through torch.load(weights_only=True) or trust
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from torch.export.pt2_archive._package import load_pt2

from edgec.errors import InternalError, Unsupported, UserError
from edgec.frontends import LoadedModel, torch_export
from edgec.frontends.detect import FileKind
from edgec.frontends.onnx import read_onnx
from edgec.frontends.onnx_bind import bind
from edgec.frontends.spec import InputSpec, name_bare, unknown_name
from edgec.frontends.torch_archive import TRUST, checked_copy
from edgec.frontends.torch_checkpoint import build_module, find_state_dict
from edgec.ir.graph import Graph

TOLERANCE = 1e-4  # of the largest magnitude, between torch and the exported model; float32 kernels differ by about 1e-6

Specs = Mapping[str, InputSpec]
Arrays = Mapping[str, np.ndarray]


def load_file(
    path: Path,
    kind: FileKind,
    specs: Specs,
    arrays: Arrays,
    *,
    trust_pickle: bool = False,
    factory: str = "",
    submodule: str = "",
) -> LoadedModel:
    """The model in a file that torch wrote.

    Raises UserError: the file is damaged, needs trust, is a state dict without `factory`, has no such `submodule`, or
    the inputs do not fit.
    Raises Unsupported: torch cannot export the model; names the operator and, where known, the user's source line.
    Raises InternalError: the exported model computes something else than torch does.
    """
    where = str(path)
    with open(path, "rb") as file:
        sha256 = hashlib.sha256(file.read()).hexdigest()
    if kind is FileKind.PT2:
        if submodule:
            raise UserError(
                "an exported program has no parts of its own", where=where, hint="leave --submodule away, or export it"
            )
        program = _load_program(path, trust_pickle)
        return _from_program(program, specs, arrays, where, sha256)
    if kind is FileKind.TORCHSCRIPT:
        archive = checked_copy(path, kind, trust_pickle)
        try:
            with torch_export.quiet():
                script = torch.jit.load(archive, map_location="cpu")
        except (RuntimeError, ValueError, EOFError) as error:
            raise _damaged(where, error) from error
        return _from_script(_part(script, submodule, where), specs, arrays, where, sha256)
    saved = _unpickle(path, kind, trust_pickle)
    if isinstance(saved, torch.jit.ScriptModule):
        return _from_script(_part(saved, submodule, where), specs, arrays, where, sha256)
    if isinstance(saved, torch.nn.Module):
        if factory:
            raise UserError(
                "the file holds a whole module, so a factory is not needed", where=where, hint="leave --model away"
            )
        saved = _part(saved, submodule, where)
        return _from_module(saved, _arguments(saved, specs, arrays, where), specs, arrays, where, "torch.save", sha256)
    state = find_state_dict(saved, where)
    if not factory:
        raise UserError(
            f"the file holds weights only ({len(state)} tensors), not a network",
            where=where,
            expected="a module to put them in",
            hint="name the function that builds it: --model package.module:function",
        )
    module = _part(build_module(factory, state, where), submodule, where)
    return _from_module(module, _arguments(module, specs, arrays, where), specs, arrays, where, "state dict", sha256)


def load_module(module: Any, specs: Specs, arrays: Arrays, example_inputs: Any) -> LoadedModel:
    """A model from Python: an nn.Module with example inputs (a tuple, or a dict by name) or `specs` for every input, an
    exported program, or a TorchScript module. The module's training mode and weights stay as they are.

    Raises UserError: `module` is no torch model, or its inputs are not given.
    Raises Unsupported, InternalError: as `load_file`.
    """
    where = f"{type(module).__module__}.{type(module).__qualname__}"
    if isinstance(module, torch.export.ExportedProgram):
        return _from_program(module, specs, arrays, where, "")
    if isinstance(module, torch.jit.ScriptModule):
        return _from_script(module, specs, arrays, where, "")
    if not isinstance(module, torch.nn.Module):
        raise UserError(
            f"a model cannot be read from {where}",
            expected="a path, ONNX bytes, an onnx.ModelProto or a torch.nn.Module",
        )
    if example_inputs is None:
        arguments = _arguments(module, specs, arrays, where)
    elif isinstance(example_inputs, Mapping):
        arguments = ((), dict(example_inputs))
    else:
        arguments = (tuple(example_inputs) if isinstance(example_inputs, (tuple, list)) else (example_inputs,), {})
    return _from_module(module, arguments, {} if example_inputs is not None else specs, arrays, where, "module", "")


# -- reading files ----------------------------------------------------------------------------------------------------


def _damaged(where: str, error: BaseException) -> UserError:
    lines = [line for line in str(error).strip().splitlines() if line.strip()]
    return UserError(
        f"torch cannot read the file: {lines[0] if lines else type(error).__name__}",
        where=where,
        hint=f"save it again with torch {torch.__version__.split('+')[0]}, or copy it again if it was cut short",
    )


def _load_program(path: Path, trust: bool) -> torch.export.ExportedProgram:
    archive = checked_copy(path, FileKind.PT2, trust)
    # torch.export.load falls back to a full unpickling otherwise
    force = contextlib.nullcontext() if trust else torch_export.environment("TORCH_FORCE_WEIGHTS_ONLY_LOAD", "1")
    try:
        with torch_export.quiet(), force:
            program = _loaded(archive)
    except pickle.UnpicklingError as error:
        raise UserError(
            "the archive holds pickled Python objects, which run code when they are read",
            where=str(path),
            expected="tensors only",
            hint=TRUST,
        ) from error
    except NotImplementedError as error:  # told by the registry of containers
        raise UserError(
            "the program takes or returns objects of a class that torch does not know here",
            where=str(path),
            reason=error,
            expected="tensors, tuples, lists and dicts",
            hint="export a module whose forward takes and returns these (models of transformers: return_dict=False)",
        ) from error
    except Exception as error:  # its deserializer raises whatever a damaged field leads to
        raise _damaged(str(path), error) from error
    if not trust:
        program._guards_code = []  # source code that the program would execute to check its inputs
    return program


def _loaded(archive: io.BytesIO) -> torch.export.ExportedProgram:
    """The program of an archive. torch.export.load only logs why it cannot read one; this raises that very error."""
    try:
        return torch.export.load(archive)
    except RuntimeError:
        archive.seek(0)
        load_pt2(archive)
        raise


def _unpickle(path: Path, kind: FileKind, trust: bool) -> Any:
    where = str(path)
    source: Any = checked_copy(path, kind, trust) if kind is FileKind.TORCH_SAVE else io.BytesIO(path.read_bytes())
    try:
        with torch_export.quiet():
            return torch.load(source, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if not trust:
            if (
                "Unsupported global" not in str(error)
                and "Unsupported class" not in str(error)
                and "weights_only" not in str(error)
            ):
                raise _damaged(where, error) from error
            raise UserError(
                "the file is a pickle of Python objects; reading it runs whatever code it contains",
                where=where,
                expected="a torch.export archive, TorchScript, or a state dict, which run no code",
                hint=TRUST,
            ) from error
    except Exception as error:  # the restricted unpickler raises whatever a damaged byte leads to
        raise _damaged(where, error) from error
    source.seek(0)
    try:
        with torch_export.quiet():
            return torch.load(source, map_location="cpu", weights_only=False)
    except (ImportError, AttributeError) as error:
        raise UserError(
            f"the pickle needs code that cannot be imported: {error}",
            where=where,
            hint="run where that code is installed, or add its folder to PYTHONPATH",
        ) from error
    except Exception as error:  #  unpickling runs the file's own code
        raise _damaged(where, error) from error


# -- from torch objects to LoadedModel --------------------------------------------------------------------------------


def _from_program(
    program: torch.export.ExportedProgram, specs: Specs, arrays: Arrays, where: str, sha256: str
) -> LoadedModel:
    bind(_signature(program), specs, arrays, where)  # before the export, which takes seconds
    proto = torch_export.export_program(program, where)
    graph, original = read_onnx(proto, specs, arrays, where=where)
    with torch_export.quiet():
        module = program.module(check_guards=False)
    feeds = _random_feeds(original)
    tensors = [torch.from_numpy(np.array(feeds.get(v.name, arrays.get(v.name)))) for v in proto.graph.input]
    _compare(_run(module, tensors, {}, where), original, feeds, where)
    return LoadedModel(graph, original, "pt2", sha256 or hashlib.sha256(original).hexdigest())


def _signature(program: torch.export.ExportedProgram) -> onnx.ModelProto:
    """The program's tensor inputs as an ONNX model without nodes; open dimensions have torch's symbols."""
    inputs = []
    for node in program.graph.nodes:
        value = node.meta.get("val")
        if (
            node.op == "placeholder"
            and node.name in program.graph_signature.user_inputs
            and isinstance(value, torch.Tensor)
        ):
            element = onnx.helper.np_dtype_to_tensor_dtype(torch.empty(0, dtype=value.dtype).numpy().dtype)
            dims = [d if isinstance(d, int) else str(d) for d in value.shape]
            inputs.append(onnx.helper.make_tensor_value_info(node.name, element, dims))
    return onnx.helper.make_model(onnx.helper.make_graph([], "signature", inputs, []))


def _from_script(script: torch.jit.ScriptModule, specs: Specs, arrays: Arrays, where: str, sha256: str) -> LoadedModel:
    arguments = _script_arguments(script, specs, arrays, where)
    names = [n for n, a in arguments.items() if isinstance(a, torch.Tensor) or n in arrays]
    with torch_export.evaluating(script):
        trial = copy.deepcopy(script)
        expected, again = (_run(trial, list(arguments.values()), {}, where) for _ in range(2))
        if any(
            not np.allclose(a, b, rtol=1e-3, atol=1e-5, equal_nan=True) for a, b in zip(expected, again, strict=True)
        ):
            raise Unsupported(
                "the model gives other outputs when it is called again: it keeps a state or draws random numbers",
                where=where,
                expected="outputs that depend on the inputs alone",
                hint=_stateless_hint(script),
            )
        proto = torch_export.export_script(script, tuple(arguments.values()), names, where)
    graph, original = _read(proto, specs, arrays, where)
    feeds = {n: a.numpy() for n, a in arguments.items() if isinstance(a, torch.Tensor)}
    _compare(expected, original, feeds, where)
    return LoadedModel(graph, original, "torchscript", sha256 or hashlib.sha256(original).hexdigest())


def _part(module: Any, name: str, where: str) -> Any:
    """The submodule called `name` (`encoder.0`), the module itself for an empty name.

    Raises UserError: there is no such submodule.
    """
    parts = dict(module.named_modules())  # get_submodule does not exist for TorchScript
    if name not in parts:
        known = ", ".join(n for n, _ in module.named_children()) or "none"
        raise UserError(f"the model has no submodule {name!r}", where=where, expected=f"one of: {known}")
    return parts[name]


def _stateless_hint(script: torch.jit.ScriptModule) -> str:
    """What to do about a module that keeps a state: often it wraps a network that does not."""
    hint = "make the state an input and an output of the model"
    parts = [n for n, m in script.named_children() if hasattr(m, "forward")]
    return f"{hint}, or build a part of it with --submodule: {', '.join(parts)}" if parts else hint


def _from_module(
    module: torch.nn.Module,
    arguments: tuple[tuple[Any, ...], dict[str, Any]],
    specs: Specs,
    arrays: Arrays,
    where: str,
    kind: str,
    sha256: str,
) -> LoadedModel:
    if any(p.device.type != "cpu" for p in module.parameters()):
        module = copy.deepcopy(module).cpu()
    args, kwargs = torch.utils._pytree.tree_map_only(torch.Tensor, lambda t: t.detach().cpu(), arguments)
    random = np.random.default_rng(0)
    args, kwargs = torch.utils._pytree.tree_map_only(torch.Tensor, lambda t: _like(t, random), (args, kwargs))
    with torch_export.evaluating(module):
        expected = _run(copy.deepcopy(module), list(args), kwargs, where)
        proto = torch_export.export_module(module, args, kwargs, where)
    graph, original = _read(proto, specs, arrays, where)
    tensors = [t for t in torch.utils._pytree.tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)]
    feeds = {v.name: t.numpy() for v, t in zip(proto.graph.input, tensors, strict=False)}
    _compare(expected, original, feeds, where)
    return LoadedModel(graph, original, kind, sha256 or hashlib.sha256(original).hexdigest())


def _read(proto: onnx.ModelProto, specs: Specs, arrays: Arrays, where: str) -> tuple[Graph, bytes]:
    """`read_onnx` with those shapes and values whose input the exporter has kept."""
    kept = {v.name for v in proto.graph.input}
    return read_onnx(
        proto,
        {n: s for n, s in specs.items() if n in kept},
        {n: a for n, a in arrays.items() if n in kept},
        where=where,
    )


def _like(tensor: torch.Tensor, random: np.random.Generator) -> torch.Tensor:
    """Random numbers for a floating-point example; integers may be indices, so they stay."""
    if not tensor.is_floating_point():
        return tensor
    return torch.from_numpy(random.standard_normal(tuple(tensor.shape))).to(tensor.dtype)


def _example(spec: InputSpec, random: np.random.Generator) -> torch.Tensor:
    dtype = spec.dtype.numpy if spec.dtype else np.dtype(np.float32)
    return torch.from_numpy(_numbers(spec.shape, dtype, random))


def _numbers(shape: Sequence[int], dtype: np.dtype, random: np.random.Generator) -> np.ndarray:
    """Standard normal, or 0 and 1 for integers and bool: small enough for any index."""
    if dtype.kind == "f":
        return np.asarray(random.standard_normal(shape)).astype(dtype)
    return random.integers(0, 2, shape).astype(dtype)


def _arguments(
    module: torch.nn.Module, specs: Specs, arrays: Arrays, where: str
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Example inputs for `module.forward`, by name, from shapes and values."""
    parameters = {
        n: p
        for n, p in inspect.signature(module.forward).parameters.items()
        if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
    }
    open_ended = len(parameters) < len(inspect.signature(module.forward).parameters)
    wanting = [n for n, p in parameters.items() if p.default is p.empty and n not in arrays]
    specs = name_bare(specs, wanting, where)
    for name in (*specs, *arrays):
        if name not in parameters and not open_ended:
            raise unknown_name(name, parameters, where)
    missing = [n for n in wanting if n not in specs]
    if missing:
        raise _needs_shapes(missing, where)
    random = np.random.default_rng(0)
    return (), {
        **{n: _example(s, random) for n, s in specs.items()},
        **{n: torch.from_numpy(np.array(a)) for n, a in arrays.items()},
    }


def _needs_shapes(names: Sequence[str], where: str) -> UserError:
    options = " ".join(f"--input {n}=1x3x224x224" for n in names)
    return UserError(
        f"the model does not state the shape of its input{'s' * (len(names) > 1)} " + ", ".join(map(repr, names)),
        where=where,
        expected="a shape for each, and a type where it is not float32",
        hint=f"add for example {options} (or --input ids=1x128:int64 for integers)",
    )


def _script_arguments(script: torch.jit.ScriptModule, specs: Specs, arrays: Arrays, where: str) -> dict[str, Any]:
    """Arguments of `forward` in order: tensors from shapes, numbers from values or defaults."""
    schema = [a for a in script.forward.schema.arguments if a.name != "self"]
    known = [a.name for a in schema]
    tensors = [a.name for a in schema if str(a.type) == "Tensor" and not a.has_default_value() and a.name not in arrays]
    specs = name_bare(specs, tensors, where)
    for name in (*specs, *arrays):
        if name not in known:
            raise unknown_name(name, known, where)
    random = np.random.default_rng(0)
    result: dict[str, Any] = {}
    missing, unset = [], []
    for argument in schema:
        kind = str(argument.type)
        if argument.name in specs:
            result[argument.name] = _example(specs[argument.name], random)
        elif argument.name in arrays:
            array = arrays[argument.name]
            result[argument.name] = torch.from_numpy(np.array(array)) if "Tensor" in kind else array.item()
        elif argument.has_default_value():
            result[argument.name] = argument.default_value
        elif kind == "Tensor":
            missing.append(argument.name)
        elif kind in ("int", "float", "bool"):
            unset.append(argument.name)
        else:
            raise Unsupported(
                f"input {argument.name!r} of the model has the type {kind}",
                where=where,
                expected="tensors and numbers",
                hint="wrap the model in a module with tensor inputs",
            )
    if missing:
        raise _needs_shapes(missing, where)
    if unset:
        raise UserError(
            "inputs that are plain numbers become constants of the engine: " + ", ".join(map(repr, unset)),
            where=where,
            expected="a value for each",
            hint="add " + " ".join(f"--set {n}=NUMBER" for n in unset),
        )
    return result


# -- does the export compute the same? --------------------------------------------------------------------------------


def _random_feeds(original: bytes) -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    inputs = onnx.ModelProto.FromString(original).graph.input
    return {
        v.name: _numbers(
            [d.dim_value for d in v.type.tensor_type.shape.dim],
            onnx.helper.tensor_dtype_to_np_dtype(v.type.tensor_type.elem_type),
            random,
        )
        for v in inputs
    }


def _run(model: Any, args: Sequence[Any], kwargs: Mapping[str, Any], where: str) -> list[np.ndarray]:
    """The tensors that the model returns. Raises UserError if it fails."""
    try:
        with torch.no_grad(), torch_export.quiet():
            leaves = torch.utils._pytree.tree_leaves(model(*args, **kwargs))
    except Exception as error:  # the user's own code runs here
        lines = [line.strip() for line in str(error).strip().splitlines() if line.strip()]
        raise UserError(
            f"the model fails on inputs of the given shapes: {lines[-1] if lines else repr(error)}",
            where=torch_export.own_line(error) or where,
            hint="check the shapes and types given with --input",
        ) from error
    return [t.detach().cpu().numpy() for t in leaves if isinstance(t, torch.Tensor)]


def _compare(expected: Sequence[np.ndarray], original: bytes, feeds: Arrays, where: str) -> None:
    """Raises InternalError if ONNX Runtime's outputs for `original` are not torch's."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(original, options, providers=["CPUExecutionProvider"])
    known = {v.name for v in session.get_inputs()}
    results = session.run(None, {n: a for n, a in feeds.items() if n in known})
    if len(results) != len(expected):
        raise InternalError(
            f"the exported model has {len(results)} outputs, torch has {len(expected)}",
            where=where,
            hint="give the model as ONNX",
        )
    for value, result, reference in zip(session.get_outputs(), results, expected, strict=True):
        if result.shape != reference.shape:
            raise InternalError(
                f"output {value.name!r} of the exported model has the shape {result.shape}, in torch {reference.shape}",
                where=where,
                hint="give the model as ONNX",
            )
        if reference.size == 0 or reference.dtype.kind not in "fiub":
            continue
        largest = float(np.max(np.abs(reference.astype(np.float64)), initial=0.0, where=np.isfinite(reference)))
        difference = float(
            np.max(np.abs(np.nan_to_num(result.astype(np.float64)) - np.nan_to_num(reference.astype(np.float64))))
        )
        if difference > TOLERANCE * max(largest, 1e-30):
            raise InternalError(
                f"output {value.name!r} of the exported model differs from torch by {difference:.3g} of {largest:.3g}",
                where=where,
                expected=f"at most {TOLERANCE} of the largest magnitude",
                hint="torch's exporter is wrong for this model: export it to ONNX in another way",
            )
