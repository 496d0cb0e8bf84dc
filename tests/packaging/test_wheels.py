"""The source package and both wheels, built as `make wheels` does and used in environments away from the checkout.

Nothing is downloaded: the environments see the packages of this one, behind their own.
"""

from __future__ import annotations

import json
import os
import shutil
import site
import subprocess
import sys
import tarfile
from pathlib import Path
from zipfile import ZipFile

import pytest

import s4d

ROOT = Path(__file__).resolve().parents[2]
DATA_FILES = (".j2", ".html", ".css", ".js", ".svg", ".json", ".yaml")
# What every system has that the wheels of torch run on.
OLDEST_GLIBC = (2, 28)
PLAN = """
import torch
from kernels import backends, native
from kernels.moae.plan import build_plan
plan = build_plan(torch.tensor([[0, 1], [1, 2]]), 3, None)
assert plan.expert_offsets.tolist() == [0, 1, 3, 4]
print(*(name for call, name in backends.chosen().items() if call.startswith("moae_plan")), native.status()[0])
"""
TINY = (
    *("model.embed_dim=32", "model.depth=2", "model.num_heads=2", "model.image_size=32", "model.num_frames=4"),
    *("model.moae.first_layer=1", "model.init_from=null", "data.workers=0", "engine.steps=2", "engine.save_every=2"),
    "evaluation.frame_baseline=false",
)

pytestmark = [
    pytest.mark.deep,
    pytest.mark.skipif(shutil.which("c++") is None, reason="no C++ compiler: a wheel with the library cannot be built"),
]


def done(command: list[str], cwd: Path, **environment: str) -> str:
    clean = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "VIRTUAL_ENV")}
    ended = subprocess.run(
        command,
        capture_output=True,
        text=True,
        cwd=cwd,
        timeout=240,
        env={**clean, "OMP_NUM_THREADS": "1", **environment},
    )
    assert ended.returncode == 0, f"{command}\n{ended.stdout[-2000:]}\n{ended.stderr[-4000:]}"
    return ended.stdout


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The source package, unpacked: both wheels are built from it."""
    folder = tmp_path_factory.mktemp("sdist")
    done([sys.executable, "-c", f"from scikit_build_core.build import build_sdist; build_sdist({str(folder)!r})"], ROOT)
    with tarfile.open(next(folder.glob("*.tar.gz"))) as archive:
        archive.extractall(folder, filter="data")
    return folder / f"s4d_engine-{s4d.__version__}"


@pytest.fixture(scope="module")
def wheels(sources: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Both wheels by kind."""
    options = {
        "pure": ["wheel.cmake=false"],
        "native": ["cmake.define.S4D_CUDA=OFF", f"build-dir={tmp_path_factory.mktemp('cmake')}"],
    }
    built = {}
    for kind, settings in options.items():
        folder = tmp_path_factory.mktemp(kind)
        command = [
            sys.executable,
            "-m",
            "pip",
            "wheel",
            "-q",
            "--no-deps",
            "--no-build-isolation",
            "-w",
            str(folder),
            ".",
        ]
        done([*command, *(f"--config-settings={setting}" for setting in settings)], sources)
        (built[kind],) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module", params=["native", "pure"])
def installed(
    request: pytest.FixtureRequest, wheels: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, Path]:
    """(kind, folder) of an environment with one of the wheels; the packages it needs come from this environment."""
    folder = tmp_path_factory.mktemp(f"venv-{request.param}")
    done([sys.executable, "-m", "venv", "--without-pip", str(folder)], folder)
    python = str(folder / "bin" / "python")
    target = done([python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], folder).strip()
    Path(target, "borrowed.pth").write_text("\n".join(site.getsitepackages()) + "\n")
    pip = [sys.executable, "-m", "pip", "--python", python, "install", "-q", "--no-deps", "--no-index"]
    done([*pip, "--ignore-installed", str(wheels[request.param])], folder)
    return request.param, folder


def test_the_source_package_has_what_a_build_needs_and_no_tests(sources: Path) -> None:
    top = {path.name for path in sources.iterdir()}
    assert {"LICENSE", "README.md", "CMakeLists.txt", "configs", "constraints.txt", "CITATION.cff"} <= top
    assert not {"tests", "docs", "benchmarks", "runs", "shared", ".ci", ".git", ".venv", "build"} & top
    assert (sources / "kernels" / "native" / "routing_plan.cu").is_file()


def test_names_say_where_the_wheels_run(wheels: dict[str, Path]) -> None:
    version = s4d.__version__
    assert wheels["pure"].name == f"s4d_engine-{version}-py3-none-any.whl"
    assert wheels["native"].name.startswith(f"s4d_engine-{version}-py3-none-linux_")


@pytest.mark.parametrize("kind", ["native", "pure"])
def test_a_wheel_holds_code_data_files_and_licence_only(wheels: dict[str, Path], kind: str) -> None:
    names = set(ZipFile(wheels[kind]).namelist())
    kept = [path for package in ("kernels", "s4d", "engine") for path in (ROOT / package).rglob("*")]
    code = {path.relative_to(ROOT).as_posix() for path in kept if path.suffix in (".py", *DATA_FILES)}
    assert code <= names
    configs = {f"s4d/{path.relative_to(ROOT).as_posix()}" for path in (ROOT / "configs").rglob("*.yaml")}
    assert configs <= names
    libraries = {name for name in names if name.endswith(".so")}
    assert libraries == ({"kernels/native/libs4d_native.so"} if kind == "native" else set())
    assert not {name for name in names if name.endswith((".cpp", ".h", ".cu", ".pyc")) or name.startswith("tests")}
    assert any(name.endswith("licenses/LICENSE") for name in names)


@pytest.mark.skipif(shutil.which("objdump") is None, reason="no objdump")
def test_the_library_asks_for_old_symbols_only(wheels: dict[str, Path], tmp_path: Path) -> None:
    path = ZipFile(wheels["native"]).extract("kernels/native/libs4d_native.so", tmp_path)
    symbols = done(["objdump", "-T", path], tmp_path)
    versions = [word.strip("()") for word in symbols.split() if word.startswith(("(GLIBC_", "GLIBC_"))]
    numbers = {tuple(map(int, version.removeprefix("GLIBC_").split("."))) for version in versions}
    assert numbers and max(numbers) <= OLDEST_GLIBC, max(numbers)


def test_it_is_used_away_from_the_checkout(installed: tuple[str, Path], tmp_path: Path) -> None:
    kind, folder = installed
    program = str(folder / "bin" / "s4d")
    assert done([program, "--version"], tmp_path).strip() == f"s4d {s4d.__version__}"
    python = str(folder / "bin" / "python")
    where = done(
        [python, "-c", "import s4d, kernels, engine; print(s4d.__file__, kernels.__file__, engine.__file__)"], tmp_path
    )
    assert all(Path(path).is_relative_to(folder) for path in where.split())
    assert done([python, "-c", "from s4d import S4D; print(S4D.__name__)"], tmp_path).strip() == "S4D"
    checks = json.loads(done([program, "doctor", "--json"], tmp_path))["checks"]
    states = {check["name"]: check["state"] for check in checks}
    assert (states["native library"] == "absent") is (kind == "pure"), states
    assert done([python, "-c", PLAN], tmp_path).split() == (
        ["native", "True"] if kind == "native" else ["portable", "False"]
    )


def test_configurations_come_along(installed: tuple[str, Path], tmp_path: Path) -> None:
    _, folder = installed
    program = str(folder / "bin" / "s4d")
    listed = json.loads(done([program, "config", "list", "--json"], tmp_path))
    assert Path(listed["folder"]).is_relative_to(folder)
    assert "name: demo-finetune" in done(
        [program, "config", "show", f"{listed['folder']}/finetune/demo.yaml"], tmp_path
    )


@pytest.mark.launch
def test_data_training_and_report_from_a_wheel(installed: tuple[str, Path], tmp_path: Path) -> None:
    kind, folder = installed
    if kind == "native":
        pytest.skip("the same path as with the pure-Python wheel")
    program = str(folder / "bin" / "s4d")
    configs = json.loads(done([program, "config", "list", "--json"], tmp_path))["folder"]
    data = ["data", "synth", "--out", "runs/demo/data", "--clips", "35", "--images", "35", "--identities", "5"]
    done([program, *data], tmp_path)
    for name, more in {"affectnet": [], "dfew": ["--fold", "1"]}.items():
        prepare = ["data", "prepare", name, f"runs/demo/data/{name}", "--out", f"runs/demo/manifests/{name}.parquet"]
        done([program, *prepare, *more], tmp_path)
    train = ["train", "--config", f"{configs}/finetune/demo.yaml", "--ranks", "1", *TINY]
    done([program, *train], tmp_path, DS_ACCELERATOR="cpu", CUDA_VISIBLE_DEVICES="")
    run = tmp_path / "runs" / "demo" / "finetune"
    assert (run / "finished.json").is_file()
    assert json.loads((run / "env.json").read_text())["commit"] is None
    done([program, "report", str(run)], tmp_path)
    assert (run / "report" / "index.html").is_file()
