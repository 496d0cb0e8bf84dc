"""Who and what every sample shows, and to which side of a split it belongs."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from s4d.synth.action_units import CLASSES, express
from s4d.synth.dynamics import perform
from s4d.synth.identity import Identity, sample_identity
from s4d.synth.landmarks import POINT_COLUMNS, face_points
from s4d.synth.render import Face, render
from s4d.synth.scene import Scene, sample_pose, sample_scene
from s4d.synth.streams import normal, stream, uniform

NUM_FOLDS = 5
CLIP_FRAMES = 24
PRETRAIN_FRAMES = 32


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """Everything that determines the generated data."""

    clips: int
    images: int
    identities: int
    pretrain_clips: int
    seed: int
    size: int

    def __post_init__(self) -> None:
        for name, low in (("clips", 0), ("images", 0), ("identities", NUM_FOLDS), ("pretrain_clips", 0), ("seed", 0)):
            if getattr(self, name) < low:
                raise ValueError(f"{name}: expected at least {low}, got {getattr(self, name)}")
        if self.size < 32 or self.size % 2:
            raise ValueError(f"size: expected an even number of pixels from 32 on, got {self.size}")

    def label(self, index: int) -> str:
        """Class of image or clip `index`; all classes are equally frequent."""
        return CLASSES[index % len(CLASSES)]

    def person(self, index: int) -> int:
        """Identity of image or clip `index`; everybody shows every class."""
        return index // len(CLASSES) % self.identities

    def training_person(self, index: int) -> int:
        """Identity of pre-training clip `index`: never one of the first test fold."""
        seen = [person for person in range(self.identities) if fold_of(person) != 1]
        return seen[index % len(seen)]


def identity_table(people: dict[str, int]) -> str:
    """Text of an `identities.csv`: the person of each sample, named as in the pre-training tree."""
    return "sample,identity\n" + "".join(f"{sample},id{person + 1:05d}\n" for sample, person in people.items())


def fold_of(person: int) -> int:
    """Fold (1 to 5) that tests on a person. The image test set and fold 1 share their people."""
    return person % NUM_FOLDS + 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Take:
    """A clip before it is drawn: who, where, and the face in every frame."""

    identity: Identity
    scene: Scene
    faces: tuple[Face, ...]

    def draw(self, rng: np.random.Generator) -> list[np.ndarray]:
        """Render the frames, (size, size, 3) uint8 each; `rng` feeds the sensor noise only."""
        size = self.scene.background.shape[-1]
        return [render(self.identity, self.scene, face, size=size, rng=rng) for face in self.faces]

    def points(self) -> list[tuple[float, ...]]:
        """Where eyes, nose and mouth corners of each frame are, in its pixels."""
        size = self.scene.background.shape[-1]
        return [face_points(self.identity, face, size) for face in self.faces]


def stage_image(plan: Plan, index: int, rng: np.random.Generator) -> Take:
    """Picture `index` up to the drawing."""
    units = express(plan.label(index), rng, intensity=uniform(rng, 0.65, 1.15), asymmetry=0.12)
    face = Face(units=units, pose=sample_pose(rng), gaze=(normal(rng, 0.4), normal(rng, 0.3)))
    identity = sample_identity(plan.seed, plan.person(index))
    return Take(identity=identity, scene=sample_scene(rng, plan.size), faces=(face,))


def render_image(plan: Plan, index: int) -> tuple[np.ndarray, int]:
    """Picture `index`: (size, size, 3) uint8 and its JPEG quality."""
    rng = stream(plan.seed, "image", index)
    take = stage_image(plan, index, rng)
    return take.draw(rng)[0], take.scene.quality


def stage_clip(plan: Plan, index: int, rng: np.random.Generator) -> Take:
    """Labelled clip `index` up to the drawing."""
    faces = perform(plan.label(index), CLIP_FRAMES, rng)
    identity = sample_identity(plan.seed, plan.person(index))
    return Take(identity=identity, scene=sample_scene(rng, plan.size), faces=faces)


def render_clip(plan: Plan, index: int) -> tuple[list[np.ndarray], int]:
    """Labelled clip `index`: its frames, (size, size, 3) uint8 each, and their JPEG quality."""
    rng = stream(plan.seed, "clip", index)
    take = stage_clip(plan, index, rng)
    return take.draw(rng), take.scene.quality


def stage_pretrain(plan: Plan, index: int, rng: np.random.Generator) -> Take:
    """Unlabelled clip `index` up to the drawing."""
    faces = perform(CLASSES[int(rng.integers(len(CLASSES)))], PRETRAIN_FRAMES, rng)
    identity = sample_identity(plan.seed, plan.training_person(index))
    return Take(identity=identity, scene=sample_scene(rng, plan.size), faces=faces)


def render_pretrain(plan: Plan, index: int) -> list[np.ndarray]:
    """Unlabelled clip `index` of a training person in any mood."""
    rng = stream(plan.seed, "pretrain", index)
    return stage_pretrain(plan, index, rng).draw(rng)


# Where a sample is known by its kind: the purpose of its draws and what stages it.
STAGES: dict[str, Callable[[Plan, int, np.random.Generator], Take]] = {
    "image": stage_image,
    "clip": stage_clip,
    "pretrain": stage_pretrain,
}


def face_table(plan: Plan, kind: str, names: Iterable[str]) -> str:
    """Text of a `faces.csv`: the points of every frame of the samples of one kind, as `s4d data crop --boxes` reads."""
    lines = [",".join(("sample", "frame", *POINT_COLUMNS)) + "\n"]
    for index, name in enumerate(names):
        take = STAGES[kind](plan, index, stream(plan.seed, kind, index))
        for frame, points in enumerate(take.points()):
            lines.append(",".join((name, str(frame), *(f"{value:.2f}" for value in points))) + "\n")
    return "".join(lines)
