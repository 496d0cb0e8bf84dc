"""Another revision of the source tree in a folder of its own, and the native library of a tree built beside it."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from s4d.errors import DataError, UsageError

COMPILERS = ("c++", "g++", "clang++")
BUILD_SECONDS = 900.0
TAIL = 300


def commit_of(root: Path, revision: str) -> str:
    """The full hash of a revision of the repository at `root`; UsageError where it names none."""
    try:
        return _git(root, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{revision}^{{commit}}")
    except (OSError, subprocess.CalledProcessError) as error:
        raise UsageError(f"--base: {revision!r} is no commit of the git repository at {root}") from error


@contextmanager
def work_tree(root: Path, commit: str) -> Iterator[Path]:
    """A work tree of `commit` in a temporary folder, gone afterwards, also on Ctrl-C and SIGTERM."""
    with _terminated_as_exit(), tempfile.TemporaryDirectory(prefix="s4d-base-") as folder:
        tree = Path(folder) / "tree"
        try:
            # No hooks of the repository: nothing but its files is wanted.
            _git(root, "-c", "core.hooksPath=/dev/null", "worktree", "add", "--quiet", "--detach", str(tree), commit)
            yield tree
        except subprocess.CalledProcessError as error:
            raise DataError(f"{root}: cannot make a work tree of {commit[:12]}: {error.stderr.strip()}") from error
        finally:
            shutil.rmtree(tree, ignore_errors=True)
            _git(root, "worktree", "prune")


@contextmanager
def _terminated_as_exit() -> Iterator[None]:
    """Unwind on SIGTERM as on Ctrl-C, so that what is temporary goes."""

    def leave(number: int, frame: FrameType | None) -> None:
        sys.exit(128 + number)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _git(root: Path, *arguments: str) -> str:
    # Its own session: a second Ctrl-C must not end what clears up after the first.
    command = ["git", "-C", os.fspath(root), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True, start_new_session=True)
    return done.stdout.strip()


def has_compiler() -> bool:
    """Whether a C++ compiler is here, as the environment's own build needs one."""
    return any(shutil.which(name) for name in (os.environ.get("CXX", ""), *COMPILERS) if name)


def build_native(tree: Path, into: Path) -> Path:
    """Build the native library of `tree` below `into`; returns the folder that holds it. DataError where it fails."""
    steps = (
        ["cmake", "-S", str(tree), "-B", str(into / "build"), "-DCMAKE_BUILD_TYPE=Release", *_generator()],
        ["cmake", "--build", str(into / "build")],
        ["cmake", "--install", str(into / "build"), "--prefix", str(into)],
    )
    for step in steps:
        _run(step, tree)
    return into / "kernels" / "native"


def _generator() -> Sequence[str]:
    return ("-G", "Ninja") if shutil.which("ninja", path=_search_path()) else ()


def _search_path() -> str:
    """The environment's own tools first, whether or not it is active."""
    return f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"


def _run(command: Sequence[str], tree: Path) -> None:
    environment = {**os.environ, "PATH": _search_path()}
    try:
        subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=BUILD_SECONDS)
    except FileNotFoundError as error:
        raise DataError(f"{tree}: native library: {command[0]} is not installed") from error
    except subprocess.TimeoutExpired as error:
        raise DataError(f"{tree}: native library: building took more than {BUILD_SECONDS:g} s") from error
    except subprocess.CalledProcessError as error:
        text = " ".join((error.stdout + error.stderr).split())
        raise DataError(f"{tree}: native library: does not build: ... {text[-TAIL:]}") from error
