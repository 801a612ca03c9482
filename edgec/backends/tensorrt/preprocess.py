"""The preprocessing of a bundle as C: a recipe for edgec_preprocess.h, which CPU and GPU read."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import resources
from typing import Any

from edgec.data.preprocess import geometry, parse
from edgec.errors import UserError
from edgec.ir.graph import Graph

SOURCES = ("edgec_preprocess.h", "edgec_preprocess.cu")


def preprocess_files(stated: Mapping[str, Any] | None, graph: Graph, name: str) -> dict[str, str]:
    """Files by name: the shared header, the CUDA kernels, and NAME_preprocess.h with the recipe.

    Empty unless preprocessing is stated and the graph has one input, a float32 picture.
    """
    if not stated or len(graph.inputs) != 1 or graph.inputs[0].dtype.value != "float32":
        return {}
    value = graph.inputs[0]
    try:
        recipe = parse(stated)
        goal = geometry(value.name, value.type, recipe.layout)
    except UserError:  # scaling alone, of an input that is no picture
        return {}

    def three(numbers: tuple[float, ...]) -> str:
        return "{" + ", ".join(map(_c_float, numbers * 3 if len(numbers) == 1 else numbers)) + "}"

    def pair(numbers: tuple[int, ...]) -> str:
        return "{" + ", ".join(str(n) for n in (*numbers, 0, 0)[:2]) + "}"

    color = "GRAY" if goal.channels == 1 else recipe.color
    fields = [f"EDGEC_RESIZE_{recipe.resize.upper()}", pair(recipe.size), pair(recipe.crop),
              str(int(recipe.align == "corner")), f"EDGEC_COLOR_{color}", str(int(goal.layout == "NCHW")),
              str(goal.height), str(goal.width), _c_float(recipe.fill), _c_float(recipe.scale), three(recipe.mean),
              three(recipe.std)]
    text = (f"/* How a picture becomes the input {value.name}: {recipe} */\n#include \"edgec_preprocess.h\"\n\n"
            f"static const edgec_recipe {name}_preprocess = {{{', '.join(fields)}}};\n")
    folder = resources.files("edgec.runtime").joinpath("c")
    return {**{s: folder.joinpath(s).read_text(encoding="utf-8") for s in SOURCES}, f"{name}_preprocess.h": text}


def _c_float(number: float) -> str:
    return repr(float(number)) + "f"
