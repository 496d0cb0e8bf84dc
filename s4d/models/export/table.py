"""Every form a model can be exported to, a row each."""

from __future__ import annotations

from s4d.models.export import hf_videomae, program, release_names
from s4d.models.export.source import Exporter

EXPORTERS: dict[str, Exporter] = {
    "hf-videomae": hf_videomae.export,
    "torch-export": program.export_program,
    "onnx": program.export_onnx,
    "safetensors": release_names.export,
}
