"""What a process gives up before it unpickles a file that it does not trust.

Limits on memory, time and descriptors; a filter of system calls on the platforms it knows; and an audit hook that
refuses whatever Python would do beyond computing. Each holds without the others.
"""

from __future__ import annotations

import ctypes
import platform
import resource
import signal
import struct
import sys

SET_DEATH_SIGNAL, SET_SECCOMP, SET_NO_NEW_PRIVILEGES = 1, 22, 38
FILTER = 2
LOAD, JUMP_EQUAL, RETURN = 0x20, 0x15, 0x06
ALLOW, REFUSE = 0x7FFF0000, 0x00050001  # the second: fails with "operation not permitted"
NUMBER_AT, PLATFORM_AT = 0, 4

# Platform: its number in a filter, and the system calls that computing and reading or writing open files need. Nothing
# here opens, connects, starts or signals. In order: read, write, close, fstat, lseek, mmap, mprotect, munmap, brk,
# rt_sigaction, rt_sigprocmask, rt_sigreturn, pread64, pwrite64, readv, writev, sched_yield, mremap, madvise, getpid,
# exit, getrusage, sigaltstack, gettid, futex, sched_getaffinity, clock_gettime, exit_group, newfstatat,
# set_robust_list, getrandom, rseq.
CALLS = {
    "x86_64": (
        0xC000003E,
        (
            *(0, 1, 3, 5, 8, 9, 10, 11, 12, 13, 14, 15, 17, 18, 19, 20, 24, 25, 28, 39),
            *(60, 98, 131, 186, 202, 204, 228, 231, 262, 273, 318, 334),
        ),
    ),
    "aarch64": (
        0xC00000B7,
        (
            *(63, 64, 57, 80, 62, 222, 226, 215, 214, 134, 135, 139, 67, 68, 65, 66, 124, 216, 233, 172),
            *(93, 165, 132, 178, 98, 123, 113, 94, 79, 99, 278, 293),
        ),
    ),
}
# What Python reports while plain values and tensors are made.
HARMLESS = {"object.__getattr__", "object.__setattr__", "object.__delattr__", "sys._getframe", "gc.get_objects"}


def close_doors(memory: int, seconds: int, output: int) -> None:
    """Take `memory` bytes more than now, `seconds` of computing and `output` written bytes at most, and nothing else.

    Modules that are needed later must have been imported, files opened; both are impossible from here on.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    # The process that asked may be killed; what it started must not go on.
    libc.prctl(SET_DEATH_SIGNAL, signal.SIGKILL, 0, 0, 0)
    space = _address_space() + memory
    for limit, value in (
        (resource.RLIMIT_AS, space),
        (resource.RLIMIT_CPU, seconds),
        (resource.RLIMIT_FSIZE, output),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NPROC, 0),
        (resource.RLIMIT_NOFILE, 0),
    ):
        resource.setrlimit(limit, (value, value))
    _filter_system_calls(libc)
    sys.addaudithook(_refuse)


def _address_space() -> int:
    with open("/proc/self/statm", encoding="ascii") as status:
        return int(status.read().split()[0]) * resource.getpagesize()


def _refuse(event: str, arguments: tuple[object, ...]) -> None:
    if event not in HARMLESS:
        raise PermissionError(f"{event} is not allowed here")


def _filter_system_calls(libc: ctypes.CDLL) -> None:
    """Where the platform or its kernel knows no filter, the other walls must do."""
    if platform.machine() not in CALLS:
        return
    here, calls = CALLS[platform.machine()]
    program = [(LOAD, 0, 0, PLATFORM_AT), (JUMP_EQUAL, 1, 0, here), (RETURN, 0, 0, REFUSE), (LOAD, 0, 0, NUMBER_AT)]
    for call in calls:
        program += [(JUMP_EQUAL, 0, 1, call), (RETURN, 0, 0, ALLOW)]
    program.append((RETURN, 0, 0, REFUSE))
    text = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *line) for line in program))
    header = struct.pack("@HP", len(program), ctypes.addressof(text))
    libc.prctl(SET_NO_NEW_PRIVILEGES, 1, 0, 0, 0)
    libc.prctl(SET_SECCOMP, FILTER, header, 0, 0)
