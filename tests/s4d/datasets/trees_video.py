"""Miniatures of the sets of clips."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from tree_case import Tree, put, put_frames, video

from s4d.datasets.labels import MAFW_NATIVE

Clips = Callable[[Path, str, int], None]


def as_frames(base: Path, name: str, number: int) -> None:
    put_frames(base / name, 3 + number % 3, first=100 * number)


def as_sixteen(base: Path, name: str, number: int) -> None:
    put_frames(base / name, 16, first=100 * number)


def as_png(base: Path, name: str, number: int) -> None:
    put_frames(base / name, 3 + number % 3, "{:05d}.png", first=100 * number)


def as_mp4(base: Path, name: str, number: int) -> None:
    put(base / f"{name}.mp4", video(100 * number))


def dfew(folder: str, clips: Clips, *, released: bool) -> Callable[[Path], None]:
    """Fifteen clips, two folds; the released csv files count from 0 and are named by split, the others count from 1."""

    def build(root: Path) -> None:
        for number in range(1, 16):
            clips(root / folder, f"{number:05d}", number)
        for fold in (1, 2):
            tested = range(9, 16) if fold == 1 else range(1, 8)
            for split in ("train", "test"):
                numbers = [number for number in range(1, 16) if (number in tested) == (split == "test")]
                name = f"{split}_set_{fold}.csv" if released else f"set_{fold}.csv"
                lines = [
                    f"{number:05d},{number % 7}" if released else f"{number},{number % 7 + 1}" for number in numbers
                ]
                path = root / f"EmoLabel_DataSplit/{split}(single-labeled)" / name
                put(path, "\n".join(["video_name,label", *lines]) + "\n")

    return build


FERV_FOLDERS = ("Angry", "Disgust", "Fear", "Happy", "Neutral", "Sad", "Surprise")


def ferv39k(*, released: bool) -> Callable[[Path], None]:
    """Fifteen clips in three scenes."""

    def build(root: Path) -> None:
        for split, numbers in (("train", range(1, 9)), ("test", range(9, 16))):
            lines = ["path,id"] if released else []
            for number in numbers:
                label = number % 7
                name = f"{('Action', 'Crime', 'DailyLife')[number % 3]}/{FERV_FOLDERS[label]}/{number:04d}"
                put_frames(root / "2_ClipsforFaceCrop" / name, 3 + number % 3, "{:04d}.jpg", first=100 * number)
                lines.append(f"{name},{label}" if released else f"{name} {FERV_FOLDERS[label]}")
            path = f"Annotation/{split}.csv" if released else f"4_setups/All_scenes/{split}_All.csv"
            put(root / path, "\n".join(lines) + "\n")

    return build


def mafw(
    folder: str, clips: Clips, lines: Callable[[int], bytes], lists: str, suffix: str = "txt"
) -> Callable[[Path], None]:
    """Twenty-two clips, two folds."""

    def build(root: Path) -> None:
        for number in range(1, 23):
            clips(root / folder, f"{number:05d}", number)
        for fold in (1, 2):
            first, second = range(1, 12), range(12, 23)
            for split, numbers in (
                (("train", first), ("test", second)) if fold == 1 else (("train", second), ("test", first))
            ):
                header = b"video_name,labels\n" if suffix == "csv" else b""
                text = header + b"".join(lines(number) for number in numbers)
                put(root / lists / f"set_{fold}/{split}.{suffix}", text)

    return build


def single(number: int) -> bytes:
    return f"{number:05d}.mp4 {MAFW_NATIVE[number % 11]}\n".encode()


def numbered(number: int) -> bytes:
    return f"{number:05d},{number % 11}\n".encode()


def captioned(number: int) -> bytes:
    """Chinese in the encoding of the original, English with a quotation mark of Windows: not UTF-8 either."""
    chinese = "她在哭".encode("gb18030")
    return f"{number:05d}.mp4\t{MAFW_NATIVE[number % 11]}\t".encode() + chinese + b'\tShe can\x92t "smile\n'


def compound(number: int) -> bytes:
    first, second = MAFW_NATIVE[number % 11], MAFW_NATIVE[(number + 1) % 11]
    return f"{number:05d}.mp4 {first if number % 11 % 2 else f'{first}_{second}'}\n".encode()


def voxceleb2(root: Path) -> None:
    clips = ("dev/mp4/id00012/abc/00001", "dev/mp4/id00012/abc/00002", "dev/mp4/id00015/d-e/00001")
    for number, name in enumerate((*clips, "test/mp4/id00017/x_y/00001")):
        put(root / f"{name}.mp4", video(100 * number))
    put(root / "dev/mp4/id00012/abc/notes.txt", "no clip")


def folder(root: Path) -> None:
    for number, name in enumerate(("train/glad", "train/sad", "test/glad", "test/sad"), start=1):
        put_frames(root / name / "c", 5, first=100 * number)
        put(root / name / "b.mp4", video(1000 * number))


def table(root: Path) -> None:
    lines = ["path,label,split,identity"]
    for number in range(1, 7):
        put_frames(root / f"clips/{number}", 4 + number, first=100 * number)
        lines.append(f"clips/{number},{('glad', 'sad')[number % 2]},{'test' if number > 4 else 'train'},p{number}")
    put(root / "labels.csv", "\n".join(lines) + "\n")


MAFW_CROPS = "data/frames/frames_crop_align_224"
DFEW_LIST = "EmoLabel_DataSplit/train(single-labeled)/"
VIDEO_TREES: Sequence[Tree] = (
    *(
        Tree(
            dataset="dfew",
            form=form,
            build=dfew(media, clips, released=released),
            rows=30,
            media=media,
            medium=f"{media}/00002{suffix}",
            listed=DFEW_LIST + ("train_set_1.csv" if released else "set_1.csv"),
            line=3,
            name="00002" if released else "2",
            label="2" if released else "3",
            name_column="video_name",
            fold=1,
            warns=warns,
        )
        for form, media, clips, suffix, released, warns in (
            ("frames", "Clip/jpg_256", as_frames, "", True, ("counts",)),
            ("original", "Clip/original", as_mp4, ".mp4", False, ("counts",)),
            ("sixteen", "Clip/clip_224x224_16f", as_sixteen, "", False, ("counts", "short-copy", "frame-order")),
        )
    ),
    *(
        Tree(
            dataset="ferv39k",
            form="released" if released else "original",
            build=ferv39k(released=released),
            rows=15,
            media="2_ClipsforFaceCrop",
            medium="2_ClipsforFaceCrop/DailyLife/Fear/0002",
            listed="Annotation/train.csv" if released else "4_setups/All_scenes/train_All.csv",
            line=3 if released else 2,
            name="DailyLife/Fear/0002",
            label="2" if released else "Fear",
            label_column="id" if released else "label",
            split_by="," if released else " ",
        )
        for released in (False, True)
    ),
    *(
        Tree(
            dataset=dataset,
            form=form,
            build=mafw(media, clips, lines, lists, suffix),
            rows=44,
            media=media,
            medium=f"{media}/00002{'.mp4' if clips is as_mp4 else ''}",
            listed=f"{lists}/set_1/train.{suffix}",
            line=3 if suffix == "csv" else 2,
            name="00002" if suffix == "csv" else "00002.mp4",
            label={numbered: "2", compound: "fear_happiness"}.get(lines, "fear"),
            label_column="labels" if suffix == "csv" else "label",
            split_by=split_by,
            name_column="video_name",
            fold=1,
        )
        for dataset, form, media, clips, lines, lists, suffix, split_by in (
            ("mafw", "clips", "clips", as_mp4, single, "Train & Test Set/single/no_caption", "txt", " "),
            ("mafw", "frames", "data/frames", as_png, single, "split/single/no_caption", "txt", " "),
            (
                "mafw",
                "crops",
                "data/frames/frames_crop_align_224",
                as_png,
                numbered,
                "anno/single/no_caption",
                "csv",
                ",",
            ),
            ("mafw", "captions", "data/clips", as_mp4, captioned, "single/with_caption", "txt", "\t"),
            ("mafw_compound", "faces", "data/faces", as_frames, compound, "compound/no_caption", "txt", " "),
        )
    ),
    Tree(
        dataset="voxceleb2",
        form="mp4",
        build=voxceleb2,
        rows=4,
        media="dev/mp4",
        medium="dev/mp4/id00012/abc/00002.mp4",
        bears=("no-media-folder",),
    ),
    Tree(
        dataset="folder",
        form="tree",
        build=folder,
        rows=8,
        media="train",
        medium="train/glad/b.mp4",
        bears=("no-media-folder",),
    ),
    Tree(
        dataset="folder",
        form="table",
        build=table,
        rows=6,
        media="clips",
        medium="clips/2",
        listed="labels.csv",
        line=3,
        name="clips/2",
        label="glad",
        bears=("no-list", "unknown-label"),
    ),
)
