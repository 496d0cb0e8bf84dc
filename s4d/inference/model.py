"""`S4D.from_pretrained(path).predict(frames)`: a trained classifier in a few lines of Python."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from s4d.analysis.predictions import mean_over_views, view_probabilities
from s4d.data.draw_sample import EvalView
from s4d.data.draws import SampleDraw
from s4d.data.input_recipe import InputRecipe, input_recipe
from s4d.errors import DataError, UsageError
from s4d.inference.clip import Clip, clip_of, open_clip
from s4d.inference.packed_views import pack_views
from s4d.inference.prediction import Prediction, Window, plan_windows
from s4d.inference.views import stream_views
from s4d.models.classifier import ClassifierOutput
from s4d.models.folder import CONFIG_FILE
from s4d.models.trained import TrainedModel, load_trained

# Views in one forward; those of images have a fraction of the tokens.
BATCH = {"image": 32, "video": 8}
# Frames of a clip that a head for images looks at to judge the whole, and how often it looks over time.
FRAMES_OF_CLIP = 8
IMAGE_HOP_SECONDS = 0.5
USUAL_FPS = 25.0
# Of one clip: far beyond any evaluation, and few enough to be listed.
MOST_VIEWS = 1 << 12


@dataclass(frozen=True, kw_only=True, slots=True)
class Head:
    """One of a model's heads: the source it was trained on, its classes in order, and what it takes."""

    source: str
    classes: tuple[str, ...]
    recipe: InputRecipe

    def whole(self, clip: Clip) -> list[EvalView]:
        """Views that judge a clip or picture as a whole, whatever the head was trained on."""
        if self.recipe.modality == "image" and clip.frame_count > 1:
            return [EvalView(temporal=(i, FRAMES_OF_CLIP), repeated=True) for i in range(FRAMES_OF_CLIP)]
        return self.recipe.views


class S4D:
    """A fine-tuned classifier, ready to predict.

    `heads` has the source that each head was trained on, its classes and its input.
    """

    def __init__(self, trained: TrainedModel) -> None:
        self.trained = trained
        recipes = recipes_of(trained)
        self.heads = {
            name: Head(source=name, classes=classes, recipe=recipes[name]) for name, classes in trained.classes.items()
        }
        self._device = next(trained.module.parameters()).device

    @classmethod
    def from_pretrained(
        cls, path: Path | str, device: torch.device | str | None = None, pointer: str = "latest"
    ) -> S4D:
        """The model of a run, checkpoint or model folder; on a GPU if there is one. DataError says what is wrong."""
        chosen = device if device is not None else "cuda" if torch.cuda.is_available() else "cpu"
        return cls(load_trained(Path(path), device=chosen, pointer=pointer))

    def predict(
        self,
        frames: Any,
        source: str | None = None,
        fps: float | None = None,
        *,
        window: float | None = None,
        hop: float | None = None,
    ) -> Prediction:
        """What `frames` show: uint8 (F, H, W, 3) or (H, W, 3) in RGB, or the path of a picture, video or frame folder.

        `source` names the head; left out, it is the one for clips or for pictures. `fps` gives the times of an array's
        frames, a file has its own. `window` and `hop` are the length and distance of the windows in seconds; left out,
        a window is as long as the clips that the head was trained on, and starts in the middle of the one before.
        """
        clip = self._clip(frames, fps)
        return self.predict_clip(clip, self.head_for(clip, source), window=window, hop=hop)

    def features(self, frames: Any, source: str | None = None) -> NDArray[np.float32]:
        """What the heads see of `frames`, (width,): the encoder's pooled features, the mean over the same views."""
        clip = self._clip(frames, None)
        head = self.head_for(clip, source)
        draws = head.recipe.draws(clip.name, head.whole(clip), frame_count=clip.frame_count, size=clip.size)
        mean: NDArray[np.float32] = np.stack([features for _, _, features in self._forward(clip, head, draws)]).mean(0)
        return mean

    def head_for(self, clip: Clip, source: str | None = None) -> Head:
        """The head named `source`, or the only one for the clip's modality, or the only one there is."""
        if source is not None:
            if source not in self.heads:
                raise UsageError(f"source: the model has no head {source!r} (heads: {', '.join(self.heads)})")
            return self.heads[source]
        modality = "image" if clip.kind == "image" else "video"
        fitting = [head for head in self.heads.values() if head.recipe.modality == modality]
        fitting = fitting or list(self.heads.values())
        if len(fitting) > 1:
            raise UsageError(f"source: choose one of the heads {', '.join(head.source for head in fitting)}")
        return fitting[0]

    def predict_clip(
        self,
        clip: Clip,
        head: Head,
        *,
        window: float | None = None,
        hop: float | None = None,
        progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> Prediction:
        """`predict` of an opened clip by one of the heads; `progress` is told the views done and of all."""
        whole = head.recipe.draws(clip.name, head.whole(clip), frame_count=clip.frame_count, size=clip.size)
        spans = [] if clip.kind == "image" else window_spans(clip, head.recipe, window, hop)
        parts = [draw for first, last in spans for draw in _window_draws(clip, head.recipe, first, last)]
        logits = np.empty((len(whole) + len(parts), len(head.classes)))
        for done, (place, values, _) in enumerate(self._forward(clip, head, [*whole, *parts]), start=1):
            logits[place] = values
            progress(done, len(logits))
        if not np.isfinite(logits).all():
            raise DataError(f"{self.trained.folder}: the model's answer to {clip.name or 'the frames'} is not finite")
        views = view_probabilities(logits[None])[0]
        windows = []
        if spans:
            shown = view_probabilities(logits[len(whole) :].reshape(len(spans), -1, len(head.classes)))
            windows = [
                Window(
                    first=first,
                    last=last,
                    start=clip.seconds(first),
                    end=clip.seconds(last + 1),
                    probabilities=probabilities,
                )
                for (first, last), probabilities in zip(spans, mean_over_views(shown), strict=True)
            ]
        return Prediction(
            source=head.source,
            modality=head.recipe.modality,
            classes=head.classes,
            views=views[: len(whole)],
            windows=tuple(windows),
            frame_count=clip.frame_count,
            fps=clip.fps,
            size=clip.size,
            turned=any(clip.orientation),
        )

    def _clip(self, frames: Any, fps: float | None) -> Clip:
        if not isinstance(frames, str | Path):
            return clip_of(frames, fps)
        if fps is not None:
            raise UsageError("fps: belongs to frames in memory; a file has its own")
        return open_clip(Path(frames), order=self.order)

    @property
    def order(self) -> str:
        """How the frame files of a folder are ordered; one rule for all heads of a run."""
        return next(iter(self.heads.values())).recipe.order

    def _forward(
        self, clip: Clip, head: Head, draws: Sequence[SampleDraw]
    ) -> Iterator[tuple[int, NDArray[np.float64], NDArray[np.float32]]]:
        """(place in `draws`, logits (K,), features (D,)) of each view, in the order in which they are read."""
        modality, size = head.recipe.modality, head.recipe.image_size
        waiting: list[tuple[int, NDArray[np.uint8]]] = []
        for item in stream_views(clip, draws, size, small_decode=head.recipe.small_decode):
            waiting.append(item)
            if len(waiting) == BATCH[modality]:
                yield from self._run(head, draws, waiting)
                waiting = []
        if waiting:
            yield from self._run(head, draws, waiting)

    def _run(
        self, head: Head, draws: Sequence[SampleDraw], waiting: Sequence[tuple[int, NDArray[np.uint8]]]
    ) -> Iterator[tuple[int, NDArray[np.float64], NDArray[np.float32]]]:
        places = [place for place, _ in waiting]
        batch = pack_views(
            [pixels for _, pixels in waiting],
            [draws[place].noise_key for place in places],
            modality=head.recipe.modality,
            arch=self.trained.arch,
            seed=head.recipe.seed,
        )
        with torch.no_grad():
            output: ClassifierOutput = self.trained.module(batch.to(self._device))
        logits = output.logits[head.source].to(torch.float64).cpu().numpy()
        features = output.features.to(torch.float32).cpu().numpy()
        yield from zip(places, logits, features, strict=True)


def recipes_of(trained: TrainedModel) -> dict[str, InputRecipe]:
    """What each head takes, from the folder itself or, where it was written before it said so, from its run."""
    inputs = trained.described.get("inputs")
    found: dict[str, InputRecipe] = {}
    if isinstance(inputs, Mapping):
        for name in trained.classes:
            try:
                found[name] = InputRecipe.from_dict(inputs[name])
            except (ValueError, TypeError) as error:
                raise DataError(f"{trained.folder / CONFIG_FILE}: field 'inputs.{name}': {error}") from error
    elif trained.run_config is not None:
        from s4d.config import load

        config = load(trained.run_config, ["model.init_from=null"])
        found = {source.name: input_recipe(config, source) for source in config.data.sources}
    for name, recipe in found.items():
        arch = trained.arch
        if recipe.temporal_views * recipe.spatial_views > MOST_VIEWS:
            raise DataError(f"{trained.folder / CONFIG_FILE}: field 'inputs.{name}': more than {MOST_VIEWS} views")
        frames = 1 if recipe.modality == "image" else arch.num_frames
        if (recipe.image_size, recipe.num_frames) != (arch.image_size, frames):
            raise DataError(
                f"{trained.folder / CONFIG_FILE}: field 'inputs.{name}': {recipe.num_frames} frames of "
                f"{recipe.image_size} pixels, but the architecture takes {frames} of {arch.image_size}"
            )
    return found


def window_spans(clip: Clip, recipe: InputRecipe, window: float | None, hop: float | None) -> Sequence[tuple[int, int]]:
    """First and last frames of the windows over a clip; UsageError for lengths that cannot be."""
    for name, value in (("window", window), ("hop", hop)):
        if value is not None and not 0 < value < float("inf"):
            raise UsageError(f"{name}: expected seconds above 0, got {value!r}")
        if value is not None and clip.fps is None and clip.kind != "frames":
            raise UsageError(f"{name}: the frames have no times; give fps")
    fps = clip.fps or USUAL_FPS
    length = recipe.num_frames * recipe.stride if window is None else max(1, round(window * fps))
    if hop is not None:
        step = max(1, round(hop * fps))
    elif recipe.modality == "image" and window is None:
        step = max(1, round(IMAGE_HOP_SECONDS * fps))
    else:
        step = max(1, length // 2)
    return plan_windows(clip.frame_count, length, step)


def _window_draws(clip: Clip, recipe: InputRecipe, first: int, last: int) -> list[SampleDraw]:
    """The views of one window: as those of a clip of its own with one temporal view."""
    spatial = recipe.spatial_views
    views = [EvalView(spatial=(number, spatial)) for number in range(spatial)]
    draws = recipe.draws(f"{clip.name}@{first}", views, frame_count=last - first + 1, size=clip.size)
    return [replace(draw, frame_indices=tuple(index + first for index in draw.frame_indices)) for draw in draws]
