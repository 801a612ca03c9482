import numpy as np
import pytest

from edgec.backends.base import Threads
from edgec.cli.arguments import (
    complete_target,
    describe_threads,
    parse_cores,
    parse_shapes,
    parse_threads,
    parse_values,
)
from edgec.errors import UserError
from edgec.ir.types import DType


def test_parse_shapes_reads_names_types_and_scalars():
    shapes = parse_shapes(["x=1x3x8", "a=b=2,5", "ids=1x4:int64", "s=scalar"])
    assert {n: s.shape for n, s in shapes.items()} == {"x": (1, 3, 8), "a=b": (2, 5), "ids": (1, 4), "s": ()}
    assert [s.dtype for s in shapes.values()] == [None, None, DType.INT64, None]


@pytest.mark.parametrize("text", ["x", "x=", "x=1x", "x=1x-3", "x=axb", "x=1x3:float99", "x=1.5", "x=1x" + "9" * 30])
def test_parse_shapes_refuses_when_the_text_is_no_shape(text):
    with pytest.raises(UserError):
        parse_shapes([text])


def test_parse_shapes_refuses_when_a_name_comes_twice():
    with pytest.raises(UserError, match="twice"):
        parse_shapes(["x=1", "x=2"])


@pytest.mark.parametrize(("text", "value"), [("n=16000", 16000), ("n=0.5", 0.5), ("n=-3", -3), ("n=true", True),
                                             ("n=1,2,3", [1, 2, 3]), ("n=1,0.5", [1.0, 0.5]), ("n=7,", None)])
def test_parse_values_reads_numbers(text, value):
    if value is None:
        with pytest.raises(UserError, match="cannot read"):
            parse_values([text])
        return
    read = parse_values([text])["n"]
    np.testing.assert_array_equal(read, np.array(value))
    assert read.dtype == np.array(value).dtype


@pytest.mark.parametrize("text", ["n", "=3", "n=", "n=abc"])
def test_parse_values_refuses_when_the_text_is_no_number(text):
    with pytest.raises(UserError, match="cannot read"):
        parse_values([text])


def test_complete_target_offers_names_and_aliases():
    assert set(complete_target("rpi")) >= {"rpi3", "rpi4", "rpi5"}
    assert "jetson" in complete_target("jet")


@pytest.mark.parametrize(("text", "cores"), [("", ()), ("4-7", (4, 5, 6, 7)), ("0,2", (0, 2)), ("6,1-2", (6, 1, 2))])
def test_parse_cores_reads_numbers_and_ranges(text, cores):
    assert parse_cores(text) == cores


@pytest.mark.parametrize("text", ["a", "3-1", "1-", "-1", "1;2", "99999"])
def test_parse_cores_refuses(text):
    with pytest.raises(UserError, match="cannot read the cores"):
        parse_cores(text)


@pytest.mark.parametrize(("threads", "cores", "wanted", "text"), [
    (None, "", Threads(1), "1 thread"), (3, "", Threads(3), "3 threads"),
    (None, "4-5", Threads(2, (4, 5)), "2 threads on cores 4, 5"), (1, "4", Threads(1, (4,)), "1 thread on core 4")])
def test_parse_threads_takes_one_for_each_core(threads, cores, wanted, text):
    assert parse_threads(threads, cores) == wanted
    assert describe_threads(wanted) == text


def test_parse_threads_refuses_another_number_of_cores():
    with pytest.raises(UserError, match="cannot run on cores"):
        parse_threads(3, "0,1")
