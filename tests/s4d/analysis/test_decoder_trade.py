"""Figures of the decoders: pairs of seeds, the probe, losses of unseen samples, steps in turns."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from s4d.analysis.decoder_trade.arms import ARMS, COLUMNS, UNTRAINED, summarise, table
from s4d.analysis.decoder_trade.quality import probe
from s4d.analysis.decoder_trade.speed import step_case, time_steps
from s4d.config import load


def quality(arm: str, seed: int, loss: float, uar: float) -> dict[str, Any]:
    return {"arm": arm, "seed": seed, "figures": {"loss/video": loss, "uar/video": uar}}


def test_seeds_are_compared_in_pairs() -> None:
    rows = [quality("joint", seed, 1.0 + seed, 0.5) for seed in range(3)]
    rows += [quality("cross", seed, 1.1 + seed, 0.5 + 0.1 * seed) for seed in range(3)]
    rows += [{"arm": UNTRAINED, "seed": 0, "figures": {"uar/video": 0.2}}]
    joint, cross, untrained = summarise([], rows)
    assert joint["figures"]["loss/video"] == {"mean": 2.0, "deviation": 1.0} and joint["difference"] == {}
    # Losses of single seeds lie far apart, their differences do not.
    assert cross["difference"]["loss/video"]["mean"] == pytest.approx(0.1)
    assert cross["difference"]["loss/video"]["error"] == pytest.approx(0.0, abs=1e-9)
    assert cross["difference"]["uar/video"]["error"] == pytest.approx(0.1 / 3**0.5)
    assert untrained["difference"]["uar/video"]["error"] is None and "loss/video" not in untrained["figures"]
    cells = table([joint, untrained])
    assert all(len(row) == len(COLUMNS) for row in cells)
    assert cells[0][-3] == "2.000 +- 1.000" and cells[1][-1] == "0.200"


def test_overrides_are_a_configuration() -> None:
    for arm in ARMS:
        config = load("configs/pretrain/demo.yaml", arm.overrides)
        assert config.model.decoder == arm.decoder
        assert config.data.decode_ratio == {"image": arm.decode_ratio, "video": arm.decode_ratio}


def test_the_probe_finds_what_is_linear_and_nothing_else() -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 3, (600,), generator=generator)
    features = torch.randn(600, 8, generator=generator, dtype=torch.float64)
    noise = probe(features[:300], labels[:300], 3)(features[300:])
    assert float((noise == labels[300:]).double().mean()) < 0.5
    # Scales and offsets of single features do not matter.
    features[:, :3] += 6 * torch.nn.functional.one_hot(labels, 3)
    told = probe(1000 * features[:300] + 7, labels[:300], 3)(1000 * features[300:] + 7)
    assert float((told == labels[300:]).double().mean()) > 0.98


def test_steps_of_all_decoders_in_turns() -> None:
    rows = time_steps(torch.device("cpu"), 2, lambda case, side, precision: 1, tiny=True)
    assert [row["arm"] for row in rows] == [arm.name for arm in ARMS]
    assert rows[0]["speedup"] == 1.0 and all(len(row["seconds"]) == 2 for row in rows)
    flops = [row["flops"] for row in rows]
    assert flops[0] > flops[1] and flops[0] > flops[2] > flops[3]
    shape = step_case("cross", 0.5, torch.device("cpu")).shape
    assert (shape.size, shape.clips, shape.side) == ("base", 8, 160)
