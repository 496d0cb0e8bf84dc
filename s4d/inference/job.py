"""One input from its file to its results: opened, cut out if asked for, judged, written and drawn upon."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import s4d
from s4d.data.crop.finders import Finder
from s4d.data.crop.recipe import CropRecipe, named
from s4d.inference.clip import Clip, open_clip, text_of
from s4d.inference.face_crop import FaceCrop
from s4d.inference.inputs import Input
from s4d.inference.model import S4D, Head
from s4d.inference.prediction import Prediction
from s4d.inference.results import write_results

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """What to do with every input.

    `source` names the head (None: the one for the input's kind). `finder` says where faces are (None: the input is a
    face already) and `recipe` how they are cut (None: as the head's training data was). `window` and `hop` in seconds.
    """

    out: Path
    source: str | None = None
    finder: Finder | None = None
    recipe: CropRecipe | None = None
    no_face: Literal["error", "center"] = "error"
    window: float | None = None
    hop: float | None = None
    annotate: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """What came of an input: the record, what its JSON file says, and all files written."""

    prediction: Prediction
    document: dict[str, Any]
    files: tuple[Path, ...]


class Job:
    """Predicts one input after the other with one model."""

    def __init__(self, model: S4D, request: Request) -> None:
        self.model = model
        self.request = request
        self._warned: set[str] = set()

    def run(self, item: Input, progress: Callable[[int, int], None] = lambda done, total: None) -> Answer:
        """Answer one input; DataError says in one line why there is no answer."""
        request = self.request
        clip = open_clip(item.path, name=item.name, kind=item.kind, order=self.model.order)
        head = self.model.head_for(clip, request.source)
        recipe = self._recipe(head)
        crop: dict[str, Any] | None = None
        with tempfile.TemporaryDirectory(prefix="s4d-crop-") as folder:
            shown = clip
            if recipe is not None and request.finder is not None:
                cutter = FaceCrop(finder=request.finder, recipe=recipe, no_face=request.no_face)
                path, has_face = cutter.cut(item.path, clip.kind, item.name, Path(folder))
                shown = open_clip(path, name=item.name, kind=clip.kind)
                crop = {"recipe": recipe.recipe_id, "faces": request.finder.origin, "face_found": has_face}
            prediction = self.model.predict_clip(shown, head, window=request.window, hop=request.hop, progress=progress)
        prediction = replace(prediction, size=clip.size, turned=any(clip.orientation))
        document = {
            "input": text_of(item.path),
            "checkpoint": text_of(self.model.trained.folder),
            "version": s4d.__version__,
            "crop": crop,
            **prediction.to_dict(),
        }
        target = request.out / item.target
        files = write_results(prediction, document, item.name, target)
        if request.annotate:
            files.append(_annotate(clip, prediction, target))
        return Answer(prediction=prediction, document=document, files=tuple(files))

    def _recipe(self, head: Head) -> CropRecipe | None:
        """How faces are cut for a head; None where they are not. A line where that is not as it was trained."""
        request = self.request
        trained = (self.model.trained.described.get("crop") or {}).get(head.source, "")
        if request.finder is None:
            if trained:
                self._warn(f"head {head.source}: trained on faces cut out as {trained}, inputs are taken as they are")
            return None
        if request.recipe is None:
            if not trained:
                self._warn(f"head {head.source}: does not know how its faces were cut; taking the usual recipe")
            return named(trained) if trained else CropRecipe()
        if trained and request.recipe.recipe_id != trained:
            self._warn(f"head {head.source}: trained on faces cut out as {trained}, not {request.recipe.recipe_id}")
        return request.recipe

    def _warn(self, line: str) -> None:
        if line not in self._warned:
            self._warned.add(line)
            logger.warning("%s (see --crop)", line)


def _annotate(clip: Clip, prediction: Prediction, target: Path) -> Path:
    from s4d.inference.annotate import annotate_image, annotate_video

    still = clip.kind == "image"
    path = target.with_name(f"{target.name}.annotated{'.png' if still else '.mp4'}")
    (annotate_image if still else annotate_video)(clip, prediction, path)
    return path
