"""What the pipeline leaves of real models: exact op counts, and the numbers on random inputs."""

from collections import Counter
from functools import cache

import pytest

from edgec.frontends import load
from edgec.ir.verify import verify
from edgec.passes.pipelines import optimize
from tests.passes.checks import check_numbers, ops
from tests.real_models import DATA, find

EXACT = {  # all ops
    "anomaly/mlperf_ad01_autoencoder.onnx": {"Gemm": 10, "Relu": 9},
    "cifar10/mlperf_resnet8.onnx": {
        "Transpose": 1, "Conv": 9, "Relu": 7, "Add": 3, "GlobalAveragePool": 1, "Reshape": 1, "Gemm": 1, "Softmax": 1},
    "cifar10/resnet20_cifar10.onnx": {
        "Conv": 19, "Relu": 19, "Add": 9, "Slice": 4, "Pad": 2, "GlobalAveragePool": 1, "Reshape": 1, "Gemm": 1},
    "faces/blazeface_short_range.onnx": {
        "Transpose": 5, "Conv": 37, "Relu": 17, "Add": 16, "Pad": 11, "MaxPool": 3, "Reshape": 4, "Concat": 2},
    "imagenet/mobilenetv1_025.onnx": {"Conv": 28, "Clip": 27, "GlobalAveragePool": 1, "Reshape": 1},
    "imagenet/mobilenetv1_025_keras.onnx": {
        "Conv": 28, "Clip": 27, "GlobalAveragePool": 1, "Reshape": 1, "Softmax": 1},
    "kws/arm_DS_CNN_S.onnx": {
        "Reshape": 1, "Conv": 9, "Relu": 9, "GlobalAveragePool": 1, "Squeeze": 1, "Gemm": 1, "Softmax": 1},
    "kws/mlperf_kws_dscnn.onnx": {
        "Reshape": 2, "Conv": 9, "Relu": 9, "GlobalAveragePool": 1, "Gemm": 1, "Softmax": 1},
    "mnist/mnist_cntk_opset8.onnx": {"Conv": 2, "Relu": 2, "MaxPool": 2, "Reshape": 1, "Gemm": 1},
    "vww/mlperf_vww_mobilenetv1_025_96.onnx": {
        "Transpose": 1, "Conv": 27, "Relu": 27, "GlobalAveragePool": 1, "Reshape": 1, "Gemm": 1, "Softmax": 1},
}
PART = {  # some ops; 0: none is left
    "audio/silero_vad_16k_opset15.onnx": {"LSTM": 1, "Conv": 6, "If": 0},
    "coco/yolox_nano_opset11.onnx": {"Swish": 104, "Conv": 113, "Sigmoid": 6, "Mul": 0},
    "faces/ultraface_rfb320_opset9.onnx": {
        "Conv": 52, "BatchNormalization": 0, "Shape": 0, "Gather": 0, "Unsqueeze": 0, "Reshape": 8},
    "fashion_mnist/vit_fashion.onnx": {"Gelu": 4, "LayerNormalization": 9, "Erf": 0, "Gather": 0, "Gemm": 1},
    "segmentation/selfie_segmentation.onnx": {
        "Transpose": 1, "HardSwish": 11, "GlobalAveragePool": 10, "Conv": 54, "ConvTranspose": 1, "ReduceMean": 0},
    "text/stories260k.onnx": {"RMSNormalization": 11, "Swish": 5, "Gather": 1, "Pow": 0},
}
SMALL = ("anomaly/mlperf_ad01_autoencoder.onnx", "cifar10/mlperf_resnet8.onnx", "fashion_mnist/vit_fashion.onnx",
         "kws/arm_DS_CNN_S.onnx", "mnist/mnist_cntk_opset8.onnx", "text/stories260k.onnx")

pytestmark = pytest.mark.skipif(not DATA.exists(), reason="the real models are not here (EDGEC_DATA)")


@cache
def loaded(file):
    model = find(file)
    return load(model.path, inputs=model.inputs or None, values=model.values or None,
                submodule=model.submodule).graph


@pytest.mark.parametrize("file", [*EXACT, *PART])
def test_optimize_leaves_the_expected_ops_of_a_real_model(file):
    graph, _ = optimize(loaded(file))
    found = Counter(ops(graph))
    if file in EXACT:
        assert found == EXACT[file]
    else:
        assert {op: found[op] for op in PART[file]} == PART[file]
    assert verify(graph) == []


@pytest.mark.parametrize("file", SMALL)
def test_optimize_keeps_the_numbers_of_a_real_model(file):
    graph = loaded(file)
    result, _ = optimize(graph)
    check_numbers(graph, result, 5e-6)


def test_optimize_folds_all_35_batch_norms_of_ultraface():
    _, reports = optimize(loaded("faces/ultraface_rfb320_opset9.onnx"))
    (report,) = [r for r in reports if r.name == "fold_batch_norm"]
    assert (report.applied, report.refused) == (35, [])


def test_optimize_leaves_transposes_of_nhwc_models_at_the_borders_only():
    for file in ("cifar10/mlperf_resnet8.onnx", "segmentation/selfie_segmentation.onnx",
                 "faces/blazeface_short_range.onnx"):
        graph, _ = optimize(loaded(file))
        for node in graph.nodes:
            if node.op == "Transpose":
                after = {n.op for n, _ in node.outputs[0].uses}
                assert node.inputs[0] in graph.inputs or graph.is_output(node.outputs[0]) or after == {"Reshape"}, node
