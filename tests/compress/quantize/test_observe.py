"""What calibration sees does not depend on batch, order or interruption; what cannot be right is an error."""

import sys
from functools import reduce

import numpy as np
import pytest

from edgec.calibrate.histograms import count, merge
from edgec.compress.quantize import CPU, observe, place
from edgec.compress.quantize.observe import KEPT
from edgec.compress.quantize.state import State, load_state, save_state, state_key
from edgec.errors import UserError
from edgec.ir.interpret import interpret
from tests.compress.quantize.blocks import block
from tests.compress.quantize.prepared import chain, drawn
from tests.models import Builder


def seen(graph, samples, **options):
    return observe(graph, place(graph, CPU), lambda: samples, **options)


def test_observe_counts_what_the_interpreter_computes():
    graph = block("mobilenet_v2")
    samples = drawn(graph, 3)
    found = seen(graph, samples)
    placement = place(graph, CPU)
    for name, sources in placement.sources.items():
        numbers = [interpret(graph, s, sources)[v] for s in samples for v in sources]
        limit = max(float(np.abs(a).max()) for a in numbers)
        histogram = found.histograms[name]
        assert histogram.range.limit == pytest.approx(limit, rel=1e-5)
        assert histogram.range.elements == sum(a.size for a in numbers)
        limit = max(limit, histogram.limit)
        whole = reduce(merge, [count(a, limit, bins=histogram.bins, axis=None) for a in numbers])
        moved = np.abs(np.cumsum(whole.counts - histogram.counts)).max()
        assert moved <= 0.01 * whole.range.elements  # the last bits of float sums may cross the edge of a bin


@pytest.mark.parametrize("name", ["mobilenet_v2", "yolo", "vit"])
def test_observe_is_the_same_for_any_batch_and_order(name):
    graph = block(name)
    samples = drawn(graph, 11)
    one = seen(graph, samples, batch=1)
    for batch, order in ((4, samples), (3, samples[::-1]), (16, samples[5:] + samples[:5])):
        other = seen(graph, order, batch=batch)
        assert other.histograms == one.histograms
        assert [set(map(bytes, f.values())) for f in other.kept] == [set(map(bytes, f.values())) for f in one.kept]


def test_observe_keeps_few_samples_and_parts_that_end_at_powers_of_two():
    graph = chain()
    samples = drawn(graph, 33)
    found = seen(graph, samples)
    assert (len(found.kept), len(seen(graph, samples, keep=5).kept)) == (min(33, KEPT), 5)
    assert found.samples == 33
    for name, parts in found.parts.items():
        assert [p.range.samples for p in parts] == [4, 4, 8, 16, 1]
        whole = parts[0]
        for part in parts[1:]:
            whole = merge(whole, part)
        assert whole == found.histograms[name]


def test_observe_keeps_fewer_samples_where_each_is_large(monkeypatch):
    graph = chain()
    module = sys.modules["edgec.compress.quantize.observe"]  # the package has a function of that name
    monkeypatch.setattr(module, "_KEPT_BYTES", 10 * sum(v.type.nbytes for v in graph.inputs))
    kept = [len(seen(graph, drawn(graph, 33), keep=keep).kept) for keep in (8, 16, 256)]
    assert kept == [8, 10, 16]


class Interrupted(Exception):
    pass


def counted(samples, stop):
    """Samples that end with an error after `stop` of them were read; counts in `stop`."""
    for sample in samples:
        if stop[0] == 0:
            raise Interrupted
        stop[0] -= 1
        yield sample


@pytest.mark.parametrize("after", [1, 7, 8, 11])
def test_observe_goes_on_after_an_interruption_and_runs_nothing_twice(after, tmp_path, monkeypatch):
    from edgec.compress.quantize import taps

    module = sys.modules["edgec.compress.quantize.observe"]  # the package has a function of that name
    monkeypatch.setattr(module, "_SAVE_EVERY", 0.0)
    graph = chain()
    samples = drawn(graph, 12)
    expected = seen(graph, samples)
    left = [after]
    with pytest.raises(Interrupted):
        observe(graph, place(graph, CPU), lambda: counted(samples, left), work=tmp_path, batch=1)
    ran = []
    original = taps.Taps.run
    monkeypatch.setattr(taps.Taps, "run", lambda self, group: (ran.append(len(group)), original(self, group))[1])
    found = observe(graph, place(graph, CPU), lambda: samples, work=tmp_path, batch=1)
    assert found.histograms == expected.histograms
    assert sum(ran) == 12 - after
    ran.clear()
    assert observe(graph, place(graph, CPU), lambda: samples, work=tmp_path).histograms == expected.histograms
    assert ran == []


def test_observe_starts_anew_for_other_samples_and_another_model(tmp_path):
    graph = chain()
    first, second = drawn(graph, 5), drawn(graph, 6, seed=50)
    observe(graph, place(graph, CPU), lambda: first, work=tmp_path)
    for samples in (second, first[:4], [*first, *second]):
        found = observe(graph, place(graph, CPU), lambda samples=samples: samples, work=tmp_path)
        assert found.histograms == seen(graph, samples).histograms
    other = chain(seed=1)
    assert state_key(other, place(other, CPU)) != state_key(graph, place(graph, CPU))
    assert observe(other, place(other, CPU), lambda: first, work=tmp_path).histograms == seen(other, first).histograms
    assert len(list(tmp_path.glob("*.npz"))) == 2


def test_state_is_nothing_when_its_file_is_damaged(tmp_path):
    path = tmp_path / "state.npz"
    assert load_state(path, "key") is None
    graph = chain()
    observe(graph, place(graph, CPU), lambda: drawn(graph, 2), work=tmp_path)
    written = next(tmp_path.glob("calibration-*.npz"))
    key = state_key(graph, place(graph, CPU))
    assert load_state(written, key) is not None
    assert load_state(written, "other") is None
    content = written.read_bytes()
    written.write_bytes(content[:len(content) // 2])
    assert load_state(written, key) is None
    save_state(written, key, State())
    assert load_state(written, key) == State()


def test_observe_refuses_no_samples():
    graph = chain()
    with pytest.raises(UserError, match="no calibration data") as caught:
        seen(graph, [])
    assert "random numbers would not do" in caught.value.hint


@pytest.mark.parametrize("number", [np.nan, np.inf])
def test_observe_names_the_tensor_when_a_number_is_not_finite(number):
    graph = chain()
    samples = drawn(graph, 2)
    samples[1]["x"] = samples[1]["x"].copy()
    samples[1]["x"][0, 0, 0, 0] = number
    with pytest.raises(UserError, match="not finite") as caught:
        seen(graph, samples)
    assert caught.value.where


@pytest.mark.parametrize(("sample", "text"), [
    ({}, "no input 'x'"), ({"x": np.zeros((1, 3, 11, 8), np.float32)}, r"float32\[1, 3, 11, 8\]"),
    ({"x": np.zeros((1, 3, 11, 9))}, "float64"),
])
def test_observe_refuses_samples_that_do_not_fit(sample, text):
    with pytest.raises(UserError, match=text):
        seen(chain(), [sample])


def test_observe_keeps_a_repeated_sample_once():
    graph = chain()
    one, other, *_ = drawn(graph, 2)
    found = seen(graph, [one, one, other, one], keep=2)
    assert found.samples == 4
    assert {f["x"].tobytes() for f in found.kept} == {one["x"].tobytes(), other["x"].tobytes()}


def test_observe_takes_all_rows_of_an_input_without_a_batch_as_one_sample():
    b = Builder()
    graph = b.output(b("MatMul", b.input("x", 7, 4), b.weight(4, 5)))
    samples = drawn(graph, 3)
    found = seen(graph, samples).histograms["x"].range
    assert found.samples == 3
    assert found.mean_limit == pytest.approx(np.mean([np.abs(s["x"]).max() for s in samples]))


def test_observe_takes_zeros_and_one_sample():
    graph = chain()
    found = seen(graph, [{"x": np.zeros((1, 3, 11, 9), np.float32)}])
    assert found.samples == 1
    assert found.histograms["x"].limit == 0


def test_observe_counts_constants_that_share_a_class_as_often_as_there_are_samples():
    b = Builder()
    x = b.input("x", 1, 4, 5, 5)
    y = b("Relu", b.conv(x, 4))
    token = b.constant(np.full((1, 1, 5, 5), 9.0, np.float32), "token")
    graph = b.output(b.conv(b("Concat", y, token, axis=1), 3))
    found = seen(graph, drawn(graph, 6)).histograms[y.name]
    assert found.limit >= 9
    assert found.range.elements == 6 * (100 + 25)


def test_observe_reports_progress():
    said = []
    graph = chain()
    seen(graph, drawn(graph, 4), progress=lambda stage, share=None, detail="": said.append((stage, share, detail)))
    assert said[-1] == ("calibrate", 1.0, "4 samples")
