from __future__ import annotations

import pytest

from engine.command_line import parse_arguments
from engine.errors import CommandLineError


def test_launcher_and_user_arguments_mix() -> None:
    options = parse_arguments(["--local_rank=1", "a.b=1", "--config", "x.yaml", "c=d", "--resume", "never", "--fresh"])
    assert (options.config, options.overrides, options.resume, options.fresh) == (
        "x.yaml",
        ["a.b=1", "c=d"],
        "never",
        True,
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "required: --config"),
        (["--config", "x", "--bogus"], "unrecognized arguments: --bogus"),
        (["--config", "x", "--fresh", "--resume", "runs/a"], "give one of them"),
    ],
)
def test_mistakes_are_usage_errors(arguments: list[str], message: str) -> None:
    with pytest.raises(CommandLineError, match=message) as caught:
        parse_arguments(arguments)
    assert caught.value.exit_code == 2
