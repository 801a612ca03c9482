"""Arrays for an engine from the command line: files by input name, images, or the golden set's own inputs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from edgec.backends.base import Port
from edgec.bundle import Bundle
from edgec.data.pictures import FILE_LIMIT, SUFFIXES, apply, read_picture
from edgec.data.preprocess import Preprocess, bind, parse, recommend
from edgec.errors import UserError
from edgec.golden import draw
from edgec.interchange.npz import read_npz
from edgec.ir.graph import Value


def read_feeds(bundle: Bundle, texts: Sequence[str], *, preprocess: str = "", seed: int = 0) -> dict[str, np.ndarray]:
    """One array per input of the bundle.

    texts: `NAME=FILE`, or `FILE` for the only input or a .npz with all of them; `random` for normal floats, with all
    other types from the golden set; nothing for the first sample of the golden set. FILE is .npy, .npz or an image,
    which `preprocess` makes an input (see `edgec.data.preprocess`); without it, what the bundle states.
    Raises UserError for what cannot be read or does not fit.
    """
    if not texts or list(texts) == ["random"]:
        feeds = dict(bundle.golden().inputs[0])
        if texts:
            feeds.update({p.name: draw(Value(p.name, p.type), seed) for p in bundle.inputs if p.type.dtype.is_float})
        return feeds
    recipe = parse(preprocess) if preprocess else stated_preprocess(bundle)
    feeds = {}
    for text in texts:
        name, path = _split(bundle, text)
        if path.is_dir():
            raise UserError("one inference takes one file", where=f"{path}, a folder",
                            expected="a .npy, .npz or image file", hint="`edgec compare` runs all samples of a folder")
        if path.suffix.lower() in SUFFIXES:
            port = _port(bundle, name, path)
            feeds[port.name] = _picture(path, port, recipe)
            continue
        arrays = read_npz(path)
        if name or (len(arrays) == 1 and "array" in arrays):
            if len(arrays) != 1:
                raise UserError(f"{path} holds {len(arrays)} arrays", expected="one, for input " + repr(name))
            port = _port(bundle, name, path)
            feeds[port.name] = _cast(next(iter(arrays.values())), port, path)
        else:
            ports = {p.name: p for p in bundle.inputs}
            feeds.update({n: _cast(a, ports[n], path) if n in ports else a for n, a in arrays.items()})
    return feeds


def stated_preprocess(bundle: Bundle) -> Preprocess | None:
    """How pictures become the bundle's input, if its build was told. Raises UserError for a damaged manifest."""
    stated = bundle.manifest.get("options", {}).get("preprocess")
    return parse(stated) if stated else None


def _split(bundle: Bundle, text: str) -> tuple[str, Path]:
    """(input name or "", file); a name may hold `=`, so every place is tried."""
    for port in bundle.inputs:
        if text.startswith(f"{port.name}="):
            return port.name, Path(text[len(port.name) + 1:])
    name, found, rest = text.partition("=")
    if found and not Path(text).exists():
        return name, Path(rest)
    return "", Path(text)


def _port(bundle: Bundle, name: str, path: Path) -> Port:
    for port in bundle.inputs:
        if port.name == name or (not name and len(bundle.inputs) == 1):
            return port
    names = ", ".join(p.name for p in bundle.inputs)
    raise UserError(f"which input is {path} for?" if not name else f"the engine has no input {name!r}",
                    expected=f"NAME={path} with one of {names}")


def _cast(array: np.ndarray, port: Port, path: Path) -> np.ndarray:
    """The array in the port's dtype, if no kind of number is lost, and with a leading 1 if only that is missing."""
    if not np.can_cast(array.dtype, port.dtype, "same_kind"):
        raise UserError(f"{path} has dtype {array.dtype}", expected=f"{port.name} {port.type}")
    if array.ndim == len(port.shape) - 1 and port.shape[0] == 1:
        array = array[np.newaxis]
    return array.astype(port.dtype)


def _picture(path: Path, port: Port, recipe: Preprocess | None) -> np.ndarray:
    """An image file as the input, prepared as `recipe` says; without one, only 8-bit pixels are taken."""
    if recipe is None:
        recipe, reason = recommend(port.name, port.type)
        if recipe is None:
            raise UserError("an image needs a stated preprocessing", where=str(path), expected=reason,
                            hint="--preprocess 'resize=stretch scale=1/255', as the model was trained")
    try:
        content = path.read_bytes() if path.stat().st_size <= FILE_LIMIT else b""
    except OSError as error:
        raise UserError("cannot read the image", where=str(path), reason=error) from error
    array, _ = apply(bind(recipe, port.name, port.type), read_picture(content, str(path)))
    return array.astype(port.dtype)
