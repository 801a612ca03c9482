import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgec.errors import UserError
from edgec.ir import DType, Graph, Node, Quant, Sparsity, TensorType, Value
from edgec.ir.text import INLINE, dump, parse, print_graph
from tests.models import attention_block, conv_bn_relu

NAMES = st.text(min_size=1, max_size=8) | st.sampled_from(["input", "from", "x.y/z", "inf", "_", "quant", "a\"b\n"])
SHAPES = st.lists(st.integers(0, 3), max_size=3).map(tuple)
PRINTED = [d for d in DType if d is not DType.STRING]


def bits(array):
    return array.dtype, array.shape, array.tobytes() if array.dtype.kind != "O" else array.tolist()


def same_value(a, b):
    assert (a.name, a.type, a.quant, a.sparsity) == (b.name, b.type, b.quant, b.sparsity)
    assert (a.const is None) == (b.const is None)
    if a.const is not None:
        assert bits(a.const) == bits(b.const)


def same_attribute(a, b):
    if isinstance(a, Graph):
        same_graph(a, b)
    elif isinstance(a, np.ndarray):
        assert bits(a) == bits(b)
    else:
        assert type(a) is type(b)
        assert repr(a) == repr(b)  # nan equals nan, 0.0 is not -0.0


def same_graph(a, b):
    assert a.name == b.name
    for old, new in zip(a.values(), b.values(), strict=True):
        same_value(old, new)
    order = {id(v): i for i, v in enumerate(a.values())}
    new_order = {id(v): i for i, v in enumerate(b.values())}
    assert [order[id(v)] for v in a.inputs + a.outputs] == [new_order[id(v)] for v in b.inputs + b.outputs]
    for old, new in zip(a.nodes, b.nodes, strict=True):
        assert (old.op, old.name, old.source, old.domain, old.captures) == (
            new.op, new.name, new.source, new.domain, new.captures)
        for one, other in ((old.inputs, new.inputs), (old.outputs, new.outputs)):
            assert [v and order[id(v)] for v in one] == [v and new_order[id(v)] for v in other]
        assert old.attributes.keys() == new.attributes.keys()
        for key, attr in old.attributes.items():
            same_attribute(attr, new.attributes[key])


@st.composite
def arrays(draw, only=None):
    shape = draw(SHAPES)
    dtype = (only or draw(st.sampled_from(PRINTED))).numpy
    count = int(np.prod(shape))
    raw = draw(st.binary(min_size=count * dtype.itemsize, max_size=count * dtype.itemsize))
    if dtype.kind == "b" or "int4" in dtype.name:
        return np.array([b % 2 for b in raw[:count]], np.int8).astype(dtype).reshape(shape)
    return np.frombuffer(raw, dtype, count).reshape(shape)


@st.composite
def values(draw, names):
    name = draw(NAMES.filter(lambda n: n not in names))
    names.add(name)
    shape = tuple(None if d == 3 else d for d in draw(SHAPES))
    value = Value(name, TensorType(draw(st.sampled_from(list(DType))), shape))
    if draw(st.booleans()):
        scale = np.nan_to_num(draw(arrays(DType.FLOAT32)))
        axis, block = draw(st.none() | st.integers(-3, 3)), draw(st.integers(0, 2))
        value.quant = Quant(DType.INT8, scale, np.ones(scale.shape, np.int8), axis, block)
    if draw(st.booleans()):
        value.sparsity = Sparsity(2, 4, draw(st.integers(0, 3)))
    return value


def attributes(depth):
    numbers = st.integers(-2**63, 2**63 - 1)
    kinds = [numbers, st.floats(), st.text(max_size=5), st.binary(max_size=5), arrays(), st.sampled_from(list(DType)),
             st.lists(numbers, max_size=3).map(tuple), st.lists(st.floats(), max_size=3).map(tuple),
             st.lists(st.text(max_size=3), max_size=3).map(tuple)]
    return st.one_of(kinds + ([graphs(depth - 1)] if depth else []))


@st.composite
def graphs(draw, depth=1):
    names = set()
    graph = Graph(draw(st.text(max_size=5)), draw(st.lists(values(names), max_size=2)))
    known = list(graph.inputs)
    for _ in range(draw(st.integers(0, 3))):
        inputs = draw(st.lists(st.none() | st.sampled_from(known), max_size=3)) if known else []
        if draw(st.booleans()):
            constant = draw(values(names))
            constant.const = array = draw(arrays())
            constant.type = TensorType(DType.of(array), array.shape)
            inputs.append(constant)
        outputs = draw(st.lists(values(names), min_size=0, max_size=2))
        graph.add(Node(draw(NAMES), inputs, outputs, draw(st.dictionaries(NAMES, attributes(depth), max_size=3)),
                       name=draw(NAMES), source=draw(st.text(max_size=4)), domain=draw(st.text(max_size=4)),
                       captures=draw(st.integers(0, 2))))
        known += [*outputs, *(v for v in inputs if v is not None and v.const is not None)]
    graph.outputs = draw(st.lists(st.sampled_from(known), max_size=2)) if known else []
    # a constant that only an output reads has no node in front of which it could stand
    return graph


@given(graphs())
def test_parse_gives_back_what_was_printed(graph):
    text, references = dump(graph)
    again = parse(text, references)
    same_graph(graph, again)
    assert dump(again)[0] == text


@pytest.mark.parametrize("make", [attention_block, conv_bn_relu])
def test_parse_gives_back_real_graphs(make):
    graph = make()
    text, references = dump(graph)
    same_graph(graph, parse(text, references))
    assert all(a.size > INLINE for a in references.values())


@pytest.mark.parametrize("array", [
    np.array([0.1, -0.0, np.inf, -np.inf, np.nan, 1e-45, 3.4028235e38], np.float32),
    np.array([0.1, 5e-324], np.float64),
    np.array([2**64 - 1], np.uint64), np.array([-2**63], np.int64), np.array([True, False]),
    np.array([0.1, -3], np.float16), np.array([0.1], ml_dtypes.bfloat16), np.array([-8, 7], ml_dtypes.int4),
    np.array(["a", "\"ä\n"], object), np.zeros((2, 0), np.float32), np.float32(3),
], ids=lambda a: f"{a.dtype}{list(a.shape)}")
def test_array_of_few_elements_stands_in_the_text(array):
    graph = Graph("g")
    graph.add(Node("Neg", [Value.constant("c", array)], [Value("y", TensorType(DType.BOOL, ()))]))
    text, references = dump(graph)
    assert not references
    assert bits(next(parse(text).constants()).const) == bits(np.asarray(array))


def test_array_goes_elsewhere_when_its_text_would_lose_bits():
    strange = np.array([0x7FC00001], np.uint32).view(np.float32)  # a NaN with a payload
    graph = Graph("g")
    graph.add(Node("Neg", [Value.constant("c", strange)], [Value("y", TensorType(DType.BOOL, ()))]))
    text, references = dump(graph)
    assert "@c" in text
    assert bits(references["c"]) == bits(strange)


def test_print_graph_looks_like_this(check_golden):
    graph = conv_bn_relu(channels=4, out=2, groups=1)
    graph.nodes[0].inputs[1].quant = Quant(DType.INT8, np.array([0.5, 0.25], np.float32), np.zeros(2, np.int8), 0)
    graph.nodes[0].inputs[1].sparsity = Sparsity(2, 4, 1)
    check_golden("ir/conv_bn_relu.txt", print_graph(graph))


@pytest.mark.parametrize(("body", "line", "expected"), [
    ("x: floot[1] = Relu()", 3, "element type"),
    ("y: float32[1] = Relu(q)", 3, "stands further up"),
    ("y: float32[1] = Relu(y)", 3, "stands further up"),
    ("input x: float32[1]\n\n input x: float32[1]", 5, "a name that is new"),
    ("input x: float32[-1]", 3, "0 or more"),
    ("input x: float32[1", 4, "','"),
    ("const c: int32[2] = [1]\n y: int32[2] = Neg(c)", 3, "2 elements"),
    ("const c: int8[1] = [300]\n y: int8[1] = Neg(c)", 3, "int8"),
    ("const c: int8[1] = [0.5]\n y: int8[1] = Neg(c)", 3, "int8"),
    ("const c: int8[1] = @k\n y: int8[1] = Neg(c)", 3, "key of an array"),
    ("const c: float32[?] = [1]", 3, "without '?'"),
    ("y: float32[1] quant(int8, scale=float32[] [1]) = Relu()", 3, "scale and zero"),
    ("y: float32[1] = Relu() {k=bytes(\"0g\")}", 3, "hexadecimal"),
    ("y: float32[1] = Relu() {k=}", 3, "number or a string"),
    ("output nobody", 3, "stands further up"),
    ("§", 3, "a name, a number"),
], ids=lambda v: v if isinstance(v, str) else None)
def test_parse_says_the_line_and_what_it_expected(body, line, expected):
    with pytest.raises(UserError) as caught:
        parse(f'edgec 1\ngraph "g" {{\n{body}\n}}')
    assert caught.value.where == f"line {line}"
    assert expected in caught.value.expected


def test_parse_refuses_bodies_inside_bodies_without_end():
    with pytest.raises(UserError, match="at most 50 bodies"):
        parse("edgec 1 " + 'graph "g" { y: int8[] = If() {k=' * 5000)


@given(st.integers(0, 10**6), st.characters() | st.sampled_from("{}[](),:=@?\"\\"))
def test_parse_fails_with_user_error_when_one_character_is_wrong(position, character):
    text, references = dump(conv_bn_relu(channels=2, out=2, groups=1))
    position %= len(text)
    where = "line 0"
    try:
        parse(text[:position] + character + text[position + 1:], references)
    except UserError as error:
        where = error.where
    assert where.startswith("line ")
