"""Looks at every medium of a manifest in parallel and appends what it finds to a scan file."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from s4d.data.manifest import Kind
from s4d.data.manifest_io import Manifest, read_manifest
from s4d.data.scan.digest import stamp
from s4d.data.scan.pool import Lost, run_tasks
from s4d.data.scan.probe import probe_medium
from s4d.data.scan.record import Probe
from s4d.data.scan.scan_file import Scan, ScanWriter, read_scan

# Time limit of one medium: so much, and a second for each so many bytes; decoding goes through several MB a second.
SECONDS, BYTES_PER_SECOND = 60.0, 1 << 20

Progress = Callable[[int, int], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class ScanReport:
    """What a scan did: media of the manifest, those already known, those looked at now, and all with errors."""

    media: int
    known: int
    scanned: int
    failed: tuple[Probe, ...]


def scan_manifest(
    path: Path | str, out: Path | str, *, workers: int = 0, quick: bool = False, progress: Progress | None = None
) -> ScanReport:
    """Look at all media of a manifest that `out` does not know by path, size and time; one line each is appended.

    Media with an error are looked at again: it may have been the time limit, the memory or a permission.

    `workers` processes decode (0: one per core). `progress` is told (done, all) after each medium. Raises DataError for
    a manifest or scan file that cannot be read and UsageError where another scan writes to `out`.
    """
    manifest, out = read_manifest(path), Path(out)
    done = 0
    with ScanWriter(out) as writer:
        scan = read_scan(out)
        media = media_of(manifest)
        known = [medium for medium in media if _is_known(scan, manifest.root, medium, quick)]
        already = set(known)
        todo = [medium for medium in media if medium not in already]
        failed = [scan.probes[path] for path, _ in known if scan.probes[path].error is not None]
        for probe in probe_all(manifest.root, todo, workers=workers, quick=quick):
            writer.write(probe)
            done += 1
            if probe.error is not None:
                failed.append(probe)
            if progress is not None:
                progress(done, len(todo))
    return ScanReport(media=len(media), known=len(known), scanned=done, failed=tuple(failed))


def media_of(manifest: Manifest) -> list[tuple[str, Kind]]:
    """Path and kind of every medium once, in the manifest's order."""
    return list({row.path: row.kind for row in manifest.rows}.items())


def probe_all(
    root: Path, media: Iterable[tuple[str, Kind]], *, workers: int = 0, quick: bool = False
) -> Iterator[Probe]:
    """Probes of the media in the order they are done, by processes that a bad file cannot take down."""
    count = workers or os.cpu_count() or 1
    limit = partial(_seconds, root)
    for (path, kind), result in run_tasks(partial(_probe, root, quick), media, workers=count, seconds=limit):
        if isinstance(result, Lost):
            size, changed = stamp(root / path, kind)
            error = f"{root / path}: cannot decode: {result.reason}"
            yield Probe(path=path, kind=kind, size=size, mtime_ns=changed, quick=quick, error=error)
        else:
            yield result


def _probe(root: Path, quick: bool, medium: tuple[str, Kind]) -> Probe:
    return probe_medium(root, *medium, quick=quick)


def _seconds(root: Path, medium: tuple[str, Kind]) -> float:
    return SECONDS + stamp(root / medium[0], medium[1])[0] / BYTES_PER_SECOND


def _is_known(scan: Scan, root: Path, medium: tuple[str, Kind], quick: bool) -> bool:
    """Whether the file was looked at as it is now, as thoroughly as asked for, and without an error."""
    path, kind = medium
    probe = scan.probes.get(path)
    if probe is None or probe.kind != kind or (probe.quick and not quick):
        return False
    # A quick look cannot tell that an error of a full one is gone.
    if probe.error is not None and probe.quick == quick:
        return False
    return (probe.size, probe.mtime_ns) == stamp(root / path, kind)
