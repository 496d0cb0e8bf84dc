"""What is told of a training run that failed."""

from __future__ import annotations

from pathlib import Path

from s4d.cli.training_process import first_error


def test_the_first_reason_of_this_attempt_is_quoted(tmp_path: Path) -> None:
    log = tmp_path / "run.log"
    log.write_text("error: of another day\n")
    begin = log.stat().st_size
    with log.open("a") as stream:
        stream.write("starting\nan error: in passing\nerror: stills.csv: no such manifest\nerror: lost contact\n")
    assert first_error(log, begin) == ": stills.csv: no such manifest"
    assert first_error(log, log.stat().st_size) == ""
