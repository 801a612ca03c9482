"""What is done to a picture before the model sees it: part of the engine's contract, so it is data, not code."""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from difflib import get_close_matches
from fractions import Fraction
from pathlib import Path
from typing import Any

from edgec.errors import UserError
from edgec.ir.types import TensorType

RESIZES = ("none", "stretch", "short", "letterbox")
COLORS = ("RGB", "BGR", "GRAY")
LAYOUTS = ("NCHW", "NHWC")
ALIGNMENTS = ("centre", "corner")
_LARGEST = 8192  # pixels; a side of a model's input beyond this is a typing error
_FILE_LIMIT = 1 << 20  # bytes of a file with preprocessing; one has about 200
_PRESETS = {
    "imagenet": "resize=short:256 crop=224 scale=1/255 mean=0.485,0.456,0.406 std=0.229,0.224,0.225",
    "raw": "scale=1",
    "unit": "scale=1/255",
    "symmetric": "scale=1/127.5 mean=1",
}
_EXAMPLE = "resize=short:256 crop=224 color=RGB scale=1/255 mean=0.485,0.456,0.406 std=0.229,0.224,0.225"


@dataclass(frozen=True)
class Preprocess:
    """From the pixels of a picture (0..255) to the numbers of an input, in the order of the fields.

    resize: `none`; `stretch` to `size`, whatever the proportions; `short`: the short side gets `size[0]` pixels;
    `letterbox`: as large as fits into `size`, the rest is `fill`, and the picture lies in the `centre` or in the upper
    left `corner` (align). size: height and width; empty: those of the model's input. crop: height and width that are
    cut from the middle. color: RGB, BGR or GRAY. Then y = (x * scale - mean) / std, with one number for all channels
    or one for each, in float32. layout: NCHW or NHWC, empty for that of the input.
    """

    resize: str = "none"
    size: tuple[int, ...] = ()
    crop: tuple[int, ...] = ()
    align: str = "centre"
    fill: float = 114.0
    color: str = "RGB"
    scale: float = 1.0
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    layout: str = ""

    def __post_init__(self) -> None:
        problems = [*_words(self), *_sizes(self), *_numbers(self)]
        if problems:
            raise UserError("the preprocessing is wrong: " + "; ".join(problems), expected=f"such as {_EXAMPLE}")

    @property
    def only_scales(self) -> bool:
        """True if it does nothing but (x * scale - mean) / std, the same for all channels."""
        return (self.resize == "none" and not self.crop and self.color != "BGR" and not self.layout
                and len(self.mean) == len(self.std) == 1)

    def to_json(self) -> dict[str, Any]:
        """All fields, fit for JSON; `parse` reads it back."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}

    def __str__(self) -> str:
        """The short text that `parse` reads back: what differs from the defaults, and the scale."""
        parts = []
        if self.resize != "none":
            parts.append(f"resize={self.resize}" + (f":{_joined(self.size, 'x')}" if self.size else ""))
        for name in ("crop", "align", "fill", "color", "scale", "mean", "std", "layout"):
            value = getattr(self, name)
            if name == "scale" or value != _DEFAULTS[name]:
                text = _joined(value, "x" if name == "crop" else ",") if isinstance(value, tuple) else str(value)
                parts.append(f"{name}={text}")
        return " ".join(parts)


@dataclass(frozen=True)
class Geometry:
    """The picture that an input takes. channels: 1 or 3."""

    layout: str
    height: int
    width: int
    channels: int


def geometry(name: str, type_: TensorType, layout: str = "") -> Geometry:
    """The picture that an input of this type takes: [1, C, H, W] or [1, H, W, C] with C = 1 or 3.

    Raises UserError if it takes none, or if both layouts would do and `layout` does not say which.
    """
    shape = type_.shape
    known = [s for s in LAYOUTS if len(shape) == 4 and shape[s.index("C")] in (1, 3) and layout in ("", s)]
    if len(known) > 1:
        raise UserError(f"input {name} {type_} is a picture in either layout", expected="layout=NCHW or layout=NHWC",
                        hint="state it in the preprocessing")
    if not known or None in shape:
        raise UserError(f"input {name} {type_} takes no picture" + (f" in layout {layout}" if layout else ""),
                        expected="[1, C, H, W] or [1, H, W, C], C = 1 or 3",
                        hint="give arrays, or a function that yields them")
    if shape[0] != 1:
        raise UserError(f"input {name} {type_} takes {shape[0]} pictures at once", expected="a batch of 1",
                        hint="bind the shape with --input")
    sizes = dict(zip(known[0], type_.dims, strict=True))
    return Geometry(known[0], sizes["H"], sizes["W"], sizes["C"])


def _fitting(preprocess: Preprocess, goal: Geometry) -> str:
    """What to change so that the pictures get the size of the input."""
    if not preprocess.crop:
        return f"resize={preprocess.resize} without a size takes that of the input"
    words = f"crop={goal.height}x{goal.width}"
    if preprocess.resize == "short" and preprocess.size:  # with the margin that this one leaves
        margin = preprocess.size[0] / min(preprocess.crop)
        words = f"resize=short:{round(min(goal.height, goal.width) * margin)} {words}"
    return f"append {words}, if the model was trained so: what stands last counts"


def bind(preprocess: Preprocess, name: str, type_: TensorType) -> Preprocess:
    """`preprocess` with all that the input's type decides: layout, size, and grey for one channel.

    Raises UserError if the picture that comes out cannot be the input.
    """
    goal = geometry(name, type_, preprocess.layout)
    size = preprocess.size
    if not size and preprocess.resize != "none":
        size = (min(goal.height, goal.width),) if preprocess.resize == "short" else (goal.height, goal.width)
    crop = preprocess.crop
    if preprocess.resize == "short" and not crop:
        crop = (goal.height, goal.width)
    result = crop or (size if preprocess.resize in ("stretch", "letterbox") else ())
    if result and result != (goal.height, goal.width):
        raise UserError(f"the preprocessing gives pictures of {_joined(result, 'x')}", where=str(preprocess),
                        expected=f"{goal.height}x{goal.width}, as input {name} {type_}",
                        hint=_fitting(preprocess, goal))
    color = preprocess.color
    if goal.channels == 1 and color != "GRAY":
        color = "GRAY"
    if goal.channels == 3 and color == "GRAY":
        raise UserError(f"input {name} {type_} has three channels, the preprocessing gives grey", expected="RGB or BGR")
    for what, values in (("mean", preprocess.mean), ("std", preprocess.std)):
        if len(values) not in (1, goal.channels):
            raise UserError(f"{what} has {len(values)} numbers", where=str(preprocess),
                            expected=f"1 or {goal.channels}, as input {name} {type_}")
    return replace(preprocess, size=size, crop=crop, color=color, layout=goal.layout)


def settle(stated: str | Path | Mapping[str, Any] | Preprocess | None,
           inputs: Sequence[tuple[str, TensorType]]) -> Preprocess | None:
    """What was stated as a Preprocess, bound to the input if there is only one and it can be a picture.

    Raises UserError as `parse` and `bind`; scaling alone is for numbers of any shape.
    """
    if stated is None:
        return None
    recipe = stated if isinstance(stated, Preprocess) else parse(stated)
    if len(inputs) != 1 or inputs[0][1].rank != 4:
        return recipe
    try:
        geometry(*inputs[0], recipe.layout)
    except UserError:
        if recipe.only_scales:
            return recipe
    return bind(recipe, *inputs[0])


def recommend(name: str, type_: TensorType) -> tuple[Preprocess | None, str]:
    """The preprocessing that an input's type decides alone, or None with the reason why it does not.

    An input of 8-bit integers takes the pixels themselves. For floats the scale is anyone's guess: 0..1, -1..1, 0..255
    and ImageNet's mean and deviation all occur, and a wrong guess costs accuracy in silence.
    """
    try:
        goal = geometry(name, type_)
    except UserError as error:
        return None, error.what
    color = "GRAY" if goal.channels == 1 else "RGB"
    known = Preprocess("stretch", (goal.height, goal.width), color=color, layout=goal.layout)
    if type_.dtype.value == "uint8":
        return known, ""
    return None, (f"input {name} {type_} is a picture of {goal.height}x{goal.width}, {goal.layout}, but its shape does "
                  "not tell what numbers it holds")


def parse(text: str | Path | Mapping[str, Any]) -> Preprocess:
    """A Preprocess from `key=value` pairs, a preset with pairs, JSON, a .json or .toml file, or a mapping.

    Text: `resize=short:256 crop=224x224 scale=1/255 mean=0.485,0.456,0.406 std=...`; presets: imagenet, raw, unit
    (0..1), symmetric (-1..1). A mean or std without a scale is refused: it could be meant for 0..1 or for 0..255.
    Raises UserError for unknown keys, with the nearest one, and for values out of range; all problems at once.
    """
    if isinstance(text, Mapping):
        return _from_mapping(text, "")
    if isinstance(text, Path) or re.search(r"\.(json|toml)$", text):
        return _from_file(Path(text))
    if text.lstrip().startswith("{"):
        return _from_mapping(_json(text, ""), "")
    pairs: dict[str, Any] = {}
    for item in text.replace(";", " ").split():
        key, found, value = item.partition("=")
        if not found and key in _PRESETS:
            pairs.update(_pairs(_PRESETS[key]))
        elif not found or not key or not value:
            raise UserError(f"cannot read {item!r} in the preprocessing", where=text,
                            expected=f"key=value, or one of {', '.join(_PRESETS)}", hint=f"such as {_EXAMPLE}")
        else:
            pairs[key] = value
    return _from_mapping(pairs, text)


_DEFAULTS = {f.name: f.default for f in fields(Preprocess)}
_KEYS = tuple(_DEFAULTS)


def _pairs(text: str) -> dict[str, str]:
    return dict(item.split("=") for item in text.split())


def _from_file(path: Path) -> Preprocess:
    try:
        if path.stat().st_size > _FILE_LIMIT:
            raise UserError("the file is too large for preprocessing", where=str(path), expected=f"{_FILE_LIMIT} bytes")
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise UserError("cannot read the preprocessing", where=str(path), reason=error) from error
    table = _json(text, str(path)) if path.suffix == ".json" else _toml(text, str(path))
    inner = table.get("preprocess", table)
    if isinstance(inner, str):
        return parse(inner)
    if not isinstance(inner, Mapping):
        raise UserError("the preprocessing is no table", where=str(path), expected="[preprocess] with key = value")
    return _from_mapping(inner, str(path))


def _json(text: str, where: str) -> Mapping[str, Any]:
    try:
        table = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"the preprocessing is no JSON: {error}", where=where) from error
    if not isinstance(table, dict):
        raise UserError("the preprocessing is no JSON object", where=where)
    return table


def _toml(text: str, where: str) -> Mapping[str, Any]:
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    try:
        table: Mapping[str, Any] = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"the preprocessing is no TOML: {error}", where=where) from error
    return table


def _from_mapping(table: Mapping[str, Any], where: str) -> Preprocess:
    problems = []
    values: dict[str, Any] = {}
    for key, raw in table.items():
        if key not in _KEYS:
            near = get_close_matches(str(key), _KEYS, 1)
            problems.append(f"there is no {key!r}" + (f", perhaps {near[0]!r}" if near else ""))
            continue
        try:
            values.update(_field(key, raw))
        except (ValueError, TypeError, ZeroDivisionError, OverflowError):
            problems.append(f"cannot read {key} = {raw!r}")
    shifted = {"mean", "std"} & values.keys()
    if shifted and "scale" not in values:
        problems.append(f"{' and '.join(sorted(shifted))} without a scale: say scale=1/255 if they are meant for 0..1, "
                        "scale=1 if they are meant for 0..255")
    if problems:
        raise UserError("the preprocessing is wrong: " + "; ".join(problems), where=where,
                        expected=f"keys {', '.join(_KEYS)}", hint=f"such as {_EXAMPLE}")
    return Preprocess(**values)


def _field(key: str, raw: Any) -> dict[str, Any]:
    """The fields that one key sets. `resize=short:256` sets two. Raises ValueError or TypeError for what it is not."""
    if key == "resize":
        mode, _, size = str(raw).partition(":")
        if mode not in RESIZES and re.fullmatch(r"\d+(x\d+)?", mode):  # a bare number is a short side, HxW a size
            mode, size = ("stretch" if "x" in mode else "short"), mode
        return {"resize": mode, **({"size": _extent(size, mode == "short")} if size else {})}
    if key in ("size", "crop"):
        return {key: _extent(raw, key == "size" and not isinstance(raw, str))}
    if key in ("mean", "std"):
        items = raw.split(",") if isinstance(raw, str) else raw if isinstance(raw, (list, tuple)) else [raw]
        return {key: tuple(_number(item) for item in items)}
    if key in ("scale", "fill"):
        return {key: _number(raw)}
    if not isinstance(raw, str):
        raise TypeError(key)
    return {key: raw.lower().replace("center", "centre") if key == "align" else raw.upper().replace("GREY", "GRAY")}


def _extent(raw: Any, single: bool) -> tuple[int, ...]:
    """Height and width from 224, `224x192` or [224, 192]; one number stands for both unless `single`."""
    items = raw.split("x") if isinstance(raw, str) else raw if isinstance(raw, (list, tuple)) else [raw]
    numbers = tuple(int(item) for item in items)
    if any(isinstance(item, (bool, float)) for item in items) or len(numbers) > 2:
        raise ValueError(raw)
    return numbers * 2 if len(numbers) == 1 and not single else numbers


def _number(raw: Any) -> float:
    """A number, or a fraction as in 1/255 and 1/127.5."""
    if isinstance(raw, str):
        above, slash, below = raw.partition("/")
        if len(raw) > 64:  # characters; Fraction would compute a power of ten of any size
            raise ValueError(raw)
        return float(above) / float(below) if slash else float(raw)
    if isinstance(raw, bool) or not isinstance(raw, (int, float, Fraction)):
        raise TypeError(raw)
    return float(raw)


def _words(p: Preprocess) -> list[str]:
    allowed = {"resize": RESIZES, "align": ALIGNMENTS, "color": COLORS, "layout": ("", *LAYOUTS)}
    return [f"{name} is {getattr(p, name)!r}, and must be one of {', '.join(filter(None, words))}"
            for name, words in allowed.items() if getattr(p, name) not in words]


def _sizes(p: Preprocess) -> list[str]:
    problems = []
    if p.size and len(p.size) != (1 if p.resize == "short" else 2):
        problems.append(f"size {_joined(p.size, 'x')} does not fit resize={p.resize}: short takes one number, others "
                        "a height and a width")
    if p.size and p.resize == "none":
        problems.append("a size without a resize")
    if p.crop and len(p.crop) != 2:
        problems.append("a crop has a height and a width")
    if any(not 1 <= n <= _LARGEST for n in (*p.size, *p.crop)):
        problems.append(f"sizes lie in 1..{_LARGEST}")
    if len(p.size) == 1 and p.crop and min(p.crop) > p.size[0]:
        problems.append(f"a crop of {_joined(p.crop, 'x')} is larger than a short side of {p.size[0]}")
    return problems


def _numbers(p: Preprocess) -> list[str]:
    problems = [f"{name} is not finite" for name in ("scale", "fill") if not math.isfinite(getattr(p, name))]
    for name in ("mean", "std"):
        values = getattr(p, name)
        if len(values) not in (1, 3) or not all(map(math.isfinite, values)):
            problems.append(f"{name} has one finite number, or three")
    if any(s == 0 for s in p.std):
        problems.append("std is 0")
    if p.scale == 0:
        problems.append("scale is 0")
    if not 0 <= p.fill <= 255:
        problems.append("fill lies in 0..255")
    return problems


def _joined(items: tuple[Any, ...], mark: str) -> str:
    return mark.join(str(i) for i in items)
