"""`s4d doctor` on planted machines: each part sound and damaged, the fix of whatever is not live, and the document."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import planted_facts
import pytest
from planted_facts import CODECS, DEVICE, ON_CPU, ON_GPU, REFUSED, SMI, planted

from engine import dependencies
from s4d.cli import doctor_compute, machine_checks, main
from s4d.cli.doctor import merged
from s4d.cli.doctor_bounded import Facts
from s4d.cli.doctor_check import LIVE, Verdict
from s4d.cli.machine_checks import PARTS, Machine, judge_all

VERSIONS = {"triton": "3.7.1", "xformers": "0.0.35", "nvidia-dali-cuda130": "2.4.0", "torchcodec": "0.13.0"}
KEYS = ["group", "name", "state", "live", "needed", "passes", "detail", "fix", "facts"]
STATES = {"ok", "warning", "idle", "absent", "broken"}


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every optional package is there and fits, and no variable hides a device."""
    real = dependencies.installed
    for module in ("engine.dependencies", "s4d.cli.doctor_compute"):
        monkeypatch.setattr(f"{module}.installed", lambda package: VERSIONS.get(package) or real(package))
    for variable in ("CUDA_VISIBLE_DEVICES", "DS_ACCELERATOR", "GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(doctor_compute, "interfaces", lambda: {"lo": "127.0.0.1", "eth0": "10.0.0.1"})


def verdict(name: str, facts: Facts) -> Verdict:
    (check,) = [check for check in judge_all(Machine(facts=facts)).checks if check.name == name]
    return check.verdict


@pytest.mark.parametrize("name", [name for name, part in PARTS.items() if part.group in ("GPU", "libraries", "media")])
def test_every_library_is_live_on_a_sound_machine_with_a_gpu(name: str) -> None:
    found = verdict(name, planted(ON_GPU))
    assert found.state == "ok" and not found.fix, found


def test_without_a_gpu_what_needs_one_is_not_live_and_training_is_possible() -> None:
    report = judge_all(Machine(facts=planted(ON_CPU)))
    states = {check.name: check.verdict.state for check in report.checks if check.group != "machine"}
    assert [name for name, state in states.items() if state == "absent"] == ["NVIDIA driver", "GPU"]
    assert [name for name, state in states.items() if state == "idle"] == ["triton", "xformers", "DALI", "torchcodec"]
    assert set(states.values()) == {"ok", "absent", "idle"}
    assert all(check.passes for check in report.checks if check.group != "machine")


NO_AV1 = {"problem": None, "decodes": {"cpu": {**CODECS}, "gpu": {**CODECS, "av1": "no"}}}
NO_FFMPEG = {"problem": "cannot be used here; install FFmpeg"}
ASKED_FOR = "S4D_ATTENTION_BACKEND"
OLD_DEVICE = {**DEVICE, "capability": [7, 5]}
STRANGE_DEVICE = {**DEVICE, "capability": [6, 1]}
NO_VIDEO = {"problem": None, "decodes": {"cpu": {**CODECS}, "gpu": {**CODECS, "h264": "no nvcuvid"}}}
REFUSED_CHOICE = {"op": "attention", "case": "", "backend": None, "why": "unknown backend"}


@pytest.mark.parametrize(
    ("name", "base", "changed", "state", "detail", "fix"),
    [
        ("NVIDIA driver", ON_GPU, {"nvidia": {"problem": "No devices were found"}}, "broken", "No dev", "nvidia-smi"),
        ("NVIDIA driver", ON_CPU, {"nvidia": {"device_files": 2}}, "broken", "2 device files", "--gpus all"),
        ("NVIDIA driver", ON_GPU, {"nvidia": {"cuda": "12.4"}}, "broken", "serves CUDA 12.4", "whl/cu128"),
        ("NVIDIA driver", ON_GPU, {"nvidia": {"cuda": "13.1"}}, "ok", "built for 13.0", ""),
        ("NVIDIA driver", ON_GPU, {"nvidia": {"decodes_video": False}}, "warning", "libnvcuvid", "video"),
        ("NVIDIA driver", ON_GPU, {"nvidia": "does not answer"}, "broken", "does not answer", "nvidia-smi"),
        ("GPU", ON_GPU, {"torch": {"devices": [DEVICE] * 2}}, "ok", "2 x NVIDIA H100 80GB HBM3, 79 GiB", ""),
        ("GPU", ON_GPU, {"nvidia": {"devices": [SMI]}}, "ok", "MIG off, persistence on, ECC on", ""),
        ("GPU", ON_GPU, {"torch": {"cuda": None, "devices": []}}, "idle", "build for the CPU", "pip install torch"),
        ("GPU", ON_GPU, {"torch": {"devices": [], "problem": "broken driver"}}, "broken", "broken driver", "nvidia"),
        ("GPU", ON_GPU, {"torch": {"devices": [OLD_DEVICE], "architectures": []}}, "warning", "7.5", "8.0"),
        ("GPU", ON_GPU, {"torch": {"devices": [STRANGE_DEVICE]}}, "broken", "sm_80, sm_90, sm_120", "pip install -U"),
        ("torch", ON_GPU, {"torch": {"cuda": None, "devices": []}}, "warning", "not used", "whl/cu130"),
        ("torch", ON_CPU, {"torch": {"bf16_products": "fp32"}}, "ok", "bf16 products by fp32 ones", ""),
        ("torch", ON_CPU, {"torch": "ends the process (SIGSEGV)"}, "broken", "SIGSEGV", "make env"),
        ("native library", ON_CPU, {"native": {"problem": "is not built"}}, "absent", "not built", "make native"),
        ("native library", ON_CPU, {"native": {"problem": "does not load"}}, "broken", "not load", "make native"),
        ("native library", ON_CPU, {"native": {"instructions": None}}, "warning", "loaded", "make native"),
        ("native library", ON_CPU, {"native": {"missing": {"CUDA": "no nvcc"}}}, "ok", "no CUDA: no nvcc", ""),
        ("native library", ON_GPU, {"native": {"missing": {"CUDA": "no nvcc"}}}, "warning", "no CUDA", "install nvcc"),
        ("triton", ON_GPU, {"triton": {"problem": "no C compiler"}}, "broken", "no C compiler", "python3-dev"),
        ("triton", ON_GPU, {"triton": {"interpreted": True}}, "warning", "interpreter", "unset TRITON_INTERPRET"),
        ("triton", ON_GPU, {"triton": "does not work"}, "broken", "does not work", "pip install"),
        ("xformers", ON_GPU, {"xformers": {"problem": "xformers was built for torch 2.10"}}, "broken", "built", "-U"),
        ("xformers", ON_CPU, {"xformers": "ends the process"}, "broken", "ends the process", "pip uninstall"),
        ("deepspeed", ON_CPU, {"deepspeed": "does not work"}, "broken", "does not work", "make env"),
        ("between ranks", ON_GPU, {"torch": {"nccl": None}}, "broken", "without nccl", "make env"),
        ("PyAV", ON_CPU, {"PyAV": {"libavcodec": [61, 3, 100]}}, "broken", "at least 62", "pip install"),
        ("PyAV", ON_CPU, {"PyAV": {"decodes": {**CODECS, "h264": "no"}}}, "broken", "cannot decode h264", "pip"),
        ("PyAV", ON_CPU, {"PyAV": {"decodes": {**CODECS, "av1": "no"}}}, "warning", "cannot decode av1", "pip"),
        ("PyAV", ON_CPU, {"PyAV": {"without_decoder": ["wmv1"]}}, "warning", "cannot decode wmv1", "pip"),
        ("Pillow", ON_CPU, {"Pillow": {"decodes": {"JPEG": "no"}}}, "broken", "JPEG", "pip install"),
        ("Pillow", ON_CPU, {"Pillow": {"decodes": {"JPEG": None, "WEBP": "no"}}}, "warning", "WEBP", "pip install"),
        ("DALI", ON_CPU, {"DALI": {}}, "idle", "2.4.0; on the CPU hevc, vp9, av1, mpeg4, jpeg (not h264)", "GPU"),
        ("DALI", ON_CPU, {"DALI": {"problem": "cannot be imported"}}, "broken", "cannot be imp", "pip install"),
        ("DALI", ON_CPU, {"DALI": {"decodes": {"cpu": {"jpeg": REFUSED}}}}, "broken", "nothing", "pip install"),
        ("DALI", ON_GPU, {"DALI": NO_VIDEO}, "broken", "(not h264)", "NVIDIA_DRIVER_CAPABILITIES"),
        (
            "DALI",
            ON_GPU,
            {"DALI": {"decodes": {"cpu": CODECS, "gpu": {**CODECS, "av1": "no"}}}},
            "warning",
            "av1",
            "pya",
        ),
        (
            "torchcodec",
            ON_GPU,
            {"torchcodec": {"problem": "cannot be used here; install FFmpeg"}},
            "broken",
            "0.13.0 c",
            "i",
        ),
        (
            "backends",
            ON_CPU,
            {"choices": {"ops": [REFUSED_CHOICE]}},
            "broken",
            "unknown",
            "unset S4D_ATTENTION_BACKEND",
        ),
        ("backends", ON_CPU, {"choices": "does not work: no torch"}, "broken", "no torch", "make env"),
    ],
)
def test_a_damaged_part_is_found(
    name: str,
    base: dict[str, Any],
    changed: dict[str, Any],
    state: str,
    detail: str,
    fix: str,
) -> None:
    found = verdict(name, planted(base, **changed))
    assert found.state == state and detail in found.detail, found
    assert fix in found.fix and bool(found.fix) == (state != "ok"), found


@pytest.mark.parametrize(
    ("name", "variable", "value", "base", "changed", "state", "fix"),
    [
        ("GPU", "DS_ACCELERATOR", "cpu", ON_GPU, {}, "idle", "unset DS_ACCELERATOR"),
        ("GPU", "CUDA_VISIBLE_DEVICES", "", ON_GPU, {"torch": {"devices": []}}, "idle", "unset CUDA_VISIBLE_DEVICES"),
        ("triton", "DS_ACCELERATOR", "cpu", ON_GPU, {}, "idle", "needs a GPU"),
        ("between ranks", "GLOO_SOCKET_IFNAME", "eth7", ON_CPU, {}, "warning", "unset GLOO_SOCKET_IFNAME"),
        ("between ranks", "GLOO_SOCKET_IFNAME", "eth0", ON_CPU, {}, "ok", ""),
    ],
)
def test_a_variable_that_hides_something_is_named(
    name: str,
    variable: str,
    value: str,
    base: dict[str, Any],
    changed: dict[str, Any],
    state: str,
    fix: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(variable, value)
    found = verdict(name, planted(base, **changed))
    assert found.state == state and fix in found.fix, found


@pytest.mark.parametrize("name", ["triton", "xformers", "DALI", "torchcodec"])
@pytest.mark.parametrize("version", [None, "0.0.1"])
def test_a_package_that_is_not_there_or_too_old(
    name: str, version: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("engine.dependencies", "s4d.cli.doctor_compute"):
        monkeypatch.setattr(f"{module}.installed", lambda asked: version)
    found = verdict(name, planted(ON_GPU))
    assert found.state == ("absent" if version is None else "broken")
    assert "pip install" in found.fix and (version or "not installed") in found.detail


def test_either_package_of_dali_serves(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("engine.dependencies", "s4d.cli.doctor_compute"):
        monkeypatch.setattr(f"{module}.installed", {"nvidia-dali-cuda120": "2.4.1"}.get)
    assert verdict("DALI", planted(ON_GPU)).detail.startswith("2.4.1; on the CPU")


def test_a_fix_belongs_to_every_state_but_ok() -> None:
    Verdict(state="ok", detail="")
    Verdict(state="idle", detail="", fix="do this")
    for state, fix in (("ok", "do this"), ("idle", ""), ("broken", "")):
        with pytest.raises(ValueError, match="a fix belongs to"):
            Verdict(state=state, detail="", fix=fix)  # type: ignore[arg-type]


@pytest.mark.parametrize("base", [ON_CPU, ON_GPU, {}], ids=["cpu", "gpu", "nothing answers"])
def test_the_document_has_the_same_keys_on_every_machine(
    base: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(machine_checks, "gather", lambda probes: planted(base))
    status = main(["doctor", "--json"])
    document = json.loads(capsys.readouterr().out)
    assert list(document) == ["ok", "checks", "choices"]
    assert [check["name"] for check in document["checks"]] == list(PARTS)
    assert list(document["choices"]) == ["device", "between_ranks", "ops"]
    for check in document["checks"]:
        assert list(check) == KEYS and check["state"] in STATES
        assert check["live"] == (check["state"] in LIVE) and bool(check["fix"]) == (check["state"] != "ok")
    for choice in document["choices"]["ops"]:
        assert list(choice) == ["op", "case", "backend", "why"]
    assert document["ok"] == (status == 0)
    # Whatever disk and memory this test has.
    failed = [check["name"] for check in document["checks"] if not check["passes"] and check["group"] != "machine"]
    assert bool(failed) == (not base), failed


def test_one_library_that_does_not_answer_takes_no_other_with_it() -> None:
    for name in ("xformers", "triton", "DALI", "torchcodec", "nvidia", "native"):
        report = judge_all(Machine(facts=planted(ON_CPU, **{name: "ends the process (SIGSEGV)"})))
        broken = [check.name for check in report.checks if check.verdict.state == "broken"]
        assert len(broken) == 1 and not report.failed, (name, broken)


def test_eighty_columns_without_colour(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(machine_checks, "gather", lambda probes: planted(ON_GPU, xformers="ends the process"))
    monkeypatch.setenv("COLUMNS", "80")
    main(["doctor", "--run-dir", str(tmp_path)])
    said = capsys.readouterr().out
    assert "\x1b" not in said and max(map(len, said.split("\n"))) <= max(80, 26 + len(str(tmp_path)))
    assert "fix: pip uninstall xformers" in said
    assert "attention       native      bf16; first choice" in said
    assert "this machine can" in said.splitlines()[-1] and "xformers" in said.splitlines()[-1]


def test_cases_of_one_backend_share_a_line() -> None:
    def choice(op: str, case: str, backend: str | None, why: str = "first choice") -> dict[str, Any]:
        return {"op": op, "case": case, "backend": backend, "why": why}

    choices = [
        choice("a", "x", "one"),
        choice("a", "y", "two"),
        choice("a", "z", "one"),
        choice("b", "", None, "asked for"),
        choice("c", "x", "one"),
        choice("c", "y", "one"),
    ]
    assert merged(choices) == [
        ("a", "one", "x, z; first choice"),
        ("", "two", "y; first choice"),
        ("b", "refused", "asked for"),
        ("c", "one", "first choice"),
    ]


def test_planted_facts_have_the_keys_of_real_ones() -> None:
    from s4d.cli import doctor_facts

    assert set(planted_facts.ON_CPU) == set(doctor_facts.PROBES)
    assert set(doctor_facts.nvidia_facts()) == set(ON_CPU["nvidia"])
    assert set(doctor_facts.torch_facts()) == set(ON_CPU["torch"])
    assert set(doctor_facts.native_facts()) == set(ON_CPU["native"])
    assert set(doctor_facts.pillow_facts()) == set(ON_CPU["Pillow"])
