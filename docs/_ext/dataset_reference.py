"""What `s4d data prepare` reads, as Markdown, from the readers' own texts and tables."""

from __future__ import annotations

import inspect
from importlib import import_module

from markdown_table import table

from s4d.datasets import CLASS_NAMES, DATASETS
from s4d.datasets.published import PUBLISHED, PublishedCount


def dataset_reference() -> str:
    """One heading for each reader, with the names that it serves and what its module says of the files."""
    modules: dict[str, list[str]] = {}
    for name, function in DATASETS.items():
        modules.setdefault(function.rpartition(".")[0], []).append(name)
    return "\n".join(_reader_text(module, names) for module, names in modules.items())


def published_reference() -> str:
    """The published numbers of samples that `s4d data validate` compares a manifest with."""
    rows = [_count_row(name, count) for name, counts in PUBLISHED.items() for count in counts]
    return table(("dataset", "split", "fold", "samples", "counted in"), rows)


def _reader_text(module: str, names: list[str]) -> str:
    title = ", ".join(f"`{name}`" for name in names)
    text = inspect.cleandoc(import_module(module).__doc__ or "")
    classes = [
        f"Classes of `{name}`, in this order: {', '.join(CLASS_NAMES[name])}." for name in names if CLASS_NAMES[name]
    ]
    return "\n\n".join([f"### {title}", text, *classes]) + "\n"


def _count_row(name: str, count: PublishedCount) -> tuple[str, ...]:
    total = f"about {count.total:,}" if count.approximate else f"{count.total:,}"
    return f"`{name}`", count.split, "" if count.fold is None else str(count.fold), total, count.source
