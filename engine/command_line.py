"""Command line of `engine/train.py`."""

from __future__ import annotations

import argparse
from typing import NoReturn

from engine.errors import CommandLineError


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """Raise, so that a mistake ends all ranks but is told by one."""
        raise CommandLineError(f"command line: {message}")


def parse_arguments(arguments: list[str]) -> argparse.Namespace:
    """`config`, `resume`, `fresh` and dotted `overrides`; CommandLineError for anything else."""
    parser = _Parser(prog="engine/train.py", description="Train what one YAML file describes.", allow_abbrev=False)
    parser.add_argument("--config", required=True, help="YAML file with one complete run")
    parser.add_argument(
        "--resume", default="auto", help="auto: continue what run_dir holds; never; or a checkpoint folder"
    )
    parser.add_argument("--fresh", action="store_true", help="replace the progress in run_dir")
    # Given by the DeepSpeed launcher; the environment says the same.
    parser.add_argument("--local_rank", help=argparse.SUPPRESS)
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="single values of the configuration")
    options = parser.parse_intermixed_args(arguments)
    if options.fresh and options.resume not in ("auto", "never"):
        parser.error("--fresh replaces the progress, --resume continues it: give one of them")
    return options
