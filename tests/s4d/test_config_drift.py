"""Every field of a configuration is known to whoever continues a run, and only those that say so may change."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import BaseModel, Field

from s4d.config import Config, load
from s4d.config_drift import may_change, settings
from s4d.config_section import FREE, Section, alike

ROOT = Path(__file__).resolve().parents[2]


class Inner(Section):
    plain: int = 1
    free: int = Field(default=2, json_schema_extra=FREE)


class Outer(Section):
    needed: str
    some: str = Field(default="a", json_schema_extra=alike("a", "b"))
    pair: tuple[float, float] = (0.0, 1.0)
    table: dict[str, int] = Field(default={})
    inner: Inner = Inner()
    many: list[Inner] = Field(default=[])


def test_sections_and_lists_of_them_are_followed() -> None:
    found = settings(Outer(needed="x", table={"k": 1}, many=[Inner(), Inner(free=5)]))
    assert found == {
        "needed": {"value": "x", "free": False},
        "some": {"value": "a", "default": "a", "free": ["a", "b"]},
        "pair": {"value": [0.0, 1.0], "default": [0.0, 1.0], "free": False},
        "table": {"value": {"k": 1}, "default": {}, "free": False},
        "inner.plain": {"value": 1, "default": 1, "free": False},
        "inner.free": {"value": 2, "default": 2, "free": True},
        "many.0.plain": {"value": 1, "default": 1, "free": False},
        "many.0.free": {"value": 2, "default": 2, "free": True},
        "many.1.plain": {"value": 1, "default": 1, "free": False},
        "many.1.free": {"value": 5, "default": 2, "free": True},
    }


def leaves(model: type[BaseModel]) -> Iterator[tuple[str, object]]:
    for name, field in model.model_fields.items():
        word = field.json_schema_extra
        yield f"{model.__name__}.{name}", word.get("resume") if isinstance(word, dict) else None
        for kind in (field.annotation, *getattr(field.annotation, "__args__", ())):
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                yield from leaves(kind)


def test_fields_say_free_or_list_what_is_alike_or_nothing() -> None:
    words = dict(leaves(Config))
    assert {"Config.seed", "SourceConfig.manifest", "AugmentConfig.flip", "EngineConfig.log_every"} <= set(words)
    assert all(word in (None, "free") or isinstance(word, list) for word in words.values())
    assert words["EngineConfig.log_every"] == "free" and words["Config.seed"] is None
    # A section says nothing: its fields do.
    assert not any(word for name, word in words.items() if name in ("Config.data", "Config.engine", "Config.model"))


@pytest.mark.parametrize("path", sorted((ROOT / "configs").rglob("*.yaml")), ids=lambda path: path.stem)
def test_settings_survive_being_stored(path: Path) -> None:
    found = load(path).settings()
    assert json.loads(json.dumps(found)) == found
    assert found["seed"]["free"] is False and found["engine.log_every"]["free"] is True


@pytest.mark.parametrize(
    ("key", "values", "expected"),
    [
        ("seed", (0, 1), False),
        ("engine.log_every", (1, 2), True),
        ("data.sources.0.manifest", ("a", "b"), True),
        ("data.sources.0.stride", (1, 2), False),
        ("batch.per_step.stills", (4, 8), False),
        ("batch.accumulation", (1, 2), True),
        ("data.backend", ("pyav", "torchcodec"), True),
        ("data.backend", ("pyav", "dali"), False),
        ("data.image.flip", (0.0, 0.5), False),
    ],
)
def test_a_change_is_judged_by_its_field(key: str, values: tuple[object, object], expected: bool) -> None:
    assert may_change(Config, key, *values) is expected
