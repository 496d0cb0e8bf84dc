"""Loading of configurations: strictness, messages, overrides, recipes, round trips."""

from __future__ import annotations

from pathlib import Path

import pytest

from s4d.config import Config, load, save
from s4d.config_overrides import apply_overrides
from s4d.config_recipes import RECIPES, deviations
from s4d.config_yaml import dump_yaml, parse_yaml
from s4d.errors import UsageError

CONFIGS = sorted((Path(__file__).parents[2] / "configs").rglob("*.yaml"))

BASE = """
name: small
run_dir: runs/small
task: finetune
model: {size: tiny}
data:
  sources:
    - {name: affectnet, modality: image, manifest: a.parquet}
    - {name: dfew, modality: video, manifest: b.parquet}
batch: {per_step: {affectnet: 8, dfew: 4}}
optim: {lr: 1e-3}
engine: {steps: 1E+2}
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "run.yaml"
    path.write_text(BASE)
    return path


def refusal(path: Path, *overrides: str) -> str:
    with pytest.raises(UsageError) as caught:
        load(path, list(overrides))
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_every_preset_survives_saving_and_loading(path: Path, tmp_path: Path) -> None:
    config = load(path)
    save(config, tmp_path / "resolved.yaml")
    assert load(tmp_path / "resolved.yaml") == config
    head = path.read_text().split("\n\n")[0].splitlines()
    assert all(line.startswith("#") for line in head), "opens with a comment"
    assert any(command in path.read_text() for command in ("engine/train.py", "s4d train")), "states its command"


def test_exponents_are_numbers(file: Path) -> None:
    config = load(file)
    assert (config.optim.lr, config.engine.steps) == (0.001, 100)


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("optim.lrr=3", "optim.lrr: unknown key; did you mean 'lr'?"),
        ("modle.size=tiny", "modle: unknown key; did you mean 'model'?"),
        ("data.sources.1.flod=2", "data.sources.1.flod: unknown key; did you mean 'fold'?"),
        ("data.mask_ratio={imge: 0.5, video: 0.5}", "data.mask_ratio.imge"),
        ("data.decode_ratio={image: 1.5, video: 1.0}", "data.decode_ratio.image"),
        ("data.decode_ratio={image: 0.0, video: 1.0}", "data.decode_ratio.image"),
        ("data.decode_ratio={}", "data.decode_ratio"),
        ("model.decoder=crossed", "model.decoder"),
        ("optim.lr=abc", "optim.lr: expected a number, got 'abc'"),
        ("optim.lr=true", "optim.lr: expected a number"),
        ('optim.lr="3"', "optim.lr: expected a number, got '3'"),
        ("optim.lr=-1", "optim.lr: input should be greater than 0"),
        ("engine.steps=1.5", "engine.steps: expected a whole number"),
        ("engine.zero_stage=5", "engine.zero_stage: expected 0, 1, 2 or 3, got 5"),
        ("task=finetunee", "did you mean 'finetune'?"),
        ("model=null", "model: expected a section"),
        ("engine.epochs=3", "engine: give exactly one of epochs and steps"),
        ("model.moae.top_k=99", "model.moae: top_k 99 is larger than num_experts 8"),
        ("batch.per_step={affectnet: 8, dfw: 4}", "batch.per_step: expected one entry per source"),
        ("data.mix.mixup_alpha=0.8 batch.per_step.dfew=3", "batch.per_step.dfew: expected a positive multiple of 2"),
        ("batch.accumulation=3", "batch.per_step.affectnet: expected a positive multiple of 3"),
        ("mode=single", "mode: single takes one source, got 2"),
        ("data.sources.1.name=affectnet", "data: sources: names must be unique"),
        ("data.sources.1.name=a.b", "data.sources.1.name"),
        ("task=pretrain data.mix.label_smoothing=0.1", "data.mix: pre-training has no labels"),
        ("task=pretrain data.sources.0.classes=[a]", "data.sources.0.classes: pre-training has no heads"),
        ("batch.loss_weights={image: 1.0}", "batch.loss_weights: expected an entry for each of"),
        ("evaluation.protocol=release data.val_share=0.1", "data.val_share: must be 0"),
    ],
)
def test_refusals_name_the_field(file: Path, override: str, expected: str) -> None:
    overrides = [override] if "{" in override else override.split(" ")
    assert expected in refusal(file, *overrides)


def test_refusals_name_where_the_value_came_from(file: Path) -> None:
    file.write_text(BASE.replace("size: tiny", "sise: tiny"))
    assert refusal(file) == f"{file}: model.sise: unknown key; did you mean 'size'?"
    file.write_text(BASE)
    assert refusal(file, "model.sise=tiny").startswith("command line: model.sise: ")


def test_several_problems_are_one_line(file: Path) -> None:
    assert refusal(file, "optim.lr=x", "seed=y", "optim.foo=1").endswith("(and 2 more)")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a: 1\na: 2", "key 'a' is given twice (line 2"),
        ("a: {b: 1, b: 2}", "given twice"),
        ("a: &x [1]\nb: *x", "alias *x is not allowed"),
        ("a: " + "[" * 30, "nested deeper than 16"),
        ("a: !!python/object/apply:os.system [x]", "is not allowed"),
        ("a: !!timestamp 2001-01-01", "is not allowed"),
        ("1: 2", "not text"),
        ("? [1]\n: 2", "not text"),
        ("- 1", "expected a mapping"),
        ("", "expected a mapping"),
        ("a: 1\n---\nb: 2", "another document"),
        ("a: 1e9999", "too large"),
        ("a: " + "9" * 5000, "limit"),
        ("a: [1", "not readable as YAML"),
        ("a: \x01", "not readable as YAML"),
    ],
)
def test_yaml_traps_are_refused(file: Path, text: str, expected: str) -> None:
    file.write_text(text)
    message = refusal(file)
    assert message.startswith(f"{file}: ")
    assert expected in message


def test_files_that_are_no_text_are_refused(tmp_path: Path) -> None:
    assert refusal(tmp_path / "nope.yaml").endswith("no such file")
    assert str(tmp_path) in refusal(tmp_path)
    (tmp_path / "binary.yaml").write_bytes(b"name: \xff\xfe")
    assert "not UTF-8 text" in refusal(tmp_path / "binary.yaml")
    (tmp_path / "huge.yaml").write_bytes(b"#" * 1_000_001)
    assert "is no configuration" in refusal(tmp_path / "huge.yaml")


def test_words_and_numbers_keep_their_kind() -> None:
    text = "a: yes\nb: on\nc: 12:30\nd: 2026-01-01\ne: 010\nf: 1_000\ng: 1e-3\nh: 2E+3\ni: .5\nj: true\nk: ~\nl: '1e3'"
    values = parse_yaml(text, "text")
    assert isinstance(values, dict)
    assert list(values.values()) == [
        "yes",
        "on",
        "12:30",
        "2026-01-01",
        "010",
        "1_000",
        0.001,
        2000,
        0.5,
        True,
        None,
        "1e3",
    ]
    assert isinstance(values["h"], int)
    assert parse_yaml(dump_yaml(values), "again") == values


def test_overrides_reach_into_lists_and_make_sections(file: Path) -> None:
    config = load(
        file, ["data.sources.1.fold=3", "model.moae.num_experts=4", "optim.ema=null", "optim.betas=[0.9, 0.99]"]
    )
    assert (config.data.sources[1].fold, config.model.moae.num_experts, config.optim.ema) == (3, 4, None)
    assert config.optim.betas == (0.9, 0.99)
    assert (
        len(
            load(
                file, ["mode=single", "data.sources=[{name: x, modality: image, manifest: m}]", "batch.per_step={x: 2}"]
            ).data.sources
        )
        == 1
    )


@pytest.mark.parametrize(
    "text", ["foo", "=1", "a..b=1", "seed=", "data.sources.2.fold=1", "data.sources.x.fold=1", "name.x=1"]
)
def test_malformed_overrides_are_refused(file: Path, text: str) -> None:
    assert refusal(file, text).startswith("command line: ")


def test_overrides_report_what_they_set() -> None:
    values = parse_yaml("a: {b: 1}", "text")
    assert isinstance(values, dict)
    assert apply_overrides(values, ["a.b=2", "c.d=x"]) == ["a.b", "c.d"]
    assert values == {"a": {"b": 2}, "c": {"d": "x"}}


def test_release_recipe_fills_what_is_not_given(file: Path) -> None:
    config = load(file, ["recipe=release"])
    assert deviations(config.model_dump(mode="json")) == []
    assert (config.model.moae.router_noise, config.batch.batching, config.data.video.resize) == (
        "always",
        "alternate",
        "square",
    )
    changed = load(file, ["recipe=release", "model.moae.router_noise=off"])
    assert changed.model.moae.router_noise == "off"
    assert deviations(changed.model_dump(mode="json")) == ["model.moae.router_noise: off (recipe release: always)"]


@pytest.mark.parametrize(("recipe", "task"), sorted(RECIPES))
def test_recipes_only_name_fields_that_exist(recipe: str, task: str, file: Path) -> None:
    values = load(file, [f"recipe={recipe}", f"task={task}"]).model_dump(mode="json")
    assert deviations(values) == []


def test_our_recipe_is_the_schema() -> None:
    assert not RECIPES["s4d", "pretrain"] and not RECIPES["s4d", "finetune"]
    assert Config.model_fields["recipe"].default == "s4d"
