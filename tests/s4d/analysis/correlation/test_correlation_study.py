"""The whole study on tiny runs: what models are shown, and that the page draws nothing that the document lacks."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from engine_project import run_values, write_media

from s4d.analysis.correlation.correlate import correlate
from s4d.analysis.correlation.features import observe, showings
from s4d.analysis.correlation.parts import scaling_part
from s4d.analysis.correlation.study import head_study
from s4d.analysis.correlation.subjects import load_cast
from s4d.errors import DataError, UsageError
from s4d.models.stream import mean_per_sequence
from s4d.tasks.evaluate import Evaluator

CPU = torch.device("cpu")
MakeRun = Callable[..., Path]


def sources_of(root: Path, *names: str, **classes: list[str]) -> dict[str, Any]:
    """Values of a run on some of the sources, with `classes` of a source in another order."""
    values = run_values(root, root)
    chosen = [
        source | ({"classes": classes[source["name"]]} if source["name"] in classes else {})
        for source in values["data"]["sources"]
        if source["name"] in names
    ]
    per_step = {name: values["batch"]["per_step"][name] for name in names}
    return {"data": values["data"] | {"sources": chosen}, "batch": {"per_step": per_step}}


def test_what_a_model_makes_of_each_showing(make_run: MakeRun) -> None:
    cast = load_cast([make_run("joint")], device=CPU)
    model = cast.main.model.module
    for name, views in (("images", 1), ("frames", 4), ("clips", 2), ("stilled", 1)):
        showing = showings("stills", "clips", 4)[name]
        batches = showing.batches(cast.config, "test")
        seen = observe(model, showing, batches, CPU)
        assert seen.sample_ids == tuple(row.sample_id for row in batches.source.rows)
        assert seen.labels == ("happy", "sad", "fear")
        assert {head: values.shape for head, values in seen.probabilities.items()} == {
            "stills": (3, views, 3),
            "clips": (3, views, 3),
        }
        item = next(iter(batches))
        with torch.no_grad():
            output = model(item.batch)
        for head, logits in output.logits.items():
            expected = logits.double().softmax(1).view(3, views, 3)
            assert seen.probabilities[head] == pytest.approx(expected.numpy())
        pooled = output.features.view(3, views, -1)
        assert seen.pooled == pytest.approx(pooled.mean(1).numpy(), abs=1e-6)
        # The final norm of the last block's mean over tokens is what heads see.
        last = model.fc_norm(torch.from_numpy(seen.middle_blocks[-1]))
        assert last.detach().numpy() == pytest.approx(pooled[:, views // 2].numpy(), abs=1e-5)
        assert seen.blocks.shape == (2, 3, 32)
    assert not model.blocks[0]._forward_hooks, "nothing stays on the model"


def test_blocks_are_averaged_over_a_samples_own_tokens(make_run: MakeRun) -> None:
    cast = load_cast([make_run("joint")], device=CPU)
    model = cast.main.model.module
    showing = showings("stills", "clips", 4)["images"]
    batches = showing.batches(cast.config, "test")
    seen = observe(model, showing, batches, CPU)
    kept: list[torch.Tensor] = []
    hook = model.blocks[0].register_forward_hook(lambda _, __, output: kept.append(output[0]))
    item = next(iter(batches))
    with torch.no_grad():
        model(item.batch)
    hook.remove()
    assert seen.blocks[0] == pytest.approx(mean_per_sequence(kept[0], item.batch.layout).numpy(), abs=1e-6)


def test_a_study_of_joint_and_single_runs(make_run: MakeRun, tmp_path: Path) -> None:
    media = tmp_path / "media"
    write_media(media, images=12, clips=12)
    turned = ["sad", "fear", "happy"]
    runs = [
        make_run("joint", **sources_of(media, "stills", "clips", clips=turned)),
        make_run("sfer", mode="single", **sources_of(media, "stills", stills=turned)),
        make_run("dfer", mode="single", **sources_of(media, "clips")),
    ]
    page, numbers = correlate(runs, tmp_path / "out", device=CPU)
    assert json.loads((tmp_path / "out/correlation.json").read_text(encoding="utf-8")) == numbers
    assert [run["kind"] for run in numbers["runs"]] == ["joint, with experts", "static alone", "dynamic alone"]
    assert numbers["classes"] == {"shared": ["fear", "happy", "sad"], "only_static": [], "only_dynamic": []}
    assert numbers["dynamic"]["classes"] == turned
    verdicts = [(item["run"], item["head"], item["showing"]) for item in numbers["transfer"]["verdicts"]]
    assert verdicts == [
        ("joint", "stills", "images"),
        ("joint", "stills", "frames"),
        ("joint", "stills", "frames"),
        ("joint", "clips", "clips"),
        ("joint", "clips", "stilled"),
        ("sfer", "stills", "images"),
        ("sfer", "stills", "frames"),
        ("sfer", "stills", "frames"),
        ("dfer", "clips", "clips"),
        ("dfer", "clips", "stilled"),
    ]
    assert all(sum(map(sum, item["confusion"])) == 3 for item in numbers["transfer"]["verdicts"])
    assert [item["pairs"] for item in numbers["representation"]["cka_between_runs"]] == [
        "the same images",
        "the same frames of clips",
        "the same clips",
        "the same stilled images",
    ]
    assert np.shape(numbers["representation"]["centroids"]["cosines"]) == (3, 3)
    assert set(numbers["labels"]["tables"]) == {"images", "frames"}
    text = page.read_text(encoding="utf-8")
    assert not re.findall(r'(?:src|href)="(?!data:|#)', text), "everything is embedded"
    sections = re.split(r"<section", text)[1:]
    keys = [re.search(r'<h2 id="(\w+)"', section)[1] for section in sections]  # type: ignore[index]
    assert all(key in numbers for key in keys)
    assert keys == ["transfer", "representation", "gradients", "routing", "labels"]
    assert all("<figure>" in section and "<table>" in section for section in sections)


def test_a_run_against_itself_has_cka_one(make_run: MakeRun) -> None:
    found = head_study(load_cast([make_run("joint"), make_run("again")], device=CPU), "test", CPU)
    assert len(found.representation.runs) == 4
    for item in found.representation.runs:
        # Three samples are too few for the debiased estimate; the standard one is exact.
        assert np.diagonal(item.cka.standard) == pytest.approx(1)


def test_heads_on_their_own_task_are_scored_as_in_an_evaluation(make_run: MakeRun) -> None:
    cast = load_cast([make_run("joint")], device=CPU)
    evaluator = Evaluator(cast.config, rank=0, world_size=1, device=CPU)
    expected = evaluator.evaluate(cast.main.model.module, "test")
    verdicts = {item.showing: item for item in head_study(cast, "test", CPU).transfer.verdicts}
    for showing, source in (("images", "stills"), ("clips", "clips")):
        found, wanted = verdicts[showing].scores, expected[source].scores
        order = [wanted.classes.index(name) for name in found.classes]
        assert found.confusion.tolist() == wanted.confusion[np.ix_(order, order)].tolist()
        assert found.uar == pytest.approx(wanted.uar)


def test_runs_that_cannot_be_set_side_by_side(make_run: MakeRun, tiny_media: Path) -> None:
    joint = make_run("joint")
    single = make_run("sfer", mode="single", **sources_of(tiny_media, "stills"))
    with pytest.raises(UsageError, match=r"sfer: has no head for videos; the first run must have been trained on both"):
        load_cast([single, joint], device=CPU)
    fewer = make_run("fewer", mode="single", **sources_of(tiny_media, "stills", stills=["sad", "happy", "fear"]))
    assert load_cast([joint, fewer], device=CPU).subjects[1].shown == {"images": "stills", "frames": "stills"}
    larger = make_run("larger", model=run_values(tiny_media, tiny_media)["model"] | {"image_size": 48})
    with pytest.raises(UsageError, match=r"larger: model.image_size is 48, but 32 in the first run"):
        load_cast([joint, larger], device=CPU)
    with pytest.raises(UsageError, match=r"--static: .*joint has no such head 'faces' \(it has stills\)"):
        load_cast([joint], static="faces", device=CPU)
    with pytest.raises(UsageError, match="given twice"):
        load_cast([joint, joint], device=CPU)


def test_data_scaling_from_results_of_the_experiment(tmp_path: Path) -> None:
    uars = {("stills-0", 0): 0.4, ("stills-50", 0): 0.5, ("stills-50", 1): 0.6, ("moae", 0): 0.7, ("video", 0): 0.1}
    for (arm, seed), uar in uars.items():
        scores = {"dfew": {"uar": uar, "war": 0.5}}
        if arm in ("stills-50", "moae"):
            scores["affectnet"] = {"uar": uar + 0.1, "war": 0.5}
        document = {"kind": "measurement", "arm": arm, "seed": seed, "settings": {"data": {}}, "scores": scores}
        document |= {"curve": [], "seconds": 1.0, "steps": 1, "cross_scores": {}}
        (tmp_path / f"{arm}-{seed}.json").write_text(json.dumps(document))
    part = scaling_part(tmp_path)
    told = [
        (point["share_of_stills"], point["seeds"], point["uar"]["dfew"]["mean"], point["uar"]["affectnet"]["mean"])
        for point in part.numbers["points"]
    ]
    expected = [(0.0, [0], 0.4, None), (0.5, [0, 1], 0.55, 0.65), (1.0, [0], 0.7, 0.8)]
    for found, wanted in zip(told, expected, strict=True):
        assert found[:2] == wanted[:2]
        assert found[2:] == pytest.approx(wanted[2:])
    assert [row[0] for row in part.tables[0].rows] == ["0.0% (stills-0)", "50.0% (stills-50)", "100.0% (moae)"]
    assert len(part.pictures) == 1
    with pytest.raises(DataError, match="holds no result of the arms with a share of the stills"):
        scaling_part(tmp_path / "nowhere")
