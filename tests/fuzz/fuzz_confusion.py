"""Files that are something else than the medium they are called: each must be refused before it is decoded."""

from __future__ import annotations

import gzip
import io
import os
import pickle
import socket
import struct
import tarfile
import wave
import zipfile
import zlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import av
import fuzz_files
from fuzz_case import one_line
from PIL import Image

from s4d.data.media import open_media
from s4d.data.media_limits import media_path, refuse_outside
from s4d.errors import DataError

VICTIM = "h264.mp4"
HUGE = 30_000
HOURS = 10
Make = Callable[[Path, Path], object]


def prepare(folder: Path) -> None:
    """A real video that playlists and links point to."""
    fuzz_files.write_whole(folder)


def text(content: str | bytes) -> Make:
    """A file with the content; {victim} is the name of a real video beside it."""
    data = content.encode() if isinstance(content, str) else content
    return lambda path, folder: path.write_bytes(data.replace(b"{victim}", bytes(folder / VICTIM)))


def _png(width: int, height: int) -> bytes:
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = b"IDAT" + zlib.compress(bytes(1000))
    chunks = [struct.pack(">I", len(part) - 4) + part + struct.pack(">I", zlib.crc32(part)) for part in (header, body)]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def _jpeg(width: int, height: int) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (16, 16)).save(stream, "JPEG")
    data = bytearray(stream.getvalue())
    at = data.index(b"\xff\xc0") + 5
    data[at : at + 4] = struct.pack(">HH", height, width)
    return bytes(data)


def _saved(image_format: str, **options: object) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (16, 16), (9, 9, 9)).save(stream, image_format, **options)
    return stream.getvalue()


def _bmp(side: int) -> bytes:
    return b"BM" + struct.pack("<IHHI", 154, 0, 0, 54) + struct.pack("<IiiHHIIiiII", 40, side, side, 1, 24, *[0] * 6)


def _webp(side: int) -> bytes:
    extended = b"VP8X" + struct.pack("<I", 10) + bytes(4) + (side - 1).to_bytes(3, "little") * 2
    return b"RIFF" + struct.pack("<I", 4 + len(extended)) + b"WEBP" + extended


def _archive(kind: str) -> bytes:
    stream = io.BytesIO()
    if kind == "zip":
        with zipfile.ZipFile(stream, "w") as archive:
            archive.writestr("a.jpg", _jpeg(16, 16))
    else:
        with tarfile.open(fileobj=stream, mode="w:gz" if kind == "tgz" else "w") as tar:
            tar.addfile(tarfile.TarInfo("a.jpg"), io.BytesIO())
    return stream.getvalue()


def _wave() -> bytes:
    stream = io.BytesIO()
    with wave.open(stream, "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(8000)
        sound.writeframes(bytes(800))
    return stream.getvalue()


def _renumbered(box: bytes, offset: int, *numbers: int) -> Make:
    """The real video with 32-bit numbers of one of its boxes replaced, `offset` bytes behind the box's name."""

    def make(path: Path, folder: Path) -> None:
        data = bytearray((folder / VICTIM).read_bytes())
        at = data.index(box) + 4 + offset
        data[at : at + 4 * len(numbers)] = struct.pack(f">{len(numbers)}I", *numbers)
        path.write_bytes(data)

    return make


def _long_matroska(path: Path, folder: Path) -> None:
    data = bytearray((folder / "h264.mkv").read_bytes())
    at = data.index(b"\x44\x89\x88") + 3
    data[at : at + 8] = struct.pack(">d", HOURS * 3600 * 1000.0)
    path.write_bytes(data)


def _huge_frames(path: Path, folder: Path) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mjpeg", rate=25)
        stream.width = stream.height = 64
        stream.pix_fmt = "yuvj420p"
        for number in range(5):
            container.mux(stream.encode(av.VideoFrame.from_image(fuzz_files.picture(number))))
        container.mux(stream.encode())
    data = path.read_bytes()
    start = b"\xff\xc0\0\x11\x08"
    data = data.replace(start + struct.pack(">HH", 64, 64), start + struct.pack(">HH", HUGE, HUGE))
    path.write_bytes(data.replace(struct.pack("<ii", 64, 64), struct.pack("<ii", HUGE, HUGE)))


def _socket(path: Path, folder: Path) -> None:
    place = os.getcwd()
    os.chdir(folder)  # the address of a socket may be 107 bytes long
    try:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(path.name)
    finally:
        os.chdir(place)


PLAYLISTS: dict[str, str] = {
    "concat": "ffconcat version 1.0\nfile '{victim}'\n",
    "concat-short": "file {victim}\n",
    "concat-remote": "ffconcat version 1.0\nfile 'http://127.0.0.1:9/a.mp4'\n",
    "hls": "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{victim}\n#EXT-X-ENDLIST\n",
    "hls-master": "#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=1\nhttp://127.0.0.1:9/a.m3u8\n",
    "dash": '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011"><BaseURL>{victim}</BaseURL></MPD>',
    "smil": '<smil><body><video src="{victim}"/></body></smil>',
    "pls": "[playlist]\nFile1={victim}\nNumberOfEntries=1\n",
    "asx": '<ASX version="3.0"><ENTRY><REF HREF="{victim}"/></ENTRY></ASX>',
    "sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=a\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 9 RTP/AVP 96\n",
    "reference-movie": "RTSPtextrtsp://127.0.0.1:9/a\n",
    "subtitles-srt": "1\n00:00:00,000 --> 00:00:01,000\nhello\n",
    "subtitles-vtt": "WEBVTT\n\n00:00.000 --> 00:01.000\nhello\n",
    "subtitles-ass": "[Script Info]\nScriptType: v4.00+\n",
    "metadata": ";FFMETADATA1\ntitle=a\n",
    "svg": '<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>',
    "html": "<!doctype html><html><body>404 not found</body></html>",
    "json": '{"error": "no such file"}',
    "script": "#!/bin/sh\nexit 1\n",
    "pointer": "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n",
}
CONTENTS: dict[str, bytes] = {
    "empty": b"",
    "one-byte": b"\xff",
    "zeros": bytes(4096),
    "zip": _archive("zip"),
    "tar": _archive("tar"),
    "tgz": _archive("tgz"),
    "gzip": gzip.compress(b"a" * 99),
    "7z": b"7z\xbc\xaf\x27\x1c" + bytes(99),
    "pdf": b"%PDF-1.7\n" + bytes(99),
    "postscript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(%pipe%id) (w) file\n",
    "pickle": pickle.dumps({"a": 1}),
    "elf": b"\x7fELF" + bytes(99),
    "gif": _saved("GIF"),
    "icon": _saved("ICO"),
    "tga": _saved("TGA"),
    "ppm": _saved("PPM"),
    "jpeg2000-header": b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(99),
    "wave": _wave(),
    "flac": b"fLaC" + bytes(99),
    "ogg": b"OggS" + bytes(99),
    "mp3": b"ID3\x03\0\0\0\0\0\0\xff\xfb\x90\0" + bytes(999),
    "flash": b"FLV\x01\x05\0\0\0\x09\0\0\0\0" + bytes(99),
    "mxf": b"\x06\x0e\x2b\x34\x02\x05\x01\x01\x0d\x01\x02\x01\x01\x02" + bytes(99),
}
IMAGES: dict[str, bytes] = {
    "huge.jpg": _jpeg(HUGE, HUGE),
    "huge.png": _png(HUGE, HUGE),
    "wide.png": _png(0x7FFFFFFF, 1),
    "huge.bmp": _bmp(HUGE),
    "huge.webp": _webp(16_384),
}
SPECIAL: dict[str, Make] = {
    "long.mp4": _renumbered(b"mdhd", 12, 1000, HOURS * 3_600_000),
    "many-frames.mp4": _renumbered(b"stsz", 4, 1, HOURS * 3600 * 30),
    "huge-frames.avi": _huge_frames,
    "long.mkv": _long_matroska,
    "fifo.mp4": lambda path, folder: os.mkfifo(path),
    "socket.mp4": _socket,
    "folder.mp4": lambda path, folder: path.mkdir(),
    "zero.jpg": lambda path, folder: path.symlink_to("/dev/zero"),
    "random.mp4": lambda path, folder: path.symlink_to("/dev/urandom"),
    "loop.mp4": lambda path, folder: path.symlink_to(path.name),
}
# Paths as a manifest's field: refused where the manifest is read, or where the sample is opened.
PATHS: tuple[str, ...] = ("../outside.jpg", "/etc/passwd", "link-out.jpg", "linked/a.jpg", "a/../../b.mp4")
ADDRESSES: tuple[str, ...] = (
    "concat:{victim}|{victim}",
    "subfile,,start,0,end,0,,:{victim}",
    "http://127.0.0.1:9/a.mp4",
    "file:{victim}",
)


def _files() -> list[tuple[str, str, Make]]:
    """Name, kind and maker of each file; texts and foreign formats take turns as video and image."""
    files: list[tuple[str, str, Make]] = []
    for number, (name, content) in enumerate({**PLAYLISTS, **CONTENTS}.items()):
        suffix, kind = ((".mp4", "video"), (".mkv", "video"), (".jpg", "image"))[0 if name in PLAYLISTS else number % 3]
        files.append((name + suffix, kind, text(content)))
    files += [(name, "image", text(content)) for name, content in IMAGES.items()]
    return files + [(name, "image" if name.endswith(".jpg") else "video", make) for name, make in SPECIAL.items()]


FILES = _files()
COUNT = len(FILES) + len(PATHS) + len(ADDRESSES)


def run(number: int, folder: Path) -> str:
    """Case `number`: one file, path or address, which must be refused in one line."""
    number %= COUNT
    if number < len(FILES):
        return _refused_file(*FILES[number], folder)
    number -= len(FILES)
    if number < len(PATHS):
        return _refused_path(PATHS[number], folder)
    address = ADDRESSES[number - len(PATHS)].replace("{victim}", str(folder / VICTIM))
    try:
        media = open_media(Path(address), "video")
    except DataError as error:
        return one_line(error, Path(address))
    raise AssertionError(f"{address}: opened, {media.frame_count} frames")


def _refused_file(name: str, kind: str, make: Make, folder: Path) -> str:
    path = folder / f"case-{name}"
    with suppress(OSError):
        path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()
    make(path, folder)
    try:
        media = open_media(path, kind)
        media.frames([media.frame_count - 1])
    except DataError as error:
        return one_line(error, path)
    finally:
        path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()
    raise AssertionError(f"{name}: read, {media.frame_count} frames of {media.size}")


def _refused_path(inside: str, folder: Path) -> str:
    root, outside = folder / "root", folder / "outside"
    for place in (root, outside):
        place.mkdir(exist_ok=True)
    (outside / "a.jpg").write_bytes(_jpeg(16, 16))
    for link, target in (("link-out.jpg", outside / "a.jpg"), ("linked", outside)):
        with suppress(FileExistsError):
            (root / link).symlink_to(target)
    origin = "list.csv: row 3"
    try:
        refuse_outside(inside, origin)
        media_path(root, inside, origin)
    except DataError as error:
        assert "field 'path'" in str(error)
        return one_line(error, origin)
    raise AssertionError(f"{inside}: not refused")
