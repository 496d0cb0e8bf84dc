"""Files: are they there, whole, readable, and what the manifest and their own headers say they are?"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator

from s4d.data.scan.record import Probe
from s4d.data.validate.findings import Finding, summary
from s4d.data.validate.subject import Medium, Subject


def check_presence(subject: Subject) -> Iterator[Finding]:
    """Missing and zero-length files, folders in place of files, and media that changed after the scan."""
    root = os.fspath(subject.manifest.root)
    outdated = []
    for medium in subject.media.values():
        try:
            found = os.stat(os.path.join(root, medium.path))
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            yield _about(medium, "error", "missing-file", f"cannot be opened: {reason}", field="path")
            continue
        if stat.S_ISDIR(found.st_mode) != (medium.kind == "frames"):
            real = "a folder" if stat.S_ISDIR(found.st_mode) else "no folder"
            yield _about(medium, "error", "wrong-kind", f"is {real}, but of kind {medium.kind}", field="kind")
        elif medium.kind != "frames" and found.st_size == 0:
            yield _about(medium, "error", "empty-file", "the file is empty")
        elif _is_outdated(subject.probes.get(medium.path), medium, found):
            outdated.append(medium.path)
    if outdated and subject.scanned:
        yield summary("warning", "scan-outdated", outdated, len(subject.media), "changed after the scan; scan again")


def _is_outdated(probe: Probe | None, medium: Medium, found: os.stat_result) -> bool:
    """A folder's own time tells of files added and removed; its frames are not visited for it."""
    if probe is None:
        return False
    if medium.kind == "frames":
        return found.st_mtime_ns > probe.mtime_ns
    return (found.st_size, found.st_mtime_ns) != (probe.size, probe.mtime_ns)


def check_readable(subject: Subject) -> Iterator[Finding]:
    """Media that failed to decode or decoded with complaints, and those the scan does not know."""
    for medium, probe in subject.known():
        if probe.error is not None:
            # Missing and empty files have been named already.
            if probe.size or (probe.mtime_ns and medium.kind == "frames"):
                yield _about(medium, "error", "unreadable", _shortened(probe.error, subject, medium))
        elif probe.warnings:
            yield _about(medium, "warning", "decode-warnings", f"{probe.warnings} complaints of the decoder")
    if subject.scanned:
        unknown = [path for path in subject.media if path not in subject.probes]
        if unknown:
            yield summary("warning", "not-scanned", unknown, len(subject.media), "not in the scan; scan again")


def check_changes(subject: Subject) -> Iterator[Finding]:
    """Content that differs from an earlier look in the same scan file."""
    for path, (before, after) in subject.changed.items():
        medium = subject.media.get(path)
        if medium is not None:
            text = f"other content than at an earlier scan ({after.size} bytes, {before.size} then)"
            yield _about(medium, "error", "content-changed", f"{text}; a fresh scan file accepts it")


def check_frame_counts(subject: Subject) -> Iterator[Finding]:
    """Frames found against those that the manifest and the file's own header announce."""
    for medium, probe in subject.known():
        if probe.error is not None or probe.frames is None:
            continue
        if probe.header_frames is not None and probe.frames != probe.header_frames:
            text = f"{probe.frames} frames of the {probe.header_frames} in its header"
            severity = "error" if probe.frames < probe.header_frames else "warning"
            yield _about(medium, severity, "header-frames", text)
        for number, row in medium.rows:
            if row.frame_count is not None and row.frame_count != probe.frames:
                text = f"the manifest says {row.frame_count} frames, the medium has {probe.frames}"
                yield Finding(
                    severity="error", code="frame-count", text=text, file=row.path, row=number, field="frame_count"
                )
                break


def check_content(subject: Subject) -> Iterator[Finding]:
    """Scene cuts, black pictures and variable frame rates, each in one line."""
    known = [(medium.path, probe) for medium, probe in subject.known() if probe.error is None]
    cut = [path for path, probe in known if probe.cuts]
    if cut:
        yield summary("warning", "scene-cuts", cut, len(known), "hold more than one shot")
    black = [path for path, probe in known if probe.frames and probe.black_frames == probe.frames]
    if black:
        yield summary("warning", "black", black, len(known), "are black throughout")
    uneven = [path for path, probe in known if probe.variable_rate]
    if uneven:
        yield summary("note", "variable-rate", uneven, len(known), "have a variable frame rate")


def _about(medium: Medium, severity: str, code: str, text: str, *, field: str = "") -> Finding:
    return Finding(
        severity=severity,  # type: ignore[arg-type]
        code=code,
        text=text,
        file=medium.path,
        row=medium.first_row,
        field=field,
    )


def _shortened(error: str, subject: Subject, medium: Medium) -> str:
    """An error without what the finding says anyway; the name of a frame in a folder stays."""
    return error.replace(f"{subject.manifest.root}/", "").removeprefix(f"{medium.path}: ")
