"""What a crop looks like: one record with a stable name, kept in manifests and checkpoints."""

from __future__ import annotations

import re
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, get_args

from s4d.errors import UsageError

Align = Literal["eyes", "points", "none"]
Per = Literal["frame", "clip"]
Edge = Literal["reflect", "black"]

MIN_SIZE, MAX_SIZE = 16, 1024
MAX_MARGIN = 2.0
MAX_SMOOTH = 99
IMAGE_FORMAT = re.compile(r"png|jpg([1-9]\d?|100)")
ID = re.compile(
    r"(?P<align>[a-z]+)-(?P<size>\d+)-m(?P<margin>[\d.]+)-e(?P<eye_line>[\d.]+)"
    r"-(?P<per>[a-z]+)-w(?P<smooth>\d+)-(?P<edge>[a-z]+)-(?P<image_format>[a-z\d]+)"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class CropRecipe:
    """Geometry and storage of a crop.

    `align`: turn, scale and shift the face so that its eyes (or all five points) lie where they belong; `none` takes a
    square around the box. `margin` is added on every side, as a part of the face's side. `eye_line` is the height of
    the eyes from the top, as a part of the crop's height (no use with `none`). `per`: one crop follows the face from
    frame to frame, or one stands still over a clip. `smooth` is the width in frames of the running median over a face's
    track. `edge` fills what lies outside of the frame. `image_format` is `png` or `jpg` with its quality.
    """

    align: Align = "eyes"
    size: int = 224
    margin: float = 0.15
    eye_line: float = 0.4
    per: Per = "frame"
    smooth: int = 5
    edge: Edge = "black"
    image_format: str = "jpg95"

    def __post_init__(self) -> None:
        for name, choices in (("align", Align), ("per", Per), ("edge", Edge)):
            if getattr(self, name) not in get_args(choices):
                raise UsageError(f"crop recipe: {name}: expected {', '.join(get_args(choices))}, not {self._got(name)}")
        if not MIN_SIZE <= self.size <= MAX_SIZE or self.size % 2:
            raise UsageError(
                f"crop recipe: size: expected an even number from {MIN_SIZE} to {MAX_SIZE}, not {self._got('size')}"
            )
        if not 0.0 <= self.margin <= MAX_MARGIN:
            raise UsageError(f"crop recipe: margin: expected 0 to {MAX_MARGIN:g}, not {self._got('margin')}")
        if not 0.0 < self.eye_line < 1.0:
            raise UsageError(f"crop recipe: eye_line: expected a part of the height, not {self._got('eye_line')}")
        if not 1 <= self.smooth <= MAX_SMOOTH or self.smooth % 2 == 0:
            raise UsageError(
                f"crop recipe: smooth: expected an odd number from 1 to {MAX_SMOOTH}, not {self._got('smooth')}"
            )
        if not IMAGE_FORMAT.fullmatch(self.image_format):
            raise UsageError(f"crop recipe: image_format: expected png or jpg1 to jpg100, not {self.image_format!r}")
        # What the name rounds must not differ between two recipes of one name.
        for name in ("margin", "eye_line"):
            object.__setattr__(self, name, round(getattr(self, name), 4))

    def _got(self, name: str) -> str:
        return repr(getattr(self, name))

    @property
    def recipe_id(self) -> str:
        """Name that says everything, such as `eyes-224-m0.15-e0.4-frame-w5-black-jpg95`; `named` reads it back."""
        return (
            f"{self.align}-{self.size}-m{self.margin:g}-e{self.eye_line:g}"
            f"-{self.per}-w{self.smooth}-{self.edge}-{self.image_format}"
        )

    @property
    def suffix(self) -> str:
        """Suffix of the image files it writes."""
        return ".png" if self.image_format == "png" else ".jpg"

    @property
    def quality(self) -> int | None:
        """JPEG quality; None for PNG."""
        return None if self.image_format == "png" else int(self.image_format[3:])


RECIPES: dict[str, CropRecipe] = {
    "eyes": CropRecipe(),
    "points": CropRecipe(align="points"),
    "box": CropRecipe(align="none", per="clip"),
}


def build_recipe(name: str, **changes: Any) -> CropRecipe:
    """A recipe of the table or a recipe's id, with every change that is not None; UsageError for what cannot be."""
    recipe = named(name)
    return replace(recipe, **{field: value for field, value in changes.items() if value is not None})


def named(name: str) -> CropRecipe:
    """The recipe of a name of the table or of an id."""
    if name in RECIPES:
        return RECIPES[name]
    match = ID.fullmatch(name)
    if match is None:
        raise UsageError(
            f"crop recipe {name!r}: expected {', '.join(RECIPES)} or an id such as {CropRecipe().recipe_id}"
        )
    kinds: dict[str, type] = {"size": int, "smooth": int, "margin": float, "eye_line": float}
    values: dict[str, Any] = {}
    for field in fields(CropRecipe):
        text = match[field.name]
        try:
            values[field.name] = kinds.get(field.name, str)(text)
        except ValueError as error:
            raise UsageError(f"crop recipe {name!r}: {field.name}: cannot read {text!r}") from error
    return CropRecipe(**values)
