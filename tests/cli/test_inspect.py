def test_inspect_shows_a_model_and_its_refusals(edgec, model):
    done = edgec("inspect", model, "-t", "jetson", "-t", "onnxruntime", "--json", "-q")
    assert done.code == 0
    facts = done.json
    assert facts["before"]["ops"]["BatchNormalization"] == 2
    assert "BatchNormalization" not in facts["after"]["ops"]
    assert facts["after"]["macs"] > 0
    jetson, ort = facts["targets"]
    assert jetson["targets"] == ["jetson-orin-nano"]
    assert len(jetson["refused"]) == jetson["kernels"]
    assert ort["refused"] == []


def test_inspect_prints_tables(edgec, model):
    done = edgec("inspect", model, "-t", "jetson", "-q")
    assert "multiply-adds" in done.out
    assert "tensorrt takes 0 of" in done.out
    assert "tensorrt.later" in done.out


def test_inspect_prints_the_graph_when_asked(edgec, model):
    done = edgec("inspect", model, "--text", "-q")
    assert "Conv" in done.out
    assert "BatchNormalization" not in done.out


def test_inspect_shows_a_bundle(edgec, bundle):
    done = edgec("inspect", bundle)
    assert "engine/net.onnx" in done.out
    assert "Conv + Clip" in done.out
    assert edgec("inspect", bundle, "--json").json["manifest"]["name"] == "net"
