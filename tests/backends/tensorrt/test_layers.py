from __future__ import annotations

from edgec.backends.tensorrt.board.layers import findings, read_layers, warnings

OLD = {"Layers": [  # as 8.x and 10.x write it
    {"Name": "conv1 + relu1", "LayerType": "CaskConvolution", "TacticName": "sm80_xmma_int8",
     "Inputs": [{"Name": "x", "Format/Datatype": "Thirty-two wide channel vectorized row major Int8 format"}],
     "Outputs": [{"Name": "y", "Format/Datatype": "Int8"}]},
    {"Name": "conv2", "LayerType": "CaskConvolution", "Inputs": [{"Format/Datatype": "Row major FP16"}], "Outputs": []},
    {"Name": "Reformatting CopyNode for Input Tensor 0", "LayerType": "Reformat", "Inputs": [], "Outputs": []}]}
NEW = {"Layers": [  # as 11 writes it
    {"Name": "__myl_Conv_1", "LayerType": "kgen", "Metadata": "[ONNX Layer: conv1]\x1e[ONNX Layer: relu1]",
     "Inputs": [{"Name": "x", "Format": "Linear", "Datatype": "INT8"}], "Outputs": []}]}


def describe(**more):
    return {"int8_layers": [], "sparse_layers": [], "dla": None, **more}


def test_read_layers_knows_both_forms():
    old, new = read_layers(OLD), read_layers(NEW)
    assert old[0]["nodes"] == ["conv1", "relu1"]
    assert new[0]["nodes"] == ["__myl_Conv_1", "conv1", "relu1"]
    assert new[0]["inputs"] == ["INT8 Linear"]
    assert read_layers({"Layers": ["just a name"]})[0]["name"] == "just a name"


def test_findings_tell_which_layers_left_int8():
    found = findings(read_layers(OLD), [], describe(int8_layers=["conv1", "conv2", "gone"]), int8=True)
    assert [row["node"] for row in found["int8_lost"]] == ["conv2"]
    assert found["int8_unseen"] == ["gone"]
    assert found["moves"] == ["Reformatting CopyNode for Input Tensor 0"]
    assert "1 layers that were quantized do not run in int8: conv2" in warnings(found)[0]
    assert findings(read_layers(NEW), [], describe(int8_layers=["conv1"]), int8=True)["int8_lost"] == []
    assert findings(read_layers(OLD), [], describe(int8_layers=["conv2"]), int8=False)["int8_lost"] == []


def test_findings_read_sparsity_from_the_log():
    log = ["INFO: (Sparsity) Layers eligible for sparse math: conv1, conv2",
           "INFO: (Sparsity) TRT inference plan picked sparse implementation for layers: conv2"]
    found = findings([], log, describe(sparse_layers=["conv1", "conv2"]), int8=False)
    assert (found["sparse_eligible"], found["sparse_picked"]) == (["conv1", "conv2"], ["conv2"])
    assert warnings(found) == []
    none = findings([], log[:1], describe(sparse_layers=["conv1"]), int8=False)
    assert "picked a sparse kernel for none" in warnings(none)[0]


def test_findings_read_what_left_the_dla():
    log = ["WARNING: softmax_1: Softmax on axis 0 unsupported on DLA. Switching this layer's device type to GPU.",
           "WARNING: /model.23/Slice_1: DLA only supports slicing 4 dimensional tensors.",
           "WARNING: Layer '/model.23/Slice_1' (SLICE): Unsupported on DLA. Switching this layer's device type to GPU.",
           "WARNING: Layer '/model.24/Constant_1' (CONSTANT): Unsupported on DLA. Switching this layer's device type "
           "to GPU.",
           "WARNING: Layer '(Unnamed Layer* 277) [Shuffle]' (SHUFFLE): Unsupported on DLA. Switching this layer's "
           "device type to GPU.",
           "WARNING: Default DLA is enabled but layer Transpose__560 is not supported on DLA, falling back to GPU.",
           "WARNING: DLA only supports FP16 and Int8 precision type. Switching (Unnamed Layer* 39) [Shape] device type "
           "to GPU.",
           "WARNING: DLA only supports FP16 and Int8 precision type. Switching (Unnamed Layer* 40) [Constant] device "
           "type to GPU.",
           "WARNING: Default DLA is enabled but layer Transpose__560 is not supported on DLA, falling back to GPU."]
    found = findings([], log, describe(dla=0), int8=False)
    assert found["off_dla"] == ["softmax_1", "/model.23/Slice_1", "(Unnamed Layer* 277) [Shuffle]", "Transpose__560",
                                "(Unnamed Layer* 39) [Shape]"]
    assert "5 layers run on the GPU instead of the DLA" in warnings(found)[0]
    assert findings([], log, describe(), int8=False)["off_dla"] == []
