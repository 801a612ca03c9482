"""What keeps the tree in order: import directions, names, sizes, one home for op names, lean imports, packaging."""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
import sys
from collections import Counter
from functools import cache
from pathlib import Path

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = {"edgec": "edgec", "kernels": "edgec.kernels", "targets": "edgec.targets"}

# A stage imports from itself, from the stages before it, and from COMMON.
COMMON = {"cpu", "errors", "files", "host", "ir", "ops", "progress", "target", "targets"}
STAGES = ["interchange", "frontends", "passes", "data", "calibrate", "compress", "plan", "kernels", "backends",
          "golden", "staging", "bundle", "report", "runtime", "options", "check", "driver", "chain", "cli", "__main__"]
COMMON_MAY_IMPORT = {"errors": set(), "files": set(), "progress": set(), "targets": set(), "cpu": {"errors"},
                     "host": {"cpu"}, "target": {"cpu", "errors", "host"}, "ir": {"errors", "files", "ops"},
                     "ops": {"ir"}}
HEAVY = {  # library -> where it may be imported
    "tvm": ("kernels/", "edgec/backends/tvm/"),
    "torch": ("edgec/frontends/torch", "edgec/compress/"),
    "tensorrt": ("edgec/backends/tensorrt/",),
    "onnxruntime": ("edgec/interchange/session.py", "edgec/backends/onnxruntime/board.py",
                    "edgec/frontends/torch"),
    "onnx": ("edgec/frontends/", "edgec/ops/semantics.py", "edgec/passes/", "edgec/interchange/", "edgec/backends/",
             "edgec/golden.py"),
    "typer": ("edgec/cli/",),
    "rich": ("edgec/cli/",),
    "pickle": ("edgec/frontends/torch",),
}
BANNED = re.compile(r"(?i)(^|_|\b)(util|utils|helper|helpers|manager|handler|processor|misc|stuff)(_|\b|$)")
BANNED_CAMEL = re.compile(r"(Util|Utils|Helper|Helpers|Manager|Handler|Processor)($|[A-Z])")
OP_HOMES = ("edgec/ops/", "edgec/backends/tvm/lower/", "edgec/backends/tensorrt/", "edgec/compress/torch_ops/",
            "edgec/passes/")
VERBS = ("fold_", "fuse_", "eliminate_", "insert_", "convert_", "recognise_", "choose_")


def sources(*folders: str) -> list[str]:
    """Python files below the folders, relative to the root."""
    found = (p for folder in folders for p in (ROOT / folder).rglob("*.py"))
    return sorted(p.relative_to(ROOT).as_posix() for p in found if "__pycache__" not in p.parts)


PACKAGE = sources(*FOLDERS)


@cache
def tree(file: str) -> ast.Module:
    return ast.parse((ROOT / file).read_text(encoding="utf-8"), file)


def module_of(file: str) -> str:
    folder, _, rest = file.partition("/")
    return f"{FOLDERS[folder]}.{rest.removesuffix('.py').removesuffix('/__init__').replace('/', '.')}".removesuffix(
        ".__init__")


def imports(file: str) -> set[str]:
    """Modules that a file imports anywhere, in functions too; `from a import b` counts as `a.b` if that is a module.
    What only a type checker imports does not count.
    """
    known, own = {module_of(f) for f in PACKAGE}, module_of(file)
    found: set[str] = set()
    typing = {n for branch in ast.walk(tree(file)) if isinstance(branch, ast.If)
              and ast.unparse(branch.test) == "TYPE_CHECKING" for inner in branch.body for n in ast.walk(inner)}
    for node in ast.walk(tree(file)):
        if node in typing:
            continue
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = own.split(".")[:len(own.split(".")) - node.level + file.endswith("__init__.py")]
                base = ".".join([*above, base]).rstrip(".")
            found.update(f"{base}.{a.name}" if f"{base}.{a.name}" in known else base for a in node.names)
    return found


def stage_of(module: str) -> str:
    """First part below `edgec`; empty for the package itself."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else ""


def test_every_part_of_edgec_is_a_stage_or_common():
    assert {stage_of(module_of(f)) for f in PACKAGE} - {""} <= COMMON | set(STAGES)


@pytest.mark.parametrize("file", PACKAGE)
def test_file_imports_only_from_stages_before_its_own(file):
    stage = stage_of(module_of(file))
    used = {stage_of(m) for m in imports(file) if m.split(".")[0] == "edgec"} - {stage, ""}
    if stage in COMMON:
        allowed = COMMON_MAY_IMPORT[stage]
    elif stage:
        allowed = COMMON | set(STAGES[:STAGES.index(stage)])
    else:
        allowed = COMMON | set(STAGES)
    assert used <= allowed, f"{file} imports {sorted(used - allowed)}"


def test_no_modules_import_each_other_in_a_circle():
    ways = {module_of(f): imports(f) & {module_of(g) for g in PACKAGE if not g.endswith("/__init__.py")}
            for f in PACKAGE}
    while True:  # what imports nothing that is left stands on the ground
        ground = [m for m, used in ways.items() if not used & ways.keys()]
        if not ground:
            break
        for module in ground:
            del ways[module]
    assert sorted(ways) == []


@pytest.mark.parametrize("file", PACKAGE)
def test_file_imports_libraries_only_where_they_belong(file):
    for library in {m.split(".")[0] for m in imports(file)} & HEAVY.keys():
        assert file.startswith(HEAVY[library]), f"{file} imports {library}"


@pytest.mark.parametrize("module", ["edgec", "edgec.cli", "edgec.target", "edgec.ir", "edgec.backends",
                                    "edgec.frontends"])
def test_import_stays_lean(module):
    heavy = ("torch", "tvm", "onnx", "onnxruntime")
    code = f"import sys, {module}; print(*[m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd="/")
    assert done.stdout.strip() == ""


@pytest.mark.parametrize("file", sources(*FOLDERS, "tests", "tools"))
def test_file_is_not_too_long(file):
    lines = len((ROOT / file).read_text(encoding="utf-8").splitlines())
    assert lines <= (250 if file.startswith("edgec/passes/") else 500)


@pytest.mark.parametrize("file", sources(*FOLDERS, "tests", "tools"))
def test_names_say_what_things_are(file):
    names = [Path(file).stem, *Path(file).parent.parts]
    names += [n.name for n in ast.walk(tree(file)) if isinstance(n, (ast.ClassDef, ast.FunctionDef))]
    assert [n for n in names if BANNED.search(n) or BANNED_CAMEL.search(n)] == []


@pytest.mark.parametrize("file", [f for f in PACKAGE if not f.startswith(OP_HOMES)])
def test_file_holds_no_list_of_ops(file):
    from edgec.ops import table

    ops = set(table.names())
    for node in ast.walk(tree(file)):
        items = node.elts if isinstance(node, (ast.List, ast.Tuple, ast.Set)) else node.keys if isinstance(
            node, ast.Dict) else []
        found = [i.value for i in items if isinstance(i, ast.Constant) and i.value in ops]
        assert len(found) < 4, f"{file}:{node.lineno} lists {found}: what edgec knows of ops stands in edgec/ops"


@pytest.mark.parametrize("file", [f for f in sources("edgec/backends/tvm/lower") if Path(f).stem != "__init__"
                                  and "LOWERINGS: dict" in (ROOT / f).read_text(encoding="utf-8")])
def test_lowerings_stand_in_the_file_that_their_family_has_in_the_op_table(file):
    from edgec.ops import table

    pytest.importorskip("tvm")
    module = importlib.import_module(module_of(file))
    homes = {op: table.family(op) if op in table.names() else "no file" for op in module.LOWERINGS}
    assert {op: home for op, home in homes.items() if home != Path(file).stem} == {}


@pytest.mark.parametrize("file", [f for f in PACKAGE if not f.startswith("edgec/cli/")])
def test_only_the_command_line_prints_or_exits(file):
    for node in ast.walk(tree(file)):
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            assert name not in ("print", "sys.exit", "exit", "quit", "os._exit"), f"{file}:{node.lineno}"
        if isinstance(node, ast.ExceptHandler):
            swallows = len(node.body) == 1 and isinstance(node.body[0], ast.Pass)
            broad = node.type is None or ast.unparse(node.type) in ("Exception", "BaseException")
            assert not (swallows and broad), f"{file}:{node.lineno} swallows every error"


def pass_files() -> list[str]:
    """Files of edgec/passes that define `run(graph, options)`."""
    return [f for f in sources("edgec/passes")
            if any(isinstance(n, ast.FunctionDef) and n.name == "run" for n in tree(f).body)]


@pytest.mark.parametrize("file", pass_files())
def test_pass_is_called_by_its_verb_and_has_a_test_and_a_reason_for_its_order(file):
    stem = Path(file).stem
    assert stem.startswith(VERBS)
    assert (ROOT / "tests/passes" / f"test_{stem}.py").exists()
    assigned = [ast.unparse(t) for n in tree(file).body if isinstance(n, (ast.Assign, ast.AnnAssign))
                for t in (n.targets if isinstance(n, ast.Assign) else [n.target])]
    assert "AFTER" in assigned
    assert stem in (ROOT / "edgec/passes/pipelines.py").read_text(encoding="utf-8"), f"{stem} runs nowhere"


def test_every_test_of_a_pass_mirrors_a_file():
    for file in sources("tests/passes"):
        stem = Path(file).stem.removeprefix("test_")
        if stem.startswith(VERBS):
            assert (ROOT / "edgec/passes" / f"{stem}.py").exists(), file


def test_packages_of_the_wheel_are_the_folders():
    config = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    folders = {module_of(f) for f in PACKAGE if f.endswith("/__init__.py")}
    assert sorted(config["packages"]) == sorted(folders)
    assert all(f"{Path(f).parent.as_posix()}/__init__.py" in PACKAGE for f in PACKAGE)
    assert config["package-dir"] == {FOLDERS[k]: k for k in FOLDERS}


NAMED_ELSEWHERE = {  # definitions that nothing in edgec or tools names, and who does
    "EdgecBackend": "onnx.backend.test.runner, and every tool that takes a backend of ONNX",
}


@cache
def uses() -> Counter[str]:
    """How often each name stands in the code, definitions included, strings and comments too."""
    words: Counter[str] = Counter()
    for file in sources(*FOLDERS, "tools"):
        words.update(re.findall(r"[A-Za-z_]\w*", (ROOT / file).read_text(encoding="utf-8")))
    return words


@pytest.mark.parametrize("file", PACKAGE)
def test_every_definition_of_a_module_is_used_by_the_code_itself(file):
    defined = [n.name for n in tree(file).body if isinstance(n, (ast.FunctionDef, ast.ClassDef))
               and not n.decorator_list and n.name != "__getattr__"]
    for node in tree(file).body:
        targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(
            node, ast.AnnAssign) else []
        defined += [t.id for t in targets if isinstance(t, ast.Name) and not t.id.startswith("__")]
    assert [n for n in defined if uses()[n] < 2 and n not in NAMED_ELSEWHERE] == [], "only tests use it, or nobody"


def own_tests(file: str) -> list[ast.FunctionDef]:
    return [n for n in ast.walk(tree(file)) if isinstance(n, ast.FunctionDef) and n.name.startswith("test_")]


@pytest.mark.parametrize("file", [f for f in sources("tests") if Path(f).name.startswith("test_")])
def test_every_test_asserts_or_calls_what_says_that_it_checks(file):
    def can_fail(node: ast.AST) -> bool:
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func).rpartition(".")[2]
            return name in ("raises", "fail") or name.startswith(("check", "assert"))
        return isinstance(node, ast.Assert)

    assert [t.name for t in own_tests(file) if not any(map(can_fail, ast.walk(t)))] == []


@pytest.mark.parametrize("file", [f for f in sources("tests") if Path(f).name.startswith("test_")])
def test_no_test_hides_another_of_the_same_name(file):
    names = Counter(n.name for n in tree(file).body if isinstance(n, ast.FunctionDef))
    assert [name for name, count in names.items() if count > 1] == []


def test_every_tool_that_people_start_is_in_the_guide():
    guide = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    started = [f for f in tracked() if re.fullmatch(r"tools/[a-z_]+", f)]
    assert [f for f in started if f not in guide] == []


def test_every_tool_that_people_start_finds_its_python_itself():
    started = [f for f in tracked() if re.fullmatch(r"tools/[a-z_]+", f)]
    assert [f for f in started if not (ROOT / f).read_text(encoding="utf-8").startswith("#!/usr/bin/env bash\n")] == []
    assert [f for f in tracked() if f.startswith("tools/") and f.endswith(".py") and (ROOT / f).stat().st_mode & 0o111
            ] == [], "a tool is started by the shell script of its name"


def test_guide_names_every_part_and_no_file_that_is_gone():
    guide = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    parts = {f"edgec/{stage_of(module_of(f))}" for f in PACKAGE} - {"edgec/", "edgec/targets", "edgec/kernels",
                                                                   "edgec/__main__"}
    assert sorted(p for p in parts if not re.search(rf"\b{p.removeprefix('edgec/')}(/|\.py)", guide)) == []
    known = {f.split("/", depth)[-1] for f in tracked() for depth in range(6)} | {
        f"{Path(*Path(f).parts[i:j]).as_posix()}/" for f in tracked() for i in range(5) for j in range(i + 1, 6)}
    named = set(re.findall(r"`((?:[\w.]+/)*[\w.]+(?:\.(?:py|h|c|toml|md)|/))`", guide))
    assert sorted(n for n in named if n not in known) == []


def tracked() -> list[str]:
    done = subprocess.run(["git", "ls-files"], capture_output=True, text=True, cwd=ROOT)
    if done.returncode:
        pytest.skip("not a git checkout")
    return done.stdout.splitlines()


def test_no_file_names_a_machine_or_leaves_work_undone():
    marks = re.compile("|".join((r"/ro" + "ot/", r"/wo" + "rk/", "TO" + "DO", "FIX" + "ME", "XX" + "X:")))
    for file in tracked():
        path = ROOT / file
        if path.suffix in (".py", ".md", ".toml", ".c", ".h", ".txt", ".sh", "") and path.is_file():
            found = marks.search(path.read_text(encoding="utf-8", errors="replace"))
            assert found is None, f"{file} has {found.group() if found else ''}"


def test_top_level_holds_only_what_the_design_names():
    allowed = {"edgec", "targets", "kernels", "tests", "tools", "docker", "docs", ".ci"}
    folders = {f.split("/")[0] for f in tracked() if "/" in f}
    assert folders <= allowed, sorted(folders - allowed)
