"""Exit codes, one-line errors and output of the commands."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from s4d.cli import main
from s4d.cli.app import COMMANDS, GROUPS, build_app
from s4d.cli.checkpoint import parse_classes
from s4d.cli.out_folder import refuse_unwritable
from s4d.cli.output import print_json, relative
from s4d.cli.train import launch_command
from s4d.errors import UsageError

ROOT = Path(__file__).parents[3]
DEMO = str(ROOT / "configs" / "finetune" / "demo.yaml")
COMMAND = [sys.executable, "-c", "import sys; from s4d.cli import main; sys.exit(main())"]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, cwd=ROOT, timeout=60)


@pytest.mark.parametrize(
    ("arguments", "status", "expected"),
    [
        (["nonsense"], 2, "No such command"),
        (["train"], 2, "Missing option '--config'"),
        (["config", "show", "nope.yaml"], 2, "nope.yaml: no such file"),
        (["config", "show", DEMO, "optim.lrr=1"], 2, "command line: optim.lrr: unknown key; did you mean 'lr'?"),
        (["train", "--config", DEMO, "modle.size=tiny"], 2, "did you mean 'model'?"),
        (["data", "prepare", "dfeww", ".", "--out", "m.parquet"], 2, "did you mean dfew"),
        (["data", "prepare", "dfew", "nope", "--out", "m.parquet"], 1, "nope: no such folder"),
        (["report", "nope"], 2, "nope: no such folder"),
        (["evaluate", "nope"], 2, "config.yaml: no such file"),
        (["evaluate", "nope", "--out", "./nope"], 2, "--out nope: is the run itself"),
        (["extract", "nope", "--data", "m.csv", "--out", "features"], 1, "nope: no such run, checkpoint or model"),
        (["checkpoint", "inspect", "nope"], 1, "nope: no such run, checkpoint or model folder"),
        (["checkpoint", "verify", str(ROOT / "configs")], 1, "configs: no checkpoint there"),
        (["golden", "nope.safetensors"], 1, "nope.safetensors"),
        (["report", ""], 2, "an argument is empty: the one behind 'report'"),
        (["train", "--config="], 2, "an argument is empty: --config="),
        (["evaluate", "run", "--out", f"{DEMO}/x"], 2, f"--out {DEMO}/x: {DEMO} is not a folder"),
        (["predict", "a.png", "--checkpoint", "run", "--out", DEMO], 2, f"--out {DEMO}: {DEMO} is not a folder"),
        (["analyze", "correlation", "run", "--out", DEMO], 2, "is not a folder"),
        (["data", "validate", "m.csv", "--out", DEMO], 2, "is not a folder"),
        (["analyze", "routing", "run", "--dead-share", "nan"], 2, "Invalid value for '--dead-share'"),
        (["bench", "moae", "--device", "cpu", "--peers", "grouped,nope"], 2, "--peers: none fits nope; peers are "),
        (["bench", "step", "--device", "cpu", "--peers", "nope"], 2, "--peers: none fits nope; peers are engine, "),
        (["doctor", "--ssh-port", "22"], 2, "--interface, --ssh-port: belong to --hostfile"),
    ],
)
def test_errors_are_one_line_with_their_status(
    arguments: list[str], status: int, expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == status
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.startswith("s4d: error: ") and output.err.count("\n") == 1
    assert expected in output.err


def test_traceback_on_request(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("S4D_TRACEBACK", "1")
    with pytest.raises(UsageError):
        main(["config", "show", "nope.yaml"])


def test_every_command_has_help() -> None:
    runner, app = CliRunner(), build_app()
    names = [[name] for name in COMMANDS] + [[group, name] for group, (_, rows) in GROUPS.items() for name in rows]
    for name in [[], *names]:
        result = runner.invoke(app, [*name, "--help"])
        assert result.exit_code == 0, name
        assert "Usage" in result.output


def test_help_imports_nothing_heavy() -> None:
    heavy = ("torch", "numpy", "pydantic", "deepspeed", "matplotlib", "av")
    code = (
        "import sys; from s4d.cli import main; status = main(['--help']);"
        f"loaded = [name for name in {heavy!r} if name in sys.modules];"
        "sys.stderr.write(' '.join(loaded)); sys.exit(status)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=60)
    assert (result.returncode, result.stderr) == (0, "")


def test_status_reaches_the_shell() -> None:
    result = run("config", "show", DEMO, "engine.zero_stage=7")
    assert result.returncode == 2
    assert result.stdout == "" and "engine.zero_stage: expected 0, 1, 2 or 3, got 7" in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("where", "status", "expected"),
    [
        ("broken pipe", 1, ""),
        ("full disk", 1, "s4d: error: No space left on device\n"),
        ("closed", 0, ""),
    ],
)
def test_output_that_cannot_be_written(where: str, status: int, expected: str) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "wb") as broken, open("/dev/full", "wb") as full:
        result = subprocess.run(
            ["bash", "-c", f'exec "$@" {">&-" if where == "closed" else ""}', "bash", *COMMAND, "config", "show", DEMO],
            stdout=full if where == "full disk" else broken,
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env={name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"},
            timeout=60,
        )
    assert (result.returncode, result.stderr) == (status, expected)


@pytest.mark.parametrize("place", ["s4d.cli.app.build_app", "s4d.config.load"])
def test_an_interrupt_is_one_line(
    place: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(place, interrupt)
    assert main(["config", "show", DEMO]) == 130
    assert capsys.readouterr().err == "s4d: interrupted\n"


def test_config_show_prints_a_file_that_loads(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from s4d.config import load

    assert main(["config", "show", DEMO, "seed=7", "recipe=release", "batch.batching=packed"]) == 0
    text = capsys.readouterr().out
    assert "# differs from it: batch.batching: packed (recipe release: alternate)" in text
    (tmp_path / "shown.yaml").write_text(text)
    assert load(tmp_path / "shown.yaml").seed == 7
    assert main(["config", "show", DEMO, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["config"]["name"] == "demo-finetune"


def test_config_diff_lists_what_differs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from s4d.config import load, save

    save(load(DEMO, ["optim.lr=0.5", "data.sources.0.rate=0.25", "engine.log_every=77"]), tmp_path / "other.yaml")
    assert main(["config", "diff", DEMO, str(tmp_path / "other.yaml")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines] == ["data.sources.0.rate", "optim.lr", "engine.log_every"]
    assert [line.endswith("(may change in a run)") for line in lines] == [False, False, True]
    assert main(["config", "diff", DEMO, DEMO, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {}


def test_config_schema_knows_every_section(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "schema"]) == 0
    schema = json.loads(capsys.readouterr().out)
    assert {"model", "data", "batch", "optim", "engine", "evaluation"} <= set(schema["properties"])
    assert schema["additionalProperties"] is False


def test_doctor_reports_every_check(capsys: pytest.CaptureFixture[str]) -> None:
    from s4d.cli.machine_checks import PARTS

    status = main(["doctor", "--json"])
    document = json.loads(capsys.readouterr().out)
    assert [check["name"] for check in document["checks"]] == list(PARTS)
    assert status == (0 if document["ok"] else 1)
    assert all(check["fix"] for check in document["checks"] if check["state"] != "ok")
    mistakes = ("KeyError", "TypeError", "AttributeError", "IndexError", "ValueError")
    assert not [check for check in document["checks"] if check["detail"].startswith(mistakes)]
    states = {check["name"]: check["state"] for check in document["checks"]}
    # What these tests could not run without.
    assert {states[name] for name in ("python", "versions", "torch", "deepspeed", "PyAV", "Pillow")} == {"ok"}
    assert document["choices"]["ops"] and all(choice["backend"] for choice in document["choices"]["ops"])


def test_a_broken_part_fails_only_if_needed() -> None:
    from s4d.cli.doctor_check import Check, Verdict

    broken = Verdict(state="broken", detail="", fix="mend it")
    assert not Check(group="", name="x", needed=True, verdict=broken).passes
    assert Check(group="", name="x", needed=False, verdict=broken).passes


def test_one_rank_is_plain_python_and_more_are_launched() -> None:
    arguments = ["--config", "c.yaml", "seed=1"]
    alone = launch_command(arguments, 1)
    assert alone[0] == sys.executable and alone[1].endswith(os.path.join("engine", "train.py"))
    assert alone[2:] == arguments
    several = launch_command(arguments, 2)
    assert Path(several[1]).name == "deepspeed" and several[2:4] == ["--num_accelerators", "2"]
    assert several[4:] == alone[1:]


def test_class_names_of_heads() -> None:
    assert parse_classes(["image=a,b", "video=c, d"]) == {"image": ("a", "b"), "video": ("c", "d")}
    for wrong in (["image"], ["=a"], ["image=a,,b"], ["image=a", "image=b"], ["image=a,b,a"], ["a.b=c"], ["a\nb=c"]):
        with pytest.raises(UsageError, match="--classes"):
            parse_classes(wrong)


def test_a_folder_of_results_that_can_be_made_is_taken(tmp_path: Path) -> None:
    refuse_unwritable(tmp_path / "new" / "deeper")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    with pytest.raises(UsageError, match="link is not a folder"):
        refuse_unwritable(tmp_path / "link")
    assert [path.name for path in tmp_path.iterdir()] == ["link"]


def test_json_has_no_nan_and_paths_are_relative(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    print_json({"x": float("nan"), "y": (1, float("inf"))})
    assert json.loads(capsys.readouterr().out) == {"x": None, "y": [1, None]}
    monkeypatch.chdir(tmp_path)
    assert relative(tmp_path / "a" / "b") == "a/b"
    assert relative("/elsewhere/b") == "/elsewhere/b"
    (tmp_path / "loop").symlink_to("loop")
    assert relative("loop") == "loop"
