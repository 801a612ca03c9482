import numpy as np
import pytest

from edgec.compress.request import Budget, Quantization
from edgec.errors import Unsupported, UserError
from edgec.options import choose_precision, choose_threads, value_facts, wants_integers
from edgec.target import load_target


@pytest.mark.parametrize(("target", "precision"), [("rpi4", "float32"), ("jetson", "auto"), ("cortex-m7", "float32")])
def test_choose_precision_gives_the_usual_one_when_none_is_wished(target, precision):
    assert choose_precision("", load_target(target)) == precision
    assert choose_precision("int8", load_target(target)) == "int8"


def test_choose_precision_hints_at_the_name_that_was_meant_where_the_target_has_it():
    with pytest.raises(Unsupported, match="--precision float16"):
        choose_precision("fp16", load_target("rpi5"))
    with pytest.raises(Unsupported, match="no arithmetic in float16"):
        choose_precision("fp16", load_target("rpi4"))


@pytest.mark.parametrize("wish", [Quantization("nowhere"), Quantization(budget=Budget("nowhere.npz:x"))])
def test_samples_that_are_not_there_are_an_error_before_the_model_is_read(wish):
    with pytest.raises(UserError, match="no such samples"):
        wants_integers("int8", wish)


@pytest.mark.parametrize(("precision", "wish", "expected"), [
    ("float32", None, False), ("auto", None, False), ("int8", None, True), ("int8-weights", Quantization(), True),
    ("auto", Quantization(lambda: []), True), ("int8", Quantization("package.module:function"), True)])
def test_integers_are_wanted_by_a_precision_or_by_data_for_auto(precision, wish, expected):
    assert wants_integers(precision, wish) is expected


def test_data_that_nothing_would_use_is_an_error():
    with pytest.raises(UserError, match="for int8"):
        wants_integers("float32", Quantization(lambda: []))


@pytest.mark.parametrize(("target", "threads"), [("rpi4", 4), ("cortex-m7", 1)])
def test_choose_threads_gives_all_cores_when_none_are_wished(target, threads):
    assert choose_threads(0, load_target(target)) == threads
    assert choose_threads(3, load_target(target)) == 3


def test_value_facts_hash_what_is_long():
    assert value_facts(np.arange(16)) == list(range(16))
    long = value_facts(np.arange(17, dtype=np.int32))
    assert (long["shape"], long["dtype"], len(long["sha256"])) == ([17], "int32", 64)
    assert long != value_facts(np.arange(1, 18, dtype=np.int32))
