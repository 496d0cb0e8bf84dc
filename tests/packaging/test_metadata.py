"""What the project says about itself in several places agrees: version, licence, packages and their exact versions."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import s4d

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def requirements() -> Iterator[tuple[str, Requirement]]:
    """Every required package with the place that names it."""
    project = PROJECT["project"]
    places = {"dependencies": project["dependencies"], "build": PROJECT["build-system"]["requires"]}
    for place, texts in (places | project["optional-dependencies"]).items():
        yield from ((place, Requirement(text)) for text in texts)


def pins() -> dict[str, str]:
    """Exact versions by package."""
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pairs = (line.split("==") for line in lines if line and not line.startswith("#"))
    return {canonicalize_name(name): version for name, version in pairs}


@pytest.mark.parametrize(("place", "wanted"), list(requirements()), ids=str)
def test_every_required_package_has_an_exact_version_that_fits(place: str, wanted: Requirement) -> None:
    version = pins().get(canonicalize_name(wanted.name))
    assert version is not None, f"{wanted.name} of {place} has no line in constraints.txt"
    assert wanted.specifier.contains(version), f"{place}: {wanted}, constraints.txt: {version}"


def test_the_version_is_written_once_and_quoted_truly() -> None:
    assert re.fullmatch(r"\d+\.\d+\.\d+", s4d.__version__)
    assert PROJECT["project"]["dynamic"] == ["version"] and "version" not in PROJECT["project"]
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))["version"] == s4d.__version__


def test_the_changelog_begins_with_this_version_or_what_comes_after_it() -> None:
    headings = re.findall(r"^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert s4d.__version__ in headings[:2] and set(headings[:2]) <= {"Unreleased", s4d.__version__}


def test_tests_that_the_security_policy_names_exist() -> None:
    named = re.findall(r"`(tests/[\w./]+)`", (ROOT / "SECURITY.md").read_text(encoding="utf-8"))
    assert len(named) >= 8 and all((ROOT / name).is_file() for name in named)


def test_the_page_on_installing_lists_every_extra() -> None:
    text = (ROOT / "docs" / "installing.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (`.+?`) \|", text, re.MULTILINE)
    listed = {name for row in rows for name in re.findall(r"`([\w-]+)`", row)}
    assert set(PROJECT["project"]["optional-dependencies"]) <= listed


def test_licence_files_and_fields_agree() -> None:
    licence = PROJECT["project"]["license"]
    assert licence == "Apache-2.0"
    assert "Apache License" in (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))["license"] == licence
