"""Any subset of kernels in float, with the grids of the whole."""

from __future__ import annotations

import random

import numpy as np
import pytest

from edgec.errors import InternalError
from edgec.ir.graph import Graph
from edgec.ir.interpret import interpret
from edgec.ir.quantize import product_scale
from edgec.ops import QuantRole, table
from tests.compress.quantize.prepared import chain, drawn, prepare
from tests.models import BLOCKS


def integer_products(graph: Graph) -> set[str]:
    return {n.name for n in graph.nodes
            if (s := table.find(n)) and s.quant is QuantRole.COMPUTE and product_scale(n) is not None}


@pytest.mark.parametrize("block", [*BLOCKS.values(), chain], ids=lambda f: f.__name__)
def test_any_subset_is_annotated_with_the_grids_of_the_whole(block):
    prepared = prepare(block())
    products = prepared.placement.products
    whole = {v.quant for v in prepared.annotated().values() if v.quant is not None and v.const is None}
    draw = random.Random(0)
    for _ in range(8):
        floats = draw.sample(products, draw.randint(0, len(products)))
        result = prepared.annotated(floats)
        assert integer_products(result) == set(products) - set(floats)
        assert {v.quant for v in result.values() if v.quant is not None and v.const is None} <= whole


def test_all_in_float_gives_the_float_numbers():
    prepared = prepare(chain())
    result = prepared.annotated(prepared.placement.products)
    sample = drawn(prepared.graph, 1, 50)[0]
    for name, array in interpret(prepared.graph, sample).items():
        np.testing.assert_array_equal(interpret(result, sample)[name], array)


def test_alone_keeps_one_product_in_int8():
    prepared = prepare(chain())
    for product in prepared.placement.products:
        assert integer_products(prepared.alone(product)) == {product}


def test_what_the_user_keeps_in_float_stays_float():
    first = prepare(chain()).placement.products[0]
    prepared = prepare(chain(), keep_float=(first,))
    assert first not in integer_products(prepared.annotated(prepared.placement.products[1:]))


def test_names_with_wildcards_mean_themselves():
    graph = chain()
    for index, node in enumerate(n for n in graph.nodes if n.op == "Conv"):
        node.name = f"c[{index}]*"
    prepared = prepare(graph)
    products = prepared.placement.products
    assert integer_products(prepared.annotated(products[:1])) == set(products[1:])


def test_a_value_without_grid_is_an_internal_error():
    prepared = prepare(chain())
    prepared.placement.grids.pop(next(iter(prepared.placement.grids)))
    with pytest.raises(InternalError, match="want a grid"):
        prepared.annotated(prepared.placement.products[-1:])
