"""The watchdog of one node: a process of its own that sees what the ranks of the node cannot say themselves.

It ends all of them, and has the other nodes end theirs, when a rank is gone without a word, stays in a phase for too
long, or another node falls silent; one line says which rank was to blame. It needs no lock of any rank's interpreter
and imports nothing but the standard library. Started by `engine.watchdog.start` with its task on the standard input.
"""

from __future__ import annotations

import json
import math
import os
import select
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from engine.watchdog.contact import Contacts, Link, join, serve
from engine.watchdog.evidence import STACK_SECONDS, how_it_ended, is_waiting, main_frame, stacks_of, state_of
from engine.watchdog.heartbeat import Beat, Board, Mark
from engine.watchdog.phases import Limits, Phase
from engine.watchdog.verdict import Cause, Record, cause_of_end, cause_of_hang, place_of, suspect_of

FAILURE = "failure.json"
POLL_SECONDS = 0.5
# A gap in this process's own time: the machine was suspended or the whole run stopped, and nobody is to blame.
GAP_SECONDS = 5.0
# For ranks to leave on their own after one of them is gone, with the checkpoint they are writing; to leave when asked;
# to be gone when killed.
GRACE_SECONDS = 12.0
LEAVE_SECONDS = 2.0
KILL_SECONDS = 10.0
# For the watchdog of the rank that others have lost to say why.
UNSAID_SECONDS = 5.0
# For other nodes to send what they know of their ranks; for the serving node to decide.
COLLECT_SECONDS = STACK_SECONDS + 2.5
DECIDE_SECONDS = COLLECT_SECONDS + 10.0
# Between looks at ranks that wait for one which may still take its time.
PATIENCE_SECONDS = 10.0


class Rank:
    """A process of this node that trains."""

    def __init__(self, slot: int, given: dict[str, int]) -> None:
        self.slot = slot
        self.number, self.pid = given["rank"], given["pid"]
        self.thread, self.stacks = given["thread"], given["stacks"]
        self.pidfd = os.pidfd_open(self.pid)
        self.overdue_at = -1

    def kill(self) -> None:
        """SIGKILL, which also ends what is stopped."""
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)


class Watchdog:
    """Watches the ranks of `task` until they are gone."""

    def __init__(self, task: dict[str, Any], board: Board, contacts: Contacts) -> None:
        self._task = task
        self._board = board
        self._contacts = contacts
        self._limits = Limits(task["limits"])
        self._ranks = [Rank(slot, given) for slot, given in enumerate(task["ranks"])]
        self._floor = self._last = time.monotonic()
        self._settled = False
        self._end_at: float | None = None
        self._lost: tuple[float, Cause] | None = None
        self._records: list[Record] = []
        self._collected: set[str] = set()
        self._decide_at: float | None = None
        self._patient_until = 0.0

    def run(self) -> None:
        """Watch, and end what has to be ended."""
        while (self._ranks or self._lost) and not self._is_time_to_end():
            self._wait(POLL_SECONDS)
            self._notice_a_gap()
            self._contacts.keep_alive()
            for link, message in self._contacts.hear():
                self._take(link, message)
            self._notice_ends()
            self._notice_hangs()
            self._notice_nodes()
            self._notice_what_was_left_unsaid()
        if self._ranks:
            self._end_ranks()
        self._contacts.goodbye()

    def _is_time_to_end(self) -> bool:
        return self._end_at is not None and (not self._ranks or time.monotonic() > self._end_at)

    def _wait(self, seconds: float) -> None:
        select.select([rank.pidfd for rank in self._ranks] + self._contacts.descriptors(), [], [], seconds)

    def _notice_a_gap(self) -> None:
        now = time.monotonic()
        if now - self._last > GAP_SECONDS:
            self._floor = now
        self._last = now

    def _take(self, link: Link, message: dict[str, Any]) -> None:
        if "cause" in message:
            self._found(message["cause"], grace=message["grace"])
        elif "end" in message:
            self._settle(message["end"])
        elif "patient" in message:
            self._be_patient(message["patient"])
        elif "overdue" in message:
            self._collect()
        elif "collect" in message:
            link.say({"records": self._evidence()})
        elif "records" in message:
            self._records += message["records"]
            self._collected.add(link.name)

    def _notice_ends(self) -> None:
        gone, _, _ = select.select([rank.pidfd for rank in self._ranks], [], [], 0)
        for rank in [rank for rank in self._ranks if rank.pidfd in gone]:
            beat = self._board.read(rank.slot)
            record = self._record(rank, beat)
            self._ranks.remove(rank)
            if beat.mark == Mark.TOLD and not self._settled:
                self._settle(GRACE_SECONDS)
                self._contacts.say({"end": GRACE_SECONDS})
                # Before that the run folder may be another run's, or hold progress that is refused.
                if beat.phase not in (Phase.START, Phase.LOAD):
                    self._write(Cause(line=f"{place_of(record)}: {beat.text}", ranks=[record]))
            elif beat.mark == Mark.LOST and self._lost is None:
                line = f"{place_of(record)}: lost contact with another rank: {beat.text}"
                self._lost = (time.monotonic(), Cause(line=line, ranks=[record]))
            elif beat.mark == Mark.RUNNING:
                self._found(cause_of_end(record, how_it_ended(rank.pid)), grace=GRACE_SECONDS)

    def _notice_what_was_left_unsaid(self) -> None:
        if self._lost is not None and time.monotonic() - self._lost[0] > UNSAID_SECONDS:
            self._found(self._lost[1], grace=GRACE_SECONDS)

    def _notice_hangs(self) -> None:
        now = time.monotonic()
        if self._settled or now < self._patient_until:
            return
        overdue = False
        for rank in self._ranks:
            beat = self._board.read(rank.slot)
            late = now - max(beat.since, self._floor) > self._limits.of(beat.phase, first_step=beat.first_step)
            # Believed when read twice: a slot may be caught while it is written.
            overdue |= late and rank.overdue_at == beat.count
            rank.overdue_at = beat.count if late else -1
        if overdue and self._decide_at is None:
            if self._contacts.serves or not self._contacts.say({"overdue": True}):
                self._collect()
            else:
                self._decide_at = now + DECIDE_SECONDS
        answered = all(link.name in self._collected for link in self._contacts.links if link.usable)
        if (self._records and answered) or (self._decide_at is not None and now > self._decide_at):
            self._decide(self._records or self._evidence())

    def _decide(self, records: list[Record]) -> None:
        suspect = suspect_of(records)
        left = suspect["limit"] - suspect["silent"]
        if left < 0:
            self._found(cause_of_hang(suspect, records), grace=0.0)
        else:
            patience = min(left + POLL_SECONDS, PATIENCE_SECONDS)
            self._contacts.say({"patient": patience})
            self._be_patient(patience)

    def _be_patient(self, seconds: float) -> None:
        self._records, self._collected, self._decide_at = [], set(), None
        self._patient_until = time.monotonic() + seconds

    def _collect(self) -> None:
        if self._decide_at is None:
            self._contacts.say({"collect": True})
            self._decide_at = time.monotonic() + COLLECT_SECONDS
            self._records += self._evidence()

    def _evidence(self) -> list[Record]:
        stacks = stacks_of({rank.pid: rank.stacks for rank in self._ranks if state_of(rank.pid) != "T"})
        records = []
        for rank in self._ranks:
            stack = stacks.get(rank.pid, "")
            record = self._record(rank, self._board.read(rank.slot))
            record["waiting"], record["frame"] = is_waiting(stack), main_frame(stack, rank.thread)
            record["stack"] = stack.splitlines()
            records.append(record)
        return records

    def _record(self, rank: Rank, beat: Beat) -> Record:
        return Record(
            rank=rank.number,
            world_size=self._task["world_size"],
            host=self._task["host"],
            step=beat.step,
            phase=beat.phase.label,
            count=beat.count,
            silent=time.monotonic() - max(beat.since, self._floor),
            limit=self._limits.of(beat.phase, first_step=beat.first_step),
            state=state_of(rank.pid),
            waiting=False,
            frame="",
            stack=[],
        )

    def _notice_nodes(self) -> None:
        now = time.monotonic()
        for link in self._contacts.links:
            silent = now - max(link.heard, self._floor)
            if link.over:
                continue
            if link.lost:
                line = f"node {link.name}: its watchdog is gone, as seen from {self._host}"
                self._found(Cause(line=line, ranks=[]), grace=GRACE_SECONDS)
            elif silent > self._limits.contact:
                seen = f"as seen from {self._host}: no network, or the node is lost"
                line = f"node {link.name}: silent for {silent:.1f} s (limit {self._limits.contact:g} s), {seen}"
                self._found(Cause(line=line, ranks=[]), grace=0.0)

    @property
    def _host(self) -> str:
        return str(self._task["host"])

    def _found(self, cause: Cause, *, grace: float) -> None:
        """Say why the run ends, here or where all nodes report to, and begin to end it."""
        if not self._settled:
            self._settle(grace)
            if self._contacts.serves or not self._contacts.say({"cause": cause, "grace": grace}):
                self._contacts.say({"end": grace})
                # Said once: several nodes that lost each other find what the first one wrote.
                if self._write(cause):
                    with suppress(OSError):
                        print(f"error: {cause['line']}", file=sys.stderr, flush=True)

    def _write(self, cause: Cause) -> bool:
        """Write failure.json; False if another node of this run has done so already."""
        path, run = Path(self._task["run_dir"]) / FAILURE, self._task["token"]
        with suppress(OSError, ValueError, KeyError, TypeError):
            if json.loads(path.read_bytes())["run"] == run:
                return False
        content = {"run": run, "cause": cause["line"], "time": time.strftime("%Y-%m-%dT%H:%M:%S%z")}
        # A folder that cannot be written, or was never made, is no reason to be silent.
        with suppress(OSError):
            aside = path.with_name(f".tmp-{FAILURE}-{os.getpid()}")
            aside.write_text(json.dumps({**content, "ranks": cause["ranks"]}, indent=1) + "\n")
            aside.replace(path)
        return True

    def _settle(self, grace: float) -> None:
        """The cause has been said: ranks may leave by themselves for `grace` seconds, then they are ended."""
        self._settled = True
        self._end_at = min(self._end_at or math.inf, time.monotonic() + grace)

    def _end_ranks(self) -> None:
        self._board.order_to_leave()
        self._wait_for_ends(LEAVE_SECONDS)
        for rank in self._ranks:
            rank.kill()
        self._wait_for_ends(KILL_SECONDS)

    def _wait_for_ends(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while self._ranks and time.monotonic() < end:
            gone, _, _ = select.select([rank.pidfd for rank in self._ranks], [], [], end - time.monotonic())
            self._ranks = [rank for rank in self._ranks if rank.pidfd not in gone]


def main(descriptor: int) -> None:
    """Watch as the standard input says, over the board in `descriptor`."""
    # The ranks decide when to go; who signals all processes of a run means them.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
    task = json.loads(sys.stdin.readline())
    board = Board(descriptor, len(task["ranks"]))
    given, token = task["server"], task["token"]
    if task["nodes"] == 1:
        contacts = Contacts(token=token)
    elif given is None:
        server = serve(task["address"])
        contacts = Contacts(token=token, server=server)
        board.sign(server.getsockname()[1])
    else:
        link = join(task["address"], given["port"], token=token, host=task["host"], server_host=given["host"])
        contacts = Contacts(token=token, links=[link])
    watchdog = Watchdog(task, board, contacts)
    board.sign(board.watchdog[1])
    watchdog.run()


if __name__ == "__main__":
    main(int(sys.argv[1]))
