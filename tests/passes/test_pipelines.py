import time
from types import ModuleType

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgec.errors import InternalError
from edgec.ir import DType, Graph, Node, TensorType, Value
from edgec.ir.verify import verify
from edgec.passes import eliminate_dead, fold_affine, fold_batch_norm, fold_constants
from edgec.passes.contract import PassReport, PassResult
from edgec.passes.pipelines import PIPELINE, Stage, optimize, order_violations
from tests.models import BLOCKS, Builder
from tests.passes.checks import check_numbers, frozen, ops

CLEAN = {
    "conv_bn_relu": ["Conv", "Relu"],
    "residual_block": ["Conv", "Relu", "Conv", "Conv", "Add", "Relu"],
    "shuffle_block": ["Conv", "Relu", "Reshape", "Transpose", "Reshape", "Conv", "Conv", "Add", "Relu"],
    "squeeze_excite_block": ["Conv", "HardSwish", "GlobalAveragePool", "Conv", "Relu", "Conv", "HardSigmoid", "Mul"],
    "attention_block": [
        "LayerNormalization",
        "MatMul",
        "Add",
        "Reshape",
        "Transpose",
        *["Slice", "Reshape"] * 3,
        "Transpose",
        "MatMul",
        "Mul",
        "Softmax",
        "MatMul",
        "Transpose",
        "Reshape",
        "MatMul",
        "Add",
        "Add",
        "LayerNormalization",
        "MatMul",
        "Add",
        "Gelu",
        "MatMul",
        "Add",
        "Add",
    ],
    "mlp": ["Gemm", "Relu", "Gemm", "Softmax"],
    "depthwise_separable": ["Conv", "Clip", "Conv", "Clip", "GlobalAveragePool", "Flatten", "Gemm"],
}


def broken_pass(name, breaks, after=None):
    """A pass that does `breaks(graph)` and says that it changed something."""
    module = ModuleType(f"edgec.passes.{name}")

    def run(graph, options):
        graph = graph.copy()
        breaks(graph)
        return PassResult(graph, PassReport(name, 1, 1))

    module.run, module.AFTER = run, after or {}
    return module


@pytest.mark.parametrize("block", BLOCKS)
def test_optimize_leaves_known_blocks_clean(block):
    graph = BLOCKS[block]()
    before = frozen(graph)
    result, reports = optimize(graph)
    assert ops(result) == CLEAN[block]
    assert verify(result) == []
    assert frozen(graph) == before
    check_numbers(graph, result, 2e-6)
    assert len({r.name for r in reports}) == len(reports)


@pytest.mark.parametrize("block", BLOCKS)
def test_optimize_changes_nothing_when_it_runs_again(block):
    once, _ = optimize(BLOCKS[block]())
    twice, reports = optimize(once)
    assert frozen(twice) == frozen(once)
    assert [r.name for r in reports if r.changed] == []


def test_optimize_gives_the_same_graph_every_time():
    assert len({frozen(optimize(BLOCKS["attention_block"]())[0])[0] for _ in range(3)}) == 1


def test_optimize_reports_every_pass_once_with_its_last_refusals():
    b = Builder()
    y = b.conv(b.batch_norm(b.input("x", 1, 4, 5, 7)), 3, pad=1)
    _, reports = optimize(b.output(b.batch_norm(y)))
    (report,) = [r for r in reports if r.name == "fold_batch_norm"]
    assert (report.matched, report.applied) == (2, 1)
    assert [r.rule for r in report.refused] == ["fold_batch_norm.padding"]


def test_order_violations_finds_none_in_the_pipeline():
    assert order_violations() == []
    assert len({m for stage in PIPELINE for m in stage.passes}) > 10


def test_optimize_lists_all_order_violations_before_anything_runs():
    ran = []
    recording = broken_pass(
        "record", lambda graph: ran.append(1), {"fold_pad": "pads move", "fold_affine": "scales move"}
    )
    with pytest.raises(InternalError) as error:
        optimize(BLOCKS["mlp"](), pipeline=[Stage("all", (recording, fold_batch_norm))])
    for part in (
        "record runs before fold_pad, but: pads move",
        "record runs before fold_affine",
        "fold_batch_norm runs before fold_constants",
    ):
        assert part in str(error.value)
    assert not ran


def rename(graph):
    graph.nodes[-1].outputs[0].name = graph.nodes[0].outputs[0].name


def retype(graph):
    graph.nodes[0].outputs[0].type = TensorType(DType.FLOAT32, (9, 9))


@pytest.mark.parametrize(("breaks", "rule", "node"), [(rename, "V01", "gemm"), (retype, "V09", "gemm")])
def test_optimize_names_pass_rule_and_node_when_a_pass_breaks_the_graph(breaks, rule, node):
    stages = [
        Stage("first", (fold_constants,)),
        Stage("second", (eliminate_dead, broken_pass("break_it", breaks), fold_affine)),
    ]
    stages[1] = Stage("second", stages[1].passes[:2])
    with pytest.raises(InternalError) as error:
        optimize(BLOCKS["mlp"](), pipeline=stages)
    assert "after pass break_it" in str(error.value)
    assert f"{rule} {node}" in str(error.value)
    assert "passes before it: fold_constants, eliminate_dead" in str(error.value)


def test_optimize_refuses_a_graph_that_is_wrong_from_the_start():
    graph = BLOCKS["mlp"]()
    rename(graph)
    with pytest.raises(InternalError, match="before any pass"):
        optimize(graph)


def test_optimize_stops_when_a_stage_never_settles():
    runs = []
    restless = broken_pass("restless", lambda graph: runs.append(1))
    optimize(BLOCKS["mlp"](), pipeline=[Stage("loop", (restless,), rounds=5)])
    assert len(runs) == 5


def test_optimize_tells_its_progress():
    calls = []
    optimize(BLOCKS["mlp"](), progress=lambda stage, share=None, detail="": calls.append((stage, share, detail)))
    assert {stage for stage, _, _ in calls} == {"optimize"}
    shares = [share for _, share, _ in calls]
    assert shares == sorted(shares)
    assert shares[-1] == 1.0
    assert "fold_batch_norm" in {detail for _, _, detail in calls}


def test_optimize_cleans_the_bodies_of_control_flow():
    def branch(scale):
        b = Builder(name="branch")
        x = b.input("x", 3)
        return b.output(b("Mul", b("Identity", b("Neg", b("Identity", x))), b("Add", scale, 1.0)))

    b = Builder()
    x, condition = b.input("x", 3), b.input("condition", dtype=DType.BOOL)
    y = Value("y", TensorType(DType.FLOAT32, (3,)))
    b.graph.add(Node("If", [condition, x], [y], {"then_branch": branch(1.0), "else_branch": branch(2.0)}, captures=1))
    graph = b.output(y)
    before = frozen(graph)
    result, reports = optimize(graph)
    assert frozen(graph) == before
    assert [ops(result.nodes[0].attributes[k]) for k in ("then_branch", "else_branch")] == [["Neg", "Mul"]] * 2
    assert next(r for r in reports if r.name == "eliminate_identity").applied == 4
    check_numbers(graph, result, 0)


def long_graph(length):
    """Residual blocks, activations written out, channel shuffles: about `length` nodes."""
    b = Builder()
    x = b.input("x", 1, 8, 6, 6)
    while len(b.graph.nodes) < length:
        y = b.batch_norm(b.conv(x, 8, bias=False))
        y = b("Mul", y, b("Sigmoid", y))
        y = b("Reshape", b("Transpose", b("Reshape", y, [1, 2, 4, 6, 6]), perm=(0, 2, 1, 3, 4)), [1, 8, 6, 6])
        y = b("Transpose", b("Relu", b("Transpose", y, perm=(0, 2, 3, 1))), perm=(0, 3, 1, 2))
        x = b("Div", b("Add", b("Identity", x), y), 2.0)
    return b.output(x)


def test_optimize_takes_seconds_when_the_graph_has_a_thousand_nodes():
    graph = long_graph(1000)
    start = time.process_time()
    result, _ = optimize(graph)
    assert time.process_time() - start < 5
    assert set(ops(result)) == {"Conv", "Swish", "Reshape", "Transpose", "Relu", "Add", "Mul"}


def _pointwise(draw, b, x):
    op = draw(st.sampled_from(["Relu", "Neg", "Sigmoid", "Tanh", "Abs", "Identity", "Dropout", "Exp", "Swish"]))
    return b(op, b("Clip", x, -3.0, 3.0) if op == "Exp" else x)


def _constant(draw, b, x):
    op = draw(st.sampled_from(["Add", "Sub", "Mul", "Div"]))
    rank = draw(st.integers(0, x.type.rank))
    shape = [n if draw(st.booleans()) else 1 for n in x.shape[x.type.rank - rank :]]
    c = b.constant(b.random.uniform(0.5, 2.0, shape).astype(np.float32))
    if draw(st.integers(0, 4)) == 0:
        c = b.constant(np.full(shape, draw(st.sampled_from([0.0, 1.0])) if op != "Div" else 1.0, np.float32))
    return b(op, c, x) if op in ("Add", "Mul") and draw(st.booleans()) else b(op, x, c)


def _move(draw, b, x):
    kind = draw(st.sampled_from(["Transpose", "Flatten", "Unsqueeze", "Slice", "Pad", "Concat", "Gather", "Expand"]))
    rank = x.type.rank
    axis = draw(st.integers(0, rank - 1))
    if kind == "Transpose":
        return b(kind, x, perm=tuple(draw(st.permutations(range(rank)))))
    if kind == "Flatten":
        return b("Reshape", b(kind, x, axis=axis), b("Shape", x))
    if kind == "Unsqueeze":
        return b("Squeeze", b(kind, x, [axis]), [axis])
    if kind == "Slice":
        return b(kind, x, [draw(st.integers(0, 1)) if x.shape[axis] > 1 else 0], [99], [axis])
    if kind == "Pad":
        pads = [draw(st.integers(0, 1)) if n < 6 else 0 for n in (*x.shape, *x.shape)]
        return b(kind, x, pads)
    if kind == "Concat":
        return b(kind, *([x] if x.shape[axis] > 5 else [x, b("Neg", x)]), axis=axis)
    if kind == "Gather":
        index = draw(st.integers(0, x.shape[axis] - 1))
        return b("Unsqueeze", b(kind, x, index, axis=axis), [axis])
    return b(kind, x, b("Shape", x))


def _heavy(draw, b, x):
    if x.type.rank != 4:
        return b("MatMul", x, b.weight(x.shape[-1], draw(st.integers(1, 5))))
    kind = draw(st.sampled_from(["conv", "norm", "pool", "mean", "softmax", "matmul"]))
    if kind == "conv":
        groups = draw(st.sampled_from([g for g in (1, 2, 3) if x.shape[1] % g == 0]))
        pad = 1 if min(x.shape[2:]) < 3 else draw(st.integers(0, 1))
        return b.conv(x, groups * draw(st.integers(1, 3)), 3, pad=pad, groups=groups, bias=draw(st.booleans()))
    if kind == "norm":
        return b.batch_norm(x)
    if kind == "pool":
        return b(draw(st.sampled_from(["MaxPool", "AveragePool"])), x, kernel_shape=(2, 2), pads=(1, 0, 0, 1))
    if kind == "mean":
        axes = draw(st.lists(st.integers(0, 3), min_size=1, max_size=3, unique=True))
        return b("Add", x, b("ReduceMean", x, axes, keepdims=1))
    if kind == "softmax":
        return b("Softmax", x, axis=draw(st.integers(-4, 3)))
    return b("MatMul", x, b.weight(x.shape[3], draw(st.integers(1, 5))))


@st.composite
def graphs(draw):
    """Small random graphs: shapes change, values are used twice, some are graph outputs on the way."""
    b = Builder(draw(st.integers(0, 9)))
    values = [b.input("x", *draw(st.lists(st.integers(1, 5), min_size=2, max_size=4).map(lambda s: [1, *s][:4])))]
    seen = []
    for _ in range(draw(st.integers(1, 9))):
        x = values[-1] if draw(st.integers(0, 3)) else draw(st.sampled_from(values))
        if x.type.size > 4000:
            x = values[0]
        make = draw(st.sampled_from([_pointwise, _constant, _move, _heavy, _move, _heavy]))
        y = make(draw, b, x)
        same = [v for v in values if v.type == y.type]
        if same and draw(st.booleans()):
            y = b(draw(st.sampled_from(["Add", "Mul", "Max"])), y, draw(st.sampled_from(same)))
        values.append(y)
        if draw(st.integers(0, 5)) == 0:
            seen.append(y)
    return b.output(*{id(v): v for v in [*seen, values[-1]]}.values())


@settings(max_examples=60)
@given(graphs())
def test_optimize_keeps_the_numbers_of_random_graphs(graph: Graph):
    before = frozen(graph)
    result, _ = optimize(graph)
    assert frozen(graph) == before
    assert verify(result) == []
    assert [v.name for v in result.outputs] == [v.name for v in graph.outputs]
    check_numbers(graph, result, 1e-4)
