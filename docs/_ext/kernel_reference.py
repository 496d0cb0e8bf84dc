"""The backends of each op and the bounds of their errors as Markdown, from the tables that choose and check them."""

from __future__ import annotations

import ast
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

from markdown_table import code, table

from kernels.backends import Backend
from kernels.numerics import RMS_BOUND, UNIT

OPS = ("attention", "moae", "moae.plan", "patch", "reconstruction")


def backend_tables() -> str:
    """For each op a row for each backend, in the order of preference on a CPU: its name, and what it is."""
    parts = []
    for op in OPS:
        backends = import_module(f"kernels.{op}").BACKENDS.items()
        rows = [(code(name), _summary(backend, op)) for name, backend in backends]
        parts.append(f"**{code(op.replace('.', '_'))}**\n\n{table(('backend', 'what it is'), rows)}")
    return "\n".join(parts)


def error_bounds() -> str:
    """A row for each dtype: half a unit, and the bound of the relative error in root mean square."""
    rows = [(code(str(dtype).removeprefix("torch.")), f"{UNIT[dtype]:g}", f"{RMS_BOUND[dtype]:g}") for dtype in UNIT]
    return table(("dtype", "u", "RMS bound"), rows)


def _module(backend: Backend) -> str:
    function = backend.function
    return function.partition(":")[0] if isinstance(function, str) else function.__module__


def _summary(backend: Backend, op: str) -> str:
    """First sentence of the module's text; of the function's, where a module holds several backends."""
    if _module(backend) == f"kernels.{op}" and callable(backend.function):
        text = backend.function.__doc__ or ""
    else:
        # Read, not imported: Triton and xformers need not be there.
        spec = find_spec(_module(backend))
        assert spec is not None and spec.origin is not None
        text = ast.get_docstring(ast.parse(Path(spec.origin).read_text(encoding="utf-8"))) or ""
    return text.partition("\n\n")[0].partition(". ")[0].rstrip(".").replace("``", "`")
