"""Errors that end a run; `exit_code` becomes the exit status of the process.

0 done; 1 data or an unforeseen error; 2 command line or configuration; 3 the run folder's state is refused; 4 another
rank was lost; 5 not finite; 75 stopped on request with a checkpoint saved, so that a queue may start the run again.
"""

from __future__ import annotations

import re

EXIT_DONE = 0
EXIT_SAVED = 75


# A message quotes names in files, and must stay one line of a terminal or log whatever stands in them.
UNPRINTED = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


class EngineError(Exception):
    """Base of the engine's own errors, printed as one line without a traceback."""

    exit_code = 1

    def __str__(self) -> str:
        return UNPRINTED.sub(lambda match: match[0].encode("unicode_escape").decode(), super().__str__())


class CommandLineError(EngineError):
    """Arguments that mean nothing."""

    exit_code = 2


class BatchArithmeticError(EngineError):
    """The views of a step cannot be divided over ranks and accumulation."""

    exit_code = 2


class StepGraphError(EngineError):
    """Steps that were to be replayed as graphs and cannot be."""

    exit_code = 2


class CheckpointError(EngineError):
    """A checkpoint that is missing, damaged, unwritable or made by another model."""

    exit_code = 1


class SaveError(CheckpointError):
    """A checkpoint that the disk did not take."""


class UnknownScoreError(EngineError):
    """Checkpoints are to be kept by a score that no evaluation gives."""

    exit_code = 2


class NodesDifferError(EngineError):
    """The ranks do not run the same code with the same configuration."""

    exit_code = 2


class RunFolderError(EngineError):
    """A run folder that cannot be written, or that not all nodes share."""

    exit_code = 1


class DumpError(EngineError):
    """A dump of a step that cannot be read."""

    exit_code = 1


class StateRefusedError(EngineError):
    """The run folder holds progress that cannot or must not be continued as asked."""

    exit_code = 3


class PeerFailedError(EngineError):
    """Another rank failed; that rank tells the reason, this one leaves with its exit code."""

    told_elsewhere = True
    exit_code = 4

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class NonFiniteError(EngineError):
    """The loss or the gradient norm is infinite or not a number."""

    exit_code = 5
