"""Pictures as arrays: read with bounds, then resized, cropped, coloured and scaled as a Preprocess says."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgec.data.preprocess import Preprocess
from edgec.errors import UserError

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".gif", ".ppm", ".pgm")
FILE_LIMIT = 256 << 20  # bytes of one picture's file
_PIXELS = 100_000_000  # a picture larger than this is refused before it is unpacked
_DEEP = ("I", "F")  # Pillow's modes of more than 8 bits begin so; it would clip them in silence


@dataclass(frozen=True)
class Placement:
    """Where a picture's pixels lie in the input: x_input = x * scale_x + left, y_input = y * scale_y + top.

    height, width: of the picture as it was given, in pixels.
    """

    scale_x: float
    scale_y: float
    left: float
    top: float
    height: int
    width: int


def read_picture(content: bytes, where: str) -> np.ndarray:
    """The pixels of a file's content, uint8 [H, W, 3] (RGB) or [H, W] (grey), as they are stored: no rotation.

    Raises UserError if Pillow is missing, for what is no picture, is cut off, has more than 8 bits per channel or more
    than 100 million pixels.
    """
    image_module = _pillow()
    try:
        with image_module.open(io.BytesIO(content)) as image:
            if image.width * image.height > _PIXELS:
                raise UserError(f"the picture has {image.width} x {image.height} pixels", where=where,
                                expected=f"at most {_PIXELS}")
            if image.mode.startswith(_DEEP):
                raise UserError(f"the picture has pixels of type {image.mode}", where=where, expected="8 bits each",
                                hint="give such pictures as .npy arrays")
            return np.asarray(image if image.mode == "L" else image.convert("RGB"))
    except (OSError, ValueError, SyntaxError, EOFError, image_module.DecompressionBombError) as error:
        raise UserError("cannot read the picture", where=where, reason=error) from error


def apply(preprocess: Preprocess, pixels: np.ndarray) -> tuple[np.ndarray, Placement]:
    """The input [1, C, H, W] or [1, H, W, C] (float32) for pixels [H, W, 3], [H, W, 1] or [H, W] in uint8.

    `preprocess` is bound to the input. Resizing is Pillow's bilinear filter, with antialiasing, on 8-bit pixels.
    Formula: (x * scale - mean) / std, each step rounded to float32.
    """
    image_module = _pillow()
    if pixels.ndim == 3 and pixels.shape[2] == 1:
        pixels = pixels[:, :, 0]
    image = image_module.fromarray(np.ascontiguousarray(pixels))
    image = image.convert("L" if preprocess.color == "GRAY" else "RGB")
    height, width = image.height, image.width
    new_height, new_width = _resized(preprocess, height, width)
    if (new_height, new_width) != (height, width):
        image = image.resize((new_width, new_height), image_module.Resampling.BILINEAR)
    array = np.asarray(image)
    top = left = 0
    if preprocess.resize == "letterbox":
        array, top, left = _letterbox(preprocess, array)
    if preprocess.crop:
        array, up, aside = _crop(preprocess.crop, array)
        top, left = top - up, left - aside
    numbers = np.atleast_3d(array).astype(np.float32)
    if preprocess.color == "BGR":
        numbers = numbers[:, :, ::-1]
    numbers = normalize(preprocess, numbers)
    if preprocess.layout == "NCHW":
        numbers = numbers.transpose(2, 0, 1)
    return np.ascontiguousarray(numbers[np.newaxis]), Placement(
        new_width / width, new_height / height, left, top, height, width)


def normalize(preprocess: Preprocess, numbers: np.ndarray) -> np.ndarray:
    """(x * scale - mean) / std in float32; channels lie along the last axis."""
    result: np.ndarray = numbers.astype(np.float32) * np.float32(preprocess.scale)
    result -= np.asarray(preprocess.mean, np.float32)
    result /= np.asarray(preprocess.std, np.float32)
    return result


def _resized(p: Preprocess, height: int, width: int) -> tuple[int, int]:
    if p.resize == "none":
        return height, width
    if p.resize == "stretch":
        return p.size[0], p.size[1]
    if p.resize == "short":
        short = min(height, width)
        return max(1, round(height * p.size[0] / short)), max(1, round(width * p.size[0] / short))
    ratio = min(p.size[0] / height, p.size[1] / width)
    return max(1, int(height * ratio)), max(1, int(width * ratio))


def _letterbox(p: Preprocess, array: np.ndarray) -> tuple[np.ndarray, int, int]:
    canvas = np.full((*p.size, *array.shape[2:]), round(p.fill), np.uint8)
    spare = (p.size[0] - array.shape[0], p.size[1] - array.shape[1])
    top, left = (0, 0) if p.align == "corner" else (spare[0] // 2, spare[1] // 2)
    canvas[top:top + array.shape[0], left:left + array.shape[1]] = array
    return canvas, top, left


def _crop(crop: tuple[int, ...], array: np.ndarray) -> tuple[np.ndarray, int, int]:
    top, left = (array.shape[0] - crop[0]) // 2, (array.shape[1] - crop[1]) // 2
    if top < 0 or left < 0:
        raise UserError(f"a picture of {array.shape[0]}x{array.shape[1]} has no middle of {crop[0]}x{crop[1]}",
                        hint="resize first: resize=short:256, resize=stretch or resize=letterbox")
    return array[top:top + crop[0], left:left + crop[1]], top, left


def _pillow() -> Any:
    try:
        from PIL import Image
    except ImportError as error:
        raise UserError("reading pictures needs Pillow", hint="pip install 'edgec[images]'") from error
    return Image
