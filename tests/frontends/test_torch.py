from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

torch = pytest.importorskip("torch")

from edgec.errors import InternalError, Unsupported, UserError  # noqa: E402
from edgec.frontends import InputSpec, LoadedModel, load, torch_export  # noqa: E402
from edgec.ir.interpret import interpret  # noqa: E402
from edgec.ir.types import DType  # noqa: E402
from tests.frontends import torch_nets  # noqa: E402
from tests.frontends.onnx_models import check, random_feeds  # noqa: E402

SHAPE = (2, 3, 9, 7)


def same_as_torch(loaded: LoadedModel, module: torch.nn.Module) -> None:
    feeds = random_feeds(loaded)
    with torch.no_grad():
        expected = module.eval()(*map(torch.from_numpy, feeds.values()))
    expected = expected if isinstance(expected, tuple) else (expected,)
    for result, reference in zip(interpret(loaded.graph, feeds).values(), expected, strict=True):
        assert np.abs(result - reference.numpy()).max() <= 1e-4 * reference.abs().max()


@pytest.fixture(scope="module")
def program() -> torch.export.ExportedProgram:
    batch = {"x": {0: torch.export.Dim("batch", min=1, max=8)}}
    return torch.export.export(torch_nets.net(), (torch.randn(SHAPE),), dynamic_shapes=batch)


def test_module_with_example_inputs_keeps_lines_and_modes() -> None:
    module = torch_nets.net().train()
    loaded = load(module, example_inputs=(torch.randn(SHAPE),))
    assert module.training
    assert (loaded.kind, [v.name for v in loaded.graph.inputs]) == ("module", ["x"])
    conv = next(n for n in loaded.graph.nodes if n.op == "Conv")
    assert "torch_nets.py:" in conv.source
    assert "(norm)" in conv.source  # the exporter folds the BatchNorm into the convolution
    same_as_torch(loaded, module)
    check(loaded)


def test_module_takes_inputs_by_name_or_by_shape() -> None:
    module = torch_nets.Embed()
    by_name = load(module, example_inputs={"ids": torch.ones(2, 3, dtype=torch.int64), "scale": torch.randn(2, 3, 1)})
    by_shape = load(module, inputs={"ids": InputSpec((2, 3), DType.INT64), "scale": (2, 3, 1)})
    for loaded in (by_name, by_shape):
        assert [(v.name, v.dtype, v.shape) for v in loaded.graph.inputs] == [
            ("ids", DType.INT64, (2, 3)),
            ("scale", DType.FLOAT32, (2, 3, 1)),
        ]
        same_as_torch(loaded, module)


def test_module_without_shapes_is_refused_with_its_input_names() -> None:
    with pytest.raises(UserError, match=r"'ids', 'scale'(.|\n)*--input ids="):
        load(torch_nets.Embed())
    with pytest.raises(UserError, match="did you mean 'scale'"):
        load(torch_nets.Embed(), inputs={"scal": (1,)})


def test_module_that_cannot_be_exported_is_unsupported_with_its_line() -> None:
    with pytest.raises(Unsupported) as caught:
        load(torch_nets.DataDependent(), example_inputs=(torch.randn(3),))
    assert "torch_nets.py:" in caught.value.refusals[0].source


def test_export_that_computes_something_else_is_an_internal_error(monkeypatch: pytest.MonkeyPatch) -> None:
    right = torch_export.export_module

    def wrong(*arguments: object) -> onnx.ModelProto:
        proto = right(*arguments)
        weight = next(t for t in proto.graph.initializer if len(t.dims) == 4)
        weight.raw_data = (np.frombuffer(weight.raw_data, np.float32) * np.float32(1.01)).tobytes()
        return proto

    monkeypatch.setattr(torch_export, "export_module", wrong)
    with pytest.raises(InternalError, match="differs from torch"):
        load(torch_nets.net(), example_inputs=(torch.randn(SHAPE),))


def test_module_with_a_state_is_unsupported(tmp_path: Path) -> None:
    with pytest.raises(Unsupported, match="in its buffers 'count'"):
        load(torch_nets.Changing(), example_inputs=(torch.randn(3),))
    torch.jit.script(torch_nets.Changing()).save(str(tmp_path / "net.pt"))
    with pytest.raises(Unsupported, match="keeps a state"):
        load(tmp_path / "net.pt", inputs={"x": (3,)})


def test_anything_else_is_a_user_error() -> None:
    with pytest.raises(UserError, match=r"cannot be read from builtins\.int"):
        load(3)


def test_exporters_are_quiet(capfd: pytest.CaptureFixture[str], recwarn: pytest.WarningsRecorder) -> None:
    refused = (torch_nets.DataDependent(), torch.jit.script(torch_nets.ListLength()))
    recwarn.clear()  # torch.jit.script warns here, in the test
    load(torch_nets.net(), example_inputs=(torch.randn(SHAPE),))
    for model in refused:
        with pytest.raises(Unsupported):
            load(model, inputs={"x": (3,)})
    assert capfd.readouterr() == ("", "")
    assert not [str(w.message) for w in recwarn.list]


def test_program_is_read_and_its_batch_is_bound(tmp_path: Path, program: torch.export.ExportedProgram) -> None:
    path = tmp_path / "net.bin"
    torch.export.save(program, path.with_suffix(".pt2"))
    path.with_suffix(".pt2").rename(path)
    with pytest.raises(UserError, match=r"dimension 0 \(.*\) of input 'x'(.|\n)*--input x=1x3x9x7"):
        load(path)
    loaded = load(path, inputs={"x": (5, 3, 9, 7)})
    assert (loaded.kind, loaded.graph.inputs[0].shape) == ("pt2", (5, 3, 9, 7))
    assert any("norm" in n.source for n in loaded.graph.nodes)
    same_as_torch(loaded, torch_nets.net())


class Answer(dict):
    """A container of outputs that is known only where the package that defines it has been imported."""


class Answering(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> Answer:
        return Answer(y=torch.relu(x))


def test_program_whose_outputs_are_objects_of_a_package_says_which(tmp_path: Path) -> None:
    pytree = torch.utils._pytree
    pytree.register_pytree_node(
        Answer,
        lambda a: (list(a.values()), list(a)),
        lambda values, keys: Answer(zip(keys, values, strict=True)),
        serialized_type_name="package.Answer",
    )
    try:
        torch.export.save(torch.export.export(Answering(), (torch.randn(SHAPE),)), tmp_path / "net.pt2")
    finally:
        pytree._deregister_pytree_node(Answer)
    with pytest.raises(UserError, match="class that torch does not know") as caught:
        load(tmp_path / "net.pt2")
    assert "package.Answer" in caught.value.reason
    assert "tuples" in caught.value.expected


@pytest.mark.parametrize(
    "make", [lambda m: torch.jit.script(m), lambda m: torch.jit.trace(m, torch.randn(SHAPE))], ids=["script", "trace"]
)
def test_torchscript_is_read(tmp_path: Path, make: object) -> None:
    module = torch_nets.net()
    make(module).save(str(tmp_path / "net.pt"))
    with pytest.raises(UserError, match="--input x=1x3x224x224"):
        load(tmp_path / "net.pt")
    loaded = load(tmp_path / "net.pt", inputs={"x": SHAPE})
    assert (loaded.kind, [v.name for v in loaded.graph.inputs], [v.name for v in loaded.graph.outputs]) == (
        "torchscript",
        ["x"],
        ["output"],
    )
    same_as_torch(loaded, module)


def test_torchscript_takes_integer_inputs_and_several_outputs(tmp_path: Path) -> None:
    module = torch_nets.Embed()
    torch.jit.script(module).save(str(tmp_path / "net.pt"))
    loaded = load(tmp_path / "net.pt", inputs={"ids": InputSpec((2, 3), DType.INT64), "scale": (1,)})
    assert [v.name for v in loaded.graph.outputs] == ["output_0", "output_1"]
    same_as_torch(loaded, module)


def test_torchscript_number_must_be_a_value(tmp_path: Path) -> None:
    torch.jit.script(torch_nets.Scaled()).save(str(tmp_path / "net.pt"))
    with pytest.raises(UserError, match="--set times=NUMBER"):
        load(tmp_path / "net.pt", inputs={"x": (2,)})
    loaded = load(tmp_path / "net.pt", inputs={"x": (2,)}, values={"times": np.array(3)})
    assert [v.name for v in loaded.graph.inputs] == ["x"]
    assert np.array_equal(interpret(loaded.graph, {"x": np.array([1, 2], np.float32)})["output"], [4, 7])


def test_wrong_shape_for_torchscript_is_a_user_error(tmp_path: Path) -> None:
    torch.jit.script(torch_nets.net()).save(str(tmp_path / "net.pt"))
    with pytest.raises(UserError, match="fails on inputs of the given shapes"):
        load(tmp_path / "net.pt", inputs={"x": (1, 4, 9, 7)})


def test_saved_module_needs_trust(tmp_path: Path) -> None:
    module = torch_nets.net()
    torch.save(module, tmp_path / "net.pt")
    with pytest.raises(UserError, match=r"runs whatever code it contains(.|\n)*--trust-pickle"):
        load(tmp_path / "net.pt", inputs={"x": SHAPE})
    loaded = load(tmp_path / "net.pt", inputs={"x": SHAPE}, trust_pickle=True)
    assert loaded.kind == "torch.save"
    same_as_torch(loaded, module)


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize(
    "wrap",
    [lambda s: s, lambda s: {"epoch": 3, "state_dict": s}, lambda s: {f"module.{k}": v for k, v in s.items()}],
    ids=["plain", "checkpoint", "parallel"],
)
def test_state_dict_is_put_into_its_module(tmp_path: Path, wrap: object, legacy: bool) -> None:
    module = torch_nets.net()
    torch.save(wrap(module.state_dict()), tmp_path / "net.pt", _use_new_zipfile_serialization=not legacy)
    with pytest.raises(UserError, match=r"weights only(.|\n)*--model package.module:function"):
        load(tmp_path / "net.pt")
    loaded = load(tmp_path / "net.pt", inputs={"x": SHAPE}, factory="tests.frontends.torch_nets:Net")
    assert loaded.kind == "state dict"
    same_as_torch(loaded, module)


@pytest.mark.parametrize(
    ("factory", "message"),
    [
        ("tests.frontends.torch_nets:wide", r"of another shape: conv.weight \[6, 3, 3, 3\] instead of \[8, 3, 3, 3\]"),
        (
            "tests.frontends.torch_nets:Embed",
            r"1 missing in the file: table.weight; .* unknown to the module: conv.weight",
        ),
        ("tests.frontends.torch_nets", "names no function"),
        ("tests.frontends.nothing:net", "cannot import"),
        ("tests.frontends.torch_nets:nothing", "is not there"),
        ("tests.frontends.torch_nets:broken", "no weights here"),
        ("tests.frontends.torch_nets:number", "returns a int"),
    ],
)
def test_factory_that_does_not_fit_is_explained(tmp_path: Path, factory: str, message: str) -> None:
    torch.save(torch_nets.net().state_dict(), tmp_path / "net.pt")
    with pytest.raises(UserError, match=message):
        load(tmp_path / "net.pt", inputs={"x": SHAPE}, factory=factory)


def test_file_without_weights_is_explained(tmp_path: Path) -> None:
    torch.save([1, 2], tmp_path / "net.pt")
    with pytest.raises(UserError, match="holds a list"):
        load(tmp_path / "net.pt")


class Inner(torch.nn.Module):
    """A network without state."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.randn(5, 3))

    def forward(self, x: torch.Tensor, state: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        state = torch.tanh(state + x @ self.weight.t())
        return state.sum(1), state


class Wrapper(torch.nn.Module):
    """Keeps the state of Inner between calls."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = Inner()
        self.state = torch.zeros(1, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y, self.state = self.inner(x, self.state)
        return y


@pytest.fixture
def wrapper(tmp_path):
    torch.manual_seed(0)
    torch.jit.script(Wrapper()).save(str(tmp_path / "wrapper.pt"))
    return tmp_path / "wrapper.pt"


def test_script_with_state_names_its_parts(wrapper):
    with pytest.raises(Unsupported, match="--submodule: inner"):
        load(wrapper, inputs={"x": (1, 3)})


def test_submodule_of_a_script_is_read(wrapper):
    model = load(wrapper, inputs={"x": (1, 3), "state": (1, 5)}, submodule="inner")
    assert [v.name for v in model.graph.inputs] == ["x", "state"]
    assert [v.type.shape for v in model.graph.outputs] == [(1,), (1, 5)]


def test_unknown_submodule_lists_those_that_are_there(wrapper):
    with pytest.raises(UserError, match="no submodule 'outer'") as caught:
        load(wrapper, inputs={"x": (1, 3)}, submodule="outer")
    assert "inner" in caught.value.expected


def test_submodule_is_refused_where_there_are_none():
    with pytest.raises(UserError, match="files only"):
        load(Inner(), inputs={"x": (1, 3)}, submodule="inner")
