"""What the fork server of the decoding workers imports, once for all workers; nothing else imports it.

A launcher that stops a run sends SIGTERM to all its processes. The training process then finishes its step and writes a
checkpoint, for which it needs the workers; these and their server end when it ends.
"""

from __future__ import annotations

import signal

import s4d.data.evaluation
import s4d.data.loader
import s4d.data.worker_process  # noqa: F401 - imported here so that every forked worker has it

signal.signal(signal.SIGTERM, signal.SIG_IGN)
