"""Libraries that fail, hang or crash while they are asked about themselves, as packages of that name."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from s4d.cli.doctor_bounded import Facts, UnknownFactsError, gather

ROOT = Path(__file__).resolve().parents[3]
SOUND = {
    "__init__.py": "__version__ = '0.19.9'\nfrom deepspeed import ops\nprint('noise')\n",
    "ops.py": "__compatible_ops__ = {'cpu_adam': True, 'async_io': False}\n",
    "git_version_info.py": "installed_ops = {'cpu_adam': False}\n",
}


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a package `deepspeed` that is found before the real one."""
    folder = tmp_path / "deepspeed"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(tmp_path))
    return folder


def test_a_sound_library_answers_whatever_it_prints(fake: Path) -> None:
    for name, text in SOUND.items():
        (fake / name).write_text(text)
    facts = gather(["deepspeed", "nvidia"])
    assert facts["deepspeed"] == {"version": "0.19.9", "built": [], "could_build": ["cpu_adam"]}
    assert facts["nvidia"]["devices"] is not None and not facts.failures


def test_an_answer_imports_nothing_here(fake: Path, tmp_path: Path) -> None:
    (tmp_path / "kind_of_text.py").write_text("class Text(str): pass\n")
    for name, text in SOUND.items():
        (fake / name).write_text(text)
    (fake / "__init__.py").write_text(
        "from kind_of_text import Text\n__version__ = Text('0.19.9')\nfrom deepspeed import ops\n"
    )
    assert gather(["deepspeed"])["deepspeed"]["version"] == "0.19.9"
    assert "kind_of_text" not in sys.modules


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("raise ImportError('undefined symbol: x\\nin a library')", "does not work: undefined symbol: x"),
        ("raise RuntimeError", "does not work: RuntimeError"),
        ("import os; os.abort()", "ends the process that imports it (SIGABRT)"),
        ("import os; os.kill(os.getpid(), 11)", "ends the process that imports it (SIGSEGV)"),
        (
            "import os; os.write(2, b'no driver\\n'); os._exit(3)",
            "ends the process that imports it (status 3): no driver",
        ),
    ],
)
def test_a_library_that_ends_its_process_is_told_of(fake: Path, text: str, reason: str) -> None:
    (fake / "__init__.py").write_text(text)
    facts = gather(["deepspeed"])
    assert facts.failures == {"deepspeed": reason}
    with pytest.raises(UnknownFactsError, match=r"process|work"):
        facts["deepspeed"]
    assert facts.get("deepspeed") == {}


def test_a_library_that_hangs_ends_with_all_it_started(fake: Path, tmp_path: Path) -> None:
    note = tmp_path / "child"
    (fake / "__init__.py").write_text(
        "import pathlib, subprocess, time\n"
        f"started = subprocess.Popen([{sys.executable!r}, '-c', 'import time; time.sleep(600)'])\n"
        f"pathlib.Path({str(note)!r}).write_text(str(started.pid))\n"
        "time.sleep(600)\n"
    )
    limit = 1.0
    while not note.exists():  # this machine may be busy
        facts = gather(["deepspeed"], limit)
        assert facts.failures == {"deepspeed": f"does not answer within {limit:g} s"}
        limit *= 2
    end = time.monotonic() + 30
    while _runs(int(note.read_text())) and time.monotonic() < end:
        time.sleep(0.05)
    assert not _runs(int(note.read_text()))


def _runs(process: int) -> bool:
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in "ZX"


def test_variables_reach_a_probe(fake: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("S4D_TRIED_HERE", "yes")
    (fake / "__init__.py").write_text("import os\nraise ValueError(os.environ['S4D_TRIED_HERE'])")
    assert gather(["deepspeed"]).failures == {"deepspeed": "does not work: yes"}
    assert "S4D_TRIED_HERE" in os.environ


def test_a_torch_that_crashes_takes_only_what_needs_it(tmp_path: Path) -> None:
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch/__init__.py").write_text("import os; os.abort()")
    code = "import sys; from s4d.cli import main; sys.exit(main(['doctor', '--json']))"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 1, done.stderr
    checks = {check["name"]: check for check in json.loads(done.stdout)["checks"]}
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert checks["torch"]["detail"] == "ends the process that imports it (SIGABRT)"
    assert checks["PyAV"]["state"] == checks["Pillow"]["state"] == checks["python"]["state"] == "ok"


def test_what_was_not_asked_is_not_known() -> None:
    with pytest.raises(UnknownFactsError, match="was not asked"):
        Facts()["torch"]
