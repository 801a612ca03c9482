import importlib

import pytest

from edgec.compress.torch_ops import FAMILIES, FORMS
from edgec.ops import table


@pytest.mark.parametrize("family", FAMILIES, ids=lambda f: f.__name__.rpartition(".")[2])
def test_form_stands_in_the_file_that_its_family_has_in_the_op_table(family):
    name = family.__name__.rpartition(".")[2]
    assert {op: table.family(op) for op in family.FORMS if table.family(op) != name} == {}
    importlib.import_module(f"edgec.ops.{name}")


def test_no_form_stands_twice():
    assert sum(len(f.FORMS) for f in FAMILIES) == len(FORMS)
