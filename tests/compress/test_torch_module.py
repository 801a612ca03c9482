import copy

import numpy as np
import pytest
import torch

from edgec.compress.sparse.patterns import pattern_mask
from edgec.compress.torch_module import to_torch, trainable, write_back
from edgec.errors import Unsupported, UserError
from edgec.ir.graph import Graph, Node, Value
from edgec.ir.interpret import interpret
from edgec.ir.quantize import quantize_dequantize
from edgec.ir.text import print_graph
from edgec.ir.types import DType, Quant, Sparsity, TensorType
from edgec.ops.semantics import make_node
from edgec.passes.pipelines import optimize
from tests.compress.cases import check, check_close, tensors
from tests.models import BLOCKS, Builder, attention_block, feeds, mlp


@pytest.mark.parametrize("block", BLOCKS)
def test_block_equals_the_interpreter_sample_by_sample(block):
    check(BLOCKS[block]())


def net(seed: int = 0) -> Graph:
    """A small classifier with a name that no torch parameter could have, and a 2:4 weight."""
    b = Builder(seed, "net")
    x = b.input("x", 1, 2, 9, 7)
    y = b("Relu", b.batch_norm(b.conv(x, 8)))
    y = b("Relu", b.conv(y, 8, stride=2))
    w = b.weight(3, 8, name="head.training")
    w.sparsity = Sparsity(2, 4, 1)
    w.const = np.where(pattern_mask(w.const, w.sparsity), w.const, 0).astype(np.float32)
    logits = b("Gemm", b("Flatten", b("GlobalAveragePool", y)), w, b.weight(3, name="training"), transB=1)
    return b.output(logits)


def data(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Pictures whose class is the third in which they are bright."""
    random = np.random.default_rng(0)
    labels = random.integers(0, 3, count)
    x = random.standard_normal((count, 2, 9, 7)).astype(np.float32) * 0.3
    for i, label in enumerate(labels):
        x[i, :, 3 * label:3 * label + 3] += 1.5
    return torch.from_numpy(x), torch.from_numpy(labels)


def train(module: torch.nn.Module, steps: int) -> list[float]:
    x, labels = data(24)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-3)
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(next(iter(module(x).values())), labels)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def test_training_lowers_the_loss_keeps_masks_and_leaves_the_graph_alone():
    graph = net()
    before, text = {v.name: v.const.copy() for v in graph.constants()}, print_graph(graph)
    mask = np.random.default_rng(1).random(graph.nodes[0].inputs[1].shape) < 0.5
    module = to_torch(graph, masks={graph.nodes[0].inputs[1].name: mask})
    losses = train(module, 25)
    assert losses[-1] < 0.5 * losses[0]
    trained = write_back(module, graph)
    assert print_graph(graph) == text
    assert all(np.array_equal(v.const, before[v.name]) for v in graph.constants())
    after = {v.name: v for v in trained.constants()}
    assert np.count_nonzero(after[graph.nodes[0].inputs[1].name].const[~mask]) == 0
    head = after["head.training"]
    assert head.sparsity == Sparsity(2, 4, 1)
    assert (np.count_nonzero(head.const.reshape(3, 2, 4), axis=2) <= 2).all()
    assert all(not np.array_equal(after[n].const, before[n]) for n in module.weight_names)
    assert all(np.array_equal(after[n].const, before[n]) for n in before if n not in module.weight_names)
    given = feeds(graph)
    for name, expected in interpret(trained, given).items():
        check_close(module(**tensors(given))[name], expected)


def test_a_mask_holds_when_the_parameter_itself_is_overwritten():
    graph = net()
    module = to_torch(graph)
    with torch.no_grad():
        module.parameter("head.training").fill_(1.0)
    after = {v.name: v for v in write_back(module, graph).constants()}["head.training"].const
    assert np.count_nonzero(after) == after.size // 2


def test_weights_are_written_back_on_their_grid():
    graph = net()
    w = graph.nodes[0].inputs[1]
    w.quant = Quant(DType.INT8, np.abs(w.const).max((1, 2, 3)) / 127, np.zeros(8, np.int8), 0)
    w.const = quantize_dequantize(w.const, w.quant)
    module = to_torch(graph)
    train(module, 3)
    after = {v.name: v for v in write_back(module, graph).constants()}[w.name]
    assert after.quant == w.quant
    assert np.array_equal(after.const, quantize_dequantize(after.const, after.quant))
    assert not np.array_equal(after.const, w.const)
    assert not np.array_equal(module.parameter(w.name).detach().numpy(), after.const)  # the latent weight is not


def test_state_survives_a_round_trip_by_name():
    graph = net()
    module = to_torch(graph)
    train(module, 2)
    twin = to_torch(graph)
    twin.load_state_dict(module.state_dict())
    x, _ = data(3)
    assert torch.equal(next(iter(module(x).values())), next(iter(twin(x).values())))
    assert set(module.weight_names) == {v.name for v in graph.constants() if v.name not in ("mean", "var")}


def test_copy_trains_apart_from_its_original():
    module = to_torch(net())
    twin = copy.deepcopy(module)
    x, _ = data(3)
    before = next(iter(module(x).values()))
    train(twin, 2)
    assert torch.equal(next(iter(module(x).values())), before)
    assert not torch.equal(next(iter(twin(x).values())), before)


def test_optimized_graph_trains_the_same_weights_as_the_written_one():
    graph = attention_block()
    assert len(trainable(graph)) == 12  # four products with a bias each, two layer norms
    better, _ = optimize(graph)
    assert len(trainable(better)) == 12
    check(better)


def test_anchors_and_masks_do_not_train():
    b = Builder()
    x = b("MatMul", b.input("x", 1, 3, 5), b.weight(5, 4, name="w"))
    shifted = b("Add", x, b.weight(4, name="bias"))
    masked = b("Add", shifted, b.weight(3, 4, name="mask"))
    joined = b("Concat", masked, masked, axis=1)
    graph = b.output(b("Mul", joined, b.weight(4, name="strides")), b("Mul", x, 0.5))
    assert trainable(graph) == ("w", "bias")
    module = to_torch(graph, train=["w", "mask"])
    assert module.weight_names == ("w", "mask")


def test_weight_behind_moves_trains_as_it_is_stored():
    b = Builder()
    w, halves = b.weight(6, 5, name="w"), [b.weight(2, 6, name=n) for n in ("first", "second")]
    y = b("MatMul", b.input("x", 1, 5), b("Transpose", w, perm=(1, 0)))
    graph = b.output(b("Gemm", y, b("Concat", *halves, axis=0), transB=1))
    module = check(graph)
    assert module.weight_names == ("w", "first", "second")
    next(iter(module(torch.ones(1, 5)).values())).sum().backward()
    assert all(module.parameter(n).grad.abs().max() > 0 for n in module.weight_names)


def test_every_node_without_a_form_is_listed_at_once_with_its_source():
    b = Builder()
    x = b.input("x", 1, 5)
    graph = b.output(b("NonZero", x), b("Bernoulli", x), b("Relu", x))
    with pytest.raises(Unsupported) as caught:
        to_torch(graph)
    assert [(r.rule, r.source) for r in caught.value.refusals] == [
        ("torch.no_form", "model.py:1"), ("torch.no_form", "model.py:2")]


def test_op_of_another_domain_is_refused():
    x, y = (Value(n, TensorType(DType.FLOAT32, (1,))) for n in "xy")
    graph = Graph("g", [x], [y])
    graph.add(Node("Relu", [x], [y], domain="acme"))
    with pytest.raises(Unsupported, match=r"acme\.Relu"):
        to_torch(graph)


def test_samples_never_meet():
    """Ops that mix along the first axis see one sample each."""
    b = Builder()
    x = b.input("x", 2, 3)
    graph = b.output(b("Softmax", x, axis=0), b("ReduceSum", x, [0], keepdims=0), b("Reshape", x, [6]),
                     b("ReduceMax", x, keepdims=0))
    module = check(graph)
    results = list(module(torch.randn(8, 3)).values())
    assert [tuple(r.shape) for r in results] == [(8, 3), (12,), (24,), (4,)]


@pytest.mark.parametrize(("given", "text"), [
    ({"x": (3, 4), "y": ()}, "x"), ({"x": (3, 3)}, "y"), ({"x": (1, 3), "y": (2,)}, "different numbers of samples"),
    ({"x": (1, 3), "y": (), "z": ()}, "z"), ({"x": (3,), "y": ()}, "x"), ({"x": (0, 3), "y": ()}, "x")])
def test_inputs_that_do_not_fit_are_refused(given, text):
    b = Builder()
    graph = b.output(b("Add", b.input("x", 1, 3), b.input("y")))
    with pytest.raises(UserError, match=text):
        to_torch(graph)(**{n: torch.zeros(s) for n, s in given.items()})


def test_inputs_by_position():
    b = Builder()
    graph = b.output(b("Sub", b.input("x", 1, 3), b.input("y")))
    module = to_torch(graph)
    assert module(torch.ones(1, 3), torch.tensor(3.0))["sub"].tolist() == [[-2, -2, -2]]
    assert module(torch.ones(2, 3), y=torch.tensor([3.0, 4.0]))["sub"].tolist() == [[-2] * 3, [-3] * 3]
    with pytest.raises(UserError, match="given twice"):
        module(torch.ones(1, 3), torch.tensor(3.0), x=torch.ones(1, 3))
    with pytest.raises(UserError, match="3 inputs"):
        module(*[torch.ones(1, 3)] * 3)


def test_mask_or_name_that_fits_nothing_is_refused():
    graph = net()
    name = trainable(graph)[0]
    for masks, train_only in (({"nothing": np.ones(3)}, None), ({name: np.ones(3)}, None), ({"mean": np.ones(8)}, None),
                              (None, ["nothing"])):
        with pytest.raises(UserError):
            to_torch(graph, masks=masks, train=train_only)


def test_weights_are_not_written_into_another_graph():
    with pytest.raises(UserError, match="has no constant"):
        write_back(to_torch(net()), mlp())


def test_pattern_mask_keeps_the_largest_and_counts_the_last_group():
    array = np.array([[3, -4, 1, 2, 0.5, -0.1, 0.2]], np.float32)
    assert pattern_mask(array, Sparsity(2, 4, 1)).tolist() == [[True, True, False, False, True, False, True]]
    ties = np.ones((4, 1), np.float32)
    assert pattern_mask(ties, Sparsity(1, 4, 0)).ravel().tolist() == [True, False, False, False]


def test_constant_output_needs_no_input():
    b = Builder()
    x = b.input("x", 1, 3)
    graph = b.output(b("Identity", b("Shape", x)), b("Relu", x))
    check(graph, batch=False)


def test_node_made_by_passes_takes_part():
    graph = mlp()
    tail = make_node(graph, "Identity", [graph.outputs[0]])
    graph.outputs = [tail.outputs[0]]
    check(graph)


def test_samples_stay_apart_where_shapes_do_not_show_that_they_meet():
    b = Builder()
    graph = b.output(b("Softmax", b("Gemm", b.input("x", 1, 4), b.weight(4, 3)), axis=0))
    module = to_torch(graph)
    x = torch.randn(3, 4)
    torch.testing.assert_close(next(iter(module(x).values())), torch.ones(3, 3))


def test_momentum_normalizes_with_the_batch_and_moves_the_statistics():
    b = Builder(3)
    graph = b.output(b.batch_norm(b.input("x", 1, 5, 4, 3)))
    node = graph.nodes[0]
    twin = torch.nn.BatchNorm2d(5, eps=1e-5, momentum=0.2)
    twin.load_state_dict({k: torch.tensor(node.inputs[i].const) for k, i in (
        ("weight", 1), ("bias", 2), ("running_mean", 3), ("running_var", 4))}, strict=False)
    module = to_torch(graph, momentum=0.2).train()
    x = torch.randn(6, 5, 4, 3)
    (result,) = module(x).values()
    torch.testing.assert_close(result, twin(x))
    torch.testing.assert_close(module.eval()(x)[graph.outputs[0].name], twin.eval()(x))
    written = write_back(module, graph).nodes[0]
    np.testing.assert_allclose(written.inputs[3].const, twin.running_mean, rtol=1e-5)
    np.testing.assert_allclose(written.inputs[4].const, twin.running_var, rtol=1e-5)


def test_without_momentum_the_statistics_stay():
    b = Builder(3)
    graph = b.output(b.batch_norm(b.input("x", 1, 5, 4, 3)))
    module = to_torch(graph).train()
    module(torch.randn(6, 5, 4, 3))
    np.testing.assert_array_equal(write_back(module, graph).nodes[0].inputs[3].const, graph.nodes[0].inputs[3].const)
