"""Public checkpoints as model folders of ours, with every tensor of the file and of the model accounted for."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import s4d
from s4d.datasets.labels import numbering
from s4d.errors import DataError, UsageError
from s4d.models.card import model_card
from s4d.models.description import FORMAT
from s4d.models.fit import expected_shapes, refuse_lying_sizes, shapes_of
from s4d.models.folder import CONFIG_FILE, MODEL_FILE, read_object, read_tensor_file, write_folder
from s4d.models.foreign.assumed import assumed_inputs, note_on_inputs
from s4d.models.foreign.forms import hf_videomae
from s4d.models.foreign.forms.ledger import ClassNamesError, Ledger, Wishes
from s4d.models.foreign.forms.table import FORMS
from s4d.models.foreign.isolated import read_isolated
from s4d.models.keys import KeyReport
from s4d.models.release import architecture_of, refuse_differences
from s4d.models.sizes import Architecture

INDEX_FILE = "model.safetensors.index.json"
PICKLED_FILE = "pytorch_model.bin"


def import_form(form: str, path: Path, out: Path, wishes: Wishes) -> KeyReport:
    """Write a file of one of the forms in the table as a model folder `out`.

    DataError names the file and the tensor that is refused, missing or not known; UsageError asks for class names.
    """
    return _imported(path, out, form, wishes, lambda: FORMS[form].convert(_read_file(path), wishes))


def import_hf_videomae(path: Path, out: Path, wishes: Wishes) -> KeyReport:
    """The same for a folder of transformers' VideoMAE: `config.json` beside safetensors or a pickled file."""
    config = read_object(path / CONFIG_FILE)
    stated_in = {} if wishes.classes else {"stated_in": "id2label in the config.json of transformers"}
    convert = functools.partial(hf_videomae.convert, config=config, wishes=wishes)
    return _imported(path, out, "hf-videomae", wishes, lambda: convert(_read_folder(path)), **stated_in)


def _read_file(path: Path) -> dict[str, Tensor]:
    if path.is_dir():
        return _read_folder(path)
    return read_tensor_file(path) if path.suffix == ".safetensors" else read_isolated("release", [path])


def _read_folder(folder: Path) -> dict[str, Tensor]:
    """Tensors of one file, or of the files that an index names."""
    if (folder / INDEX_FILE).is_file():
        places = read_object(folder / INDEX_FILE).get("weight_map")
        if not isinstance(places, dict) or not all(
            isinstance(name, str) and "/" not in name for name in places.values()
        ):
            raise DataError(f"{folder / INDEX_FILE}: field 'weight_map': expected names of files beside it")
        return _read_shards(folder, places)
    if (folder / MODEL_FILE).is_file():
        return read_tensor_file(folder / MODEL_FILE)
    if (folder / PICKLED_FILE).is_file():
        return read_isolated("release", [folder / PICKLED_FILE])
    raise DataError(f"{folder}: holds none of {MODEL_FILE}, {INDEX_FILE}, {PICKLED_FILE}")


def _read_shards(folder: Path, places: dict[str, str]) -> dict[str, Tensor]:
    """Each file holds just the tensors that the index puts there, and no other file lies beside them."""
    for name in sorted(path.name for path in folder.glob("*.safetensors")):
        if name not in places.values():
            raise DataError(f"{folder / name}: not in {INDEX_FILE}")
    tensors: dict[str, Tensor] = {}
    for file in sorted(set(places.values())):
        found = read_tensor_file(folder / file)
        wanted = {name for name, place in places.items() if place == file}
        for name in sorted(wanted ^ found.keys()):
            problem = "lacks" if name in wanted else "not the place of"
            raise DataError(f"{folder / file}: {problem} tensor {name!r} by {INDEX_FILE}")
        tensors |= found
    return tensors


def _imported(
    path: Path,
    out: Path,
    form: str,
    wishes: Wishes,
    convert: Callable[[], Ledger],
    stated_in: str = "the command line of the import",
) -> KeyReport:
    try:
        ledger = convert()
        for name in ledger.rest:
            raise ValueError(f"tensor {name!r}: not known in the form {form!r}; nothing is left out unexplained")
        if wishes.classes and not ledger.classes:
            raise ClassNamesError("nothing in it becomes a classifier, so there is no use for --classes")
        arch = _architecture(ledger)
    except ClassNamesError as error:
        raise UsageError(f"{path}: {error}") from error
    except ValueError as error:
        raise DataError(f"{path}: {error}") from error
    missing = _check_shapes(path, ledger, arch)
    if ledger.classes:
        ledger.note(note_on_inputs(arch))
    config: dict[str, Any] = {
        "format": FORMAT,
        "stage": ledger.stage,
        "architecture": arch.to_dict(),
        "classes": {head: list(names) for head, names in ledger.classes.items()},
        "labels": {head: numbering(names, stated_in) for head, names in ledger.classes.items()},
        "inputs": assumed_inputs(arch, dict.fromkeys(ledger.classes, "video"), released=False),
        "version": s4d.__version__,
        "source": path.name,
        "form": form,
    }
    weights = {name: tensor.to(torch.float32) for name, tensor in ledger.tensors.items()}
    write_folder(out, weights, config, card=model_card(config, weights, name=out.name))
    return KeyReport(
        source=str(path),
        mapped=ledger.mapped,
        transformed=ledger.transformed,
        unused=ledger.unused,
        missing=missing,
        notes=tuple(ledger.notes),
    )


def _architecture(ledger: Ledger) -> Architecture:
    if ledger.arch is not None:
        return ledger.arch
    return dataclasses.replace(architecture_of(ledger.tensors), image_size=ledger.image_size)


def _check_shapes(path: Path, ledger: Ledger, arch: Architecture) -> dict[str, str]:
    """Tensors of our model that the file need not have, with the reason; DataError for any other difference."""
    heads = {name: len(labels) for name, labels in ledger.classes.items()}
    refuse_lying_sizes(str(path), arch, ledger.stage, shapes_of(ledger.tensors))
    try:
        expected = expected_shapes(arch, heads, pretrained=ledger.stage != "finetune")
    except ValueError as error:
        raise UsageError(f"{path}: {error}") from error
    missing: dict[str, str] = {}
    if ledger.stage == "encoder":
        missing = {name: "starts anew" for name in expected if not name.startswith("encoder.")}
        for name in ("encoder.norm.weight", "encoder.norm.bias"):
            if name not in ledger.tensors:
                missing[name] = "starts anew"
    refuse_differences(path, ledger.tensors, {name: shape for name, shape in expected.items() if name not in missing})
    return missing
