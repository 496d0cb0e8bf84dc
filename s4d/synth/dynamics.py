"""How an expression runs over a clip: onset, apex and offset of each class, head motion, blink and speech."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from s4d.synth.action_units import CLASSES, COLUMN, UNITS, express
from s4d.synth.render import Face
from s4d.synth.scene import Pose, sample_pose
from s4d.synth.streams import normal, uniform

Span = tuple[float, float]


@dataclass(frozen=True, kw_only=True, slots=True)
class Profile:
    """Temporal signature of a class; times as parts of the clip, head motion reached at the apex."""

    onset: Span
    hold: Span
    offset: Span
    tremor: float = 0.0
    nod: float = 0.0
    droop: float = 0.0
    approach: float = 0.0
    turn: float = 0.0
    bounce: float = 0.0
    rival: str = "neutral"

    def __post_init__(self) -> None:
        for name in ("onset", "hold", "offset"):
            low, high = getattr(self, name)
            if not 0.0 <= low <= high:
                raise ValueError(f"{name}: expected 0 <= low <= high, got ({low}, {high})")


HELD: Span = (0.35, 0.60)

# Rivals share much of the apex and differ in time: surprise flashes up and fades while fear stays and trembles;
# disgust recoils at once while anger builds up and leans in; a smile or a sad face comes slowly, whereas the
# resting face of a neutral speaker may look the same but was there from the first frame.
PROFILES: dict[str, Profile] = {
    "neutral": Profile(onset=(0.2, 0.3), hold=(0.2, 0.4), offset=(0.2, 0.3)),
    "happiness": Profile(onset=(0.22, 0.35), hold=HELD, offset=(0.2, 0.3), bounce=0.03),
    "sadness": Profile(onset=(0.30, 0.45), hold=HELD, offset=(0.2, 0.3), droop=0.09, nod=0.16),
    "surprise": Profile(
        onset=(0.05, 0.10), hold=(0.12, 0.22), offset=(0.10, 0.20), nod=-0.14, approach=-0.05, rival="fear"
    ),
    "fear": Profile(onset=(0.14, 0.24), hold=HELD, offset=(0.2, 0.3), tremor=0.022, approach=-0.03, rival="surprise"),
    "disgust": Profile(
        onset=(0.06, 0.12), hold=(0.15, 0.25), offset=(0.12, 0.22), approach=-0.10, turn=0.20, rival="anger"
    ),
    "anger": Profile(onset=(0.40, 0.60), hold=HELD, offset=(0.2, 0.3), nod=0.14, approach=0.08, rival="disgust"),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Difficulty:
    """How much a single frame of a clip misleads."""

    intensity: Span = (0.85, 1.20)
    rival_share: Span = (0.0, 0.20)
    mimicry: Span = (0.0, 0.30)
    neutral_mimicry: Span = (0.0, 0.40)


CLIP_DIFFICULTY = Difficulty()


def _smooth(x: np.ndarray) -> np.ndarray:
    x = np.clip(x, 0.0, 1.0)
    return x * x * (3.0 - 2.0 * x)


def envelope(profile: Profile, times: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Activation 0..1 over `times` (0..1): random late start, then onset, hold and offset of the class."""
    onset, hold, offset = (uniform(rng, *span) for span in (profile.onset, profile.hold, profile.offset))
    latest = 1.0 - onset - min(hold + offset, 0.20)
    start = uniform(rng, 0.10, max(latest, 0.12))
    rise = _smooth((times - start) / onset)
    return rise * (1.0 - _smooth((times - start - onset - hold) / offset))


def _speech(rng: np.random.Generator, times: np.ndarray, share: float) -> np.ndarray:
    """Units 25, 26 and 18 of a talking mouth over time, shape (3, frames); zero for a silent clip."""
    talks, loud = rng.uniform() < share, uniform(rng, 0.25, 0.75)
    rate, phase = uniform(rng, 3.0, 7.0), uniform(rng, 0.0, 2 * math.pi)
    begin, length = uniform(rng, -0.2, 0.6), uniform(rng, 0.3, 0.9)
    gate = _smooth((times - begin) / 0.08) * (1.0 - _smooth((times - begin - length) / 0.08))
    wave = np.sin(2 * math.pi * rate * times + phase)
    accent = 0.5 + 0.5 * np.sin(2 * math.pi * 0.37 * rate * times + 2.0 * phase)
    opening = gate * np.maximum(wave, 0.0) * (0.4 + 0.6 * accent) * loud
    pucker = gate * np.maximum(-wave, 0.0) * accent * loud
    return np.stack([opening, 0.7 * opening, pucker]) * (1.0 if talks else 0.0)


def _blinks(rng: np.random.Generator, times: np.ndarray) -> np.ndarray:
    closed = np.zeros_like(times)
    moments, count = rng.uniform(0.0, 1.0, 2), int(rng.integers(0, 3))
    for moment in moments[:count]:
        closed = np.maximum(closed, 1.0 - np.abs(times - moment) / 0.06)
    return np.clip(1.5 * closed, 0.0, 1.0)


def _unit_track(label: str, active: np.ndarray, rng: np.random.Generator, hard: Difficulty) -> np.ndarray:
    """Activations over time without blink and speech, (frames, 2, units)."""
    intensity, mixed = uniform(rng, *hard.intensity), uniform(rng, *hard.rival_share)
    own = express(label, rng, intensity=intensity, asymmetry=0.10)
    rival = PROFILES[label].rival
    other = express(rival, rng, intensity=intensity, asymmetry=0.10)
    apex = own if rival == "neutral" else (1.0 - mixed) * own + mixed * other
    mask = CLASSES[int(rng.integers(len(CLASSES)))]
    strength = uniform(rng, *(hard.neutral_mimicry if label == "neutral" else hard.mimicry))
    resting = express(mask, rng, intensity=strength, asymmetry=0.10)
    # An open mouth is an event, not a habit: the resting face keeps the jaw nearly closed.
    resting[:, COLUMN[26]] *= 0.4
    # Where the habit already uses a unit, the expression has less way to go.
    return (resting + active[:, None, None] * apex * (1.0 - 0.35 * np.minimum(resting, 1.0))).astype(np.float32)


def _head_track(
    profile: Profile, active: np.ndarray, times: np.ndarray, rng: np.random.Generator, base: Pose
) -> list[Pose]:
    """Slow sway of every head plus the motion that goes with the expression."""
    frequency, phase = rng.uniform(0.3, 1.1, 6), rng.uniform(0.0, 2 * math.pi, 6)
    sway = np.sin(2 * math.pi * frequency[:, None] * times + phase[:, None]) - np.sin(phase)[:, None]
    amount = np.array([0.03, 0.03, 0.02, 0.08, 0.06, 0.05])[:, None] * rng.uniform(0.2, 1.0, (6, 1))
    x, y, scale, yaw, pitch, roll = sway * amount
    strength, side = uniform(rng, 0.7, 1.2), 1.0 if rng.uniform() < 0.5 else -1.0
    shake = rng.standard_normal((2, times.size)) * profile.tremor * active
    bounce = profile.bounce * np.sin(2 * math.pi * 4.0 * times + phase[0]) * active
    moved = strength * active
    x, y = x + shake[0], y + shake[1] + moved * profile.droop + bounce
    scale = base.scale * (1.0 + moved * profile.approach) + scale
    pitch, yaw = pitch + moved * profile.nod, yaw + moved * profile.turn * side
    return [
        replace(
            base,
            x=base.x + float(x[i]),
            y=base.y + float(y[i]),
            scale=float(scale[i]),
            yaw=base.yaw + float(yaw[i]),
            pitch=base.pitch + float(pitch[i]),
            roll=base.roll + float(roll[i]),
        )
        for i in range(times.size)
    ]


def perform(
    label: str, frames: int, rng: np.random.Generator, *, hard: Difficulty = CLIP_DIFFICULTY
) -> tuple[Face, ...]:
    """Play one expression of a class over `frames` frames."""
    profile = PROFILES[label]
    times = (np.arange(frames) + 0.5) / frames
    active = envelope(profile, times, rng) * (label != "neutral")
    trembling = 1.0 + 0.25 * (profile.tremor > 0) * rng.standard_normal(frames)
    units = _unit_track(label, active * np.clip(trembling, 0.6, 1.2), rng, hard)
    speech = _speech(rng, times, 0.85 if label == "neutral" else 0.35)
    for unit, track in zip((25, 26, 18), speech, strict=True):
        units[:, :, COLUMN[unit]] += track[:, None].astype(np.float32)
    units[:, :, COLUMN[43]] = np.maximum(units[:, :, COLUMN[43]], _blinks(rng, times)[:, None])
    poses = _head_track(profile, active, times, rng, sample_pose(rng))
    gaze = normal(rng, 0.4), normal(rng, 0.3)
    assert units.shape == (frames, 2, len(UNITS))
    return tuple(Face(units=units[i], pose=poses[i], gaze=gaze) for i in range(frames))
