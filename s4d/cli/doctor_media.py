"""Judgements of `s4d doctor` about what decodes: PyAV, Pillow, DALI, torchcodec."""

from __future__ import annotations

from collections.abc import Mapping

from s4d.cli.doctor_bounded import Facts
from s4d.cli.doctor_check import State, Verdict
from s4d.cli.doctor_compute import VIDEO_IN_CONTAINERS, has_gpu, optional
from s4d.cli.doctor_decoding import UNTRIED

# FFmpeg 8, whose demuxers stood the damage that is tried on them here.
OLDEST_CODECS = [62]
WHEEL = "the wheel of PyAV brings its own FFmpeg: pip install --force-reinstall --no-deps av"
DALI_AGAIN = "pip uninstall all nvidia-dali packages, then: pip install 's4d-engine[dali-cu13]'"
# Without these hardly any dataset can be read.
NEEDED_CODECS = {"h264"}
NEEDED_FORMATS = {"JPEG", "PNG"}


def check_pyav(facts: Facts) -> Verdict:
    """Versions, and whether FFmpeg decodes the codecs that datasets use."""
    found = facts["PyAV"]
    codecs = ".".join(map(str, found["libavcodec"]))
    detail = f"{found['version']}, FFmpeg {found['ffmpeg'] or 'of its own'}, libavcodec {codecs}"
    if found["libavcodec"] < OLDEST_CODECS:
        return Verdict(
            state="broken", detail=f"{detail}: at least {OLDEST_CODECS[0]} is needed", fix=WHEEL, facts=found
        )
    missing = set(found["without_decoder"]) | {
        codec for codec, reason in found["decodes"].items() if reason not in (None, UNTRIED)
    }
    if missing:
        state: State = "broken" if missing & NEEDED_CODECS else "warning"
        detail = f"{detail}: cannot decode {', '.join(sorted(missing))}"
        return Verdict(state=state, detail=detail, fix=WHEEL, facts=found)
    return Verdict(state="ok", detail=f"{detail}; decodes {_decoded(found['decodes'])}", facts=found)


def check_pillow(facts: Facts) -> Verdict:
    """Whether it decodes the formats that datasets use."""
    found = facts["Pillow"]
    missing = [form for form, reason in found["decodes"].items() if reason is not None]
    if missing:
        state: State = "broken" if set(missing) & NEEDED_FORMATS else "warning"
        detail = f"{found['version']}: cannot decode {', '.join(missing)}"
        return Verdict(state=state, detail=detail, fix="pip install --force-reinstall --no-deps pillow", facts=found)
    return Verdict(state="ok", detail=f"{found['version']}; decodes {_decoded(found['decodes'])}", facts=found)


def check_dali(facts: Facts) -> Verdict:
    """Which codecs it decodes, on the CPU and by the engines of a GPU."""
    on_cuda_12 = str(facts.get("nvidia").get("cuda")).startswith("12.")
    version = optional("DALI", "dali-cu12" if on_cuda_12 else "dali-cu13")
    if isinstance(version, Verdict):
        return version
    found = {"version": version, **facts["DALI"]}
    if found["problem"]:
        return Verdict(state="broken", detail=f"{version} {found['problem']}", fix=DALI_AGAIN, facts=found)
    devices = found["decodes"]
    detail = "; ".join([version, *(f"on the {name.upper()} {_both(codecs)}" for name, codecs in devices.items())])
    if not _decoded(devices["cpu"]):
        return Verdict(state="broken", detail=detail, fix=DALI_AGAIN, facts=found)
    if not has_gpu(facts):
        fix = "needs a GPU; on a CPU data.backend=dali asks for it"
        return Verdict(state="idle", detail=detail, fix=fix, facts=found)
    refused = [codec for codec, reason in devices.get("gpu", {"h264": ""}).items() if reason not in (None, UNTRIED)]
    if "h264" in refused:
        return Verdict(state="broken", detail=detail, fix=VIDEO_IN_CONTAINERS, facts=found)
    if refused:
        fix = f"clips in {', '.join(refused)}: data.backend=pyav"
        return Verdict(state="warning", detail=detail, fix=fix, facts=found)
    return Verdict(state="ok", detail=detail, facts=found)


def check_torchcodec(facts: Facts) -> Verdict:
    """Whether it decodes a frame."""
    version = optional("torchcodec", "torchcodec")
    if isinstance(version, Verdict):
        return version
    found = {"version": version, **facts["torchcodec"]}
    if found["problem"]:
        problem, _, fix = found["problem"].partition("; ")
        return Verdict(state="broken", detail=f"{version} {problem}", fix=fix or "pip install torchcodec", facts=found)
    if not has_gpu(facts):
        fix = "on a CPU data.backend=torchcodec asks for it"
        return Verdict(state="idle", detail=f"{version} decodes, on the CPU", fix=fix, facts=found)
    return Verdict(state="ok", detail=f"{version} decodes, on the CPU", facts=found)


def _decoded(decodes: Mapping[str, str | None]) -> str:
    return ", ".join(codec for codec, reason in decodes.items() if reason is None)


def _both(decodes: Mapping[str, str | None]) -> str:
    """`vp9, jpeg (not h264)`."""
    refused = [codec for codec, reason in decodes.items() if reason not in (None, UNTRIED)]
    return (_decoded(decodes) or "nothing") + (f" (not {', '.join(refused)})" if refused else "")
