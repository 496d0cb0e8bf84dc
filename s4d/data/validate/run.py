"""Runs every check on one manifest."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from s4d.config_data import SourceConfig
from s4d.data.counter import stable_key
from s4d.data.manifest_io import Manifest, read_manifest
from s4d.data.scan.record import Probe
from s4d.data.scan.run import Progress, media_of, probe_all
from s4d.data.scan.scan_file import read_scan
from s4d.data.validate import balance, counts, faces, files, frames, identities, labels, leakage
from s4d.data.validate.findings import SEVERITIES, Finding, Findings
from s4d.data.validate.subject import Reference, Subject
from s4d.errors import DataError

SAMPLE = 300
QUANTILES = (0.05, 0.5, 0.95)
STRIDE: int = SourceConfig.model_fields["stride"].default

CHECKS: tuple[Callable[[Subject], Iterable[Finding]], ...] = (
    counts.check_counts,
    files.check_presence,
    files.check_readable,
    files.check_changes,
    files.check_frame_counts,
    files.check_content,
    leakage.check_same_file,
    leakage.check_same_content,
    leakage.check_same_picture,
    leakage.check_same_identity,
    identities.check_identities,
    labels.check_label_order,
    frames.check_order,
    frames.check_stride,
    faces.check_face_boxes,
    faces.check_eye_line,
    faces.check_crop,
    faces.check_crop_of_model,
    balance.check_missing_classes,
    balance.check_partly_labelled,
    balance.check_imbalance,
)


def validate_manifest(
    path: Path | str,
    *,
    against: Path | str | None = None,
    scan: Path | str | None = None,
    sample: int = SAMPLE,
    stride: int = STRIDE,
    workers: int = 0,
    progress: Progress | None = None,
) -> Findings:
    """Check a manifest and its media; what is wrong with the data is a finding, never an exception.

    `against` is a run, checkpoint or model folder whose class names and crops must fit, `scan` a file of `s4d data
    scan`; without one up to `sample` media are decoded, by `workers` processes (0: one per core) and with `progress`
    told (done, all). `stride` is the distance of the frames that training takes. DataError for a checkpoint or scan
    file that cannot be read.
    """
    path = Path(path)
    reference = None if against is None else _reference(Path(against))
    try:
        manifest = read_manifest(path)
    except DataError as error:
        return Findings(manifest=path, items=(Finding(severity="error", code="manifest", text=str(error)),))
    media = media_of(manifest)
    if scan is not None:
        known = read_scan(Path(scan))
        probes, changed = known.probes, known.changed
        covered = sum(medium in probes for medium, _ in media)
        looked_at = f"{covered} of {len(media)} media known from {scan}"
    else:
        probes, changed = _sampled(manifest, sample, workers, progress), {}
        share = f"all {len(media)}" if len(probes) == len(media) else f"a sample of {len(probes)} of {len(media)}"
        looked_at = f"no scan file given: {share} media decoded"
    subject = Subject(
        path=path,
        manifest=manifest,
        stride=stride,
        probes=probes,
        scanned=scan is not None,
        changed=changed,
        reference=reference,
    )
    items = [finding for check in CHECKS for finding in check(subject)]
    items.sort(key=lambda item: SEVERITIES.index(item.severity))
    measures = faces.face_measures(subject)
    quantiles = {name: np.quantile(values, QUANTILES).tolist() for name, values in measures.items()}
    return Findings(
        manifest=path,
        items=tuple(items),
        rows=len(manifest.rows),
        media=len(media),
        counts=subject.class_counts(),
        facts={"imbalance": balance.imbalance(subject), **quantiles},
        values=measures,
        looked_at=looked_at,
    )


def _reference(path: Path) -> Reference:
    """Class names and crops of a run, checkpoint or model folder."""
    from s4d.models.folder import CONFIG_FILE, find_model, read_config

    folder = find_model(path)
    config = read_config(folder)
    classes, crops = config.get("classes") or {}, config.get("crop")
    if not isinstance(classes, dict) or not all(isinstance(names, list) for names in classes.values()):
        raise DataError(f"{folder / CONFIG_FILE}: field 'classes': expected lists of names by head")
    return Reference(
        folder=folder,
        heads={head: tuple(map(str, names)) for head, names in classes.items()},
        crops=frozenset(str(crop) for crop in crops.values() if crop) if isinstance(crops, dict) else frozenset(),
    )


def _sampled(manifest: Manifest, sample: int, workers: int, progress: Progress | None) -> dict[str, Probe]:
    """Up to `sample` media, decoded. The choice depends on their names alone, so that two calls look at the same."""
    media = sorted(media_of(manifest), key=lambda medium: (stable_key("validate", medium[0]), medium[0]))[:sample]
    probes = {}
    for probe in probe_all(manifest.root, media, workers=min(workers, len(media)) if workers else 0):
        probes[probe.path] = probe
        if progress is not None:
            progress(len(probes), len(media))
    return probes
