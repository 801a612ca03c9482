
import numpy as np
import pytest

from edgec.errors import UserError
from edgec.golden import Golden, difference, draw, index_limit, make_golden, read_inputs
from edgec.interchange.onnx_export import to_model
from edgec.ir import DType, TensorType, Value
from tests.models import BLOCKS, Builder


def golden_of(graph, **options):
    return make_golden(graph, to_model(graph).SerializeToString(), **options)


def embedding(rows=7):
    """Token ids through a cast, a reshape and a shift into a table of `rows`, and a second, larger table."""
    b = Builder()
    ids = b.input("ids", 2, 3, dtype=DType.INT64)
    flat = b("Cast", b("Reshape", ids, [6]), to=DType.INT32)
    return b.output(b("Gather", b.weight(rows, 4), flat, axis=0), b("Gather", b.weight(4, rows + 5), flat, axis=1))


def test_index_limit_is_the_smallest_table_when_ids_pass_through_other_nodes():
    assert index_limit(embedding(7).inputs[0]) == 7


def test_index_limit_is_none_when_nothing_is_indexed():
    b = Builder()
    ids = b.input("ids", 2, 3, dtype=DType.INT64)
    assert index_limit(b.output(b("Add", ids, 3)).inputs[0]) is None


def test_draw_stays_inside_the_table_when_ids_index_one():
    drawn = np.concatenate([draw(embedding(2).inputs[0], seed).ravel() for seed in range(20)])
    assert set(drawn) == {0, 1}
    assert drawn.dtype == np.int64


@pytest.mark.parametrize(("dtype", "low", "high"), [(DType.UINT8, 0, 255), (DType.INT8, -128, 127),
                                                    (DType.INT32, 0, 9), (DType.BOOL, 0, 1)])
def test_draw_covers_the_range_when_the_type_is_small(dtype, low, high):
    drawn = draw(Value("x", TensorType(dtype, (4000,))), 0)
    assert (int(drawn.min()), int(drawn.max())) == (low, high)
    assert drawn.dtype == dtype.numpy


def test_draw_depends_on_name_and_seed_only():
    type_ = TensorType(DType.FLOAT32, (50,))
    first = draw(Value("x", type_), 1)
    np.testing.assert_array_equal(first, draw(Value("x", type_), 1))
    assert not np.array_equal(first, draw(Value("y", type_), 1))
    assert not np.array_equal(first, draw(Value("x", type_), 2))


def test_make_golden_allows_a_ten_thousandth_when_outputs_are_float():
    golden = golden_of(BLOCKS["mlp"](), samples=3)
    largest = max(np.abs(o["softmax"]).max() for o in golden.outputs)
    assert golden.tolerance["softmax"] == pytest.approx(1e-4 * largest, rel=1e-3)
    assert len(golden.inputs) == 3


def test_make_golden_allows_nothing_when_outputs_are_integers():
    b = Builder()
    golden = golden_of(b.output(b("ArgMax", b.input("x", 3, 5), axis=1)))
    assert list(golden.tolerance.values()) == [0.0]


def test_make_golden_says_what_to_do_when_random_inputs_fail():
    b = Builder()
    i = b.input("i", 1, dtype=DType.INT64)
    graph = b.output(b("Gather", b.weight(4, 3), b("Add", i, 100)))
    with pytest.raises(UserError, match="--golden"):
        golden_of(graph)


def test_check_finds_the_worst_sample_when_an_output_is_wrong():
    golden = golden_of(BLOCKS["mlp"](), samples=3)
    answers = [dict(o) for o in golden.outputs]
    answers[1] = {"softmax": answers[1]["softmax"] + np.float32(0.01)}
    (check,) = golden.check(lambda feeds: answers.pop(0))
    assert not check.ok
    assert check.sample == 1
    assert check.error == pytest.approx(0.01, rel=1e-3)


@pytest.mark.parametrize(("result", "reference", "error"), [
    ([1.0, np.nan], [1.0, np.nan], 0.0), ([1.0, 2.0], [1.0, np.nan], np.inf), ([1.0, np.nan], [1.0, 2.0], np.inf),
    ([np.inf, 1.5], [np.inf, 1.0], 0.5), ([-np.inf, 1.0], [np.inf, 1.0], np.inf), ([1.0], [1.0, 2.0], np.inf),
], ids=["nan", "no-nan", "new-nan", "inf", "other-inf", "shape"])
def test_difference_is_infinite_when_values_are_of_another_kind(result, reference, error):
    assert difference(np.array(result, np.float32), np.array(reference, np.float32)) == error


def test_difference_is_exact_when_integers_are_large():
    assert difference(np.array([2**40 + 1]), np.array([2**40])) == 1.0


def test_read_gives_what_was_written_when_names_and_types_are_odd(tmp_path):
    import ml_dtypes

    inputs = {"a/b": np.arange(3, dtype=np.int64), "..\\x\0": np.array(["ä", "bc"], object),
              "h": np.array([1.5, -2], ml_dtypes.bfloat16)}
    outputs = {"y": np.float32(2).reshape(())}
    Golden((inputs,), (outputs,), {"y": 0.25}).write(tmp_path / "golden.npz")
    types = {n: TensorType(DType.of(a), a.shape) for n, a in (inputs | outputs).items()}
    read = Golden.read(tmp_path / "golden.npz", {n: types[n] for n in inputs}, {"y": types["y"]})
    assert read.tolerance == {"y": 0.25}
    for name, array in inputs.items():
        np.testing.assert_array_equal(read.inputs[0][name], array)
        assert read.inputs[0][name].dtype == array.dtype
    assert read.outputs[0]["y"].shape == ()


def test_read_inputs_splits_samples_when_there_is_one_more_axis(tmp_path):
    inputs = BLOCKS["mlp"]().inputs  # x [2, 7]
    np.savez(tmp_path / "x.npz", x=np.arange(42).reshape(3, 2, 7).astype(np.float64))
    samples = read_inputs(tmp_path / "x.npz", inputs)
    assert [s["x"].shape for s in samples] == [(2, 7)] * 3
    assert samples[1]["x"].dtype == np.float32
    assert samples[1]["x"][0, 0] == 14


def test_read_inputs_splits_the_batch_when_the_input_has_one_of_one(tmp_path):
    array = np.arange(5 * 4 * 9 * 7, dtype=np.float32).reshape(5, 4, 9, 7)
    np.savez(tmp_path / "x.npz", x=array)
    samples = read_inputs(tmp_path / "x.npz", BLOCKS["depthwise_separable"]().inputs)  # x [1, 4, 9, 7]
    np.testing.assert_array_equal(np.concatenate([s["x"] for s in samples]), array)
    assert len(samples) == 5


@pytest.mark.parametrize(("arrays", "message"), [
    ({"a": np.ones((2, 7)), "b": np.ones(1)}, "are called a, b"), ({"x": np.ones((2, 8))}, r"shape \[2, 8\]"),
    ({"x": np.ones((0, 2, 7))}, "or none"), ({"x": np.ones((2, 7), complex)}, "dtype complex128"),
], ids=["names", "shape", "none", "dtype"])
def test_read_inputs_refuses_when_arrays_do_not_fit(tmp_path, arrays, message):
    np.savez(tmp_path / "x.npz", **arrays)
    with pytest.raises(UserError, match=message):
        read_inputs(tmp_path / "x.npz", BLOCKS["mlp"]().inputs)


def test_make_golden_allows_rounding_error_when_model_magnifies_it():
    b = Builder()
    large = np.float32(3e4)
    graph = b.output(b("Sub", b("Add", b.input("x", 64), large), large))  # x, rounded to 1/512
    golden = golden_of(graph)
    (name,) = golden.tolerance
    worst = max(np.abs(o[name] - i["x"]).max() for i, o in zip(golden.inputs, golden.outputs, strict=True))
    assert golden.tolerance[name] == pytest.approx(4 * worst, rel=1e-3)


def test_golden_of_four_bit_weights_does_not_round_the_data():
    """ONNX Runtime's fused product of 4-bit weights rounds its data to 8 bits unless it is kept from fusing."""
    from edgec.compress.quantize.weight_only import quantize_weights
    from edgec.ir.interpret import interpret

    b = Builder()
    graph = quantize_weights(b.output(b("MatMul", b.input("x", 3, 64), b.weight(64, 32))), "int4-weights").graph
    found = golden_of(graph, samples=1)
    expected = interpret(graph, found.inputs[0])
    for name, array in found.outputs[0].items():
        np.testing.assert_allclose(array, expected[name], atol=1e-5)


def test_golden_on_grids_is_the_interpreters_and_strict_where_all_is_exact(monkeypatch):
    """ONNX Runtime, made to be off by 0.5, counts only behind float sums, or for an engine that is not exact."""
    from edgec.golden import golden_on_grids
    from edgec.interchange import session
    from edgec.ir.interpret import interpret
    from tests.compress.quantize.prepared import chain, drawn, prepare

    real = session.run_session
    monkeypatch.setattr(session, "run_session", lambda s, f: {n: a + np.float32(0.5) for n, a in real(s, f).items()})
    prepared = prepare(chain())
    samples = drawn(prepared.graph, 2)
    whole, part = prepared.annotated(), prepared.annotated(prepared.placement.products[1:2])
    strict, loose, other = (golden_on_grids(g, samples, exact=e) for g, e in (
        (whole, True), (part, True), (whole, False)))
    name = whole.outputs[0].name
    np.testing.assert_array_equal(strict.outputs[0][name], interpret(whole, samples[0])[name])
    largest = max(float(np.abs(o[name]).max()) for o in strict.outputs)
    assert strict.tolerance[name] == pytest.approx(1e-4 * largest, rel=1e-3)
    assert 1.9 < loose.tolerance[name] < 2.5  # four times 0.5, and what single roundings add or take
    assert 1.9 < other.tolerance[name] < 2.5
    assert all(c.ok for c in strict.check(lambda feeds: interpret(whole, feeds)))
