"""What every backend answers."""

import inspect

import pytest

from edgec.backends import NAMES, find_backend, own_backend
from edgec.backends.base import Availability, Backend
from edgec.compress.quantize.policy import CPU, Policy
from edgec.errors import UserError
from edgec.target import list_targets, load_target

METHODS = [name for name, member in vars(Backend).items() if inspect.isfunction(member) and not name.startswith("_")]


@pytest.mark.parametrize("name", NAMES)
def test_backend_has_the_whole_contract(name):
    backend = find_backend(name)
    assert backend.name == name
    assert isinstance(backend.exact, bool)
    for method in METHODS:
        stated, own = (inspect.signature(getattr(b, method)) for b in (Backend, type(backend)))
        assert list(own.parameters) == list(stated.parameters), method
    assert isinstance(backend.probe(), Availability)
    assert isinstance(backend.policy(load_target("rpi4")), Policy)


def test_every_target_has_a_backend_of_its_own():
    for target in list_targets():
        assert own_backend(target).name == target.backends[0]


def test_cpu_engine_knows_of_no_slow_product_when_tvm_is_missing(monkeypatch):
    backend = find_backend("tvm")
    assert backend.policy(load_target("rpi4")).why_float is not CPU.why_float
    monkeypatch.setattr(type(backend), "probe", lambda self: Availability(False))
    assert backend.policy(load_target("rpi4")) == CPU


def test_find_backend_lists_the_names_when_one_does_not_exist():
    with pytest.raises(UserError, match="onnxruntime"):
        find_backend("trt")
