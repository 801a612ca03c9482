"""The record of a chain of checkpoints."""

import json

import numpy as np
import pytest

from edgec import chain
from edgec.compress import stages
from edgec.compress.prune.channels import PruneOptions
from edgec.ir import checkpoint
from edgec.ir.types import DType, Quant
from edgec.target import load_target
from tests.models import Builder


@pytest.fixture
def graph():
    b = Builder(1)
    y = b("Relu", b.batch_norm(b.conv(b.input("x", 1, 3, 9, 9), 16, 3)))
    return b.output(b.conv(y, 8, 3))


def test_links_accumulate_over_stages_and_start_anew_for_other_files(graph, tmp_path):
    target = load_target("rpi4")
    source, half, less = (tmp_path / f"{n}.edgec" for n in ("net", "half", "less"))
    checkpoint.save(graph, source)
    first = stages.prune(graph, PruneOptions(0.5))
    record = chain.write_record(source, graph, half, first.graph, first.facts, target=target)
    second = stages.factorize(first.graph, 0.5)
    record = chain.write_record(half, first.graph, less, second.graph, second.facts, target=target)
    assert [r["stage"] for r in record["links"]] == ["model", "prune", "factorize"]
    macs = [r["macs"] for r in record["links"]]
    assert macs[0] > macs[1] >= macs[2] > 0
    seconds = [r["predicted"]["seconds"] for r in record["links"]]
    assert seconds[0] > seconds[1]
    assert json.loads(less.with_suffix(".json").read_text()) == record
    assert "factorize" in less.with_suffix(".html").read_text()
    checkpoint.save(graph, half)  # another file than the record is of
    record = chain.write_record(half, graph, less, second.graph, second.facts)
    assert [r["stage"] for r in record["links"]] == ["model", "factorize"]
    assert record["links"][0]["predicted"] is None


def test_a_chain_goes_on_when_the_output_takes_the_place_of_the_source(graph, tmp_path):
    source, net = tmp_path / "source.edgec", tmp_path / "net.edgec"
    checkpoint.save(graph, source)
    first = stages.prune(graph, PruneOptions(0.5))
    chain.write_record(source, graph, net, first.graph, first.facts)
    second = stages.factorize(first.graph, 0.5)
    record = chain.write_record(net, first.graph, net, second.graph, second.facts)
    assert [r["stage"] for r in record["links"]] == ["model", "prune", "factorize"]
    assert chain.read_record(net) == record


def test_an_engine_is_timed_where_it_can_run(graph, tmp_path):
    link = chain.describe("model", graph, tmp_path / "net.edgec", target=load_target("host"), measure=True)
    assert link.measured["seconds"] > 0
    link = chain.describe("model", graph, tmp_path / "net.edgec", target=load_target("jetson"), measure=True)
    assert link.measured is None
    assert link.why
    assert link.predicted["cycles"] is None


def test_bytes_are_those_of_the_grids_and_zeros_compress(graph, tmp_path):
    whole = chain.describe("model", graph, tmp_path / "net.edgec")
    weight = next(v for v in graph.constants() if v.type.rank == 4)
    weight.quant = Quant(DType.INT4, np.full((), 0.1, np.float32), np.zeros((), np.int8))
    weight.const = np.clip(np.round(weight.const / 0.1), -7, 7).astype(np.float32) * np.float32(0.1)
    small = chain.describe("quantize", graph, tmp_path / "net.edgec")
    assert whole.bytes - small.bytes == pytest.approx(3.5 * weight.const.size, abs=1)
    weight.const = np.zeros_like(weight.const)
    assert chain.describe("x", graph, tmp_path / "net.edgec").packed < small.packed


def test_a_broken_record_is_none(graph, tmp_path):
    path = tmp_path / "net.edgec"
    checkpoint.save(graph, path)
    for text in ("{", "[]", '{"format": 1}', '{"format": 1, "sha256": "0", "links": []}'):
        path.with_suffix(".json").write_text(text)
        assert chain.read_record(path) is None
