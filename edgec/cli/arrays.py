"""Arrays for an engine from the command line: files by input name, images, or the golden set's own inputs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from edgec.backends.base import Port
from edgec.bundle import Bundle
from edgec.errors import UserError
from edgec.golden import draw
from edgec.interchange.npz import read_npz
from edgec.ir.graph import Value

_IMAGES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".gif")
_PIXELS = 100_000_000  # an image larger than this is refused before it is unpacked


def read_feeds(bundle: Bundle, texts: Sequence[str], *, mean: str = "", std: str = "",
               seed: int = 0) -> dict[str, np.ndarray]:
    """One array per input of the bundle.

    texts: `NAME=FILE`, or `FILE` for the only input or a .npz with all of them; `random` for normal floats, with all
    other types from the golden set; nothing for the first sample of the golden set. FILE is .npy, .npz or an image,
    which is resized and becomes (pixel - mean) / std.
    Raises UserError for what cannot be read or does not fit.
    """
    if not texts or list(texts) == ["random"]:
        feeds = dict(bundle.golden().inputs[0])
        if texts:
            feeds.update({p.name: draw(Value(p.name, p.type), seed) for p in bundle.inputs if p.type.dtype.is_float})
        return feeds
    feeds = {}
    for text in texts:
        name, path = _split(bundle, text)
        if path.suffix.lower() in _IMAGES:
            port = _port(bundle, name, path)
            feeds[port.name] = _image(path, port, mean, std)
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


def _image(path: Path, port: Port, mean: str, std: str) -> np.ndarray:
    """An image file as [1, C, H, W] or [1, H, W, C], whichever the input is; C is 1 (grey) or 3 (RGB)."""
    try:
        from PIL import Image
    except ImportError as error:
        raise UserError("reading images needs Pillow", hint="pip install 'edgec[images]'") from error
    shape = port.type.dims
    if len(shape) != 4 or shape[0] != 1 or not {shape[1], shape[3]} & {1, 3}:
        raise UserError(f"an image does not fit {port.name} {port.type}",
                        expected="[1, C, H, W] or [1, H, W, C], C = 1 or 3")
    planes_first = shape[1] in (1, 3)
    channels, height, width = (shape[1], *shape[2:]) if planes_first else (shape[3], *shape[1:3])
    try:
        with Image.open(path) as image:
            if image.width * image.height > _PIXELS:
                raise UserError(f"the image has {image.width} x {image.height} pixels", where=str(path))
            picture = image.convert("L" if channels == 1 else "RGB").resize((width, height), Image.Resampling.BILINEAR)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise UserError("cannot read the image", where=str(path), expected=str(error)) from error
    pixels = np.asarray(picture).reshape(height, width, channels)
    if port.type.dtype.is_float:
        pixels = (pixels.astype(np.float32) - _per_channel(mean, 0.0, channels)) / _per_channel(std, 1.0, channels)
    return np.ascontiguousarray((pixels.transpose(2, 0, 1) if planes_first else pixels)[np.newaxis].astype(port.dtype))


def _per_channel(text: str, default: float, channels: int) -> np.ndarray:
    try:
        values = [float(item) for item in text.split(",")] if text else [default]
    except ValueError as error:
        raise UserError(f"cannot read {text!r}", expected="one number, or one per channel 123,116,103") from error
    if len(values) not in (1, channels):
        raise UserError(f"{text!r} has {len(values)} numbers", expected=f"1 or {channels}")
    return np.array(values, np.float32)
