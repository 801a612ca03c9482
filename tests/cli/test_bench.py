import pytest


def test_bench_measures_both_in_turns(edgec, bundle, model):
    done = edgec("bench", bundle, "--against", model, "--runs", 21, "--warmup", 1, "--json", "-q")
    assert done.code == 0
    own, peer = done.json["engines"]
    assert "onnxruntime" in own["name"]
    assert "ONNX Runtime" in peer["name"]
    assert 0 < own["min"] <= own["median"] <= own["p90"] <= own["max"]
    assert done.json["ratio"] == pytest.approx(own["median"] / peer["median"])
    assert done.json["emulated"] is False


def test_bench_prints_a_table(edgec, bundle):
    done = edgec("bench", bundle, "--runs", 3)
    assert done.code == 0
    assert "median" in done.out
    assert "ratio" not in done.out


def test_bench_takes_turns_so_that_load_meets_both(monkeypatch):
    from edgec.cli.bench import _measure
    from edgec.cli.console import Steps

    order = []
    contenders = {n: lambda count, n=n: order.append((n, count)) or [1.0] * count for n in "ab"}
    with Steps(quiet=True) as steps:
        times = _measure(contenders, 23, 2, steps)
    assert order[:2] == [("a", 2), ("b", 2)]
    assert [n for n, _ in order[2:]] == ["a", "b"] * 10
    assert {n: len(t) for n, t in times.items()} == {"a": 23, "b": 23}


def test_bench_refuses_when_the_peer_has_other_inputs(edgec, bundle, tmp_path):
    from tests.models import Builder
    from tests.onnx_files import save

    b = Builder()
    other = save(b.output(b("Add", b.input("a", 2), b.input("b", 2))), tmp_path / "other.onnx")
    done = edgec("bench", bundle, "--against", other, "--runs", 1)
    assert (done.code, "has the inputs a, b" in done.err) == (2, True)
