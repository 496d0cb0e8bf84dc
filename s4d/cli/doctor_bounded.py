"""Asks libraries for facts about themselves, each in a process of its own and for a limited time, all at once.

Importing an extension that was built for something else may fail, hang or end the process that does it. The processes
are forked from a server that has imported what most of them need.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import tempfile
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

from s4d.cli.bounded_command import kill_members
from s4d.cli.doctor_facts import answer

# Imports take seconds, many times that where other programs have all cores.
LIMIT_SECONDS = 120.0
# A process that has answered, or closed its side in any other way, is about to end.
END_SECONDS = 10.0
POLL_SECONDS = 0.02
CONTEXT = multiprocessing.get_context("forkserver")
PRELOAD = ["s4d.cli.doctor_preload"]


class UnknownFactsError(Exception):
    """Facts that a library did not give; the text says why."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Facts:
    """What each probe answered, or why it did not; asking for that raises UnknownFactsError."""

    answers: dict[str, dict[str, Any]] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)

    def __getitem__(self, name: str) -> dict[str, Any]:
        if name not in self.answers:
            raise UnknownFactsError(self.failures.get(name, "was not asked"))
        return self.answers[name]

    def get(self, name: str) -> dict[str, Any]:
        """The answer of a probe, empty if there is none."""
        return self.answers.get(name, {})


def gather(probes: Iterable[str], limit: float = LIMIT_SECONDS) -> Facts:
    """Ask the named probes of `s4d.cli.doctor_facts`."""
    facts = Facts()
    asked: dict[str, _Asked] = {}
    with tempfile.TemporaryDirectory(prefix="s4d-doctor-") as folder:
        for name in probes:
            try:
                asked[name] = _start(name, Path(folder))
            except (EOFError, OSError) as error:
                facts.failures[name] = f"no process for it can be started: {error or type(error).__name__}"
        end = time.monotonic() + limit
        running = {question.receiver for question in asked.values()}
        while running and (left := end - time.monotonic()) > 0:
            running -= set(wait(list(running), left))
        for name, question in asked.items():
            found = question.outcome(limit)
            if isinstance(found, str):
                facts.failures[name] = found
            else:
                facts.answers[name] = found
    return facts


def _start(name: str, folder: Path) -> _Asked:
    """Ask one probe. Where the server ends in what it imports, another one imports nothing."""
    preload, end = PRELOAD, time.monotonic() + END_SECONDS
    while True:
        try:
            return _Asked(name, folder, preload)
        except (EOFError, OSError):
            if time.monotonic() > end:
                raise
            # Only a server that is gone altogether is followed by another one.
            preload = []
            time.sleep(POLL_SECONDS)


class _Asked:
    """A probe at work in its process, a group of its own; what libraries print goes to a file."""

    def __init__(self, name: str, folder: Path, preload: list[str]) -> None:
        # Readable as soon as there is an answer, or nobody left to give one.
        self.receiver, sender = CONTEXT.Pipe(duplex=False)
        self._log = folder / name
        CONTEXT.set_forkserver_preload(preload)
        arguments = (name, sender, os.fspath(self._log), dict(os.environ))
        self.process = CONTEXT.Process(target=answer, args=arguments, daemon=True)
        with sender:
            self.process.start()

    def outcome(self, limit: float) -> dict[str, Any] | str:
        """Facts, or one line about why there are none; afterwards nothing of the probe runs."""
        found: dict[str, Any] | str | None = None
        with self.receiver:
            out_of_time = not self.receiver.poll()
            if not out_of_time:
                with suppress(EOFError):
                    found = json.loads(self.receiver.recv_bytes())
                self.process.join(END_SECONDS)
        assert self.process.pid is not None
        try:
            self.process.kill()
            kill_members(self.process.pid)
        except TimeoutError:
            return "does not answer, and its process cannot be ended: a driver hangs"
        self.process.join()
        if found is not None:
            return found
        return f"does not answer within {limit:g} s" if out_of_time else self._how_it_ended()

    def _how_it_ended(self) -> str:
        status = self.process.exitcode or 0
        if status < 0:
            return f"ends the process that imports it ({signal.Signals(-status).name})"
        said = self._log.read_text(encoding="utf-8", errors="replace").split("\n") if self._log.is_file() else []
        last = next((line.strip() for line in reversed(said) if line.strip()), "no reason given")
        return f"ends the process that imports it (status {status}): {last}"
