"""Trials of decoders for `s4d doctor`: what decodes, what does not, and what could not be tried."""

from __future__ import annotations

from importlib.util import find_spec

import pytest

from s4d.cli import doctor_decoding
from s4d.cli.doctor_decoding import ENCODERS, UNTRIED, by_dali, by_pillow, by_pyav, without_decoder
from s4d.data.media_limits import IMAGE_FORMATS, VIDEO_CODECS

needs_dali = pytest.mark.skipif(find_spec("nvidia.dali") is None, reason="no DALI")


def test_what_training_needs_decodes_here() -> None:
    assert set(ENCODERS) <= VIDEO_CODECS
    assert by_pyav() == dict.fromkeys(ENCODERS)
    assert by_pillow() == dict.fromkeys(IMAGE_FORMATS)
    assert without_decoder() == []


def test_a_clip_that_does_not_decode_has_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = doctor_decoding._clip("h264")
    assert whole is not None
    monkeypatch.setattr(doctor_decoding, "_clip", lambda codec: whole[: len(whole) // 2])
    assert all(by_pyav().values()) and UNTRIED not in by_pyav().values()


def test_a_codec_without_an_encoder_is_not_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    doctor_decoding._clip.cache_clear()
    monkeypatch.setattr(doctor_decoding, "ENCODERS", {"h264": ("none_of_that_name",), "mpeg4": ("mpeg4",)})
    assert by_pyav() == {"h264": UNTRIED, "mpeg4": None}
    doctor_decoding._clip.cache_clear()


@needs_dali
def test_dali_decodes_on_a_cpu_what_training_lets_it() -> None:
    from s4d.data.dali.drafts import CPU_CODECS

    found = by_dali("cpu")
    assert found.pop("jpeg") is None
    assert {codec for codec, reason in found.items() if reason is None} == CPU_CODECS & set(ENCODERS)
    assert all("\n" not in reason for reason in found.values() if reason is not None)


@needs_dali
@pytest.mark.gpu
def test_dali_decodes_on_a_gpu_what_training_lets_it() -> None:
    from s4d.data.dali.drafts import GPU_CODECS

    found = by_dali("gpu")
    assert found.pop("jpeg") is None
    assert {codec for codec, reason in found.items() if reason is None} <= GPU_CODECS
    assert found["h264"] is None
