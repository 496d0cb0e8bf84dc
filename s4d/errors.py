"""Errors a user can cause: one line, naming the file and the field, printed without a traceback.

Any exception with an integer attribute `exit_code` is treated this way by the entry points, so that packages which
cannot import this module (`engine`) can define their own.
"""

from __future__ import annotations


class UserError(Exception):
    """Base of every error that is the user's to mend; `exit_code` becomes the process's exit status."""

    exit_code = 1


class UsageError(UserError):
    """A wrong command line or configuration."""

    exit_code = 2


class DataError(UserError):
    """A file that is missing, unreadable or not what it should be: media, labels, manifests, checkpoints."""

    exit_code = 1


class PeerDataError(DataError):
    """Another rank met a DataError and tells it; this one leaves without a word."""

    told_elsewhere = True
