"""Leakage between splits: the same file, the same content, the same picture, the same person."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

import numpy as np

from s4d.data.manifest import ManifestRow
from s4d.data.validate.findings import Finding, summary
from s4d.data.validate.similar import MAX_DISTANCE, distance, similar_pairs, unpack
from s4d.data.validate.subject import Medium, Subject, part_name

Parts = frozenset[tuple[int | None, str]]


def check_same_file(subject: Subject) -> Iterator[Finding]:
    """A file used in two splits of a fold, or twice in one under different ids or labels."""
    for medium in subject.media.values():
        if len(medium.rows) < 2:
            continue
        parts = _parts(medium)
        where = crossing(parts, parts)
        if where is not None:
            yield _leak("leak-file", medium, f"is in {where}")
        labels = sorted({row.label for _, row in medium.rows if row.label is not None})
        if len(labels) > 1:
            yield _leak("label-conflict", medium, f"has the labels {', '.join(labels)}", field="label")
        seen: dict[tuple[int | None, str], ManifestRow] = {}
        for number, row in medium.rows:
            first = seen.setdefault((row.fold, row.split), row)
            if first is not row:
                text = f"listed twice in {part_name(row.fold, row.split)}, as {first.sample_id!r} and {row.sample_id!r}"
                yield Finding(
                    severity="error", code="duplicate-path", text=text, file=row.path, row=number, field="path"
                )


def check_same_content(subject: Subject) -> Iterator[Finding]:
    """Different files with the same bytes."""
    groups: dict[str, list[Medium]] = defaultdict(list)
    for medium, probe in subject.known():
        if probe.sha256 and probe.error is None:
            groups[probe.sha256].append(medium)
    inside = []
    for media in groups.values():
        first, first_parts = media[0], _parts(media[0])
        for other in media[1:]:
            where = crossing(first_parts, _parts(other))
            if where is not None:
                yield _leak("leak-content", other, f"has the same content as {first.path}: {where}")
            else:
                inside.append(other.path)
            labels = sorted({row.label for _, row in (*first.rows, *other.rows) if row.label is not None})
            if len(labels) > 1:
                text = f"has the same content as {first.path}, but their labels are {' and '.join(labels)}"
                yield _leak("label-conflict", other, text, field="label")
    if inside:
        text = "have the same content as another of their split"
        yield summary("warning", "duplicate-content", inside, len(subject.media), text)


def check_same_picture(subject: Subject) -> Iterator[Finding]:
    """Files with other bytes but the same picture: recompressed, resized or slightly changed copies."""
    known = [(medium, probe) for medium, probe in subject.known() if probe.hashes]
    if len(known) < 2:
        return
    numbers: dict[Parts, int] = {}
    groups = np.array([numbers.setdefault(_parts(medium), len(numbers)) for medium, _ in known])
    if len(numbers) < 2:
        return
    middle = unpack([probe.hashes[len(probe.hashes) // 2] for _, probe in known])
    for i, j in similar_pairs(middle, groups):
        (first, one), (second, two) = known[i], known[j]
        if len(one.hashes) != len(two.hashes) or (one.sha256 and one.sha256 == two.sha256):
            continue
        bits = int(distance(unpack(one.hashes), unpack(two.hashes)).max())
        where = crossing(_parts(first), _parts(second))
        if bits <= MAX_DISTANCE and where is not None:
            text = f"looks like {first.path} ({bits} of 256 hash bits differ): {where}"
            yield _leak("leak-picture", second, text, severity="warning")


def check_same_identity(subject: Subject) -> Iterator[Finding]:
    """Persons (or films, where the data name those) on both sides of a split."""
    people = {part: {row.identity for row in rows if row.identity is not None} for part, rows in subject.parts.items()}
    for (fold, split), found in people.items():
        for (other_fold, other), others in people.items():
            if other_fold != fold or split >= other:
                continue
            shared = sorted(found & others)
            if shared:
                text = (
                    f"{len(shared)} identities are in both {part_name(fold, split)} and {part_name(fold, other)} "
                    f"(first: {shared[0]})"
                )
                yield Finding(severity="warning", code="leak-identity", text=text, field="identity")


def crossing(one: Parts, two: Parts) -> str | None:
    """The first two different splits of one fold that the parts connect, in words; None without any."""
    for fold, split in sorted(one, key=str):
        for other_fold, other in sorted(two, key=str):
            if split != other and (fold == other_fold or None in (fold, other_fold)):
                shown = fold if fold is not None else other_fold
                return f"{part_name(shown, split)} and {part_name(shown, other)}"
    return None


def _parts(medium: Medium) -> Parts:
    return frozenset((row.fold, row.split) for _, row in medium.rows)


def _leak(code: str, medium: Medium, text: str, *, field: str = "", severity: str = "error") -> Finding:
    return Finding(
        severity=severity,  # type: ignore[arg-type]
        code=code,
        text=text,
        file=medium.path,
        row=medium.first_row,
        field=field,
    )
