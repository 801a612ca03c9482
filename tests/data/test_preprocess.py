"""Preprocessing as text, JSON and TOML: read back what was written, bound to an input, and refused with the reason."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgec.data.preprocess import LAYOUTS, Preprocess, bind, geometry, parse, recommend, settle
from edgec.errors import UserError
from edgec.ir.types import DType, TensorType


def image(*shape: int | None, dtype: DType = DType.FLOAT32) -> TensorType:
    return TensorType(dtype, shape)


NCHW, NHWC, GREY = image(1, 3, 48, 64), image(1, 48, 64, 3), image(1, 1, 28, 28)


def test_parse_reads_pairs():
    found = parse("resize=short:256 crop=224 color=bgr scale=1/255 mean=0.5,0.4,0.3 std=0.2,0.3,0.25 layout=nhwc")
    assert found == Preprocess("short", (256,), (224, 224), color="BGR", scale=1 / 255, mean=(0.5, 0.4, 0.3),
                               std=(0.2, 0.3, 0.25), layout="NHWC")


@pytest.mark.parametrize(("text", "resize", "size"), [
    ("resize=256", "short", (256,)), ("resize=48x64", "stretch", (48, 64)), ("resize=stretch:96", "stretch", (96, 96)),
    ("resize=letterbox:416x320 align=corner fill=0", "letterbox", (416, 320)), ("resize=none", "none", ()),
    ("resize=letterbox", "letterbox", ())])
def test_parse_reads_every_way_to_resize(text, resize, size):
    found = parse(text)
    assert (found.resize, found.size) == (resize, size)


def test_parse_takes_a_preset_and_lets_pairs_override_it():
    assert parse("imagenet").mean == (0.485, 0.456, 0.406)
    assert parse("symmetric").scale * 255 - parse("symmetric").mean[0] == pytest.approx(1)
    assert parse("imagenet resize=stretch:224 color=BGR") == Preprocess(
        "stretch", (224, 224), (224, 224), color="BGR", scale=1 / 255, mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225))


numbers = st.floats(-300, 300, allow_nan=False).filter(lambda x: abs(x) > 1e-3)
recipes = st.builds(
    Preprocess, resize=st.just("stretch"), size=st.tuples(st.integers(1, 900), st.integers(1, 900)),
    crop=st.just(()), align=st.sampled_from(["centre", "corner"]), fill=st.floats(0, 255),
    color=st.sampled_from(["RGB", "BGR", "GRAY"]), scale=numbers, mean=st.tuples(numbers),
    std=st.one_of(st.tuples(numbers), st.tuples(numbers, numbers, numbers)), layout=st.sampled_from(["", *LAYOUTS]))


@given(recipes)
def test_parse_reads_back_text_and_json(recipe):
    assert parse(str(recipe)) == recipe
    assert parse(json.dumps(recipe.to_json())) == recipe
    assert parse(recipe.to_json()) == recipe


def test_parse_reads_files(tmp_path):
    (tmp_path / "p.toml").write_text(
        '[preprocess]\nresize = "short"\nsize = 64\nscale = "1/255"\nmean = [0.5, 0.5, 0.4]\n')
    (tmp_path / "p.json").write_text('{"preprocess": "resize=short:64 scale=1/255 mean=0.5,0.5,0.4"}')
    expected = Preprocess("short", (64,), scale=1 / 255, mean=(0.5, 0.5, 0.4))
    assert parse(tmp_path / "p.toml") == parse(str(tmp_path / "p.json")) == expected


@pytest.mark.parametrize(("text", "part"), [
    ("colour=RGB", "perhaps 'color'"), ("imagnet", "cannot read 'imagnet'"), ("scale=", "cannot read"),
    ("scale=1/0", "cannot read scale"), ("scale=0", "scale is 0"), ("scale=1 std=0", "std is 0"),
    ("scale=nan", "not finite"), ("scale=1 mean=1,2", "one finite number, or three"), ("mean=0.5", "without a scale"),
    ("resize=256 crop=512", "larger than a short side"), ("resize=stretch:0x4", "sizes lie in"),
    ("resize=stretch:9999x4", "sizes lie in"), ("resize=short:4x4", "does not fit"), ("resize=cubic", "resize is"),
    ("color=HSV", "color is"), ("layout=CHW", "layout is"), ("crop=1.5", "cannot read crop"), ("fill=300", "0..255"),
    ('{"size": [4, 4]}', "size without a resize"), ('{"scale": true}', "cannot read scale"), ("{", "no JSON"),
    ('{"scale": 1e400}', "scale is not finite"), ("scale=1" + "0" * 80, "cannot read scale"), ("[1]", "cannot read"),
    ('{"resize": ["a"]}', "resize is")])
def test_parse_explains_what_is_wrong(text, part):
    with pytest.raises(UserError, match=part):
        parse(text)


def test_parse_lists_all_problems_at_once():
    with pytest.raises(UserError, match=r"'colour'.*cannot read scale.*'deviation'"):
        parse("colour=RGB scale=x crop=224 deviation=1")


@pytest.mark.parametrize("name", ["missing.json", "broken.toml", "list.json", "huge.json"])
def test_parse_refuses_files_that_hold_none(tmp_path, name):
    (tmp_path / "broken.toml").write_text("scale = = 1")
    (tmp_path / "list.json").write_text("[1]")
    (tmp_path / "huge.json").write_text(" " * (1 << 21))
    with pytest.raises(UserError):
        parse(tmp_path / name)


def test_geometry_finds_layout_and_channels():
    assert geometry("x", NCHW).layout == "NCHW"
    found = geometry("x", NHWC)
    assert (found.layout, found.height, found.width, found.channels) == ("NHWC", 48, 64, 3)
    assert geometry("x", GREY).channels == 1


@pytest.mark.parametrize(("type_", "layout", "part"), [
    (image(1, 3, 8, 3), "", "either layout"), (image(1, 10), "", "takes no picture"),
    (image(1, 4, 8, 8), "", "takes no picture"), (image(1, 3, None, 8), "", "takes no picture"),
    (image(2, 3, 8, 8), "", "takes 2 pictures"), (NCHW, "NHWC", "no picture in layout NHWC")])
def test_geometry_refuses_what_is_no_single_picture(type_, layout, part):
    with pytest.raises(UserError, match=part):
        geometry("x", type_, layout)


def test_bind_fills_in_what_the_input_decides():
    assert bind(parse("resize=letterbox"), "x", NHWC) == Preprocess("letterbox", (48, 64), layout="NHWC")
    assert bind(parse("resize=short"), "x", NCHW) == Preprocess("short", (48,), (48, 64), layout="NCHW")
    assert bind(parse("unit"), "x", GREY).color == "GRAY"
    assert bind(parse("unit layout=NCHW"), "x", image(1, 3, 8, 3)).layout == "NCHW"


@pytest.mark.parametrize(("text", "hint"), [
    ("imagenet", "resize=short:55 crop=48x64"), ("resize=stretch crop=40", "append crop=48x64"),
    ("resize=stretch:48x48", "without a size"), ("resize=letterbox:32", "without a size")])
def test_bind_says_how_pictures_get_the_size_of_the_input(text, hint):
    with pytest.raises(UserError, match="pictures of") as caught:
        bind(parse(text), "x", NCHW)
    assert hint in caught.value.hint
    words = caught.value.hint.removeprefix("append ").partition(",")[0]
    if words != caught.value.hint:
        bind(parse(f"{text} {words}"), "x", NCHW)


@pytest.mark.parametrize(("text", "type_", "part"), [
    ("resize=stretch:48x48", NCHW, "pictures of 48x48"), ("resize=stretch crop=40", NCHW, "pictures of 40x40"),
    ("color=GRAY", NCHW, "gives grey"), ("scale=1 mean=1,2,3", GREY, "mean has 3 numbers")])
def test_bind_refuses_what_cannot_be_the_input(text, type_, part):
    with pytest.raises(UserError, match=part):
        bind(parse(text), "x", type_)


def test_recommend_speaks_only_where_the_type_decides():
    found, reason = recommend("x", image(1, 96, 96, 3, dtype=DType.UINT8))
    assert (found, reason) == (Preprocess("stretch", (96, 96), layout="NHWC"), "")
    found, reason = recommend("x", NCHW)
    assert found is None
    assert "48x64, NCHW" in reason
    assert "does not tell what numbers" in reason
    assert recommend("x", image(1, 10))[0] is None


def test_settle_binds_pictures_and_leaves_other_numbers_alone():
    assert settle("unit", [("x", NCHW)]) == bind(parse("unit"), "x", NCHW)
    for inputs in ([("x", image(1, 12))], [("x", image(1, 64, 9, 9))], [("x", NCHW), ("y", NCHW)]):
        assert settle("unit", inputs) == parse("unit")
    assert settle(None, [("x", NCHW)]) is None
    with pytest.raises(UserError, match="takes no picture"):
        settle("unit resize=stretch", [("x", image(1, 64, 9, 9))])
