import numpy as np
import pytest

from edgec.options import choose_precision, choose_threads, value_facts
from edgec.target import load_target


@pytest.mark.parametrize(("target", "precision"), [("rpi4", "float32"), ("jetson", "auto"), ("cortex-m7", "float32")])
def test_choose_precision_gives_the_usual_one_when_none_is_wished(target, precision):
    assert choose_precision("", load_target(target)) == precision
    assert choose_precision("int8", load_target(target)) == "int8"


@pytest.mark.parametrize(("target", "threads"), [("rpi4", 4), ("cortex-m7", 1)])
def test_choose_threads_gives_all_cores_when_none_are_wished(target, threads):
    assert choose_threads(0, load_target(target)) == threads
    assert choose_threads(3, load_target(target)) == 3


def test_value_facts_hash_what_is_long():
    assert value_facts(np.arange(16)) == list(range(16))
    long = value_facts(np.arange(17, dtype=np.int32))
    assert (long["shape"], long["dtype"], len(long["sha256"])) == ([17], "int32", 64)
    assert long != value_facts(np.arange(1, 18, dtype=np.int32))
