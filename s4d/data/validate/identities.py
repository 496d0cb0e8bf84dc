"""The dataset's own table of people against the rows that it is for."""

from __future__ import annotations

from collections.abc import Iterator

from s4d.data.validate.findings import Finding
from s4d.data.validate.subject import Subject
from s4d.datasets.listing import NAMED, find_identities, read_identities
from s4d.errors import DataError


def check_identities(subject: Subject) -> Iterator[Finding]:
    """Entries of `identities.csv` that are neither the id nor the path of a row, so they say nothing about anyone."""
    root = subject.manifest.root
    table = find_identities(root)
    if table is None:
        return
    try:
        entries = read_identities(root)
    except DataError as error:
        yield Finding(severity="error", code="identities", text=str(error), field="identity")
        return
    known = {name for row in subject.manifest.rows for name in (row.sample_id, row.path)}
    strangers = [entry for entry in entries if entry not in known]
    if strangers:
        names = ", ".join(map(repr, strangers[:NAMED])) + (", ..." if len(strangers) > NAMED else "")
        text = f"{len(strangers)} of {len(entries)} entries match no row of the manifest: {names}"
        yield Finding(severity="warning", code="identities", text=text, file=str(table))
