"""What the product never does: unpickle a file outside the one process made for it, or hand a string to a shell."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCES = sorted(path for package in ("kernels", "s4d", "engine") for path in (ROOT / package).rglob("*.py"))

UNPICKLERS = {
    *("pickle.load", "pickle.loads", "pickle.Unpickler", "torch.load", "torch.jit.load", "torch.hub.load"),
    *("numpy.load", "np.load", "joblib.load", "shelve.open", "dill.load", "dill.loads", "cloudpickle.load"),
    *("marshal.load", "marshal.loads", "pandas.read_pickle", "dcp.load", "torch.package.PackageImporter"),
}
SHELLS = {"os.system", "os.popen", "subprocess.getoutput", "subprocess.getstatusoutput", "pty.spawn"}
RUNNERS = {"eval", "exec", "compile", "__import__"}

# The process that is shut in before it reads a foreign file, and messages between processes of one run, which come
# over a socket pair that no file and no other process can write to.
ALLOWED = {
    "s4d/models/foreign/child.py": {"torch.load"},
    "s4d/data/handover.py": {"pickle.Unpickler"},
    "s4d/data/worker_process.py": {"pickle.loads"},
}


def used_names(tree: ast.AST) -> Iterator[str]:
    """Dotted names in the file, those of imports in full."""
    known: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            known.update({alias.asname: alias.name for alias in node.names if alias.asname})
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                known[alias.asname or alias.name] = f"{node.module}.{alias.name}"
                yield f"{node.module}.{alias.name}"
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            first, dot, rest = ast.unparse(node).partition(".")
            yield known.get(first, first) + dot + rest
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            yield known.get(node.func.id, node.func.id)


def faults_of(text: str) -> set[str]:
    """Unpicklers, shells and runners of text as code in a source."""
    tree = ast.parse(text)
    found = set(used_names(tree)) & (UNPICKLERS | SHELLS | RUNNERS)
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            given = {word.arg: word.value for word in node.keywords}
            if "shell" in given and getattr(given["shell"], "value", True):
                found.add("shell=True")
            refused = getattr(given.get("allow_pickle"), "value", True) is False
            if refused and ast.unparse(node.func) in ("np.load", "numpy.load"):
                found -= {"np.load", "numpy.load"}
    return found


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("import torch\ntorch.load(x)", {"torch.load"}),
        ("import pickle as p\np.loads(x)", {"pickle.loads"}),
        ("from torch import load as fetch\nfetch(x)", {"torch.load"}),
        ("import numpy as np\nnp.load(x)", {"numpy.load"}),
        ("import numpy as np\nnp.load(x, allow_pickle=False)", set()),
        ("import subprocess\nsubprocess.run(x, shell=True)", {"shell=True"}),
        ("import subprocess\nsubprocess.run(x, shell=flag)", {"shell=True"}),
        ("import os\nos.system(x)", {"os.system"}),
        ("eval(x)", {"eval"}),
        ("model.eval()\nre.compile(x)", set()),
    ],
)
def test_the_rule_itself(text: str, expected: set[str]) -> None:
    assert faults_of(text) == expected


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_no_unpickler_and_no_shell(path: Path) -> None:
    assert faults_of(path.read_text(encoding="utf-8")) == ALLOWED.get(path.relative_to(ROOT).as_posix(), set())


def test_pages_escape_what_they_show() -> None:
    """Values get into a page or a model card through an environment with escaping on; no template turns it off."""
    pages, cards = ROOT / "s4d/analysis", ROOT / "s4d/models"
    makers = [path for path in SOURCES if "jinja2.Environment" in path.read_text()]
    assert sorted(makers) == [pages / "html_page.py", cards / "card.py"]
    assert all("autoescape=True" in path.read_text() for path in makers)
    for template in (*pages.glob("*.j2"), *cards.glob("*.j2")):
        text = template.read_text()
        assert "autoescape" not in text and "|safe" not in text.replace(" ", ""), template.name


def test_names_in_a_page_are_not_markup() -> None:
    from s4d.analysis.html_page import render_page

    page = render_page("base.html.j2", title='<script>alert("x")</script>\'"><img src=x onerror=y>')
    assert "&lt;script&gt;" in page and "<script>alert" not in page and "<img src=x" not in page
