"""Damaged label files of every dataset, manifests and configurations: a result, or one line with the file's name."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from fuzz_bytes import damaged
from fuzz_case import one_line

from s4d import config
from s4d.data.manifest import ManifestRow
from s4d.data.manifest_io import Manifest, prepare_manifest, read_manifest, write_manifest
from s4d.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT / "tests/s4d/datasets"))

from trees import TREES  # noqa: E402 - lies beside the tests of the readers

CONFIGS = sorted((ROOT / "configs").rglob("*.yaml"))
TEXT_SUFFIXES = {".csv", ".txt", ".json", ".xlsx"}
TOKENS = (
    *("", " ", "\t", "0", "-1", "7", "99", "1e3", "1e-3", "1e999", "nan", "inf", "-inf", "0x10", "1_0", "007", "1.5"),
    *(
        "true",
        "no",
        "null",
        "~",
        "None",
        "٣",
        "²",
        "Ⅷ",
        "ß",
        "\u202e",
        "\ufeff",
        "\u2028",
        "\x85",
        "e\u0301",
        "💥",
        "\x00",
        "\x1b[31m",
    ),
    *(
        "'",
        '"',
        '""',
        '"a',
        ",",
        ",,,,",
        ";",
        "#",
        "# root: /",
        "# classes: [",
        "# classes: 1",
        "=1+1",
        "\\",
        "%s",
        "{}",
        "${HOME}",
    ),
    *("..", "../..", "/", "/etc/passwd", "~/a", "C:\\a", "a/../../b", "." * 300, "a" * 140_000, "9" * 5000, "/" * 5000),
    *(
        "happiness",
        "Happiness",
        "neutral",
        "train",
        "test",
        "val",
        "image",
        "frames",
        "video",
        "*a",
        "&a",
        "!!python/none",
    ),
    *(
        "[" * 40,
        "{" * 40,
        "[" * 5000,
        "- " * 3000,
        "? ",
        "a: b: c",
        "2026-01-01",
        "12:30",
        "1,2",
        "[1",
        '{"a": 1',
        "---",
        "<<: *a",
    ),
)
BOMB = "a: &a [x, x]\nb: &b [*a, *a]\nc: &c [*b, *b]\nname: *c\n"
KEYS = ("name", "run_dir", "task", "seed", "data.sources.0.fold", "data.sources", "data.sources.9.name", "model.size")
MORE_KEYS = (
    "engine.steps",
    "optim.lr",
    "batch.per_step",
    "data.image.crop_area",
    "model.moae.top_k",
    "a.b.c",
    "",
    ".",
    "a..b",
)


def prepare(folder: Path) -> None:
    """Small trees of every dataset in every form, and two manifests."""
    for tree in TREES:
        if not (folder / tree.id).exists():
            tree.build(folder / tree.id)
    rows = tuple(
        ManifestRow(
            sample_id=f"s{number}",
            path=f"a/{number}.jpg",
            kind="image",
            dataset="made",
            split="train" if number % 3 else "test",
            label=("calm", "glad")[number % 2],
            fold=1,
            identity=f"p{number // 2}",
            frame_count=1,
            fps=25.0,
            face_box=(1, 2, 30, 40),
            face_points=(1.0, 2.0, 3.0, 4.0),
            distribution=(("calm", 0.25), ("glad", 0.75)),
        )
        for number in range(8)
    )
    whole = Manifest(rows=rows, root=Path("."), dataset="made", classes=("calm", "glad"), fingerprint="")
    for suffix in (".csv", ".parquet"):
        write_manifest(whole, folder / f"whole{suffix}")


def run(number: int, folder: Path) -> str:
    """Case `number`: two of five are label files, two manifests, one a configuration."""
    draw = np.random.default_rng([26, number])
    case: Callable[[int, Path, np.random.Generator], str] = (_labels, _manifest, _labels, _manifest, _config)[
        number % 5
    ]
    return case(number, folder, draw)


def _labels(number: int, folder: Path, draw: np.random.Generator) -> str:
    tree = TREES[number // 5 % len(TREES)]
    root, out = folder / tree.id, folder / f"case-{number}.csv"
    texts = sorted(path for path in root.rglob("*") if path.suffix in TEXT_SUFFIXES and path.is_file())
    changed = _damaged_file(texts[int(draw.integers(len(texts)))], draw) if texts and draw.integers(8) else None
    try:
        with changed or _renamed(root, draw):
            prepare_manifest(tree.dataset, root, out, fold=tree.fold, skip_damaged=bool(draw.integers(2)))
        read_manifest(out)
    except UserError as error:
        return "labels " + one_line(error, root, out)
    finally:
        out.unlink(missing_ok=True)
    return "labels read"


def _manifest(number: int, folder: Path, draw: np.random.Generator) -> str:
    suffix = ".parquet" if number % 5 == 3 and draw.integers(2) else ".csv"
    path = folder / f"case-{number}{suffix}"
    content = (folder / f"whole{suffix}").read_bytes()
    path.write_bytes(damaged(content, draw) if suffix == ".parquet" else _damaged_text(content, draw))
    try:
        read_manifest(path)
    except UserError as error:
        return "manifest " + one_line(error, path)
    finally:
        path.unlink()
    return "manifest read"


def _config(number: int, folder: Path, draw: np.random.Generator) -> str:
    path = folder / f"case-{number}.yaml"
    content = CONFIGS[int(draw.integers(len(CONFIGS)))].read_bytes()
    choice = int(draw.integers(8))
    path.write_bytes(BOMB.encode() if choice == 0 else content if choice < 4 else _damaged_text(content, draw))
    keys = (*KEYS, *MORE_KEYS)
    overrides = [f"{draw.choice(keys)}={_token(draw)}" for _ in range(int(draw.integers(3)) if choice > 1 else 0)]
    try:
        config.load(path, overrides)
    except UserError as error:
        return "config " + one_line(error, path, "command line")
    finally:
        path.unlink()
    return "config read"


def _damaged_text(content: bytes, draw: np.random.Generator) -> bytes:
    """Damage as editors, spreadsheets and scripts do it, or to bytes."""
    choice = int(draw.integers(10))
    if choice == 0:
        return damaged(content, draw)
    text = content.decode("utf-8", "surrogateescape")
    if choice == 1:
        encodings = ("utf-16", "utf-32", "utf-8-sig", "latin-1", "cp037")
        return text.encode(str(draw.choice(encodings)), "replace")
    if choice == 2:
        return text.replace("\n", str(draw.choice(("\r\n", "\r", "\n\n", "\n\r", "")))).encode(
            "utf-8", "surrogateescape"
        )
    lines = text.split("\n")
    for _ in range(int(draw.integers(1, 4))):
        _change_line(lines, draw)
    return "\n".join(lines).encode("utf-8", "surrogateescape")


def _token(draw: np.random.Generator) -> str:
    return TOKENS[int(draw.integers(len(TOKENS)))]


def _change_line(lines: list[str], draw: np.random.Generator) -> None:
    at, other = int(draw.integers(len(lines))), int(draw.integers(len(lines)))
    token = _token(draw)
    separator = str(draw.choice((",", " ", ":", "\t")))
    fields = lines[at].split(separator)
    field = int(draw.integers(len(fields)))
    choice = int(draw.integers(8))
    if choice == 0 and len(lines) > 1:
        del lines[at]
    elif choice == 1:
        lines.insert(at, lines[other])
    elif choice == 2:
        lines[at], lines[other] = lines[other], lines[at]
    elif choice == 3:
        lines.insert(at, token)
    elif choice == 4:
        lines[at] = separator.join([*fields[:field], *fields[field + 1 :]])
    elif choice == 5:
        lines[at] = separator.join([*fields[:field], token, *fields[field:]])
    else:
        lines[at] = separator.join([*fields[:field], token, *fields[field + 1 :]])


@contextmanager
def _damaged_file(path: Path, draw: np.random.Generator) -> Iterator[None]:
    """A text file of a tree damaged for a while."""
    content = path.read_bytes()
    bad = damaged(content, draw) if path.suffix == ".xlsx" else _damaged_text(content, draw)
    if path.suffix == ".json" and draw.integers(2):
        bad = _changed_json(content, draw)
    path.write_bytes(bad)
    try:
        yield
    finally:
        path.write_bytes(content)


def _changed_json(content: bytes, draw: np.random.Generator) -> bytes:
    """JSON with one value or key replaced by a value of any kind."""
    values: list[object] = [None, True, -1, 1e308, "", "a", [], {}, [[]], {"a": []}, 10**400]
    tree = json.loads(content)
    node = tree
    while isinstance(node, dict | list) and node:
        key = list(node)[int(draw.integers(len(node)))] if isinstance(node, dict) else int(draw.integers(len(node)))
        if draw.integers(3) == 0 or not isinstance(node[key], dict | list):
            node[key] = values[int(draw.integers(len(values)))]
            break
        node = node[key]
    return json.dumps(tree).encode()


@contextmanager
def _renamed(root: Path, draw: np.random.Generator) -> Iterator[None]:
    """A file or folder of a tree under another name for a while."""
    names = (
        "0",
        "-1",
        "a b",
        "ä",
        "e\u0301",
        "a,b",
        "'",
        "9" * 200,
        "x.jpg",
        "x.mp4",
        "..a",
        "#a",
        "a\nb",
        "\udcff",
        "\x1b[1m",
    )
    paths = sorted(root.rglob("*"))
    old = paths[int(draw.integers(len(paths)))]
    new = old.with_name(str(draw.choice(np.array(names, dtype=object))))
    if new.exists():
        new = old
    old.rename(new)
    try:
        yield
    finally:
        new.rename(old)
