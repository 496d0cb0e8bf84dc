"""What `s4d data prepare` reads, as Markdown, from the readers' own texts and tables."""

from __future__ import annotations

import inspect
from importlib import import_module

from markdown_table import table

from s4d.datasets import CLASS_NAMES, DATASETS
from s4d.datasets.labels import ORDERS
from s4d.datasets.published import PUBLISHED, PublishedCount

SPLITS = ("train", "val", "test")
# Two forms of the images come in one package: one has to be named.
OPTIONS = {"rafdb": " --media Image/aligned"}


def readers() -> dict[str, list[str]]:
    """First name of each reader -> all names that it serves."""
    modules: dict[str, list[str]] = {}
    for name, function in DATASETS.items():
        modules.setdefault(function.rpartition(".")[0], []).append(name)
    return {names[0]: names for names in modules.values()}


def reader_reference(first: str) -> str:
    """The section of one reader: its command, the files it reads, classes in their orders, published counts."""
    names = readers()[first]
    module = DATASETS[first].rpartition(".")[0]
    commands = "".join(
        f"    s4d data prepare {name} /data/{first}{OPTIONS.get(name, '')} --out manifests/{name}.parquet\n"
        for name in names
    )
    parts = [
        f"**Command**\n\n{commands}",
        f"**What is read.** {inspect.cleandoc(import_module(module).__doc__ or '')}",
        *map(_orders, names),
        *map(_totals, names),
        *map(_per_class, names),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _orders(name: str) -> str:
    """Class names in head order; one row for each public order where there are several."""
    if not CLASS_NAMES[name]:
        return ""
    shared: dict[tuple[str, ...], list[str]] = {CLASS_NAMES[name]: []}
    for order, classes in ORDERS.get(name, {}).items():
        shared.setdefault(classes, []).append(order)
    if len(shared) == 1:
        return f"**Classes of `{name}`**, in this order: {', '.join(CLASS_NAMES[name])}."
    rows = [(", ".join(f"`{order}`" for order in orders), ", ".join(classes)) for classes, orders in shared.items()]
    return f"**Classes of `{name}`**, in the order of `--labels`:\n\n{table(('order', 'classes'), rows)}"


def _totals(name: str) -> str:
    """Published numbers of samples: a row for each list and fold, a column for each split."""
    rows: dict[tuple[str, int | None], dict[str, PublishedCount]] = {}
    for count in PUBLISHED.get(name, ()):
        rows.setdefault((count.source, count.fold), {})[count.split] = count
    if not rows:
        return ""
    used = [split for split in SPLITS if any(split in counts for counts in rows.values())]
    folds = any(fold for _, fold in rows)
    listed = [
        (source, *([str(fold or "")] if folds else []), *(_shown(counts.get(split)) for split in used))
        for (source, fold), counts in rows.items()
    ]
    columns = ("list", *(["fold"] if folds else []), *used)
    return f"**Samples of `{name}`**, as published:\n\n{table(columns, listed)}"


def _shown(count: PublishedCount | None, label: str | None = None) -> str:
    """The number of samples, of one class if `label` is given; nothing where there is no list."""
    if count is None:
        return ""
    number = count.total if label is None else count.classes[label]
    return f"about {number:,}" if count.approximate else f"{number:,}"


def _per_class(name: str) -> str:
    """Published numbers for each class, of the first fold where there are several."""
    counts = [count for count in PUBLISHED.get(name, ()) if count.classes and count.fold in (None, 1)]
    if not counts:
        return ""
    several = len({count.source for count in counts}) > 1
    columns = ("class", *(f"{count.split}, {count.source}" if several else count.split for count in counts))
    rows = [(label, *(_shown(count, label) for count in counts)) for label in CLASS_NAMES[name]]
    fold = " in fold 1" if counts[0].fold else ""
    return f"**Samples of each class of `{name}`**{fold}:\n\n{table(columns, rows)}"
