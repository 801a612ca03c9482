"""The preprocessing of a bundle as C: a recipe for edgec_preprocess.h, which CPU and GPU read."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import resources
from typing import Any

from edgec.data.preprocess import geometry, parse
from edgec.errors import UserError
from edgec.ir.graph import Graph

_HEADER, _KERNELS = "edgec_preprocess.h", "edgec_preprocess.cu"


def picture_recipe(stated: Mapping[str, Any] | None, graph: Graph) -> dict[str, Any]:
    """The fields of edgec_recipe by name, fit for JSON, with `input` (its name) and `grid`: the scale of the int8 grid
    that the input is rounded to, 0 without one. Empty unless preprocessing is stated and the graph has one input, a
    float32 picture.
    """
    if not stated or len(graph.inputs) != 1 or graph.inputs[0].dtype.value != "float32":
        return {}
    value = graph.inputs[0]
    try:
        recipe = parse(stated)
        goal = geometry(value.name, value.type, recipe.layout)
    except UserError:  # scaling alone, of an input that is no picture
        return {}
    grids = [q for n, _ in value.uses if n.op == "Identity" and (q := n.outputs[0].quant) is not None]
    return {
        "input": value.name, "resize": recipe.resize, "size": [*recipe.size, 0, 0][:2],
        "crop": [*recipe.crop, 0, 0][:2], "corner": int(recipe.align == "corner"),
        "color": "GRAY" if goal.channels == 1 else recipe.color, "planar": int(goal.layout == "NCHW"),
        "height": goal.height, "width": goal.width, "fill": recipe.fill, "scale": recipe.scale,
        "mean": _three(recipe.mean), "std": _three(recipe.std),
        "grid": float(grids[0].scale) if len(grids) == len(value.uses) == 1 else 0.0}


def preprocess_files(row: Mapping[str, Any], name: str, gpu: bool = False) -> dict[str, str]:
    """Files by name for a recipe of `picture_recipe`: the header that does the arithmetic, NAME_preprocess.h with the
    recipe, and for a GPU the CUDA kernels. Empty without a recipe.
    """
    if not row:
        return {}

    def group(numbers: list[Any]) -> str:
        return "{" + ", ".join(_c_float(n) if isinstance(n, float) else str(n) for n in numbers) + "}"

    fields = [f"EDGEC_RESIZE_{row['resize'].upper()}", group(row["size"]), group(row["crop"]), str(row["corner"]),
              f"EDGEC_COLOR_{row['color']}", str(row["planar"]), str(row["height"]), str(row["width"]),
              _c_float(row["fill"]), _c_float(row["scale"]), group(row["mean"]), group(row["std"])]
    text = (f"/* How a picture becomes the input {row['input']}. */\n#include \"edgec_preprocess.h\"\n\n"
            f"static const edgec_recipe {name}_preprocess = {{{', '.join(fields)}}};\n")
    folder, sources = resources.files("edgec.runtime").joinpath("c"), (_HEADER, *((_KERNELS,) if gpu else ()))
    return {**{s: folder.joinpath(s).read_text(encoding="utf-8") for s in sources}, f"{name}_preprocess.h": text}


def _three(numbers: tuple[float, ...]) -> list[float]:
    return [float(n) for n in (numbers * 3 if len(numbers) == 1 else numbers)]


def _c_float(number: float) -> str:
    return repr(float(number)) + "f"
