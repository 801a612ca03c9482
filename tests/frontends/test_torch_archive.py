from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from edgec.errors import EdgecError, Unsupported, UserError  # noqa: E402
from edgec.frontends import load  # noqa: E402
from edgec.frontends.torch_archive import _is_harmless_call, _is_harmless_expression  # noqa: E402
from tests.frontends import torch_nets  # noqa: E402


class Evil:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return open, (str(self.path), "w")


def rewrite(
    path: Path,
    change: Callable[[str, bytes], bytes | None],
    extra: dict[str, bytes] | None = None,
    compress: int = zipfile.ZIP_STORED,
) -> None:
    """Rewrite the members of an archive; None drops one. Names of `extra` are below the archive's folder."""
    with zipfile.ZipFile(path) as archive:
        members = {n: archive.read(n) for n in archive.namelist()}
    root = next(iter(members)).partition("/")[0]
    with zipfile.ZipFile(path, "w", compress) as archive:
        for name, data in members.items():
            new = change(name.partition("/")[2], data)
            if new is not None:
                archive.writestr(name, new)
        for name, data in (extra or {}).items():
            archive.writestr(f"{root}/{name}", data)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("pt2") / "net.pt2"
    torch.export.save(torch.export.export(torch_nets.net(), (torch.randn(1, 3, 8, 8),)), path)
    return path.read_bytes()


@pytest.fixture
def path(tmp_path: Path, saved: bytes) -> Path:
    (tmp_path / "net.pt2").write_bytes(saved)
    return tmp_path / "net.pt2"


def pickled(tmp_path: Path) -> tuple[bytes, Path]:
    proof = tmp_path / "executed"
    torch.save((Evil(proof),), tmp_path / "evil.pt")
    data = (tmp_path / "evil.pt").read_bytes()
    (tmp_path / "evil.pt").unlink()
    return data, proof


def test_copy_of_a_sound_archive_is_read(path: Path) -> None:
    assert load(path).graph.outputs[0].shape == (1, 5)


def test_pickled_sample_inputs_do_not_run(path: Path, tmp_path: Path) -> None:
    data, proof = pickled(tmp_path)
    rewrite(path, lambda n, d: data if n.startswith("data/sample_inputs/") else d)
    with pytest.raises(UserError, match="--trust-pickle"):
        load(path)
    assert not proof.exists()


def test_pickled_weights_do_not_run(path: Path, tmp_path: Path) -> None:
    data, proof = pickled(tmp_path)

    def change(name: str, old: bytes) -> bytes:
        if name.endswith("weights_config.json"):
            config = json.loads(old)
            for entry in config["config"].values():
                entry["use_pickle"] = True
            return json.dumps(config).encode()
        return data if name.startswith("data/weights/weight_") else old

    rewrite(path, change)
    with pytest.raises(UserError, match="--trust-pickle"):
        load(path)
    assert not proof.exists()


@pytest.mark.parametrize("prefix", ["custom_obj_0", "opaque_obj_0"])
def test_pickled_constants_do_not_run(path: Path, tmp_path: Path, prefix: str) -> None:
    data, proof = pickled(tmp_path)

    def change(name: str, old: bytes) -> bytes:
        if name.endswith("constants_config.json"):
            return json.dumps(
                {"config": {"c": {"path_name": prefix, "is_param": False, "use_pickle": True, "tensor_meta": None}}}
            ).encode()
        return old

    rewrite(path, change, {f"data/constants/{prefix}": data})
    with pytest.raises(UserError, match="pickled Python object"):
        load(path)
    assert not proof.exists()


def test_call_of_another_function_is_refused(path: Path) -> None:
    rewrite(
        path,
        lambda n, d: d.replace(b"torch.ops.aten.relu.default", b"torch.os.system") if n.startswith("models/") else d,
    )
    with pytest.raises(UserError, match=r"calls 'torch\.os\.system'"):
        load(path)


def test_guards_of_the_file_do_not_run(path: Path, tmp_path: Path) -> None:
    proof = tmp_path / "executed"

    def change(name: str, old: bytes) -> bytes:
        if not name.startswith("models/"):
            return old
        program = json.loads(old)
        program["guards_code"] = [f"open({str(proof)!r}, 'w')"]
        return json.dumps(program).encode()

    rewrite(path, change)
    load(path)
    assert not proof.exists()


def test_compiled_code_is_unsupported(path: Path) -> None:
    rewrite(path, lambda n, d: d, {"data/aotinductor/model/model.so": b"\x7fELF"})
    with pytest.raises(Unsupported, match="AOTInductor"):
        load(path)


def test_archive_that_grows_absurdly_is_refused(path: Path) -> None:
    rewrite(path, lambda n, d: d, {"data/weights/zeros": bytes(50_000_000)}, zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 1_000_000
    with pytest.raises(UserError, match="would unpack to"):
        load(path)


def test_member_that_is_there_twice_is_refused(path: Path) -> None:
    with pytest.warns(UserWarning, match="Duplicate"):
        rewrite(path, lambda n, d: d, {"archive_format": b"pt2"})
    with pytest.raises(UserError, match="twice"):
        load(path)


@pytest.mark.parametrize("cut", [0.3, 0.9, 0.999])
def test_archive_that_was_cut_short_is_damaged(path: Path, cut: float) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * cut)])
    with pytest.raises(UserError, match="damaged"):
        load(path)


def test_torchscript_that_writes_files_is_refused(tmp_path: Path) -> None:
    class Writer(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + torch.from_file("/tmp/edgec_written", True, 4)

    torch.jit.script(Writer()).save(str(tmp_path / "w.pt"))
    with pytest.raises(UserError, match=r"torch\.from_file.*reads or writes files"):
        load(tmp_path / "w.pt", inputs={"x": (4,)})
    assert not Path("/tmp/edgec_written").exists()


@pytest.mark.parametrize(
    "target",
    [
        "torch.os.system",
        "torch.ops.aten.from_file.default",
        "_operator.call",
        "_operator.attrgetter",
        "torch.load",
        "math.prod",
        "torch.ops.debugprims.load_tensor.default",
        "torch.ops.higher_order.triton_kernel_wrapper_mutation",
        "torch.ops.aten.x.y.z",
    ],
)
def test_harmful_calls_are_known(target: str) -> None:
    assert not _is_harmless_call(target)


@pytest.mark.parametrize(
    "text",
    [
        "eval(1)",
        "exec('x')",
        "().__class__",
        "a.b",
        "S('1+1')",
        "Symbol('x y')",
        "9**9**9",
        "[i for i in x]",
        "Symbol('s0').func",
        "lambda: 0",
    ],
)
def test_harmful_expressions_are_known(text: str) -> None:
    assert not _is_harmless_expression(text)


@pytest.mark.parametrize(
    "text",
    [
        "Symbol('s77', positive=True, integer=True)",
        "2*s0 + 1",
        "FloorDiv(s0 + 3, 4)",
        "Eq(s0, 3)",
        "Max(1, s0) >= 2",
        "-1",
        "s0 // 2",
    ],
)
def test_harmless_expressions_pass(text: str) -> None:
    assert _is_harmless_expression(text)


def test_damaged_program_is_one_error(path: Path) -> None:
    rewrite(path, lambda n, d: d[:-20] if n.startswith("models/") else d)
    with pytest.raises(EdgecError, match="damaged"):
        load(path)
