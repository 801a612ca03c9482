"""All stages of compression one after the other, each through a checkpoint: what one gives, the next one keeps."""

import numpy as np
import pytest

import edgec
from edgec import chain
from edgec.backends import own_backend
from edgec.compress import stages
from edgec.compress.prune.channels import PruneOptions, count_macs
from edgec.compress.prune.select import Limits
from edgec.compress.request import Quantization
from edgec.compress.sparse.patterns import products, violations
from edgec.compress.train.loop import Recipe
from edgec.data.dataset import Sample
from edgec.ir import checkpoint
from edgec.ir.interpret import interpret
from edgec.ir.quantize import quantize_dequantize
from edgec.ir.text import dump
from edgec.ir.verify import verify
from edgec.target import load_target
from tests.models import Builder

CLASSES = 4


def net():
    b = Builder(5)
    x = b("Relu", b.batch_norm(b.conv(b.input("x", 1, 3, 10, 10), 32, 3, bias=False)))
    y = b("Relu", b.batch_norm(b.conv(x, 48, 3, bias=False)))
    x = b("Relu", b("Add", x, b.batch_norm(b.conv(y, 32, 3, bias=False))))
    x = b("Flatten", b("GlobalAveragePool", x))
    return b.output(b("Gemm", x, b.weight(32, CLASSES), b.weight(CLASSES)))


def samples(count, seed):
    """The class is which channel is bright; in the last one, none is."""
    random = np.random.default_rng(seed)
    found = []
    for i in range(count):
        x = 0.5 * random.standard_normal((1, 3, 10, 10)).astype(np.float32)
        x[:, i % CLASSES:i % CLASSES + 1] += 1.5
        found.append(Sample(str(i), {"x": x}, i % CLASSES))
    return found


def right(graph, seed=1):
    name = graph.outputs[0].name
    return np.mean([interpret(graph, s.feeds)[name].argmax() == s.label for s in samples(40, seed)])


@pytest.mark.slow
def test_every_stage_keeps_what_those_before_it_gave(tmp_path):
    given, target, before = samples(64, 0), load_target("host"), tmp_path / "s0.edgec"
    recipe = Recipe(3, batch=16, rate=0.02)
    checkpoint.save(stages.recover(net(), given, recipe).graph, before)
    teacher = checkpoint.load(before)
    assert right(teacher) > 0.9

    def step(apply):
        """One stage from checkpoint to checkpoint; the graph that the next one will read."""
        nonlocal before
        source = checkpoint.load(before)
        after = before.with_name(f"s{int(before.stem[1:]) + 1}.edgec")
        stage = apply(source)
        record = chain.write_record(before, source, after, stage.graph, stage.facts, target=target)
        read = checkpoint.load(after)
        assert verify(read) == []
        text, arrays = dump(stage.graph)
        assert dump(read)[0] == text
        assert all(np.array_equal(arrays[k], a) for k, a in dump(read)[1].items())
        name, feeds = read.outputs[0].name, samples(1, 2)[0].feeds
        np.testing.assert_array_equal(interpret(read, feeds)[name], interpret(stage.graph, feeds)[name])
        before = after
        return read, record

    def train(graph):
        return stages.recover(graph, given, recipe, teacher=teacher)

    def sparse(graph):
        return [violations(w.const, w.sparsity) for _, w, _ in products(graph) if w.sparsity is not None]

    pruned, _ = step(lambda g: stages.prune(g, PruneOptions(None, 0.7, limits=Limits(align=16)), given))
    macs = count_macs(pruned)
    assert macs <= 0.7 * count_macs(teacher)
    recovered, _ = step(train)
    assert count_macs(recovered) == macs
    assert right(recovered) > 0.9
    marked, _ = step(lambda g: stages.sparsify(g, given))
    assert sparse(marked) == [0, 0]  # the first layer has 3 inputs, the last one 4 outputs
    recovered, _ = step(train)
    assert sparse(recovered) == [0, 0]
    assert right(recovered) > 0.9
    wish = Quantization(calibration=lambda: [s.feeds for s in given])
    whole, _ = step(lambda g: stages.quantize(g, edgec.load(before).original, own_backend(target).policy(target), wish))
    assert sparse(whole) == [0, 0]
    trained, record = step(train)
    assert sparse(trained) == [0, 0]
    assert right(trained) > 0.9
    on_grid = [v for v in trained.constants() if v.quant is not None]
    assert len(on_grid) >= 4
    assert all(np.array_equal(quantize_dequantize(v.const, v.quant), v.const) for v in on_grid)

    links = record["links"]
    assert [r["stage"] for r in links] == ["model", "prune", "recover", "sparsify", "recover", "quantize", "recover"]
    assert links[1]["macs"] < links[0]["macs"]
    assert links[3]["zeros"] > 0.4 > links[2]["zeros"]
    assert links[5]["bytes"] < 0.4 * links[4]["bytes"]
    with edgec.open_bundle(edgec.build(before, target, tmp_path / "bundle", samples=1)) as engine:
        for sample in samples(8, 3):
            np.testing.assert_array_equal(engine.run(sample.feeds)[trained.outputs[0].name],
                                          interpret(trained, sample.feeds)[trained.outputs[0].name])
