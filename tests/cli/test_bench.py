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


@pytest.fixture
def native(model, tmp_path):
    from edgec import build

    return build(model, "host", tmp_path / "native", samples=1)


def test_bench_layers_adds_measured_times_to_the_report(edgec, native):
    done = edgec("bench", native, "--layers", "--runs", 5, "--json", "-q")
    assert done.code == 0
    kernels = {row["kernel"]: row for row in done.json["kernels"]}
    assert all(row["seconds"] >= 0 and row["roof"] <= row["cycles"] for row in kernels.values())
    from edgec.bundle import read_bundle

    report = read_bundle(native).report()  # its hash is that of the manifest again
    assert report["times"]["measured"]["ghz"] == done.json["ghz"]
    assert {r["kernel"] for r in report["times"]["rows"]} == set(kernels)
    assert "Measured on" in (native / "report.html").read_text()
    assert edgec("verify", native).code == 0


def test_bench_layers_prints_the_share_of_the_roof(edgec, native):
    done = edgec("bench", native, "--layers", "--runs", 5)
    assert done.code == 0
    assert "of the roof" in done.out
    assert "GHz" in done.out


def test_bench_layers_refuses_a_bundle_without_native_kernels(edgec, bundle):
    assert edgec("bench", bundle, "--layers").code == 3


def test_bench_refuses_a_device_without_layers(edgec, bundle):
    assert edgec("bench", bundle, "--device", "ssh://board").code == 2
