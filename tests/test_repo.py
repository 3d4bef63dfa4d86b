"""What holds for the whole repository: imports, layers, the README's tree, documented names."""

import ast
import importlib
import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "exlstm"
SOURCES = sorted(PACKAGE.rglob("*.py"))

MAY_IMPORT = {
    "ops": {"ops", "shapes"},
    "nn": {"ops", "nn", "shapes"},
    "models": {"ops", "nn", "models", "shapes"},
    "hf": {"ops", "nn", "models", "data", "evaluate", "hf", "shapes"},
    "data": {"data", "shapes"},
    "tasks": {"tasks", "data"},
    "experiments": {"nn", "tasks", "experiments", "shapes"},
    "claims": {"tasks", "inspect", "experiments", "claims"},
    "evidence": {"tasks", "experiments", "claims", "evidence"},
    "estimators": {"ops", "nn", "models", "data", "estimators", "shapes"},
    "forecast": {"ops", "nn", "models", "data", "estimators", "forecast", "shapes"},
    "anomaly": {"ops", "nn", "models", "data", "estimators", "forecast", "anomaly", "shapes"},
    "classify": {"ops", "nn", "models", "data", "estimators", "classify", "shapes"},
    "adapters": {"nn", "models", "data", "estimators", "forecast", "adapters", "shapes"},
    "tune": {"train", "data", "estimators", "forecast", "anomaly", "classify", "tune"},
    "inspect": {"ops", "nn", "models", "inspect", "shapes"},
    "evaluate": {"ops", "nn", "models", "data", "evaluate", "shapes"},
    "train": {"ops", "nn", "models", "data", "evaluate", "train", "shapes"},
    "export": {"ops", "nn", "models", "data", "export", "shapes"},
    "testing": {"ops", "shapes"},
    "shapes": set(),
    "convert": {"nn", "models", "data", "convert"},
    "__init__": {"models", "convert"},
    "cli": {
        "ops",
        "models",
        "data",
        "evaluate",
        "export",
        "train",
        "convert",
        "tasks",
        "experiments",
        "claims",
        "evidence",
        "forecast",
        "anomaly",
        "classify",
        "tune",
        "cli",
    },
}


def part(path: Path) -> str:
    """The folder of a module, or its name where it lies at the top."""
    relative = path.relative_to(PACKAGE)
    return relative.parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_layering_is_one_way(path: Path) -> None:
    imported = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            imported.add(node.module or "")
        elif isinstance(node, ast.Import):
            imported.update(alias.name for alias in node.names)
    ours = {name.split(".")[1] for name in imported if name.startswith("exlstm.")}
    assert ours <= MAY_IMPORT[part(path)]


def run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)


def test_import_costs_torch_numpy_safetensors_and_nothing_else() -> None:
    """Compared with a fresh interpreter that imports just those three."""
    code = "import sys, torch, numpy, safetensors.torch\nbefore = set(sys.modules)\n"
    code += "import exlstm, exlstm.ops, exlstm.nn, exlstm.models, exlstm.evaluate, exlstm.convert\n"
    code += "print(*sorted({name.split('.')[0] for name in set(sys.modules) - before}))"
    done = run(code)
    foreign = set(done.stdout.split()) - {"exlstm"} - set(sys.stdlib_module_names)
    assert foreign == set()
    assert done.stderr == ""


def test_import_prints_nothing_and_starts_nothing() -> None:
    code = "import threading, os\nenvironment = dict(os.environ)\n"
    code += "import exlstm.ops, exlstm.models\n"
    code += "assert threading.active_count() == 1 and dict(os.environ) == environment"
    done = run(code)
    assert (done.stdout, done.stderr) == ("", "")


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_are_one_idea_long(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 400


def test_there_is_no_ban_breaking_code() -> None:
    banned = ("torch.compiler.disable", "pickle.load", "np.load(")
    for path in SOURCES:
        for word in banned:
            assert word not in path.read_text(), f"{path} uses {word}"


def unpickling(source: str) -> list[str]:
    """The calls of any `load` of torch, by any name, that do not say `weights_only=True`."""
    tree = ast.parse(source)
    unsafe = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "torch":
            unsafe += [
                alias.name for alias in node.names if alias.name in ("load", "serialization")
            ]
        if isinstance(node, ast.Attribute) and node.attr == "load":
            called = ast.unparse(node)
            calls = [n for n in ast.walk(tree) if isinstance(n, ast.Call) and n.func is node]
            safe = {"weights_only": True}
            said = [
                {k.arg: k.value.value for k in call.keywords if isinstance(k.value, ast.Constant)}
                for call in calls
            ]
            if called.startswith("torch.") and not any(safe.items() <= one.items() for one in said):
                unsafe.append(called)
    return unsafe


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_torch_files_are_read_as_tensors_only(path: Path) -> None:
    assert unpickling(path.read_text()) == []


@pytest.mark.parametrize(
    "source",
    [
        "import torch\ntorch.load(path)",
        "torch.load(path, weights_only=False)",
        "torch.load(path, weights_only=flag)",
        "torch.serialization.load(path)",
        "from torch import load",
        "f = torch.load",
    ],
)
def test_other_calls_of_torchs_load_are_found(source: str) -> None:
    assert unpickling(source)
    assert unpickling("torch.load(path, weights_only=True)") == []


def tree_in_readme() -> set[str]:
    """The paths in the README's tree: folders by indentation, each line a name and what it is."""
    block = re.search(r"```\n(exlstm/\n.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert block, "README has no tree"
    paths, folders = set(), []
    for line in block[1].splitlines():
        depth = (len(line) - len(line.lstrip())) // 2
        names = re.split(r"\s{2,}", line.strip())[0].split()
        del folders[depth:]
        for name in names:
            paths.add("/".join([*folders, name.rstrip("/")]))
        if names[-1].endswith("/"):
            folders.append(names[-1].rstrip("/"))
    return paths


def test_the_readmes_tree_is_the_tree() -> None:
    written = tree_in_readme()
    for path in written:
        assert (ROOT / path).exists(), f"README names {path}"
    for path in SOURCES:
        if path.name != "__init__.py":
            assert str(path.relative_to(ROOT)) in written, f"README's tree lacks {path}"


@pytest.mark.parametrize(
    "module",
    [
        "exlstm",
        "exlstm.ops",
        "exlstm.nn",
        "exlstm.models",
        "exlstm.evaluate",
        "exlstm.data",
        "exlstm.convert",
        "exlstm.export",
        "exlstm.hf",
        "exlstm.tasks",
        "exlstm.inspect",
        "exlstm.experiments",
        "exlstm.claims",
        "exlstm.evidence",
        "exlstm.anomaly",
        "exlstm.classify",
        "exlstm.estimators",
    ],
)
def test_public_names_are_documented(module: str) -> None:
    package = importlib.import_module(module)
    public = {name: thing for name, thing in vars(package).items() if not name.startswith("_")}
    for name, thing in public.items():
        if inspect.ismodule(thing) or not (inspect.isclass(thing) or inspect.isfunction(thing)):
            continue
        assert inspect.getdoc(thing), f"{module}.{name} has no docstring"
        assert thing.__module__.split(".")[0] == "exlstm", f"{module}.{name} is not ours"


def test_the_readmes_python_runs(capsys: pytest.CaptureFixture[str]) -> None:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert len(blocks) == 4
    names: dict[str, object] = {}
    for block in blocks:
        exec(block, names)
    assert capsys.readouterr().out == "6,865,424,896\n"


@pytest.mark.parametrize("page", sorted((ROOT / "docs").glob("*.md")), ids=lambda page: page.name)
def test_python_in_the_docs_runs_and_prints_what_is_written(
    page: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a line prints stands in a comment behind its `print`."""
    monkeypatch.chdir(tmp_path)
    code = "\n".join(re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL))
    if "torchao" in code:
        pytest.importorskip("torchao", reason="torchao is not installed: `make test` has it")
    exec(code, {})
    printed = re.findall(r"^print\(.*\)  # (.*)$", code, re.MULTILINE)
    assert capsys.readouterr().out.splitlines() == printed


def test_the_readmes_figures_are_the_results() -> None:
    script = ROOT / "benchmarks" / "render.py"
    done = subprocess.run([sys.executable, script, "--check"], check=False)
    assert done.returncode == 0, "run `python benchmarks/render.py`"
