"""Folders of frames: order traps, gaps, mixed formats, and copies with too few frames for the stride."""

from __future__ import annotations

from collections.abc import Iterator

from s4d.data.validate.findings import Finding, summary
from s4d.data.validate.subject import Subject

# The time-interpolated copies of the field have 16 frames a clip.
COPY_FRAMES = 16
MOST = 0.9


def check_order(subject: Subject) -> Iterator[Finding]:
    """Names such as 1.jpg and 10.jpg, which sort otherwise as text than as numbers; holes; jpg beside png."""
    known = [(medium.path, probe) for medium, probe in subject.known() if medium.kind == "frames"]
    trapped = [path for path, probe in known if probe.order_differs]
    if trapped:
        text = "have frame names that sort otherwise as text than as numbers: data.order must be natural"
        yield summary("warning", "frame-order", trapped, len(known), text)
    gaps = [path for path, probe in known if probe.missing_numbers]
    if gaps:
        yield summary("warning", "frame-gaps", gaps, len(known), "have holes in the numbers of their frames")
    mixed = [path for path, probe in known if len(probe.suffixes) > 1]
    if mixed:
        yield summary("warning", "frame-formats", mixed, len(known), "mix image formats, so frames may be there twice")
    uneven = [path for path, probe in known if probe.sizes > 1]
    if uneven:
        yield summary("warning", "frame-sizes", uneven, len(known), "have frames of different sizes")


def check_stride(subject: Subject) -> Iterator[Finding]:
    """A 16-frame copy sampled with a stride: every fourth of 16 frames are 4 frames, not 16."""
    counts = []
    for path, medium in subject.media.items():
        if medium.kind == "image":
            continue
        probe = subject.probes.get(path)
        count = probe.frames if probe is not None and probe.frames else medium.rows[0][1].frame_count
        if count:
            counts.append((path, count))
    copies = [path for path, count in counts if count == COPY_FRAMES]
    if subject.stride > 1 and copies and len(copies) >= MOST * len(counts):
        text = (
            f"have exactly {COPY_FRAMES} frames, as copies reduced in time have: with stride {subject.stride} a view "
            f"needs {(COPY_FRAMES - 1) * subject.stride + 1}; use stride 1 or the original frames"
        )
        yield summary("warning", "short-copy", copies, len(counts), text)
