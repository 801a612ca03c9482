import numpy as np
import pytest
from edgec.kernels.tables import Choice, Entry, Table, signature

import edgec
from edgec.backends.tvm.worth import why_slower
from edgec.bundle import read_bundle
from edgec.plan.grids import settle
from edgec.plan.kernels import group
from edgec.target import load_target
from tests.grids import on_grids, random_feeds
from tests.models import Builder
from tests.onnx_files import save


def conv(channels=32, out=32, groups=1, kernel=3):
    b = Builder()
    return b.output(b.conv(b.input("x", 1, channels, 14, 14), out, kernel, groups=groups))


@pytest.mark.parametrize("target", ["x86-64-v4", "rpi4", "rpi5"])
@pytest.mark.parametrize("net", [conv(), conv(64, 64, 64)], ids=["dense", "depthwise"])
def test_products_with_integer_kernels_are_worth_int8(net, target):
    assert why_slower(load_target(target))(net.nodes[0]) is None


def test_a_product_is_slower_when_only_its_float_kernel_is_tuned(monkeypatch):
    from edgec.kernels import conv2d_int8

    monkeypatch.setattr(conv2d_int8, "refuse", lambda kernel, target: "not today")
    rule, text = why_slower(load_target("rpi5"))(conv(kernel=1).nodes[0])
    assert rule == "int8.slower"
    assert float(text.split()[5]) > 1.5, text


def measured(net, target, seconds):
    """A table with the times of the only kernel of `net` in float and on grids."""
    quantized = on_grids(net, random_feeds(net))
    kernels = settle(quantized, group(quantized), signed=False)
    names = [signature(group(net)[0]), next(s for k in kernels if (s := signature(k)))]
    return Table(target.cpu.core, entries={n: Entry(Choice("", {}), t) for n, t in zip(names, seconds, strict=True)})


def test_measured_times_decide_where_the_table_has_both():
    net, target = conv(), load_target("x86-64-v4")
    assert why_slower(target, measured(net, target, (1.0, 0.9)))(net.nodes[0]) is None
    rule, text = why_slower(target, measured(net, target, (1.0, 3.0)))(net.nodes[0])
    assert (rule, "times as long" in text) == ("int8.slower", True)


def test_a_build_keeps_it_in_float_and_says_why(tmp_path, monkeypatch):
    from edgec.backends.tvm import worth

    monkeypatch.setattr(worth, "_cycles", lambda kernel, *_: 1e6 if kernel.inputs[0].quant is not None else 1.0)
    net = conv(3, 5)
    rng = np.random.default_rng(0)
    samples = [{"x": rng.standard_normal((1, 3, 14, 14)).astype(np.float32)} for _ in range(4)]
    wish = edgec.Quantization(lambda: iter(samples), observer="minmax")
    file = save(net, tmp_path / "net.onnx")
    folder = edgec.build(file, "host", tmp_path / "bundle", precision="int8", quantization=wish)
    rows = read_bundle(folder).report()["quantization"]["float"]
    assert [r["rule"] for r in rows] == ["int8.slower"]
