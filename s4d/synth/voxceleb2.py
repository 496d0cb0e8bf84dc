"""VoxCeleb2's layout: unlabelled H.264 face clips by person and source video."""

from __future__ import annotations

import base64
from pathlib import Path

import av
import numpy as np

from s4d.synth.recipe import Plan, face_table, render_pretrain
from s4d.synth.streams import name_digest

FOLDER = "voxceleb2"
FRAMES_PER_SECOND = 25


def clip_path(plan: Plan, index: int) -> str:
    """Path of clip `index` relative to the dataset's root: person, 11-character video id, utterance."""
    digest = bytes.fromhex(name_digest(plan.seed, "pretrain", index))
    video = base64.urlsafe_b64encode(digest)[:11].decode("ascii")
    return f"dev/mp4/id{plan.training_person(index) + 1:05d}/{video}/00001.mp4"


def encode_video(path: Path, frames: list[np.ndarray]) -> None:
    """Encode frames (height, width, 3) uint8 as H.264; one thread, since the bit stream depends on their number."""
    height, width, _ = frames[0].shape
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=FRAMES_PER_SECOND)
        video.width, video.height, video.pix_fmt = width, height, "yuv420p"
        video.options = {"preset": "veryfast", "crf": "20", "threads": "1"}
        for frame in frames:
            container.mux(video.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(video.encode(None))


def write_clip(root: Path, plan: Plan, index: int) -> int:
    """Render and store clip `index`; returns its number of frames."""
    frames = render_pretrain(plan, index)
    path = root / FOLDER / clip_path(plan, index)
    path.parent.mkdir(parents=True, exist_ok=True)
    encode_video(path, frames)
    return len(frames)


def write_faces(root: Path, plan: Plan) -> None:
    """Write `faces.csv`, the points of every frame."""
    (root / FOLDER).mkdir(parents=True, exist_ok=True)
    names = [clip_path(plan, index) for index in range(plan.pretrain_clips)]
    (root / FOLDER / "faces.csv").write_text(face_table(plan, "pretrain", names), encoding="utf-8")
