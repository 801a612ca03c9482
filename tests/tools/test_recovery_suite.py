import json
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

from edgec.compress.prune.channels import PruneOptions
from edgec.compress.prune.select import Limits
from edgec.compress.stages import Stage
from edgec.compress.train.loop import Recipe
from tests.models import Builder
from tools.recovery_suite import results
from tools.recovery_suite.formats import count_violations
from tools.recovery_suite.pruning import _paired
from tools.recovery_suite.samples import Pictures, top1
from tools.recovery_suite.task import Outcome
from tools.recovery_suite.work import Made, Work, plain


def graph():
    """Scores of three classes: the sums of the planes of a picture."""
    b = Builder(0)
    return b.output(b("Flatten", b("GlobalAveragePool", b.input("x", 1, 3, 4, 4))))


def pictures(count):
    """Pictures with one bright plane, every fifth labelled wrongly."""
    labels = np.arange(count) % 3
    arrays = np.random.default_rng(0).random((count, 1, 3, 4, 4)).astype(np.float32)
    arrays[np.arange(count), 0, labels] += 2
    return Pictures("x", arrays, np.where(np.arange(count) % 5, labels, (labels + 1) % 3))


@pytest.mark.parametrize("count", [7, 100, 230])  # of which 100 run at once
def test_top1_counts_every_picture_once(count):
    wrong = len(range(0, count, 5))
    assert top1(graph(), pictures(count)) == pytest.approx(100 * (count - wrong) / count)


def test_some_pictures_are_spread_evenly_and_keep_their_labels():
    known = pictures(30)
    store = known.some(10)
    np.testing.assert_array_equal(store.labels, known.labels[::3])
    np.testing.assert_array_equal(store.batch([4])[0]["x"], known.arrays[12])
    np.testing.assert_array_equal(known.samples(10)[4].feeds["x"], known.arrays[12])


def test_a_step_is_made_once_for_what_is_asked(tmp_path):
    made = []

    def make(folder: Path, progress: object) -> Stage:
        made.append(folder)
        return Stage(graph(), {"macs": [1, 2]})

    work = Work(tmp_path, pictures(20), pictures(20), 1, lambda text: None)
    first = work.step("a", "parent", {"epochs": 2}, make)
    again = Work(tmp_path, pictures(20), pictures(20), 1, lambda text: None).step("a", "parent", {"epochs": 2}, make)
    assert len(made) == 1
    assert (again.key, again.top1, again.facts) == (first.key, first.top1, {"macs": [1, 2]})
    work.step("a", "parent", {"epochs": 3}, make)
    work.step("a", "other parent", {"epochs": 3}, make)
    assert len(made) == 3


def test_keys_come_from_what_is_not_usual():
    assert plain(Recipe()) == {}
    assert plain(Recipe(epochs=3, augment=("flip",))) == {"epochs": 3, "augment": ["flip"]}
    assert plain(PruneOptions(cost_ratio=0.5, limits=Limits(align=4))) == {"cost_ratio": 0.5, "limits": {"align": 4}}


def test_violations_are_counted_in_the_file(tmp_path):
    random = np.random.default_rng(0)
    sparse, dense = (random.standard_normal((8, 16, 3, 3)).astype(np.float32) for _ in range(2))
    sparse[:, ::2] = 0
    sparse[3, 4, 1, 2] = 1  # one group with three
    convs = [onnx.helper.make_node("Conv", ["x", name], [f"{name}_y"]) for name in ("sparse", "dense")]
    value = onnx.helper.make_tensor_value_info("x", 1, [1, 16, 5, 5])
    weights = [onnx.numpy_helper.from_array(a, name) for name, a in (("sparse", sparse), ("dense", dense))]
    model = onnx.helper.make_model(onnx.helper.make_graph(convs, "g", [value], [], weights))
    onnx.save(model, tmp_path / "m.onnx")
    groups = 8 * 4 * 9
    assert count_violations(tmp_path / "m.onnx", 1) == (1, groups, 1)
    assert count_violations(tmp_path / "m.onnx", 2) == (2, 2 * groups, 1 + groups)
    assert count_violations(tmp_path / "m.onnx", 3)[0] == 2


def test_a_pair_holds_only_if_every_seed_wins():
    def made(score):
        return Made(graph(), "", score, {})

    won = _paired("p", "a beats b", {"a": [made(3.0), made(2.5), made(4.0)], "b": [made(2.0), made(2.0), made(3.0)]})
    assert won.holds
    assert won.value == pytest.approx(2.5 / 3)
    more = _paired("p", "a beats all", {"a": [made(3.0)] * 3, "b": [made(2.0)] * 3, "c": [made(2.5)] * 3})
    assert more.holds
    assert more.value == pytest.approx(0.5)
    assert not _paired("p", "a beats all", {"a": [made(3.0)] * 3, "b": [made(2.0)] * 3, "c": [made(3.5)] * 3}).holds
    lost = _paired("p", "a beats b", {"a": [made(9.0), made(2.0), made(9.0)], "b": [made(2.0), made(2.0), made(3.0)]})
    assert not lost.holds


def outcomes():
    rows = [{"name": "float", "top1": 87.64, "macs": 4.1e7, "weights": 2.7e5},
            {"name": "pruned", "top1": 55.0, "macs": None, "weights": 1.5e5},
            {"name": "recovered", "top1": 86.5, "macs": 2e7, "weights": 1.5e5},
            {"name": "built", "top1": 86.4, "macs": None, "weights": None}]
    pair = [{"name": "a", "top1": 1.0, "macs": None, "weights": None}]
    return [Outcome("half", "at most 0.5 points lost", 1.14, 0.5, False, rows, {"recovered": [70.0, 86.5]}),
            Outcome("pair", "a beats b", 0.8, 0.0, True, pair, note="lead +0.80")]


def test_results_say_what_holds_and_what_does_not(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)  # not installed
    assert "matplotlib" in results.write(outcomes(), tmp_path, "a machine")
    page = (tmp_path / "results.md").read_text()
    assert "+1.14 points, does NOT hold" in page
    assert "+0.80 points, holds. lead +0.80." in page
    assert "| half | float | 87.64 |  | 41.0 M | 0.270 M |" in page
    assert "|  | recovered | 86.50 | -1.14 | 20.0 M | 0.150 M |" in page
    assert json.loads((tmp_path / "results.json").read_text())["outcomes"][0]["rows"] == outcomes()[0].rows
    assert "recovered" in results.aligned(results.table(outcomes()))


@pytest.mark.slow
def test_results_are_drawn(tmp_path):
    pytest.importorskip("matplotlib")
    assert results.write(outcomes(), tmp_path, "a machine") == ""
    assert (tmp_path / "results.png").stat().st_size > 10_000
    assert results.write(outcomes()[1:], tmp_path, "nothing with epochs") == ""
