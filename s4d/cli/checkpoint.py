"""`s4d checkpoint`: bring released weights in, look at what a checkpoint holds, check it, take the model out of it."""

from __future__ import annotations

import math
import re
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from s4d.cli.out_folder import refuse_existing
from s4d.cli.output import AsJson, print_fields, print_json, print_lines, print_table, relative

if TYPE_CHECKING:
    from s4d.models.keys import KeyReport

# As sources of a run are called, whose heads these are.
HEAD_NAME = re.compile(r"[A-Za-z0-9_-]+")
Classes = Annotated[
    list[str] | None,
    typer.Option(help="HEAD=name,name,...: class names of a head in order; once per head.", show_default=False),
]


class Source(StrEnum):
    """Programs whose checkpoints can be imported."""

    RELEASE = "release"
    DEEPSPEED = "deepspeed"
    VIDEOMAE = "videomae"
    VIDEOMAE_V2 = "videomae-v2"
    MAE_DFER = "mae-dfer"
    S2D = "s2d"
    MAE = "mae"
    HF_VIDEOMAE = "hf-videomae"


def import_file(
    path: Annotated[
        Path, typer.Argument(metavar="PATH", help="File, or folder of DeepSpeed or transformers.", show_default=False)
    ],
    out: Annotated[Path, typer.Option(help="Model folder to create.", show_default=False)],
    source: Annotated[
        Source | None,
        typer.Option(
            "--from",
            metavar="FORM",
            help=f"Who wrote it: {', '.join(Source)}; left out: release, or what the folder looks like.",
        ),
    ] = None,
    classes: Classes = None,
    drop_head: Annotated[bool, typer.Option("--drop-head", help="Leave a foreign classifier behind.")] = False,
    as_json: AsJson = False,
) -> None:
    """Turn a public checkpoint into a model folder that `model.init_from` takes, with every tensor accounted for.

    Pickles are read by a process without network or files that hands tensors back; nothing else reads them.
    """
    refuse_existing(out)
    report = _import(path, out, source or _guess(path), parse_classes(classes or []), drop_head)
    if as_json:
        accounts = {name: getattr(report, name) for name in ("mapped", "transformed", "unused", "missing", "notes")}
        print_json({"folder": relative(out), **accounts})
        return
    left = [f"unused: {name}: {why}" for name, why in report.unused.items()]
    print_lines([report.summary(), *left, *(f"note: {note}" for note in report.notes)])
    print_lines([f"wrote {relative(out)}"])


def _guess(path: Path) -> Source:
    if not path.is_dir():
        return Source.RELEASE
    # The weights alone are enough: what is missing beside them is then named.
    of_transformers = ("config.json", "model.safetensors", "model.safetensors.index.json", "pytorch_model.bin")
    return Source.HF_VIDEOMAE if any((path / name).is_file() for name in of_transformers) else Source.DEEPSPEED


def _import(path: Path, out: Path, source: Source, classes: dict[str, tuple[str, ...]], drop_head: bool) -> KeyReport:
    from s4d.errors import UsageError

    if source in (Source.RELEASE, Source.DEEPSPEED):
        from s4d.models.release import import_deepspeed, import_release

        if drop_head:
            raise UsageError("command line: --drop-head: released heads are kept, give their --classes")
        return (import_deepspeed if source is Source.DEEPSPEED else import_release)(path, out, classes=classes)
    from s4d.models.foreign.forms.ledger import Wishes
    from s4d.models.foreign.importing import import_form, import_hf_videomae

    if drop_head and classes:
        raise UsageError("command line: --drop-head and --classes exclude each other")
    wishes = Wishes(classes=classes, drop_head=drop_head)
    if source is Source.HF_VIDEOMAE:
        return import_hf_videomae(path, out, wishes)
    return import_form(source.value, path, out, wishes)


Place = Annotated[Path, typer.Argument(help="Run, checkpoint or model folder.", show_default=False)]
RunPlace = Annotated[Path, typer.Argument(help="Run or checkpoint folder.", show_default=False)]


class Weights(StrEnum):
    """Which weights of a run."""

    last = "last"
    best = "best"
    ema = "ema"


def inspect(folder: Place, as_json: AsJson = False) -> None:
    """Show what a checkpoint is and which tensors it holds; only headers are read, `verify` reads everything."""
    from s4d.models.fit import refuse_misfit
    from s4d.models.folder import MODEL_FILE, find_model, read_checksums, read_config
    from s4d.models.tensor_header import read_header

    model = find_model(folder)
    config = read_config(model)
    tensors = {name: (form.dtype, list(form.shape)) for name, form in read_header(model / MODEL_FILE).items()}
    refuse_misfit(model, config)
    parameters = sum(math.prod(shape) for _, shape in tensors.values())
    sums = read_checksums(model)
    about = {**_state_of(model), **_kept_in(folder)}
    if as_json:
        listed = {
            name: {"dtype": dtype, "shape": shape, **({"sha256": sums[name]} if name in sums else {})}
            for name, (dtype, shape) in tensors.items()
        }
        document = {"folder": relative(model), "config": config, **about, "parameters": parameters, "tensors": listed}
        print_json(document)
        return
    print_lines([f"{relative(model)}: {len(tensors)} tensors, {parameters:,} parameters"])
    print_fields({**config, **about})
    rows = [(n, d, " x ".join(map(str, s)), sums.get(n, "")[:12]) for n, (d, s) in tensors.items()]
    print_table(("tensor", "type", "shape", "sha256"), rows)


def _state_of(model: Path) -> dict[str, Any]:
    """Step, counters and scores of a checkpoint of a run; empty for a model folder."""
    from s4d.models.folder import STATE_FILE, read_object

    if not (model / STATE_FILE).is_file():
        return {}
    state = read_object(model / STATE_FILE)
    return {key: state[key] for key in ("step", "counters", "scores") if key in state}


def _kept_in(run: Path) -> dict[str, Any]:
    """What a run folder keeps: steps, newest first, and those that `latest` and `best` name."""
    from engine.checkpoint_retention import published, step_of

    folder = run / "checkpoints"
    if not folder.is_dir():
        return {}
    named = {name: folder / name for name in ("latest", "best") if (folder / name).is_file()}
    pointers = {name: path.read_text(encoding="utf-8", errors="replace").strip() for name, path in named.items()}
    return {"kept": [step_of(path) for path in published(folder)], **pointers}


def verify(folder: RunPlace, as_json: AsJson = False) -> None:
    """Read every byte of a checkpoint, or of all of a run, and compare it with the manifest.

    Status 1 if something is damaged; 3 if a run has checkpoints but none that it could go on from.
    """
    from engine.checkpoint import candidates
    from engine.checkpoint_files import damages
    from engine.checkpoint_manifest import MANIFEST
    from engine.errors import CheckpointError, StateRefusedError
    from s4d.models.folder import MODEL_FILE

    folders = candidates(folder)
    # One that lost its manifest is damaged; a folder with neither is a run that has not saved yet, or something else.
    is_none = folders == [folder] and not any((folder / name).is_file() for name in (MANIFEST, MODEL_FILE))
    if not folders or is_none or not all(path.is_dir() for path in folders):
        raise CheckpointError(f"{folder}: no checkpoint there")
    found = {path: list(damages(path)) or _misfit(path) for path in folders}
    if as_json:
        print_json({"checkpoints": [{"folder": relative(path), "damages": lines} for path, lines in found.items()]})
    else:
        for path, lines in found.items():
            print_lines([f"{relative(path)}: {'damaged' if lines else 'intact'}", *(f"  {line}" for line in lines)])
    damaged = [relative(path) for path, lines in found.items() if lines]
    if damaged and len(damaged) == len(found) and found.keys() != {folder}:
        raise StateRefusedError(f"{folder}: every checkpoint is damaged")
    if damaged:
        raise CheckpointError(f"{', '.join(damaged)}: damaged")


def _misfit(folder: Path) -> list[str]:
    """In which an intact folder, whose manifest anybody can write, contradicts itself."""
    from s4d.errors import DataError
    from s4d.models.fit import refuse_misfit
    from s4d.models.folder import CONFIG_FILE, MODEL_FILE, read_config

    if not all((folder / name).is_file() for name in (CONFIG_FILE, MODEL_FILE)):
        return []
    try:
        refuse_misfit(folder, read_config(folder))
    except DataError as error:
        return [str(error)]
    return []


def consolidate(
    folder: RunPlace,
    out: Annotated[Path, typer.Argument(help="Model folder to create.", show_default=False)],
    weights: Annotated[Weights, typer.Option(help="Newest, best, or newest moving average.")] = Weights.last,
    as_json: AsJson = False,
) -> None:
    """Take the model alone out of a checkpoint, everything checked: weights, config.json and a model card."""
    from engine.checkpoint_files import verify_checkpoint
    from s4d.models.card import model_card
    from s4d.models.consolidated import environment_of, take_model
    from s4d.models.folder import find_model, write_folder

    refuse_existing(out)
    checkpoint = find_model(folder, pointer="best" if weights is Weights.best else "latest")
    verify_checkpoint(checkpoint)
    tensors, described = take_model(checkpoint, weights.value)
    card = model_card(described, tensors, name=out.name, environment=environment_of(checkpoint))
    write_folder(out, tensors, described, card=card)
    if as_json:
        print_json({"folder": relative(out), "checkpoint": relative(checkpoint), "weights": weights.value})
        return
    print_lines([f"wrote {relative(out)}: {weights.value} weights of {relative(checkpoint)}"])


def parse_classes(entries: list[str]) -> dict[str, tuple[str, ...]]:
    """`HEAD=a,b,c` entries as class names per head; UsageError for another form."""
    from s4d.errors import UsageError

    classes: dict[str, tuple[str, ...]] = {}
    for entry in entries:
        head, equals, names = entry.partition("=")
        parsed = tuple(name.strip() for name in names.split(","))
        if not equals or not HEAD_NAME.fullmatch(head) or not all(parsed) or head in classes:
            raise UsageError(f"command line: --classes {entry!r:.200}: expected HEAD=name,name,... once per head")
        if len(set(parsed)) != len(parsed):
            raise UsageError(f"command line: --classes {entry!r:.200}: a class name is given twice")
        classes[head] = parsed
    return classes
