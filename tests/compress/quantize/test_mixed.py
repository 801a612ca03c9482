"""The search for a budget: fewest kernels in float, bounded time, the best so far when it is up."""

from __future__ import annotations

import itertools
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgec.compress.quantize.mixed import within_budget
from edgec.compress.quantize.proof import Sensitivity, kernel_errors, sensitivities
from edgec.errors import UserError
from edgec.ops import table
from tests.compress.quantize.prepared import chain, drawn, prepare
from tests.compress.quantize.test_subset import integer_products

PREPARED = prepare(chain(outlier=60.0))
PRODUCTS = PREPARED.placement.products


class Additive:
    """A measure where each int8 kernel costs a fixed loss, and each call a fixed time."""

    def __init__(self, losses: list[float], seconds: float = 1.0) -> None:
        self.losses = dict(zip(PRODUCTS, losses, strict=True))
        self.now, self.seconds = 0.0, seconds

    def __call__(self, graph) -> float:
        self.now += self.seconds
        return sum(self.losses[p] for p in integer_products(graph))

    def clock(self) -> float:
        return self.now

    def ranking(self) -> list[Sensitivity]:
        return [Sensitivity(p, loss) for p, loss in self.losses.items()]


def search(losses: list[float], budget: float, seconds: float = 1000.0, ranking=None):
    measure = Additive(losses)
    return within_budget(PREPARED, measure, budget, ranking or measure.ranking(), seconds=seconds, clock=measure.clock)


def test_all_in_int8_where_that_holds():
    found = search([0.1] * 5, 0.5)
    assert (found.floats, found.met, len(found.trials)) == ((), True, 1)
    assert integer_products(found.graph) == set(PRODUCTS)


def test_only_the_worst_kernel_goes_to_float():
    found = search([0.1, 0.1, 3, 0.1, 0.1], 0.5)
    assert found.floats == (PRODUCTS[2],)
    assert found.drop == pytest.approx(0.4)
    assert integer_products(found.graph) == set(PRODUCTS) - {PRODUCTS[2]}


losses = st.lists(st.floats(0, 4), min_size=5, max_size=5)


@settings(max_examples=25)
@given(losses, st.floats(0, 6))
def test_search_finds_the_fewest_kernels(costs, budget):
    found = search(costs, budget)
    fewest = next(k for k in range(6) if any(
        sum(costs) - sum(c) <= budget + 1e-9 for c in itertools.combinations(costs, k)))
    assert found.met
    assert found.drop <= budget
    assert len(found.floats) <= fewest + (1 if abs(found.drop - budget) < 1e-6 else 0)
    assert len(found.trials) <= 12


def test_a_wrong_ranking_is_mended():
    """The noise ranks two harmless kernels first; they come back to int8."""
    ranking = [Sensitivity(p, n) for p, n in zip(PRODUCTS, [9, 8, 7, 1, 1], strict=True)]
    found = search([0.1, 0.1, 3, 0.1, 0.1], 0.5, ranking=ranking)
    assert found.floats == (PRODUCTS[2],)


def test_of_kernels_that_could_come_back_the_largest_does():
    """The first two cost the same, the budget has room for one of them, and the second has more multiply-adds."""
    work = {n.name: table.macs(n) for n in PREPARED.graph.nodes if n.name in PRODUCTS}
    assert work[PRODUCTS[0]] < work[PRODUCTS[1]]
    ranking = [Sensitivity(p, n) for p, n in zip(PRODUCTS, [9, 8, 7, 1, 1], strict=True)]
    found = search([0.3, 0.3, 3, 0, 0], 0.4, ranking=ranking)
    assert set(found.floats) == {PRODUCTS[0], PRODUCTS[2]}


def test_zero_budget_may_leave_everything_float():
    found = search([1, 1, 1, 1, 1], 0)
    assert (len(found.floats), found.drop, found.met) == (5, 0, True)
    assert integer_products(found.graph) == set()


def test_time_ends_the_search_with_the_best_so_far():
    found = search([1, 2, 3, 4, 5], 0.5, seconds=3.5)
    assert not found.met
    assert len(found.trials) == 3  # 0, 1 and 2 kernels; a fourth of 1 s would end after 3.5 s
    assert found.drop == pytest.approx(6)
    assert found.floats == (PRODUCTS[4], PRODUCTS[3])
    assert "time of 4 s is up" in found.reason
    assert "6" in found.reason


def test_time_during_the_mending_keeps_what_holds():
    found = search([1, 1, 1, 1, 1], 3.0, seconds=3.5)
    assert found.met
    assert len(found.floats) == 2
    assert "time" in found.reason


def test_the_first_trial_is_always_made():
    found = search([0.1] * 5, 1, seconds=0)
    assert found.met


@pytest.mark.parametrize(("budget", "seconds"), [(-1, 10), (1, -1)])
def test_impossible_budgets_are_refused(budget, seconds):
    with pytest.raises(UserError, match="budget"):
        search([0.1] * 5, budget, seconds)


def test_report_is_json_and_has_no_time_in_it():
    found = search([1, 2, 3, 4, 5], 6)
    facts = found.to_json()
    json.dumps(facts, allow_nan=False)
    assert facts["trials"][0] == [0, 15]
    assert facts["met"]


def test_real_noise_ranks_the_bad_kernel_and_float_repairs_it():
    """Measured by the noise of the output: the kernel behind the outlier goes to float, and the noise with it."""
    samples = drawn(PREPARED.graph, 3, 70)

    def measure(graph) -> float:
        return 60 - (kernel_errors(PREPARED.graph, graph, samples)[-1].sqnr_db or 60)

    before = measure(PREPARED.annotated())
    found = within_budget(PREPARED, measure, before - 5, sensitivities(PREPARED, samples))
    assert found.met
    assert PRODUCTS[2] in found.floats
    assert len(found.floats) <= 2
