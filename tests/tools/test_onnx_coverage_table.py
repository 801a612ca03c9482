"""ONNX's own node tests on the CPU engine: a sample in every run, all of them with `-m slow`."""

import dataclasses
import re
from collections import Counter
from pathlib import Path

import pytest

from tools import onnx_coverage_table as tool

ROOT = Path(__file__).resolve().parents[2]
NATIVE_FLOOR = 0.88  # of the tests within the purpose of the engine; raise it when docs/cpu-ops.md says more
SAMPLE = (
    "add", "add_bcast", "argmax_keepdims_example", "averagepool_2d_ceil", "basic_conv_with_padding",
    "batchnorm_epsilon", "clip_default_inbounds", "concat_2d_axis_1", "conv_with_strides_no_padding",
    "convtranspose_pads", "lstm_with_peepholes", "depthtospace_crd_mode_example", "div_int32_trunc", "equal", "erf",
    "expand_dim_changed", "flatten_axis2", "gelu_tanh_1", "gemm_all_attributes", "globalaveragepool",
    "instancenorm_example", "layer_normalization_3d_axis1_epsilon", "leakyrelu", "matmul_3d",
    "maxpool_2d_dilations", "mod_mixed_sign_int64", "pow_types_float32_int64", "hardmax_negative_axis",
    "reflect_pad", "relu", "reshape_negative_dim", "shrink_hard", "slice_negative_axes", "softmax_axis_1",
    "softplus", "split_equal_parts_2d", "tile", "transpose_all_permutations_3", "where_example", "xor_bcast3v1d",
)


@pytest.fixture(scope="module")
def cases():
    return tool.load_cases()


def test_sample_runs_natively(cases) -> None:
    every, single = cases
    chosen = [c for c in every if c.name.removeprefix("test_") in SAMPLE]
    assert len(chosen) == len(SAMPLE), set(SAMPLE) - {c.name.removeprefix("test_") for c in chosen}
    results = tool.coverage(chosen, single)
    assert [r for r in results if r.outcome not in ("native", "folded")] == []


def test_wrong_number_counts_as_wrong(cases) -> None:
    every, single = cases
    case = next(c for c in every if c.name == "test_relu")
    inputs, outputs = case.data_sets[0]
    broken = dataclasses.replace(case, data_sets=[(inputs, [outputs[0] + 1])])
    assert [r.outcome for r in tool.coverage([broken], single)] == ["wrong"]


def test_page_states_every_op_once() -> None:
    results = [tool.Result("test_a", "Add", "native"), tool.Result("test_b", "Add", "fallback", "why [x.y]"),
               tool.Result("test_c", "Loop", "outside", "control flow")]
    text = tool.page(results)
    assert "| Add | 2 | 1 | 0 | 1 | why [x.y] (1) |" in text
    assert "| control flow | 1 |" in text
    assert tool.native_share(results) == 0.5


def test_documented_share_is_above_the_floor() -> None:
    share = re.search(r"Native: ([\d.]+) %", (ROOT / "docs" / "cpu-ops.md").read_text(encoding="utf-8"))
    assert share is not None
    assert float(share[1]) >= 100 * NATIVE_FLOOR


@pytest.mark.slow
def test_all_node_tests(cases) -> None:
    every, single = cases
    results = tool.coverage(every, single)
    assert [r for r in results if r.outcome == "wrong"] == []
    assert all(r.reason for r in results if r.outcome == "fallback")
    assert tool.native_share(results) >= NATIVE_FLOOR, Counter(r.outcome for r in results)
