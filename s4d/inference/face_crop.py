"""Faces cut out of an input before a model sees it, by the code that cuts out those of training data."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from s4d.data.crop.cutting import CropJob, Cropper
from s4d.data.crop.finders import Finder
from s4d.data.crop.media_files import VIDEO_SUFFIX
from s4d.data.crop.recipe import CropRecipe
from s4d.data.manifest import Kind


@dataclass(frozen=True, kw_only=True, slots=True)
class FaceCrop:
    """How faces are found and cut. `no_face` center takes the middle of the frame where there is none."""

    finder: Finder
    recipe: CropRecipe
    no_face: Literal["error", "center"] = "error"

    def cut(self, path: Path, kind: Kind, name: str, folder: Path) -> tuple[Path, bool]:
        """The crop of an upright input, a file or folder of frames in `folder`, and whether a face was found.

        `name` is the input's own in a table of boxes, as are its path and its file's name. DataError for an input or a
        box that is wrong, and for an input without a face where that is an error.
        """
        target = {"image": f"crop{self.recipe.suffix}", "video": f"crop{VIDEO_SUFFIX}", "frames": "crop"}[kind]
        job = CropJob(
            names=tuple(dict.fromkeys((name, str(path), path.name))),
            path=path,
            kind=kind,
            face=None,
            target=target,
            where=str(path),
        )
        cropper = Cropper(
            jobs=(job,),
            recipe=self.recipe,
            finder=self.finder,
            out=folder,
            aside=folder / ".unfinished",
            no_face=self.no_face,
            upright=True,
        )
        return folder / target, cropper[0].status == "face"
