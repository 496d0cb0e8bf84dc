"""The rules of the source tree: which package may import which, how large things may be, what may not be called."""

from __future__ import annotations

import ast
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("kernels", "s4d", "engine")
SOURCES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
CONFIGS = sorted((ROOT / "configs").rglob("*.yaml"))

KERNEL_IMPORTS = {"kernels", "torch", "triton", "numpy", "xformers"}
MAX_FILE_LINES = 400
MAX_LINES_OF = {"engine/train.py": 80, "engine/loop.py": 150}
MAX_FUNCTION_LINES = 60
MAX_JITTED_LINES = 150
MAX_POSITIONAL = 6

# Calls that make the host wait for the device, or give a shape that depends on values. The references may: they are
# definitions, written to be read. Tolerances and benchmarks run outside a step.
HOST_SYNCS = {"item", "tolist", "nonzero", "masked_select"}
OUTSIDE_A_STEP = ("kernels/numerics.py", "kernels/bench/")
HOST_SYNCS_ALLOWED = {
    "kernels/moae/per_expert.py": "serves CPU tensors alone, whose values the host has",
    "kernels/varlen.py": "the layout of a batch whose maker did not state it; batches from our data path state it",
}

FunctionNode = ast.FunctionDef | ast.AsyncFunctionDef


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def imported_packages(tree: ast.AST) -> set[str]:
    """Top-level packages a file imports, anywhere in it, type-checking blocks included."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found.update(alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            found.add(node.module.partition(".")[0])
    return found


def functions(tree: ast.AST) -> Iterator[FunctionNode]:
    return (node for node in ast.walk(tree) if isinstance(node, FunctionNode))


def decorated_with(function: FunctionNode, *words: str) -> bool:
    decorators = [ast.unparse(decorator) for decorator in function.decorator_list]
    return any(word in decorator for decorator in decorators for word in words)


def is_jitted(function: FunctionNode) -> bool:
    return decorated_with(function, "triton")


def forbidden_imports(name: str, imported: set[str]) -> set[str]:
    """What the file `name` imports against the direction kernels <- s4d <- engine/train.py."""
    package = name.partition("/")[0]
    if package == "kernels":
        return imported - KERNEL_IMPORTS - sys.stdlib_module_names
    if package == "engine":
        return set() if name == "engine/train.py" else imported & {"s4d"}
    return set() if name.startswith("s4d/cli/") else imported & {"engine"}


def too_many_positional(function: FunctionNode) -> bool:
    """Kernels are exempt, they know no keyword-only parameters; and custom ops, which give gradients to others only."""
    arguments = function.args.posonlyargs + function.args.args
    count = sum(argument.arg not in ("self", "cls", "ctx") for argument in arguments)
    return count > MAX_POSITIONAL and not decorated_with(function, "triton", "custom_op", "register_fake")


KERNEL_SOURCES = [path for path in SOURCES if name_of(path).startswith("kernels/")]
STEP_SOURCES = [
    path for path in KERNEL_SOURCES if path.stem != "reference" and not name_of(path).startswith(OUTSIDE_A_STEP)
]


@pytest.mark.parametrize(
    ("name", "imported", "expected"),
    [
        ("kernels/op.py", {"torch", "numpy", "math", "kernels"}, set()),
        ("kernels/op.py", {"s4d", "einops"}, {"s4d", "einops"}),
        ("s4d/tasks/base.py", {"kernels", "engine"}, {"engine"}),
        ("s4d/cli/train.py", {"engine"}, set()),
        ("engine/loop.py", {"s4d", "kernels"}, {"s4d"}),
        ("engine/train.py", {"s4d", "engine"}, set()),
    ],
)
def test_the_import_rule_itself(name: str, imported: set[str], expected: set[str]) -> None:
    assert forbidden_imports(name, imported) == expected


def test_the_tree_is_found() -> None:
    assert {path.relative_to(ROOT).parts[0] for path in SOURCES} == set(PACKAGES)


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_imports_go_one_way(path: Path) -> None:
    assert not forbidden_imports(name_of(path), imported_packages(tree_of(path)))


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_size_budget(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    limit = MAX_LINES_OF.get(name_of(path), MAX_FILE_LINES)
    faults = [f"{len(text.splitlines())} lines, at most {limit}"] if len(text.splitlines()) > limit else []
    for function in functions(ast.parse(text)):
        allowed = MAX_JITTED_LINES if is_jitted(function) else MAX_FUNCTION_LINES
        lines = (function.end_lineno or function.lineno) - function.lineno + 1
        if lines > allowed:
            faults.append(f"{function.name}: {lines} lines, at most {allowed}")
        if too_many_positional(function):
            faults.append(f"{function.name}: more than {MAX_POSITIONAL} positional parameters")
    assert not faults


@pytest.mark.parametrize("path", STEP_SOURCES, ids=name_of)
def test_kernels_do_not_wait_for_the_device(path: Path) -> None:
    calls = {
        node.func.attr
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
    }
    found = calls & HOST_SYNCS
    if name_of(path) in HOST_SYNCS_ALLOWED:
        assert found, "the exception is no longer needed: remove it from HOST_SYNCS_ALLOWED"
    else:
        assert not found


def test_engine_files_do_not_hide_standard_modules() -> None:
    """Running engine/train.py by path puts engine/ first on the import path."""
    names = {path.stem for path in (ROOT / "engine").iterdir()} - {"__init__", "__pycache__"}
    assert not names & (set(sys.stdlib_module_names) | {"profiling"})


def test_no_drawer_files() -> None:
    drawers = {"utils", "util", "helpers", "helper", "misc", "common", "manager"}
    assert not [name_of(path) for path in SOURCES if path.stem in drawers or path.parent.name in drawers]


def test_tests_are_no_packages() -> None:
    """A tests/kernels/__init__.py would make `import kernels` find the tests."""
    assert not list((ROOT / "tests").rglob("__init__.py"))


def test_test_files_have_unique_names() -> None:
    names = Counter(path.name for path in (ROOT / "tests").rglob("*.py") if path.name != "conftest.py")
    assert not [name for name, count in names.items() if count > 1]


@pytest.mark.parametrize("path", CONFIGS, ids=name_of)
def test_config_loads(path: Path) -> None:
    from s4d.config import load

    assert load(path).name, f"{name_of(path)}: a run needs a name"
