"""Class balance: which classes a split lacks, and how uneven the others are."""

from __future__ import annotations

from collections.abc import Iterator

from s4d.data.validate.findings import Finding
from s4d.data.validate.subject import Subject

# The rarest class of DFEW stands 1 to 18 against its most frequent one; beyond that, natural sampling hardly sees it.
IMBALANCE = 10.0


def check_missing_classes(subject: Subject) -> Iterator[Finding]:
    """Classes without a sample in a labelled split: the train split must have all, a test split should."""
    for part, counts in subject.class_counts().items():
        labelled = {name: count for name, count in counts.items() if name in subject.manifest.classes}
        missing = [name for name, count in labelled.items() if not count]
        if not missing or not any(labelled.values()):
            continue
        severity = "error" if part.partition(" ")[0] == "train" else "warning"
        yield Finding(
            severity=severity,  # type: ignore[arg-type]
            code="missing-class",
            text=f"{part} has no samples of {', '.join(missing)}",
            field="label",
        )


def check_partly_labelled(subject: Subject) -> Iterator[Finding]:
    """Rows without a label beside labelled ones: fine-tuning refuses them."""
    for number, row in enumerate(subject.manifest.rows, start=1):
        if row.label is None and subject.manifest.classes:
            unlabelled = sum(row.label is None for row in subject.manifest.rows)
            text = f"{unlabelled} rows have no label, others have (the first is this one)"
            yield Finding(severity="warning", code="no-label", text=text, file=row.path, row=number, field="label")
            return


def check_imbalance(subject: Subject) -> Iterator[Finding]:
    """Splits whose most frequent class has many times the samples of the rarest."""
    for part, ratio in imbalance(subject).items():
        if ratio >= IMBALANCE:
            counts = {k: v for k, v in subject.class_counts()[part].items() if v and k in subject.manifest.classes}
            rare, frequent = min(counts, key=counts.__getitem__), max(counts, key=counts.__getitem__)
            text = (
                f"{part}: {frequent} ({counts[frequent]}) is {ratio:.1f} times as frequent as {rare} ({counts[rare]})"
            )
            yield Finding(severity="note", code="imbalance", text=text, field="label")


def imbalance(subject: Subject) -> dict[str, float]:
    """Samples of the most frequent class by those of the rarest present one, of each part with labels."""
    ratios = {}
    for part, counts in subject.class_counts().items():
        present = [count for name, count in counts.items() if count and name in subject.manifest.classes]
        if present:
            ratios[part] = max(present) / min(present)
    return ratios
