"""R15: one thing is changed before a run goes on: the harmless is logged and changes no bit, the rest is refused."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.append(str(HERE.parent / "faults"))

import trials  # noqa: E402 (found through the line above)
from safetensors.torch import load_file  # noqa: E402

BEFORE, STEPS = 2, 4
BASE = ("engine.steps=4", "engine.save_every=2", "engine.keep_last=9", "batch.accumulation=1", "data.val_share=0.3")
FOLDER = "{folder}"
LAST = f"checkpoints/step-{STEPS:08d}/model.safetensors"


@dataclass(frozen=True, kw_only=True, slots=True)
class Edit:
    """What is changed before a run is continued, and the lines `field: old -> new` that must be said of it.

    `exact` is False where a step is divided in another way, which leaves it as it was but for rounding.
    """

    overrides: tuple[str, ...] = ()
    refused: tuple[str, ...] = ()
    accepted: tuple[str, ...] = ()
    task: str = "finetune"
    change: Callable[[Path], None] | None = None
    ranks: int = 0
    exact: bool = True
    environment: dict[str, str] = field(default_factory=dict)


def harmless(key: str, old: str, new: str, *, exact: bool = True, also: tuple[str, ...] = ()) -> Edit:
    return Edit(overrides=(f"{key}={new}", *also), accepted=(f"{key}: {old} -> {new}",), exact=exact)


def harmful(key: str, old: str, new: str, *, task: str = "finetune", also: tuple[str, ...] = ()) -> Edit:
    return Edit(overrides=(f"{key}={new}", *also), refused=(f"{key}: {old} -> {new}",), task=task)


def moved(root: Path) -> None:
    """The same list in another place."""
    (root / "moved").mkdir(exist_ok=True)
    (root / "moved/stills.csv").write_text(f"# root: {root}\n" + (root / "stills.csv").read_text())


def edited(change: Callable[[list[str]], list[str]], name: str = "stills") -> Callable[[Path], None]:
    """Another list under a name of its own folder."""

    def write(root: Path) -> None:
        (root / "edited").mkdir(exist_ok=True)
        header, *rows = (root / f"{name}.csv").read_text().splitlines()
        text = "\n".join([f"# root: {root}", header, *change(rows)]) + "\n"
        (root / f"edited/{name}.csv").write_text(text)

    return write


def other_list(change: Callable[[list[str]], list[str]], index: int = 0, name: str = "stills") -> Edit:
    return Edit(
        overrides=(f"data.sources.{index}.manifest={FOLDER}/edited/{name}.csv",),
        refused=(f"data.sources.{index}.manifest (content): ",),
        change=edited(change, name),
    )


EDITS = (
    harmful("seed", "0", "1"),
    harmless("engine.log_every", "1", "2"),
    harmful("optim.lr", "0.001", "0.002"),
    harmless("data.workers", "0", "2"),
    harmful("batch.per_step", "{'stills': 4, 'clips': 4}", "{'stills': 8, 'clips': 4}"),
    Edit(
        overrides=(f"data.sources.0.manifest={FOLDER}/moved/stills.csv",),
        accepted=(f"data.sources.0.manifest: {FOLDER}",),
        change=moved,
    ),
    other_list(lambda rows: rows[:-1]),
    harmful("model.depth", "2", "3"),
    Edit(
        overrides=("seed=3", "optim.lr=0.01", "model.moae.top_k=1", "engine.log_every=3"),
        refused=("seed: 0 -> 3", "optim.lr: 0.001 -> 0.01", "model.moae.top_k: 2 -> 1"),
    ),
    harmless("engine.zero_stage", "1", "3", exact=False),
    Edit(ranks=2, accepted=("world_size: 1 -> 2",), exact=False),
    harmless("batch.accumulation", "1", "2", exact=False),
    harmless("name", "tiny-finetune", "renamed"),
    harmless("engine.save_every", "2", "1"),
    harmless("engine.keep_last", "9", "2"),
    harmless("engine.eval_every", "null", "2"),
    harmless("data.on_error", "error", "skip"),
    harmless("evaluation.batch_size", "16", "2"),
    harmless("evaluation.frame_baseline", "False", "true"),
    harmless("engine.zero_stage", "1", "0", exact=False),
    harmless("engine.zero_stage", "1", "2", exact=False),
    other_list(lambda rows: [*rows[:-1], rows[-1].replace("sad", "happy").replace("fear", "sad")]),
    other_list(lambda rows: [*rows, "stills/000.jpg,happy,train,image"][1:]),
    other_list(lambda rows: rows[::-1], index=1, name="clips"),
    other_list(lambda rows: [rows[0].replace("test", "train"), *rows[1:]]),
    harmful("engine.steps", "4", "6"),
    Edit(
        overrides=("engine.steps=null", "engine.epochs=4"), refused=("engine.epochs: null -> 4", "engine.steps: 4 -> ")
    ),
    harmful("engine.precision", "fp32", "bf16"),
    harmful("engine.backends", "{}", "{'attention': 'reference'}"),
    harmful("model.embed_dim", "32", "64"),
    harmful("model.num_heads", "1", "2"),
    harmful("model.image_size", "32", "48"),
    harmful("model.num_frames", "4", "2"),
    harmful("model.patch_size", "16", "8"),
    harmful("model.tubelet_size", "2", "4"),
    harmful("model.drop_path", "0.1", "0.2"),
    harmful("model.moae.num_experts", "4", "6"),
    harmful("model.moae.hidden_ratio", "0.25", "0.5"),
    harmful("model.moae.first_layer", "null", "0"),
    harmful("model.moae.router_noise", "train", "off"),
    harmful("model.moae.capacity_factor", "null", "1.0"),
    harmful("model.moae.balance", "switch", "release"),
    harmful("model.moae.balance_weight", "0.01", "0.1"),
    harmful("model.moae.lr_multiplier", "1.0", "2.0"),
    harmful("mode", "moae", "multitask"),
    harmful("optim.weight_decay", "0.05", "0.1"),
    harmful("optim.betas", "[0.9, 0.95]", "[0.9, 0.999]"),
    harmful("optim.eps", "1e-08", "1e-06"),
    harmful("optim.min_lr", "0.0", "0.0001"),
    harmful("optim.warmup_share", "0.05", "0.5"),
    harmful("optim.layer_decay", "1.0", "0.75"),
    harmful("optim.decay_rule", "matrices", "release"),
    harmful("optim.max_grad_norm", "1.0", "null"),
    harmful("optim.ema", "0.9", "0.99"),
    harmful("batch.batching", "packed", "alternate"),
    harmful("batch.loss_weights", "null", "{'image': 1.0, 'video': 2.0}"),
    harmful("data.image.flip", "0.5", "0.0"),
    harmful("data.video.crop", "random_resized", "center"),
    harmful("data.image.color_jitter", "0.0", "0.4"),
    harmful("data.video.randaug_ops", "0", "2"),
    harmful("data.image.erase", "0.0", "0.25"),
    harmful("data.mix.mixup_alpha", "0.0", "0.8"),
    harmful("data.mix.cutmix_alpha", "0.0", "1.0"),
    harmful("data.mix.label_smoothing", "0.0", "0.1"),
    harmful("data.val_share", "0.3", "0.4"),
    harmful("data.order", "natural", "lexicographic"),
    harmful("data.frame_sampling", "window", "release"),
    harmful("data.sources.1.stride", "1", "2"),
    harmful("data.sources.0.sampling", "natural", "balanced"),
    harmful("data.sources.0.views", "1", "2"),
    harmful("data.sources.0.rate", "1.0", "2.0"),
    harmful("data.sources.0.name", "stills", "photos", also=('batch.per_step={"photos": 4, "clips": 4}',)),
    harmful("data.sources.0.classes", "null", "['sad', 'happy', 'fear']"),
    harmful("evaluation.temporal_views", "2", "1"),
    harmful("data.mask_ratio", "{'image': 0.5, 'video': 0.5}", "{'image': 0.75, 'video': 0.5}", task="pretrain"),
    harmful("model.decoder_embed_dim", "32", "64", task="pretrain"),
    harmful("data.decode_ratio", "{'image': 1.0, 'video': 1.0}", "{'image': 1.0, 'video': 0.5}", task="pretrain"),
    harmful("model.decoder", "joint", "cross", task="pretrain"),
    harmless("engine.recompute", "0.0", "0.5"),
    harmless("engine.step_graph", "auto", "never"),
)

_benches: dict[Path, trials.Bench] = {}


def prepare(folder: Path) -> None:
    """A whole run of both tasks, from the middle of which every case goes on."""
    bench = _benches[folder] = trials.Bench(folder)
    for task in ("finetune", "pretrain"):
        shutil.rmtree(folder / task, ignore_errors=True)
        trial = bench.fork(bench.write_run(task, task), *BASE)
        assert trial.wait() == 0, trial.err
        trial.close()


def run(number: int, folder: Path) -> str:
    """Outcome: accepted or refused."""
    bench, edit = _benches[folder], EDITS[number]
    if edit.change is not None:
        edit.change(folder)
    case = folder / "case"
    shutil.rmtree(case, ignore_errors=True)
    shutil.copytree(folder / edit.task, case)
    shutil.rmtree(case / LAST.rpartition("/")[0])
    (case / "checkpoints/latest").write_text(f"step-{BEFORE:08d}\n")
    before = trials.lines(case)
    overrides = [text.replace(FOLDER, str(folder)).replace("'", '"') for text in (*BASE, *edit.overrides)]
    trial = bench.fork(folder / f"{edit.task}.yaml", *overrides, f"run_dir={case}", ranks=edit.ranks)
    status, out, error = trial.wait(), trial.out, trial.err
    trial.close()
    if edit.refused:
        _assert_refused(edit, status, error)
        assert trials.lines(case) == before and trials.saved_step(case) == BEFORE, "something was done to the run"
        return "refused"
    assert status == 0, error
    said = [line.partition("changed since then: ")[2] for line in out.splitlines() if "changed since then" in line]
    expected = [f"run_dir: {folder / edit.task} -> {case}", *edit.accepted]
    assert len(said) == len(expected), said
    for line in expected:
        assert any(each.lower().startswith(line.replace(FOLDER, str(folder)).lower()[:60]) for each in said), (
            line,
            said,
        )
    _assert_same_weights(folder / edit.task / LAST, case / LAST, exact=edit.exact)
    return "accepted"


def _assert_refused(edit: Edit, status: int, error: str) -> None:
    told = [line for line in error.splitlines() if line.startswith("error: ")]
    assert status == 3 and len(told) == 1 and "Traceback" not in error, (status, error)
    for line in edit.refused:
        assert line in told[0], (line, told[0])
    assert "engine.log_every" not in told[0] and "--fresh" in told[0], told[0]


def _assert_same_weights(whole: Path, continued: Path, *, exact: bool) -> None:
    ours, theirs = load_file(continued), load_file(whole)
    assert set(ours) == set(theirs)
    for name, tensor in theirs.items():
        gap = float((ours[name] - tensor).abs().max())
        assert gap == 0.0 if exact else gap <= 1e-4, f"{name}: differs by {gap:g} from a run without the change"
