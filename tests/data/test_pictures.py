"""Pictures: geometry and numbers by hand, and hostile files."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest

from edgec.data.pictures import apply, normalize, read_picture
from edgec.data.preprocess import bind, parse
from edgec.errors import UserError
from edgec.ir.types import DType, TensorType

Image = pytest.importorskip("PIL.Image")


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype(np.uint8)


def encoded(array: np.ndarray, kind: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, kind, **options)
    return buffer.getvalue()


def prepared(text: str, pixels: np.ndarray, *shape: int):
    return apply(bind(parse(text), "x", TensorType(DType.FLOAT32, shape)), pixels)


def test_read_picture_gives_the_pixels():
    pixels = picture(5, 7)
    assert np.array_equal(read_picture(encoded(pixels), "a.png"), pixels)
    assert read_picture(encoded(pixels[:, :, 0]), "a.png").shape == (5, 7)


def bomb(side: int = 60000) -> bytes:
    """A PNG head that states side x side pixels."""
    chunks = (b"IHDR" + struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0), b"IDAT" + zlib.compress(bytes(99)))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(c) - 4) + c + struct.pack(">I", zlib.crc32(c)) for c in chunks)


@pytest.mark.parametrize("content", [b"", b"not a picture", encoded(picture(9, 9))[:60], bomb()],
                         ids=["empty", "text", "cut", "bomb"])
def test_read_picture_names_the_file_when_it_is_broken(content):
    with pytest.raises(UserError, match=r"cat/7\.png"):
        read_picture(content, "cat/7.png")


@pytest.mark.filterwarnings("ignore:Image size")
def test_read_picture_refuses_sizes_that_pillow_only_warns_of():
    with pytest.raises(UserError, match="12000 x 12000 pixels"):
        read_picture(bomb(12000), "large.png")


def test_read_picture_refuses_deep_pixels():
    with pytest.raises(UserError, match="pixels of type I"):
        read_picture(encoded(np.full((4, 4), 40000, np.uint16)), "deep.png")


def test_apply_scales_per_channel_and_orders_colours():
    pixels = picture(3, 5)
    array, _ = prepared("color=BGR scale=1/255 mean=0.1,0.2,0.3 std=0.5,0.6,0.7", pixels, 1, 3, 3, 5)
    expected = (pixels[:, :, ::-1] / 255 - [0.1, 0.2, 0.3]) / [0.5, 0.6, 0.7]
    assert array.dtype == np.float32
    np.testing.assert_allclose(array[0].transpose(1, 2, 0), expected, rtol=1e-5, atol=1e-6)


def test_apply_makes_grey_for_one_channel():
    pixels = picture(4, 5)
    array, _ = prepared("raw", pixels, 1, 4, 5, 1)
    expected = pixels @ [0.299, 0.587, 0.114]  # ITU-R 601, as Pillow states
    assert np.abs(array[0, :, :, 0] - expected).max() <= 1


def test_apply_short_side_and_crop_keep_proportions():
    pixels = np.repeat(np.repeat(picture(6, 9), 10, 0), 10, 1)  # 60 x 90
    array, place = prepared("resize=short:30 crop=24 raw", pixels, 1, 24, 24, 3)
    assert (place.scale_x, place.scale_y) == (0.5, 0.5)
    assert (place.left, place.top) == (-10, -3)  # a middle of 24 out of 45 and of 30, rounded down
    assert (place.height, place.width) == (60, 90)
    inner = array[0, 12, 12]  # of the resized picture: row 15, column 22; of the original: block 3, block 4
    assert np.abs(inner - pixels[30:40, 40:50].mean((0, 1))).max() < 80


@pytest.mark.parametrize(("align", "left", "top"), [("centre", 3, 0), ("corner", 0, 0)])
def test_apply_letterbox_fills_and_says_where_the_picture_lies(align, left, top):
    pixels = picture(16, 10)
    array, place = prepared(f"resize=letterbox align={align} fill=7 raw", pixels, 1, 3, 16, 16)
    assert (place.left, place.top, place.scale_x, place.scale_y) == (left, top, 1, 1)
    assert np.array_equal(array[0, :, :, left:left + 10], pixels.transpose(2, 0, 1))
    assert (array[0, :, :, left + 10:] == 7).all()


def test_apply_letterbox_rounds_down():
    _, place = prepared("resize=letterbox raw", picture(33, 50), 1, 3, 20, 20)
    assert place.scale_y * 33 == pytest.approx(13)  # 33 * 0.4 = 13.2


def test_apply_refuses_a_crop_larger_than_the_picture():
    with pytest.raises(UserError, match="no middle of 24x24"):
        prepared("crop=24 raw", picture(20, 30), 1, 3, 24, 24)


def test_normalize_is_linear():
    result = normalize(parse("scale=2 mean=3 std=4"), np.array([1, 5], np.int8))
    assert result.tolist() == [-0.25, 1.75]
