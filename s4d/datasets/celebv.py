"""CelebV-HQ and CelebV-Text: clips of celebrities cut from web videos, described in one JSON file each.

A clip is called `<video>_<number>`, and so is its file. The official tool cuts it out in time and, as a square, around
the face; the box then lies behind us. Where only the time was cut, the frame is not square and the box becomes the
row's face box: CelebV-HQ gives it in shares of the frame, CelebV-Text in pixels of the web video. Clips of one video
have one identity, so that no person is split over train and validation part. All clips are of the split `train`.

CelebV-HQ names an emotion for each clip, or several with their times; then the label is the one that lasts longest and
the distribution has the shares of time. CelebV-Text keeps emotions in texts only: its clips have no labels.
Many videos have vanished from the web, so listed clips may be missing; they are counted.
"""

from __future__ import annotations

import json
import logging
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from s4d.data.manifest import ManifestRow
from s4d.data.media import VIDEO_SUFFIXES
from s4d.datasets import CLASS_NAMES
from s4d.datasets.labels import canonical
from s4d.datasets.listing import NAMED, inner_path
from s4d.datasets.mp4_size import frame_size
from s4d.datasets.request import Request
from s4d.datasets.tree import MediaFolder, media_folder
from s4d.errors import DataError

logger = logging.getLogger(__name__)

INFO = {"celebv_hq": "celebvhq_info.json", "celebv_text": "celebvtext_info.json"}
MEDIA = (
    "processed",
    "videos",
    "clips",
    "35666",
    "downloaded_celebvhq/processed",
    "downloaded_celebvtext/processed",
    ".",
)
WORDS: dict[type, str] = {str: "text", dict: "fields", list: "a list"}
SIDES = ("left", "top", "right", "bottom")

Kind = TypeVar("Kind")
Clips = dict[str, dict[str, Any]]
Box = tuple[int, int, int, int]


def prepare_hq(root: Path, request: Request) -> list[ManifestRow]:
    """One row per clip of CelebV-HQ that is there; DataError names file, clip and field."""
    return _prepare(root, "celebv_hq", request)


def prepare_text(root: Path, request: Request) -> list[ManifestRow]:
    """One row per clip of CelebV-Text that is there; DataError names file, clip and field."""
    return _prepare(root, "celebv_text", request)


def _prepare(root: Path, dataset: str, request: Request) -> list[ManifestRow]:
    request.refuse(dataset, "fold")
    info = root / INFO[dataset]
    clips = _read_info(info)
    base, files = _files(root, info, clips, request)
    inside = base.relative_to(root).as_posix()
    missing = [key for key in clips if key not in files]
    if missing:
        named = ", ".join(missing[:NAMED]) + (", ..." if len(missing) > NAMED else "")
        logger.warning("%s: %d of %d clips are not below %s: %s", info, len(missing), len(clips), base, named)
    unclear: Counter[str] = Counter()
    rows = []
    for key, name in files.items():
        clip, where = clips[key], f"{info}: clip {key!r}"
        shares = _emotions(clip, where, CLASS_NAMES[dataset], unclear) if CLASS_NAMES[dataset] else {}
        rows.append(
            ManifestRow(
                sample_id=key,
                path=name if inside == "." else f"{inside}/{name}",
                kind="video",
                dataset=dataset,
                split="train",
                label=max(shares, key=lambda label: shares[label]) if shares else None,
                identity=_field(clip, "ytb_id", str, where),
                face_box=_box(_field(clip, "bbox", dict, where), f"{where}: field 'bbox'", base / name, unclear),
                distribution=tuple(shares.items()) or None,
            )
        )
    for what, count in unclear.items():
        logger.warning("%s: %d clips %s", info, count, what)
    return rows


def _read_info(path: Path) -> Clips:
    """Clips by name; the file has them under `clips` or, in copies, directly, with or without `.mp4`."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            twice = next(name for name, count in Counter(name for name, _ in pairs).items() if count > 1)
            raise DataError(f"{path}: {twice!r} occurs twice")
        return found

    try:
        data = json.loads(path.read_bytes().decode("utf-8-sig"), object_pairs_hook=unique)
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path}: not a readable JSON file: {error}") from error
    listed = data.get("clips", data) if isinstance(data, dict) else data
    if not isinstance(listed, dict) or not listed:
        raise DataError(f"{path}: field 'clips': expected clips by name")
    clips: Clips = {}
    for name, clip in listed.items():
        key = inner_path(name, f"{path}: clip {name!r}").removesuffix(".mp4")
        if "/" in key:
            raise DataError(f"{path}: clip {name!r}: expected a name without folders")
        if not isinstance(clip, dict):
            raise DataError(f"{path}: clip {name!r}: expected fields, got {clip!r}")
        if key in clips:
            raise DataError(f"{path}: clip {key!r} occurs twice")
        clips[key] = clip
    return clips


def _files(root: Path, info: Path, clips: Clips, request: Request) -> tuple[Path, dict[str, str]]:
    """The folder of the clips, and the file of each clip that is there, in the order of the JSON file."""
    tried = [request.media] if request.media is not None else [name for name in MEDIA if (root / name).is_dir()]
    for name in tried:
        base = media_folder(root, (), name, "folder of clips")
        stems: dict[str, str] = {}
        for file in MediaFolder(base).files(VIDEO_SUFFIXES):
            stem = file.rpartition(".")[0]
            if stem in stems and stem in clips:
                raise DataError(f"{base}: two files of clip {stem!r}: {stems[stem]} and {file}")
            stems[stem] = file
        found = {key: stems[key] for key in clips if key in stems}
        if found:
            return base, found
    raise DataError(f"{info}: none of its {len(clips)} clips is there (looked for <clip>.mp4 in {', '.join(tried)})")


def _field(clip: Mapping[str, Any], name: str, kind: type[Kind], where: str) -> Kind:
    value = clip.get(name)
    if not isinstance(value, kind):
        raise DataError(f"{where}: field {name!r}: expected {WORDS[kind]}, got {value!r}")
    return value


def _number(record: Mapping[str, Any], name: str, where: str) -> float:
    value = record.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
        raise DataError(f"{where}: {name!r}: expected a number of at least 0, got {value!r}")
    return value


def _box(box: Mapping[str, Any], where: str, path: Path, unclear: Counter[str]) -> Box | None:
    """The face box in pixels of the file, None where the file is cut out around the face or its size is not known."""
    left, top, right, bottom = sides = [_number(box, name, where) for name in SIDES]
    if left >= right or top >= bottom:
        raise DataError(f"{where}: the box {sides} has no extent")
    size = frame_size(path)
    if size is None:
        unclear["do not tell the size of their frames: no face box"] += 1
        return None
    width, height = size
    if width == height:
        return None
    if right <= 1 and bottom <= 1:
        return round(left * width), round(top * height), round(right * width), round(bottom * height)
    if right > width or bottom > height:
        unclear["are smaller than the video that their face box was drawn in: no face box"] += 1
        return None
    return round(left), round(top), round(right), round(bottom)


def _emotions(clip: Mapping[str, Any], where: str, classes: Sequence[str], unclear: Counter[str]) -> dict[str, float]:
    """Shares of time of each emotion; empty where none of the classes is named."""
    emotion = _field(_field(clip, "attributes", dict, where), "emotion", dict, f"{where}: field 'attributes'")
    named = emotion.get("labels")
    times: dict[str, float] = {}
    if isinstance(named, str):
        times[canonical(named)] = 1.0
    else:
        for part in _field(emotion, "labels", list, f"{where}: field 'emotion'"):
            at = f"{where}: field 'emotion'"
            if not isinstance(part, dict):
                raise DataError(f"{at}: expected emotion, start_sec and end_sec, got {part!r}")
            start, end = (_number(part, name, at) for name in ("start_sec", "end_sec"))
            if end < start:
                raise DataError(f"{at}: 'end_sec': expected at least {start}, got {end}")
            name = canonical(_field(part, "emotion", str, at))
            times[name] = times.get(name, 0.0) + end - start
    known = {name: time for name, time in times.items() if name in classes and time > 0}
    for name in times:
        if name not in classes:
            unclear[f"have an emotion that is no class: {name!r}"] += 1
    if not known:
        unclear["have no label"] += 1
    total = sum(known.values())
    return {name: time / total for name, time in known.items()}
