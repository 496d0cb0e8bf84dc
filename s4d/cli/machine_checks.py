"""The checks behind `s4d doctor`: what libraries say about themselves is gathered first, then each part is judged."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from s4d.cli import doctor_compute, doctor_media, doctor_system
from s4d.cli.doctor_bounded import Facts, UnknownFactsError, gather
from s4d.cli.doctor_check import Check, Verdict
from s4d.cli.doctor_system import whole_number

VERSIONS = "versions"
# Probes that are asked on every machine; the others where their package is installed.
ALWAYS = ("choices", "torch", "native", "nvidia", "deepspeed", "PyAV", "Pillow")


@dataclass(frozen=True, kw_only=True, slots=True)
class Machine:
    """What a judgement may depend on: facts of libraries, ranks of a run on this machine, and its folder."""

    facts: Facts
    ranks: int = 1
    run_dir: Path | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """One line of the report: how it is judged, and what to do where that fails."""

    group: str
    judge: Callable[[Machine], Verdict]
    fix: str = "make env"
    needed: bool = False


def _of(judge: Callable[[Facts], Verdict]) -> Callable[[Machine], Verdict]:
    return lambda machine: judge(machine.facts)


PARTS: dict[str, Part] = {
    "NVIDIA driver": Part(group="GPU", judge=_of(doctor_compute.check_driver), fix="nvidia-smi must work"),
    "GPU": Part(group="GPU", judge=_of(doctor_compute.check_gpu)),
    "python": Part(group="libraries", judge=lambda _: doctor_system.check_python(), needed=True),
    VERSIONS: Part(group="libraries", judge=lambda _: doctor_system.check_versions(), needed=True),
    "torch": Part(group="libraries", judge=_of(doctor_compute.check_torch), needed=True),
    "native library": Part(group="libraries", judge=_of(doctor_compute.check_native), fix="make native"),
    "triton": Part(group="libraries", judge=_of(doctor_compute.check_triton), fix="pip install 's4d-engine[gpu]'"),
    "xformers": Part(group="libraries", judge=_of(doctor_compute.check_xformers), fix="pip uninstall xformers"),
    "deepspeed": Part(group="libraries", judge=_of(doctor_compute.check_deepspeed), needed=True),
    "between ranks": Part(group="libraries", judge=_of(doctor_compute.check_ranks), needed=True),
    "PyAV": Part(group="media", judge=_of(doctor_media.check_pyav), fix=doctor_media.WHEEL, needed=True),
    "Pillow": Part(group="media", judge=_of(doctor_media.check_pillow), needed=True),
    "DALI": Part(group="media", judge=_of(doctor_media.check_dali), fix=doctor_media.DALI_AGAIN),
    "torchcodec": Part(group="media", judge=_of(doctor_media.check_torchcodec), fix="pip uninstall torchcodec"),
    "threads": Part(group="machine", judge=lambda machine: doctor_system.check_threads(machine.ranks)),
    "memory": Part(group="machine", judge=lambda _: doctor_system.check_memory()),
    "/dev/shm": Part(group="machine", judge=lambda _: doctor_system.check_shared_memory(), needed=True),
    "disk": Part(group="machine", judge=lambda machine: doctor_system.check_disk(machine.run_dir), needed=True),
    "cache": Part(group="machine", judge=lambda _: doctor_system.check_cache()),
    "open files": Part(group="machine", judge=lambda _: doctor_system.check_open_files()),
    "backends": Part(group="training", judge=_of(doctor_compute.check_backends), needed=True),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """All checks in the order of `PARTS`, and what training would choose (empty where that could not be found out)."""

    checks: tuple[Check, ...]
    choices: dict[str, Any]

    @property
    def failed(self) -> list[str]:
        """Names of the needed parts that are not there or of no use."""
        return [check.name for check in self.checks if not check.passes]

    def as_dict(self) -> dict[str, object]:
        """For `--json`."""
        return {
            "ok": not self.failed,
            "checks": [check.as_dict() for check in self.checks],
            "choices": {
                "device": self.choices.get("device"),
                "between_ranks": self.choices.get("between_ranks"),
                "ops": self.choices.get("ops", []),
            },
        }


def examine(ranks: int | None = None, run_dir: Path | None = None) -> Report:
    """Examine this machine for a run of `ranks`; None: as many as a launcher's environment says."""
    probes = [*ALWAYS, *(name for name in doctor_compute.PACKAGES if doctor_compute.package_of(name) is not None)]
    machine = Machine(facts=gather(probes), ranks=ranks or whole_number("LOCAL_SIZE") or 1, run_dir=run_dir)
    return judge_all(machine)


def judge_all(machine: Machine) -> Report:
    """Judge every part; one whose facts are not known, or whose judgement fails, is broken."""
    checks = [
        Check(group=part.group, name=name, needed=part.needed, verdict=_judge(part, machine))
        for name, part in PARTS.items()
    ]
    return Report(checks=tuple(checks), choices=machine.facts.get("choices"))


def _judge(part: Part, machine: Machine) -> Verdict:
    try:
        return part.judge(machine)
    except UnknownFactsError as error:
        return Verdict(state="broken", detail=str(error), fix=part.fix)
    except Exception as error:
        return Verdict(state="broken", detail=f"{type(error).__name__}: {error}", fix=part.fix)
