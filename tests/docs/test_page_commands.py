"""The commands of README and manual, run page by page as they stand there, on generated faces and small models.

What is changed is stated in page_table.py: `REPLACED` and `ADDED`; pages that train find the runs they name in `READY`.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from page_blocks import ROOT, Block, Command, blocks, commands
from page_table import QUICK, is_run
from page_world import Answer, Runner, adapted, runnable, started, write_world

PLAN_OUTPUT = ("docs/throughput.md", "run: engine.zero_stage=1 batch.accumulation=1")

# What stands ready in the sandbox of the deep tests.
READY = (
    "s4d data prepare folder data/mine --out manifests/mine.parquet",
    "s4d data prepare voxceleb2 data/voxceleb2 --out manifests/voxceleb2.parquet",
    "s4d data prepare affectnet data/affectnet --out manifests/affectnet.parquet",
    "s4d data prepare dfew data/dfew --fold 1 --out manifests/dfew.parquet",
    "s4d train --config configs/pretrain/demo.yaml batch.per_step.affectnet=4 batch.per_step.voxceleb2=8",
    "s4d train --config configs/finetune/demo.yaml batch.per_step.affectnet=4 batch.per_step.dfew=4",
)
# Pages that train the run `runs/mine` themselves.
TRAINED_THERE = ("README.md", "docs/own-data.md")
# Pages whose blocks need nothing of one another, so that each is a test.
BLOCK_BY_BLOCK = ("docs/throughput.md", "docs/kernels.md", "docs/doctor.md")
RANKS = "deepspeed|profile scaling|doctor --ranks"
MINE = """name: mine
run_dir: runs/mine
task: finetune
mode: single
data: {sources: [{name: mine, modality: video, manifest: manifests/mine.parquet}]}
batch: {per_step: {mine: 8}}
optim: {lr: 1.0e-3}
engine: {steps: 20}
"""


def deep_parts() -> list:
    """Blocks that are tried together, with a mark where several processes are started."""
    parts: dict[str, list[Block]] = {}
    for block in blocks():
        if block.kind in ("commands", "python", "yaml"):
            name = ":".join(block.key) if block.page in BLOCK_BY_BLOCK else block.page
            parts.setdefault(name, []).append(block)
    texts = {
        name: [each.text for block in part for each in block.commands() if is_run(each)] for name, part in parts.items()
    }
    return [
        pytest.param(part, id=name, marks=[pytest.mark.launch] * any(re.search(RANKS, text) for text in texts[name]))
        for name, part in parts.items()
        if texts[name] or any(block.kind == "python" for block in part)
    ]


def run(runner: Runner, command: Command, root: Path) -> Answer:
    words = runnable(command, root)
    answer = runner.run(words, root)
    assert answer.status == 0, (command.page, words, answer.out[-2000:], answer.err[-4000:])
    return answer


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Runner, Path]]:
    root = tmp_path_factory.mktemp("pages")
    write_world(root)
    with started("s4d.cli.app", "s4d.config", "pyarrow.parquet", "torch") as runner:
        yield runner, root


@pytest.fixture(scope="module")
def ready(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Runner, Path]]:
    """A sandbox in which the demonstration has been trained for two steps, as `runs/mine` too."""
    root = tmp_path_factory.mktemp("ready")
    write_world(root)
    (root / "mine.yaml").write_text(MINE, encoding="utf-8")
    with started() as runner:
        for text in READY:
            run(runner, Command(page="ready", text=text), root)
            if text == READY[3]:
                shutil.copytree(root / "manifests", root / "runs/demo/manifests")
        for target in ("runs/mine", "runs/pretrain/released"):
            shutil.copytree(root / f"runs/demo/{'finetune' if 'mine' in target else 'pretrain'}", root / target)
        shutil.copy(root / "manifests/dfew.parquet", root / "manifests/other.parquet")
        yield runner, root


@pytest.mark.parametrize(
    "command",
    [command for command in commands() if is_run(command) and command.key[1].startswith(QUICK)],
    ids=lambda command: ":".join(command.key),
)
def test_a_quick_command(quick: tuple[Runner, Path], command: Command) -> None:
    runner, root = quick
    answer = run(runner, command, root)
    written = re.search(r"--out (\S+)", command.text)
    assert (root / written[1]).is_file() if written else answer.out or command.text.endswith(("--docs", "--readme"))
    if " plan " in command.text:
        (shown,) = [block.text for block in blocks() if block.key == PLAN_OUTPUT]
        assert " ".join(shown.split()) in " ".join(answer.out.split())
        page = (ROOT / PLAN_OUTPUT[0]).read_text(encoding="utf-8")
        table = re.findall(r"^\| (\d) \| \d+ \| [^|]+ videos \|(.+?)(\(chosen\) )?\|$", page, re.MULTILINE)
        lines = [line for line in answer.out.splitlines() if re.match(r" *\d .* \d+ \+ \d+ ", line)]
        told = [(line.split()[0], numbers(line.split(" + ")[1])[1:], "chosen" in line) for line in lines]
        assert len(table) == 4
        assert [(stage, numbers(values), bool(chosen)) for stage, values, chosen in table] == told


def numbers(text: str) -> list[float]:
    return [float(number) for number in re.findall(r"[\d.]+", text)]


@pytest.mark.deep
@pytest.mark.timeout(900)
@pytest.mark.parametrize("part", deep_parts())
def test_from_the_first_command_to_the_last(ready: tuple[Runner, Path], tmp_path: Path, part: list[Block]) -> None:
    runner, source = ready
    root = tmp_path / "world"
    shutil.copytree(source, root, symlinks=True)
    if part[0].page in TRAINED_THERE:
        shutil.rmtree(root / "runs/mine")
    for block in part:
        if block.kind == "yaml":
            (root / "mine.yaml").write_text(adapted(block.text, root), encoding="utf-8")
        elif block.kind == "python":
            answer = runner.run(["python", "-c", adapted(block.text, root)], root)
            assert answer.status == 0, answer.err[-4000:]
        else:
            for command in filter(is_run, block.commands()):
                run(runner, command, root)


@pytest.mark.deep
def test_every_file_and_every_number_of_a_run_is_explained(ready: tuple[Runner, Path]) -> None:
    page = (ROOT / "docs/run-folder.md").read_text(encoding="utf-8")
    _, root = ready
    for stage, own in (("pretrain", "reconstructions.npz"), ("finetune", "predictions.csv")):
        run_dir = root / "runs/demo" / stage
        lines = (run_dir / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        names = {path.name for path in run_dir.iterdir() if not path.name.startswith(".lease-")}
        keys = {key for line in lines for key in json.loads(line)}
        assert {own, "finished.json"} <= names and {"loss/image", "time/data"} <= keys
        folders = {f"{name}/" if (run_dir / name).is_dir() else name for name in names}
        assert not [name for name in folders | keys if f"`{name}`" not in page]
