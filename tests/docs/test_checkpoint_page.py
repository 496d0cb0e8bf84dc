"""The page on checkpoints names every key of `config.json`, and what is said of each is not empty."""

from __future__ import annotations

import dataclasses
import re
import sys
from pathlib import Path

DOCS = Path(__file__).resolve().parents[2] / "docs"
sys.path.insert(0, str(DOCS / "_ext"))

import description_reference  # noqa: E402  (the extension's folder is on the path of the documentation build alone)

from s4d.data.input_recipe import InputRecipe  # noqa: E402
from s4d.models.description import Description  # noqa: E402
from s4d.models.sizes import Architecture, MoaeArchitecture  # noqa: E402

PAGE = (DOCS / "checkpoints.md").read_text(encoding="utf-8")


def test_every_key_has_a_meaning() -> None:
    schemas = [Description, *(part for _, part, _ in description_reference.parts())]
    assert len(schemas) == 7 and all(schema.__doc__ for schema in schemas)
    fields = {(schema.__name__, name): field for schema in schemas for name, field in schema.model_fields.items()}
    assert not [key for key, field in fields.items() if not field.description]
    assert "<!-- generated: description -->" in PAGE
    assert "`metrics.sources.NAME`: Scores of one head." in description_reference.description_reference()


def test_every_dimension_and_every_rule_of_the_input_is_on_the_page() -> None:
    for kind, title in (
        (Architecture, "`architecture` has"),
        (MoaeArchitecture, "`architecture` has"),
        (InputRecipe, "`inputs` has"),
    ):
        table = PAGE.partition(title)[2].partition("\n\n")[2].partition("\n\n")[0]
        named = set(re.findall(r"`(\w+)`", "".join(line.split("|")[1] for line in table.splitlines())))
        assert {field.name for field in dataclasses.fields(kind)} <= named, kind.__name__
