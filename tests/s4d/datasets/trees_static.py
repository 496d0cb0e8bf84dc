"""Miniatures of the sets of images, and of CAER and CelebV, which have their labels in folders or one JSON file."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path

import av
import numpy as np
from PIL import Image
from tree_case import SIZE, Tree, picture, put, video

AFFECTNET_HEADER = (
    "subDirectory_filePath,face_x,face_y,face_width,face_height,facial_landmarks,expression,valence,arousal"
)
FERPLUS_HEADER = "Usage,Image name,neutral,happiness,surprise,sadness,anger,disgust,fear,contempt,unknown,NF"
FERPLUS_PARTS = {"Training": "FER2013Train", "PublicTest": "FER2013Valid", "PrivateTest": "FER2013Test"}


def landmarks(shift: float = 0.0) -> list[float]:
    """x and y of 68 points with level eyes, to the right and down by `shift`: all within the picture."""
    return [
        value + shift for i in range(68) for value in (i / 4 + 4 * (42 <= i < 48), 10.0 if 36 <= i < 48 else 12 + i / 8)
    ]


def affectnet_lists(classes: int) -> Callable[[Path], None]:
    """The form of the S4D release, with a blank in a file name."""

    def build(root: Path) -> None:
        for split, count in (("train", classes + 1), ("test", classes)):
            lines = []
            for i in range(count):
                name = f"{i}/{split} {i}.jpg"
                put(root / "Manually_Annotated_Images" / name, picture(i if split == "train" else 100 + i))
                lines.append(f"{name} {i % classes}\n")
            put(root / f"{split}_affectnet{classes}.txt", "".join(lines))

    return build


def affectnet_csv(root: Path) -> None:
    """The classic distribution: all eleven codes; one box without extent, one row without points."""
    for name, count in (("training", 22), ("validation", 11)):
        lines = [AFFECTNET_HEADER]
        for i in range(count):
            path = f"{i % 3}/{name}{i:02d}.jpg"
            put(root / "Manually_Annotated_Images" / path, picture(i if name == "training" else 100 + i))
            width = 0 if i == 1 else 30
            points = "" if i == 2 else ";".join(f"{value:g}" for value in landmarks())
            lines.append(f"{path},0,1,{width},31,{points},{i % 11},-0.5,0.25")
        put(root / f"{name}.csv", "\n".join(lines) + "\n")


def affectnet_package(root: Path) -> None:
    """The newer package: codes as text arrays, as numpy writes them; the same numbers in both folders."""
    for folder, count in (("train_set", 22), ("val_set", 11)):
        annotations = root / folder / "annotations"
        annotations.mkdir(parents=True)
        for i in range(count):
            put(root / folder / f"images/{i}.jpg", picture(i if folder == "train_set" else 100 + i))
            np.save(annotations / f"{i}_exp.npy", np.array(str(i % 11)))
            np.save(annotations / f"{i}_val.npy", np.array("-0.5"))
            np.save(annotations / f"{i}_aro.npy", np.array("0.25"))
            np.save(annotations / f"{i}_lnd.npy", np.array(landmarks(1.0)))


def rafdb(*forms: str, base: str = "", names: Sequence[str] = ("list_patition_label.txt",)) -> Callable[[Path], None]:
    """Seven images of each part, aligned or original; the original ones with a box and five points each."""

    def build(root: Path) -> None:
        lines: dict[str, list[str]] = {name: [] for name in names}
        for split in ("train", "test"):
            for i in range(7):
                stem = f"{split}_{i + 1:05d}"
                image = picture(i if split == "train" else 100 + i)
                lines[names[0] if len(names) == 1 else f"{split}_label.txt"].append(f"{stem}.jpg {i + 1}\n")
                if "aligned" in forms:
                    put(root / base / f"Image/aligned/{stem}_aligned.jpg", image)
                if "original" in forms:
                    put(root / base / f"Image/original/{stem}.jpg", image)
                    notes = root / base / "Annotation"
                    put(notes / f"boundingbox/{stem}_boundingbox.txt", f"{i}.2 2.7 20 21.5 \n")
                    points = f"{5 + i}.25\t10\n20\t10\n14\t16\n8\t22\n20\t22\n"
                    put(notes / f"manual/{stem}_manu_attri.txt", f"{points}0\n1\n2\n")
        for name, rows in lines.items():
            put(root / base / "EmoLabel" / name, "".join(rows))

    return build


def ferplus_votes() -> dict[str, list[tuple[str, str]]]:
    """Name and votes of each row by part: every class, a draw, an image of nothing known, one without a face."""
    parts = {}
    for first, part in enumerate(FERPLUS_PARTS):
        rows = []
        for i in range(8):
            votes = [0] * 10
            votes[i], votes[(i + 1) % 8], votes[8] = 6, 3, 1
            rows.append((f"fer{100 * first + i:07d}.png", votes))
        rows.append((f"fer{100 * first + 8:07d}.png", [4, 4, 1, 1, 0, 0, 0, 0, 0, 0]))
        rows.append((f"fer{100 * first + 9:07d}.png", [2, 0, 0, 0, 0, 0, 0, 0, 8, 0]))
        rows.append(("", [0] * 9 + [10]))
        parts[part] = [(name, ",".join(map(str, votes))) for name, votes in rows]
    return parts


def ferplus(media: str = "images", *, exported: bool = True, pixels: bool = False) -> Callable[[Path], None]:
    """The votes, with exported images below `media` or with the pixels as a column of text."""

    def build(root: Path) -> None:
        votes, table = [FERPLUS_HEADER], ["emotion,pixels,Usage"]
        number = 0
        for part, rows in ferplus_votes().items():
            for name, counts in rows:
                votes.append(f"{part},{name},{counts}")
                grey = np.random.default_rng(number).integers(0, 256, (48, 48), dtype=np.uint8)
                table.append(f"0,{' '.join(map(str, grey.ravel()))},{part}")
                number += 1
                if exported and name:
                    stream = io.BytesIO()
                    Image.fromarray(grey).save(stream, "PNG")
                    put(root / media / FERPLUS_PARTS[part] / name, stream.getvalue())
        put(root / "fer2013new.csv", "\n".join(votes) + "\n")
        if pixels:
            put(root / "fer2013.csv", "\n".join(table) + "\n")

    return build


@lru_cache(maxsize=32)
def avi(number: int, width: int = SIZE) -> bytes:
    """A small MPEG-4 clip in an avi file."""
    stream = io.BytesIO()
    with av.open(stream, "w", format="avi") as container:
        track = container.add_stream("mpeg4", rate=25)
        track.width, track.height, track.pix_fmt = width, SIZE, "yuv420p"
        for frame in range(6):
            image = Image.open(io.BytesIO(picture(number + frame))).resize((width, SIZE))
            container.mux(track.encode(av.VideoFrame.from_ndarray(np.asarray(image))))
        container.mux(track.encode())
    return stream.getvalue()


EMOTIONS = ("Anger", "Disgust", "Fear", "Happy", "Neutral", "Sad", "Surprise")


def caer(root: Path) -> None:
    """One scene of each emotion and part, in the folder CAER."""
    for first, split in enumerate(("train", "validation", "test")):
        for number, emotion in enumerate(EMOTIONS):
            put(root / f"CAER/{split}/{emotion}/0001.avi", avi(100 * first + 10 * number, 48))


def caer_s(root: Path) -> None:
    """Two images of each emotion and part; capitals and spellings differ between the parts."""
    tested = ("Angry", "disgust", "FEAR", *EMOTIONS[3:])
    for first, (split, folders) in enumerate((("train", EMOTIONS), ("test", tested))):
        for number, emotion in enumerate(folders):
            for image in (1, 2):
                name = f"{split}/{emotion}/{image:04d}.png"
                put(root / name, picture(100 * first + 10 * number + image, ".png"))


@lru_cache(maxsize=2)
def wide() -> bytes:
    """An mp4 clip that is not square: 64 x 32 pixels."""
    stream = io.BytesIO()
    with av.open(stream, "w", format="mp4") as container:
        track = container.add_stream("libx264", rate=25, options={"threads": "1", "preset": "ultrafast"})
        track.width, track.height = 64, SIZE
        for frame in range(6):
            image = Image.open(io.BytesIO(picture(frame))).resize((64, SIZE))
            container.mux(track.encode(av.VideoFrame.from_ndarray(np.asarray(image))))
        container.mux(track.encode())
    return stream.getvalue()


CELEBV_EMOTIONS = ("neutral", "happy", "sadness", "surprise", "fear", "disgust", "anger", "contempt")


def celebv_hq_info() -> dict[str, object]:
    """Nine clips of three videos, the last of which is not there; the second has three emotions one after the other."""
    clips = {}
    for number, emotion in enumerate((*CELEBV_EMOTIONS, "neutral")):
        labels: object = emotion
        if number == 1:
            labels = [
                {"emotion": "neutral", "start_sec": 0, "end_sec": 1},
                {"emotion": "happy", "start_sec": 1, "end_sec": 3.5},
                {"emotion": "neutral", "start_sec": 3.5, "end_sec": 4},
            ]
        clips[f"-Qx_{number // 3}_{number}"] = {
            "ytb_id": f"-Qx_{number // 3}",
            "duration": {"start_sec": 81.62, "end_sec": 86.17},
            "bbox": {"top": 0.0, "bottom": 0.75, "left": 0.25, "right": 0.5},
            "attributes": {
                "appearance": [0, 1],
                "action": [1],
                "emotion": {"sep_flag": number == 1, "labels": labels},
            },
            "version": "v0.1",
        }
    return {"meta_info": {"appearance_mapping": ["Blurry", "Male"], "action_mapping": ["blow"]}, "clips": clips}


def celebv_hq(root: Path) -> None:
    info = celebv_hq_info()
    put(root / "celebvhq_info.json", json.dumps(info))
    names = list(info["clips"])  # type: ignore[call-overload]
    for number, name in enumerate(names[:-1]):
        put(root / f"processed/{name}.mp4", wide() if number == 2 else video(100 * number))


def celebv_text(root: Path) -> None:
    """Boxes in pixels of the web video; one clip is not cut out around its box."""
    clips = {
        f"0-5BrmyFsYM_{number}": {
            "ytb_id": "0-5BrmyFsYM",
            "duration": {"start_sec": 0.0, "end_sec": 9.64},
            "bbox": {"top": 0, "bottom": 30, "left": 20, "right": 50},
            "version": "v0.1",
        }
        for number in range(4)
    }
    put(root / "celebvtext_info.json", json.dumps({"clips": clips}))
    for number, name in enumerate(clips):
        put(root / f"processed/{name}.mp4", wide() if number == 2 else video(100 * number))


STATIC_TREES: Sequence[Tree] = (
    Tree(
        dataset="affectnet",
        form="lists",
        build=affectnet_lists(7),
        rows=15,
        media="Manually_Annotated_Images",
        medium="Manually_Annotated_Images/2/train 2.jpg",
        listed="train_affectnet7.txt",
        line=3,
        name="2/train 2.jpg",
        label="2",
        split_by=" ",
    ),
    Tree(
        dataset="affectnet8",
        form="csv",
        build=affectnet_csv,
        rows=24,
        media="Manually_Annotated_Images",
        medium="Manually_Annotated_Images/2/training02.jpg",
        listed="training.csv",
        line=4,
        name="2/training02.jpg",
        label="2",
        name_column="subDirectory_filePath",
        label_column="expression",
    ),
    Tree(
        dataset="affectnet",
        form="package",
        build=affectnet_package,
        rows=21,
        media="train_set/images",
        medium="train_set/images/2.jpg",
    ),
    *(
        Tree(
            dataset="rafdb",
            form=form,
            build=rafdb(form, base=base),
            rows=14,
            media=f"{base}Image/{form}",
            medium=f"{base}Image/{form}/train_00002{ending}.jpg",
            listed=f"{base}EmoLabel/list_patition_label.txt",
            line=2,
            name="train_00002.jpg",
            label="2",
            split_by=" ",
            name_column="image",
        )
        for form, base, ending in (("aligned", "basic/", "_aligned"), ("original", "", ""))
    ),
    *(
        Tree(
            dataset=dataset,
            form="exported",
            build=ferplus("data"),
            rows=rows,
            media="data/FER2013Train",
            medium="data/FER2013Train/fer0000002.png",
            listed="fer2013new.csv",
            line=4,
            name="fer0000002.png",
            label="6",
            name_column="Image name",
            label_column="surprise",
        )
        for dataset, rows in (("ferplus", 24), ("ferplus_votes", 30))
    ),
    Tree(dataset="caer", form="avi", build=caer, rows=21, media="CAER/train", medium="CAER/train/Fear/0001.avi"),
    Tree(dataset="caer_s", form="png", build=caer_s, rows=28, media="train", medium="train/Fear/0002.png"),
    Tree(
        dataset="celebv_hq",
        form="processed",
        build=celebv_hq,
        rows=8,
        media="processed",
        medium="processed/-Qx_0_1.mp4",
    ),
    Tree(
        dataset="celebv_text",
        form="processed",
        build=celebv_text,
        rows=4,
        media="processed",
        medium="processed/0-5BrmyFsYM_1.mp4",
    ),
)
