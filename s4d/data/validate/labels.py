"""Class names: do they stand in the order of a checkpoint's heads?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from s4d.data.validate.findings import Finding
from s4d.data.validate.subject import Subject


def check_label_order(subject: Subject) -> Iterator[Finding]:
    """The manifest's class names against the checkpoint's head of the same name, else the one with the same names."""
    reference, classes = subject.reference, subject.manifest.classes
    if reference is None:
        return
    if not reference.heads:
        text = f"{reference.folder} has no heads to compare the classes with"
        yield Finding(severity="note", code="no-heads", text=text, field="classes")
        return
    name = _head_for(subject.manifest.dataset, classes, reference.heads)
    if name is None:
        heads = "; ".join(f"{head}: {', '.join(names)}" for head, names in reference.heads.items())
        text = f"no head of {reference.folder} has the classes {', '.join(classes)} (heads: {heads})"
        yield Finding(severity="error", code="label-names", text=text, field="classes")
        return
    head = reference.heads[name]
    if set(head) != set(classes):
        lacks = [item for item in head if item not in classes]
        extra = [item for item in classes if item not in head]
        parts = [f"{word} {', '.join(items)}" for word, items in (("lacks", lacks), ("adds", extra)) if items]
        text = f"against head {name} of {reference.folder} the manifest {' and '.join(parts)}"
        yield Finding(severity="error", code="label-names", text=text, field="classes")
    elif head != classes:
        text = (
            f"head {name} of {reference.folder} counts {', '.join(head)}; the manifest counts {', '.join(classes)}; "
            "give the source the field classes in the head's order"
        )
        yield Finding(severity="error", code="label-order", text=text, field="classes")


def _head_for(dataset: str, classes: Sequence[str], heads: Mapping[str, tuple[str, ...]]) -> str | None:
    if dataset in heads:
        return dataset
    same = [name for name, names in heads.items() if set(names) == set(classes)]
    exact = [name for name in same if heads[name] == tuple(classes)]
    return next(iter([*exact, *same]), next(iter(heads)) if len(heads) == 1 else None)
