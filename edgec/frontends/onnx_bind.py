"""Give every input of an ONNX model a static shape, and turn inputs whose value is known into constants."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import prod
from typing import Union

import numpy as np
import onnx
from onnx import numpy_helper

from edgec.errors import Unsupported, UserError
from edgec.frontends.onnx_tensors import MAX_ELEMENTS, element_type, tensor_dims
from edgec.frontends.spec import InputSpec, name_bare, option, unknown_name
from edgec.ir.types import DType, TensorType

Dims = list[Union[int, str, None]]


def bind(
    model: onnx.ModelProto, specs: Mapping[str, InputSpec], values: Mapping[str, np.ndarray], where: str
) -> dict[str, int]:
    """Ensures that the graph's inputs are exactly the open ones and that each has a type without unknown dimensions.

    Inputs that are initializers too (ONNX before IR 4) become constants. A symbol has one value wherever it occurs, so
    one binding may resolve several inputs. Stale shapes of inner values and outputs are dropped. Changes `model`.

    Returns the value of every symbol.

    Raises UserError: a name is unknown; a shape or an array does not fit what the model states; a symbol would have two
        values; or dimensions stay unbound: the message names all of them and the options to write.
    Raises Unsupported: an input is a sequence, a map or an optional.
    """
    graph = model.graph
    constants = {t.name for t in graph.initializer} | {t.values.name for t in graph.sparse_initializer}
    inputs = [v for v in graph.input if v.name not in constants]
    for value in inputs:
        if value.type.WhichOneof("value") != "tensor_type":
            raise Unsupported(
                f"input {value.name!r} is no tensor but a {(value.type.WhichOneof('value') or 'value without type')}",
                where=where,
                expected="tensors",
                hint="export the model with tensor inputs",
            )
        element_type(value.type.tensor_type.elem_type, f"input {value.name!r}", where)
    names = [v.name for v in inputs]
    specs = name_bare(specs, [n for n in names if n not in values], where)
    for name in (*specs, *values):
        if name not in names:
            raise unknown_name(name, names, where)
    both = sorted(set(specs) & set(values))
    if both:
        raise UserError(f"input {both[0]!r} is given a shape and a value", where=where, expected="one of the two")

    shapes: dict[str, Dims | None] = {v.name: _open_dims(v, where) for v in inputs}
    symbols: dict[str, tuple[int, str]] = {}
    arrays = {n: _fitting(a, next(v for v in inputs if v.name == n), where) for n, a in values.items()}
    for name, given in (*((n, s.shape) for n, s in specs.items()), *((n, a.shape) for n, a in arrays.items())):
        _meet(name, shapes[name], given, symbols, where)
        shapes[name] = list(given)
    for value in inputs:
        spec = specs.get(value.name)
        declared = element_type(value.type.tensor_type.elem_type, "", where)
        if spec is not None and spec.dtype not in (None, declared):
            raise UserError(
                f"input {value.name!r} is given the type {spec.dtype.name.lower()}",
                where=where,  # type: ignore[union-attr]
                expected=f"{declared.name.lower()}, as the model states",
            )
    bound = {
        name: None if dims is None else [symbols[d][0] if isinstance(d, str) and d in symbols else d for d in dims]
        for name, dims in shapes.items()
    }
    _refuse_unbound(bound, where)
    _write(graph, inputs, bound, arrays, where)
    return {symbol: size for symbol, (size, _) in symbols.items()}


def _open_dims(value: onnx.ValueInfoProto, where: str) -> Dims | None:
    dims = tensor_dims(value.type)
    if dims is None:
        return None
    for d in dims:
        if isinstance(d, int) and d < -1:
            raise UserError(
                f"input {value.name!r} has the dimension {d}",
                where=where,
                expected="dimensions of 0 or more",
                hint="the file is damaged: export the model again",
            )
    return [None if d == -1 else d for d in dims]  # some exporters write -1 for an open dimension


def _meet(
    name: str, declared: Dims | None, given: tuple[int, ...], symbols: dict[str, tuple[int, str]], where: str
) -> None:
    """Record what `given` says about the symbols of `declared`, and refuse a contradiction."""
    if declared is None:
        return
    stated = "x".join("?" if d is None else str(d) for d in declared)
    if len(declared) != len(given):
        raise UserError(
            f"input {name!r} is given the shape {'x'.join(map(str, given))}",
            where=where,
            expected=f"{len(declared)} dimensions: {stated}",
            hint=option(name, declared),
        )
    for index, (d, size) in enumerate(zip(declared, given, strict=True)):
        if isinstance(d, int) and d != size:
            raise UserError(
                f"input {name!r} is given {size} for dimension {index}, which the model fixes to {d}",
                where=where,
                expected=stated,
                hint="export the model with a dynamic dimension to change it",
            )
        if isinstance(d, str):
            before = symbols.setdefault(d, (size, name))
            if before[0] != size:
                raise UserError(
                    f"dimension {d!r} is {before[0]} in input {before[1]!r} but {size} in input {name!r}",
                    where=where,
                    expected="one value for one symbol",
                )


def _fitting(array: np.ndarray, value: onnx.ValueInfoProto, where: str) -> np.ndarray:
    """`array` in the input's own type, if no number changes by that."""
    dtype = element_type(value.type.tensor_type.elem_type, "", where)
    array = np.asarray(array)
    if dtype is DType.STRING and array.dtype.kind in "OUS":
        return array.astype(object)
    with np.errstate(all="ignore"):
        cast = array.astype(dtype.numpy) if array.dtype.kind in "biuf" and dtype is not DType.STRING else None
    if cast is None or not (
        np.array_equal(cast.astype(np.float64), array.astype(np.float64), equal_nan=True)
        or (array.dtype.kind == "f" and dtype.is_float)
    ):
        raise UserError(
            f"the value of input {value.name!r} has type {array.dtype}",
            where=where,
            expected=f"numbers that fit in {dtype.name.lower()}",
        )
    return cast


def _refuse_unbound(bound: Mapping[str, Dims | None], where: str) -> None:
    texts, options = [], []
    for name, dims in bound.items():
        if dims is None:
            texts.append(f"all of input {name!r} (the model does not state its rank)")
            options.append(option(name, ["N", None]))
            continue
        unbound = [f"{i} ({d})" if d else str(i) for i, d in enumerate(dims) if not isinstance(d, int)]
        if unbound:
            plural = "s" if len(unbound) > 1 else ""
            texts.append(f"dimension{plural} {', '.join(unbound)} of input {name!r}")
            options.append(option(name, dims))
    if texts:
        raise UserError(
            "an engine has static shapes, and the model leaves open: " + "; ".join(texts),
            where=where,
            expected="a number for each",
            hint="add " + " ".join(options),
        )


def _write(
    graph: onnx.GraphProto,
    inputs: list[onnx.ValueInfoProto],
    bound: Mapping[str, Dims | None],
    arrays: Mapping[str, np.ndarray],
    where: str,
) -> None:
    new = []
    for value in inputs:
        if value.name in arrays:
            continue
        dims = [d for d in bound[value.name] or () if isinstance(d, int)]
        if prod(dims) > MAX_ELEMENTS:
            raise UserError(
                f"input {value.name!r} would have {prod(dims)} elements",
                where=where,
                expected=f"at most {MAX_ELEMENTS}",
            )
        new.append(onnx.helper.make_tensor_value_info(value.name, value.type.tensor_type.elem_type, dims))
    del graph.input[:]
    graph.input.extend(new)
    graph.initializer.extend(numpy_helper.from_array(a, n) for n, a in arrays.items())
    del graph.value_info[:]  # recorded for other shapes
    for output in graph.output:
        if output.type.HasField("tensor_type"):
            output.type.tensor_type.ClearField("shape")


def declared_types(values: Iterable[onnx.ValueInfoProto], symbols: Mapping[str, int]) -> dict[str, TensorType]:
    """Types that a file states for inner values and outputs, symbols replaced by the values that `bind` returns.

    They serve operators that onnx cannot infer.
    """
    result = {}
    for value in values:
        dims = tensor_dims(value.type) if value.type.HasField("tensor_type") else None
        if dims is None:
            continue
        shape = tuple(symbols.get(d) if isinstance(d, str) else d if d is not None and d >= 0 else None for d in dims)
        result[value.name] = TensorType(
            element_type(value.type.tensor_type.elem_type, f"value {value.name!r}", ""), shape
        )
    return result
