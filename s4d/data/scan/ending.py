"""Files that end too early: decoders forgive missing last bytes, so the end itself is looked for.

Images must have their end mark, the boxes of an mp4 file must lie inside it. Other containers state their length, which
is checked when they are opened.
"""

from __future__ import annotations

import re
from pathlib import Path

from s4d.data.media_check import ISO_SUFFIXES

JPEG, JPEG_END, JPEG_SCAN = b"\xff\xd8", 0xD9, 0xDA
# Markers without a length: restart marks, start, end, and the one for arithmetic coders' private use.
BARE = frozenset({*range(0xD0, 0xDA), 0x01})
# In coded data a marker is 0xff before anything but a stuffed zero, a restart mark or more padding.
MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]", re.DOTALL)
BOX_NAME = re.compile(rb"[A-Za-z0-9]{4}")
PNG, PNG_END = b"\x89PNG\r\n\x1a\n", b"IEND"


def missing_end(path: Path) -> str | None:
    """What a JPEG, PNG or mp4 file lacks at its end, None where it is whole or of another kind."""
    if path.suffix.lower() in ISO_SUFFIXES:
        return _cut_box(path)
    content = path.read_bytes()
    if content.startswith(JPEG):
        return None if _jpeg_ends(content) else "truncated: no end-of-image mark"
    if content.startswith(PNG):
        return None if _png_ends(content) else "truncated: no end chunk"
    return None


def _jpeg_ends(content: bytes) -> bool:
    """Walk the segments; after the header of a scan, coded data run up to the next marker."""
    position = 2
    while position + 2 <= len(content):
        marker = content[position + 1]
        if content[position] != 0xFF or marker == 0xFF:
            position += 1
            continue
        if marker == JPEG_END:
            return True
        position += 2
        if marker in BARE:
            continue
        position += int.from_bytes(content[position : position + 2], "big")
        if marker == JPEG_SCAN:
            found = MARKER.search(content, position)
            if found is None:
                return False
            position = found.start()
    return False


def _png_ends(content: bytes) -> bool:
    position = len(PNG)
    while position + 12 <= len(content):
        length, name = int.from_bytes(content[position : position + 4], "big"), content[position + 4 : position + 8]
        position += 12 + length
        if name == PNG_END:
            return position <= len(content)
    return False


def _cut_box(path: Path) -> str | None:
    """The first box at the top of an mp4 file that runs past its end."""
    size = path.stat().st_size
    position = 0
    with path.open("rb") as stream:
        while position + 8 <= size:
            stream.seek(position)
            header = stream.read(16)
            length, name = int.from_bytes(header[:4], "big"), header[4:8]
            if length == 1:
                length = int.from_bytes(header[8:], "big")
            if length < 8 or not BOX_NAME.fullmatch(name):
                return None
            position += length
            if position > size:
                return f"truncated: {size} bytes of at least {position}"
    return None
