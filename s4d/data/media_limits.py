"""What may be opened at all: kinds of files, containers, codecs and sizes, checked before anything is decoded.

Files come from downloads and archives, so their names promise nothing. The container is chosen by the first bytes of
the file and the demuxer forced to it: left to itself FFmpeg opens playlists and lists of other files, local or remote.
"""

from __future__ import annotations

import os
import stat
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from s4d.errors import DataError

# A decoded picture of this size takes 0.3 GB, with the buffers of a progressive JPEG 0.7 GB.
MAX_IMAGE_PIXELS = 1 << 26
# 4096 x 4096; a decoder may keep 17 frames, of 25 MB each at this size.
MAX_FRAME_PIXELS = 1 << 24
# Almost three hours at 25 frames a second; a list of all packets is kept for each of the clips opened last.
MAX_FRAMES = 1 << 18
MAX_SECONDS = 4 * 3600

IMAGE_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF")
# By decoder name. Codecs of sound and subtitles are left out: opening a file would decode some of them.
VIDEO_CODECS = frozenset(
    {
        "h264",
        "hevc",
        "vp8",
        "vp9",
        "libvpx",
        "libvpx-vp9",
        "av1",
        "libdav1d",
        "mpeg4",
        "msmpeg4v2",
        "msmpeg4v3",
        "mpeg1video",
        "mpeg2video",
        "mjpeg",
        "h263",
        "wmv1",
        "wmv2",
        "ffv1",
        "rawvideo",
        "png",
    }
)

HEAD_BYTES = 192
EBML = b"\x1a\x45\xdf\xa3"
SEGMENT = b"\x18\x53\x80\x67"
ISO_BOXES = frozenset({b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"pnot", b"uuid"})
# Type of the first unit of a bare H.264 stream: parameters, delimiter or supplement.
H264_UNITS = frozenset({6, 7, 9})
TS_PACKET = 188


class VideoInput(NamedTuple):
    """How to open a video file: the arguments of `av.open`."""

    file: str
    format: str
    options: dict[str, str]


def video_input(path: Path) -> VideoInput:
    """Arguments that open `path` as what its first bytes say and nothing else; DataError for any other file."""
    size, head = _head(path)
    demuxer = _demuxer(head)
    if demuxer is None:
        raise DataError(f"{path}: cannot decode: no video container of a known kind (mp4, mkv, webm, avi, mpeg)")
    missing = bytes_missing(head, size)
    if missing:
        raise DataError(f"{path}: truncated: {size} bytes of at least {size + missing}")
    # The prefix keeps FFmpeg from reading "concat:..." or "http:..." out of a file's name.
    return VideoInput(f"file:{path}", demuxer, dict(_options(demuxer)))


def check_image_file(path: Path) -> None:
    """DataError unless `path` is a regular file with content."""
    _regular(path)


def check_image_size(path: Path, size: tuple[int, int]) -> None:
    """DataError for an image with more pixels than are decoded."""
    width, height = size
    if width * height > MAX_IMAGE_PIXELS or width < 1 or height < 1:
        raise DataError(f"{path}: cannot decode: {width} x {height} pixels, at most {MAX_IMAGE_PIXELS} in all")


def check_video(path: Path, *, codec: str, size: tuple[int, int], frames: int, seconds: float) -> None:
    """DataError for a codec that is not allowed, and for a larger or longer video than is decoded.

    `frames` and `seconds` are what the header claims, 0 where it claims nothing.
    """
    width, height = size
    if codec not in VIDEO_CODECS:
        raise DataError(f"{path}: cannot decode: codec {codec!r} is not among those allowed")
    if width * height > MAX_FRAME_PIXELS or width < 1 or height < 1:
        raise DataError(f"{path}: cannot decode: {width} x {height} pixels, at most {MAX_FRAME_PIXELS} in a frame")
    if seconds > MAX_SECONDS:
        raise DataError(f"{path}: cannot decode: {seconds:.0f} seconds long, at most {MAX_SECONDS}")
    check_frames(path, frames)


def check_frames(path: Path, frames: int) -> None:
    """DataError for a video with more frames than are decoded."""
    if frames > MAX_FRAMES:
        raise DataError(f"{path}: cannot decode: {frames} frames or more, at most {MAX_FRAMES}")


def media_path(root: Path, inside: str, origin: str) -> Path:
    """The file or folder `inside` a dataset's `root`; DataError, with `origin` in front, where it leads out of it."""
    path = root / inside
    parent, name = os.path.split(path)
    if _is_within(str(root), parent) and name not in ("", "..") and not os.path.islink(path):
        return path
    if not _is_within(str(root), str(path)):
        raise DataError(f"{origin}: field 'path': {inside!r} leads out of {root}")
    return path


def refuse_outside(inside: str, origin: str) -> None:
    """DataError, with `origin` in front, for a path that is absolute or climbs with '..'; nothing is looked up."""
    if inside.startswith(("/", "\\")) or ".." in inside.replace("\\", "/").split("/") or "\0" in inside:
        raise DataError(
            f"{origin}: field 'path': {inside!r} must be relative and without '..' (`root` says where paths start)"
        )


def bytes_missing(head: bytes, size: int) -> int:
    """Bytes that a Matroska, AVI or WebP file of `size` bytes lacks of what its `head` says, if it says so."""
    if head.startswith(b"RIFF"):
        return max(0, 8 + int.from_bytes(head[4:8], "little") - size)
    if head.startswith(EBML):
        length, content = _ebml_length(head, 4)
        position = content + length
        if head[position : position + 4] == SEGMENT:
            length, content = _ebml_length(head, position + 4)
            return max(0, content + length - size)
    return 0


def _ebml_length(head: bytes, position: int) -> tuple[int, int]:
    """Length field of an EBML element and where its content starts; length 0 for one that is unknown (streamed)."""
    if position >= len(head) or not head[position]:
        return 0, position
    width = 9 - head[position].bit_length()
    value = int.from_bytes(head[position : position + width], "big") & ((1 << 7 * width) - 1)
    return 0 if value == (1 << 7 * width) - 1 else value, position + width


def _regular(path: Path) -> int:
    """Size of a regular file. Opening a FIFO would wait for ever, and reading a device would not end."""
    found = os.stat(path)
    if not stat.S_ISREG(found.st_mode):
        raise DataError(f"{path}: cannot decode: not a regular file")
    if not found.st_size:
        raise DataError(f"{path}: cannot decode: the file is empty")
    return found.st_size


def _head(path: Path) -> tuple[int, bytes]:
    try:
        size = _regular(path)
        with open(path, "rb", buffering=0) as stream:
            return size, stream.read(HEAD_BYTES)
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot decode: {getattr(error, 'strerror', None) or error}") from error


def _demuxer(head: bytes) -> str | None:
    """FFmpeg's name for the container that a file starts with, None for one that is not allowed."""
    if head[4:8] in ISO_BOXES:
        return "mov"
    if head.startswith(EBML):
        return "matroska"
    if head.startswith(b"RIFF") and head[8:12] == b"AVI ":
        return "avi"
    if head.startswith(b"\0\0\1\xba"):
        return "mpeg"
    if head.startswith(b"\0\0\1\xb3"):
        return "mpegvideo"
    if head[:1] == head[TS_PACKET : TS_PACKET + 1] == b"\x47":
        return "mpegts"
    start = head.find(b"\0\0\1", 0, 4)
    if start in (0, 1) and len(head) > start + 3 and head[start + 3] & 0x1F in H264_UNITS:
        return "h264"
    return None


@lru_cache
def _options(demuxer: str) -> tuple[tuple[str, str], ...]:
    return (
        ("protocol_whitelist", "file"),
        ("format_whitelist", demuxer),
        ("codec_whitelist", ",".join(sorted(VIDEO_CODECS))),
    )


@lru_cache(maxsize=4096)
def _is_within(root: str, path: str) -> bool:
    """Whether `path` lies below `root` once symbolic links are followed; folders repeat, so answers are kept."""
    base = os.path.realpath(root)
    return os.path.commonpath((base, os.path.realpath(path))) == base
