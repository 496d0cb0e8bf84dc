"""What a shell completes beyond the words of the commands: names that come with the project.

An empty answer leaves the shell to complete files. Nothing heavy is imported: it runs at every press of Tab.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from s4d.cli.output import relative
from s4d.shipped_configs import shipped_configs


def complete_config(incomplete: str) -> list[str]:
    """Configurations of the project that begin so."""
    return [path for path in map(relative, shipped_configs()) if path.startswith(incomplete)]


def complete_dataset(incomplete: str) -> list[str]:
    """Names of dataset layouts that begin so."""
    from s4d.datasets import DATASETS

    return [name for name in DATASETS if name.startswith(incomplete)]


ConfigOption = Annotated[
    Path,
    typer.Option("--config", help="Configuration file.", show_default=False, autocompletion=complete_config),
]
