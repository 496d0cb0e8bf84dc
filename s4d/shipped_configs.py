"""The configurations that come with the project: in `configs/` of a checkout, inside this package in a wheel."""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent
_INSIDE = _PACKAGE / "configs"
SHIPPED = _INSIDE if _INSIDE.is_dir() else _PACKAGE.parent / "configs"
# Overrides for rehearsals: every part of a model is there, a step takes milliseconds, nothing is learned.
REHEARSAL_MODEL = (
    "model.embed_dim=32",
    "model.depth=2",
    "model.num_heads=2",
    "model.decoder_embed_dim=32",
    "model.decoder_depth=1",
    "model.image_size=32",
    "model.num_frames=4",
)


def shipped_configs() -> list[Path]:
    """Every configuration file, by task and name."""
    return sorted(SHIPPED.glob("*/*.yaml"))


def shipped_like(path: Path) -> Path | None:
    """The configuration that `path` would name in a checkout, if one of that task and name comes with the project."""
    candidate = SHIPPED.joinpath(*path.parts[-2:])
    return candidate if candidate in shipped_configs() else None


def purpose(path: Path) -> str:
    """The sentence that a configuration begins with: the first paragraph of its opening comment."""
    lines = []
    with path.open(encoding="utf-8") as stream:
        for line in stream:
            text = line.removeprefix("#").strip()
            if not line.startswith("#") or not text:
                break
            lines.append(text)
    return " ".join(lines)
