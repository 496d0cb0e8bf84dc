"""All commands in one table."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import typer

from s4d import __version__
from s4d.cli import (
    analyze_compare,
    analyze_correlation,
    analyze_gradients,
    analyze_pictures,
    analyze_routing,
    bench,
    bench_compare,
    bench_compile,
    bench_decoder,
    bench_pipeline,
    bench_projection,
    bench_report,
    bench_step,
    bench_zero,
    checkpoint,
    checkpoint_export,
    config,
    config_list,
    data,
    data_cache,
    data_crop,
    data_scan,
    data_unpack,
    data_validate,
    doctor,
    evaluate,
    extract,
    folds,
    golden,
    plan,
    predict,
    profile_data,
    profile_scaling,
    profile_step,
    replay,
    report,
    science,
    status,
    train,
)
from s4d.cli.output import print_lines

COMMANDS: dict[str, Callable[..., None]] = {
    "train": train.train,
    "replay": replay.replay,
    "evaluate": evaluate.evaluate,
    "extract": extract.extract,
    "folds": folds.folds,
    "predict": predict.predict,
    "report": report.report,
    "golden": golden.golden,
    "plan": plan.plan,
    "doctor": doctor.doctor,
    "status": status.status,
}
GROUPS: dict[str, tuple[str, dict[str, Callable[..., None]]]] = {
    "data": (
        "Generate faces; prepare, check, cut out and cache datasets.",
        {
            "synth": data.synth,
            "prepare": data.prepare,
            "cache": data_cache.cache,
            "crop": data_crop.crop,
            "unpack": data_unpack.unpack,
            "scan": data_scan.scan,
            "validate": data_validate.validate,
        },
    ),
    "checkpoint": (
        "Import and export weights; look into, check and consolidate checkpoints.",
        {
            "import": checkpoint.import_file,
            "export": checkpoint_export.export,
            "inspect": checkpoint.inspect,
            "verify": checkpoint.verify,
            "consolidate": checkpoint.consolidate,
        },
    ),
    "bench": (
        "Measure and check the kernels.",
        {
            **{name: bench.command_for(name) for name in bench.COMMANDS},
            "step": bench_step.step,
            "decoder": bench_decoder.decoder,
            "projection": bench_projection.projection,
            "pipeline": bench_pipeline.pipeline,
            "gpu-report": bench_report.gpu_report,
            "compile": bench_compile.compile_kernels,
            "zero": bench_zero.zero,
            "compare": bench_compare.compare,
        },
    ),
    "profile": (
        "Measure where time goes.",
        {"data": profile_data.data, "step": profile_step.step, "scaling": profile_scaling.scaling},
    ),
    "science": (
        "Put the claims of the method to the test on generated faces.",
        {"run": science.run, "table": science.table},
    ),
    "analyze": (
        "Compare and look into finished runs.",
        {
            "compare": analyze_compare.compare,
            "correlation": analyze_correlation.correlation,
            "gradients": analyze_gradients.gradients,
            "routing": analyze_routing.routing,
            "pictures": analyze_pictures.pictures,
        },
    ),
    "config": (
        "List, show, document and compare configurations.",
        {"list": config_list.list_configs, "show": config.show, "schema": config.schema, "diff": config.diff},
    ),
}
HELP = "Train, evaluate and inspect Static-for-Dynamic facial expression models."


def build_app() -> typer.Typer:
    """The command tree of the tables above."""
    app = _group(HELP, COMMANDS, add_completion=True)
    app.callback()(_program)
    for name, (text, commands) in GROUPS.items():
        app.add_typer(_group(text, commands), name=name)
    return app


def _print_version(asked: bool) -> None:
    if asked:
        print_lines([f"s4d {__version__}"])
        raise typer.Exit


def _program(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and end.")
    ] = False,
) -> None:
    pass


def _group(text: str, commands: dict[str, Callable[..., None]], *, add_completion: bool = False) -> typer.Typer:
    group = typer.Typer(
        help=text,
        no_args_is_help=True,
        add_completion=add_completion,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    for name, function in commands.items():
        group.command(name)(function)
    return group
