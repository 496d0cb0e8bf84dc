"""The manual's sources: nothing undocumented, no page left out, no link into nothing. Sphinx is not needed."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
sys.path.insert(0, str(DOCS / "_ext"))

import cli_reference  # noqa: E402  (the extension's folder is on the path of the documentation build alone)
import config_reference  # noqa: E402
import dataset_reference  # noqa: E402
import kernel_reference  # noqa: E402
import page_sources  # noqa: E402
import results  # noqa: E402

from s4d.config import Config  # noqa: E402
from s4d.datasets import DATASETS  # noqa: E402

PAGES = sorted(DOCS.glob("*.md"))
SHOWN = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "configs/README.md", "benchmarks/README.md")]
LINK = re.compile(r"\]\(([^)\s]+)\)")


def heading_anchors(text: str) -> set[str]:
    """Anchors as a repository browser makes them of the headings in Markdown text."""
    titles = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-") for title in titles}


def broken_links(path: Path) -> list[str]:
    """Relative links of a Markdown file that lead to no file, or to no heading of a Markdown file."""
    broken = []
    for link in LINK.findall(path.read_text(encoding="utf-8")):
        if link.startswith(("http://", "https://", "mailto:")):
            continue
        name, _, anchor = link.partition("#")
        target = path.parent / name if name else path
        if not target.exists():
            broken.append(link)
        elif anchor and target.suffix == ".md":
            text = target.read_text(encoding="utf-8")
            text = page_sources.expanded(text) if target.parent == DOCS else text
            broken += [] if anchor in heading_anchors(text) else [link]
    return broken


def test_every_field_of_the_configuration_has_a_description() -> None:
    fields = [
        (prefix + name, field)
        for prefix, section in config_reference.sections()
        for name, field in config_reference.fields(section)
    ]
    assert len(fields) > 100
    assert not [name for name, field in fields if not field.description]


def test_every_section_of_the_configuration_says_what_it_is() -> None:
    sections = dict(config_reference.sections())
    assert sections[""] is Config and {"data.sources.N.", "model.moae.", "data.video."} <= set(sections)
    assert not [prefix for prefix, section in sections.items() if not section.__doc__]


def test_every_argument_and_option_has_a_help_text() -> None:
    parameters = list(cli_reference.parameters())
    assert ("s4d train", "`--config`") in {(command, name) for command, name, _ in parameters}
    assert not [(command, name) for command, name, text in parameters if not text]


@pytest.mark.parametrize(
    ("row", "field"),
    [
        ("| `seed` | of the first weights, the order and all draws | whole number | `0` | fixed |", "seed"),
        ("| `warmup_share` | share of all steps spent warming up | number from 0 to 1 | `0.05` | fixed |", "optim"),
        ("| `manifest` | what it lists must stay; the file may move | text | required | free |", "data.sources.N"),
    ],
)
def test_a_row_of_the_configuration_reference(row: str, field: str) -> None:
    assert row in config_reference.config_reference(), field


def test_a_row_of_the_command_reference() -> None:
    row = "| `--ranks` | Processes that share a step. | whole number from 1 | `1` |"
    text = cli_reference.cli_reference()
    assert row in text.partition("### s4d config show\n")[2].partition("###")[0]


def test_every_dataset_is_on_its_page_and_on_that_of_licences() -> None:
    pages = [(DOCS / name).read_text(encoding="utf-8") for name in ("datasets.md", "licences.md")]
    shown = page_sources.expanded(pages[0])
    assert not [name for name in DATASETS if f"    s4d data prepare {name} " not in shown]
    assert not [name for name in DATASETS if name != "folder" and f"`{name}`" not in pages[1]]


def test_a_dataset_with_several_orders_and_folds() -> None:
    text = dataset_reference.reader_reference("mafw")
    assert "| `mae-dfer` | anger, disgust, fear, happiness," in text
    assert "| single set | 2 | 7,335 | 1,837 |" in text and "| contempt | 188 | 48 |" in text


def test_every_backend_is_said_to_be_something() -> None:
    text = kernel_reference.backend_tables()
    assert "| `dense_all` | Every expert on every token" in text and "| `triton` | Routing plan in one launch" in text
    assert "|  |" not in text


def test_tables_of_results_show_the_values_of_the_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = {"device_name": "A Chip", "cores": 2}
    goals = [
        {"goal": "twice as fast", "value": 2.345, "state": "pass", "detail": "a against b"},
        {"goal": "of another device", "value": None, "state": "absent", "detail": "no such device"},
    ]
    comparison = {"case": "one_clip", "ours": "a", "peer": "b", "dtype": "bf16", "speedup": 2.345, "p20": 2, "p80": 3}
    document = {"what": "step", "date": "2026-01-02T03", "commit": "0123456789", "machine": machine, "goals": goals}
    (tmp_path / "chip").mkdir()
    (tmp_path / "chip" / "step.json").write_text(json.dumps({**document, "comparisons": [comparison]}))
    monkeypatch.setattr(results, "RESULTS", tmp_path)
    assert "| twice as fast | 2.35 | pass | a against b |" in results.goal_tables()
    assert "another device |" not in results.goal_tables() and "1 more goals" in results.goal_tables()
    assert "| A Chip | one clip | a against b, bf16 | 2.35 | 2.00 to 3.00 |" in results.step_table()


def test_every_promise_of_the_scorecard_is_in_the_manual_with_its_test() -> None:
    sys.path.insert(0, str(ROOT / "tests/scorecard"))
    from rows import ROWS

    lines = [line for line in (DOCS / "reliability.md").read_text(encoding="utf-8").splitlines() if line[:3] == "| R"]
    told = {row.name for row in ROWS for line in lines if re.search(rf"\b{row.name}\b", line) and row.module in line}
    assert told == {row.name for row in ROWS}
    table = page_sources.expanded((DOCS / "scorecard.md").read_text(encoding="utf-8"))
    assert not [row.name for row in ROWS if f"| {row.name} | {row.goal} |" not in table]


def test_every_page_is_in_the_table_of_contents() -> None:
    listed = re.findall(r"^(?:\w+ <)?([\w-]+)>?$", (DOCS / "index.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted([*listed, "index"]) == [page.stem for page in PAGES]


@pytest.mark.parametrize("path", [*PAGES, *SHOWN], ids=lambda path: path.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(path: Path) -> None:
    assert not broken_links(path)


@pytest.mark.parametrize(
    ("folder", "given", "expected"),
    [
        ("", "[a](docs/zero.md)", "[a](zero.md)"),
        ("", "[a](LICENSE) and [b](#there)", "[a](../LICENSE) and [b](#there)"),
        ("benchmarks", "[a](../docs/zero.md#there)", "[a](zero.md#there)"),
        ("docs", "[a](../README.md)", "[a](readme.md)"),
        ("docs", "[a](https://example.org/x.md)", "[a](https://example.org/x.md)"),
    ],
)
def test_links_of_files_elsewhere_lead_to_pages(folder: str, given: str, expected: str) -> None:
    assert page_sources.relinked(given, ROOT / folder) == expected


@pytest.mark.parametrize("path", [*PAGES, *SHOWN], ids=lambda path: path.relative_to(ROOT).as_posix())
def test_fields_that_a_page_names_exist(path: Path) -> None:
    """In code inside a line, such as `optim.lr=1e-4`; entries of a mapping are named through it."""
    sections = dict(config_reference.sections())
    values = {prefix + name for prefix, section in sections.items() for name, _ in config_reference.fields(section)}
    known = values | {prefix.rstrip(".") for prefix in sections} | {"data.sources"}
    named = re.findall(rf"`((?:{'|'.join(Config.model_fields)})(?:\.\w+)+)[`=:]", path.read_text(encoding="utf-8"))
    named = [re.sub(r"\.(\d+|[A-Z])\b", ".N", name) for name in named if not name.endswith((".json", ".safetensors"))]
    assert not [name for name in named if name not in known and name.rpartition(".")[0] not in values]


def test_an_unknown_part_is_an_error() -> None:
    with pytest.raises(KeyError):
        page_sources.expanded("<!-- generated: nothing -->\n")
