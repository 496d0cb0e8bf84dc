"""Errors a user can cause: one line, naming the file and the field, printed without a traceback.

Any exception with an integer attribute `exit_code` is treated this way by the entry points, so that packages which
cannot import this module (`engine`) can define their own.
"""

from __future__ import annotations

import re

# Line ends, control characters, marks that turn the direction of writing, and halves of characters: a message quotes
# names and cells of files, and must stay one line of a terminal or log whatever stands in them.
UNPRINTED = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


class UserError(Exception):
    """Base of every error that is the user's to mend; `exit_code` becomes the process's exit status."""

    exit_code = 1

    def __str__(self) -> str:
        return UNPRINTED.sub(lambda match: match[0].encode("unicode_escape").decode(), super().__str__())


class UsageError(UserError):
    """A wrong command line or configuration."""

    exit_code = 2


class DataError(UserError):
    """A file that is missing, unreadable or not what it should be: media, labels, manifests, checkpoints."""

    exit_code = 1


class PeerDataError(DataError):
    """Another rank met a DataError and tells it; this one leaves without a word."""

    told_elsewhere = True
