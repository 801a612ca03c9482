import pytest

from edgec.errors import UserError
from edgec.frontends.spec import InputSpec, name_bare, normalize

SHAPE = InputSpec((1, 3))


def test_name_bare_names_the_only_input_when_a_shape_has_none():
    assert name_bare({"": SHAPE}, ["x"], "") == {"x": SHAPE}
    assert name_bare({"y": SHAPE}, ["x"], "") == {"y": SHAPE}


@pytest.mark.parametrize("names", [[], ["x", "y"]])
def test_name_bare_refuses_when_it_cannot_tell(names):
    with pytest.raises(UserError, match=f"{len(names)} inputs"):
        name_bare({"": SHAPE}, names, "")


@pytest.mark.parametrize("shape", [(1, -3), (1, 2.5), ("a",)])
def test_normalize_refuses_when_a_dimension_is_no_size(shape):
    with pytest.raises(UserError, match="'x'"):
        normalize({"x": shape})
