def test_inspect_shows_a_model_and_its_refusals(edgec, model, unparsed):
    done = edgec("inspect", model, "-t", "jetson", "-t", "onnxruntime", "--json", "-q")
    assert done.code == 0
    facts = done.json
    assert facts["before"]["ops"]["BatchNormalization"] == 2
    assert "BatchNormalization" not in facts["after"]["ops"]
    assert facts["after"]["macs"] > 0
    jetson, ort = facts["targets"]
    assert jetson["targets"] == ["jetson-orin-nano"]
    assert jetson["refused"] == ort["refused"] == []
    (jetson,) = edgec("inspect", unparsed, "-t", "jetson", "--json", "-q").json["targets"]
    assert [r["rule"] for r in jetson["refused"]] == ["tensorrt.operator"]


def test_inspect_prints_tables(edgec, unparsed):
    done = edgec("inspect", unparsed, "-t", "jetson", "-q")
    assert "multiply-adds" in done.out
    assert "tensorrt takes 2 of 3 kernels" in done.out
    assert "[tensorrt.operator]" in done.out


def test_inspect_prints_the_graph_when_asked(edgec, model):
    done = edgec("inspect", model, "--text", "-q")
    assert "Conv" in done.out
    assert "BatchNormalization" not in done.out


def test_inspect_shows_a_bundle(edgec, bundle):
    done = edgec("inspect", bundle)
    assert "engine/net.onnx" in done.out
    assert "Conv + Clip" in done.out
    assert edgec("inspect", bundle, "--json").json["manifest"]["name"] == "net"
