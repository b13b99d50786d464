"""Give up rights for good: read a few folders, compute, and nothing else. Linux alone.

Landlock (Linux 5.13) takes the files away, a seccomp filter what Landlock does not know: sockets,
other programs, other processes, modes and owners of files. Neither needs root, and neither can be
undone. Both hold for the calling thread and those that it starts: call it before there are others.

What stays possible: using processor time, and memory up to a limit.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import resource
import struct
from collections.abc import Iterable
from pathlib import Path

_LIMIT_BYTES = 8 << 30

# landlock.h: the same numbers on every architecture.
_CREATE, _ADD, _RESTRICT = 444, 445, 446
_READ_FILE, _READ_DIR = 1 << 2, 1 << 3
_FILES_BY_VERSION = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 5: (1 << 16) - 1}
_SOCKETS_FROM, _SOCKETS = 4, 0b11
_SIGNALS_FROM, _SIGNALS = 6, 0b11

_NO_NEW_PRIVILEGES, _SECCOMP, _FILTER = 38, 22, 2
_LOAD, _IS, _AT_LEAST, _RETURN = 0x20, 0x15, 0x35, 0x06
_ALLOW, _REFUSE, _KILL = 0x7FFF0000, 0x00050000 | errno.EPERM, 0x80000000

_CALLS: dict[str, tuple[int, dict[str, int]]] = {
    "x86_64": (
        0xC000003E,
        {
            "socket": 41, "execve": 59, "kill": 62, "chmod": 90, "fchmod": 91, "chown": 92,
            "fchown": 93, "lchown": 94, "ptrace": 101, "setpgid": 109, "setsid": 112, "mount": 165,
            "setxattr": 188, "lsetxattr": 189, "fsetxattr": 190, "add_key": 248,
            "request_key": 249, "keyctl": 250, "fchownat": 260, "fchmodat": 268, "unshare": 272,
            "utimensat": 280, "perf_event_open": 298, "setns": 308, "process_vm_readv": 310,
            "process_vm_writev": 311, "bpf": 321, "execveat": 322, "userfaultfd": 323,
            "io_uring_setup": 425, "pidfd_open": 434, "pidfd_getfd": 438, "fchmodat2": 452,
        },
    ),
    "aarch64": (
        0xC00000B7,
        {
            "setxattr": 5, "lsetxattr": 6, "fsetxattr": 7, "mount": 40, "fchmod": 52,
            "fchmodat": 53, "fchownat": 54, "fchown": 55, "utimensat": 88, "unshare": 97,
            "ptrace": 117, "kill": 129, "setpgid": 154, "setsid": 157, "socket": 198,
            "add_key": 217, "request_key": 218, "keyctl": 219, "execve": 221,
            "perf_event_open": 241, "setns": 268, "process_vm_readv": 270,
            "process_vm_writev": 271, "bpf": 280, "execveat": 281, "userfaultfd": 282,
            "io_uring_setup": 425, "pidfd_open": 434, "pidfd_getfd": 438, "fchmodat2": 452,
        },
    ),
}  # fmt: skip
"""Audit number and system calls of each architecture. A call of another architecture kills."""


def lock(readable: Iterable[Path], listable: Iterable[Path]) -> None:
    """Keep the right to read some files and folders, and to list some; give up the rest.

    Args:
        readable: Files, or folders with all that they hold. What is not there is passed over.
        listable: Folders of which names may be read, below them too, but no content.

    Raises:
        OSError: The kernel offers no Landlock or no seccomp, or the machine is of another kind;
            some rights may be gone.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (_LIMIT_BYTES, _LIMIT_BYTES))
    libc = ctypes.CDLL(None, use_errno=True)
    _checked(libc.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0), "no_new_privs")
    _keep_files(libc, readable, listable)
    _refuse_calls(libc)


def _keep_files(libc: ctypes.CDLL, readable: Iterable[Path], listable: Iterable[Path]) -> None:
    version = _checked(libc.syscall(_CREATE, None, 0, 1), "Landlock")
    files = _FILES_BY_VERSION[max(known for known in _FILES_BY_VERSION if known <= version)]
    attributes = struct.pack(
        "=QQQ",
        files,
        _SOCKETS if version >= _SOCKETS_FROM else 0,
        _SIGNALS if version >= _SIGNALS_FROM else 0,
    )
    rules = _checked(libc.syscall(_CREATE, attributes, len(attributes), 0), "Landlock's rules")
    for path in readable:
        _allow(libc, rules, path, _READ_FILE | (_READ_DIR if path.is_dir() else 0))
    for path in listable:
        _allow(libc, rules, path, _READ_DIR)
    _checked(libc.syscall(_RESTRICT, rules, 0), "Landlock's restriction")
    os.close(rules)


def _allow(libc: ctypes.CDLL, rules: int, path: Path, access: int) -> None:
    try:
        handle = os.open(path, os.O_PATH)
    except FileNotFoundError:
        return
    rule = struct.pack("=Qi", access, handle)
    _checked(libc.syscall(_ADD, rules, 1, rule, 0), f"Landlock's rule for {path}")
    os.close(handle)


def _refuse_calls(libc: ctypes.CDLL) -> None:
    machine = platform.machine()
    if machine not in _CALLS:
        raise OSError(errno.ENOSYS, f"no list of system calls for {machine}")
    architecture, calls = _CALLS[machine]
    numbers = sorted(calls.values())
    # Each line: code, lines to pass over if so, if not, operand. The last two lines are the ends.
    lines = [
        (_LOAD, 0, 0, 4),
        (_IS, 1, 0, architecture),
        (_RETURN, 0, 0, _KILL),
        (_LOAD, 0, 0, 0),
        # Calls of the x32 kind have numbers of their own.
        (_AT_LEAST, len(numbers) + 1, 0, 0x40000000),
        *((_IS, len(numbers) - at, 0, number) for at, number in enumerate(numbers)),
        (_RETURN, 0, 0, _ALLOW),
        (_RETURN, 0, 0, _REFUSE),
    ]
    program = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *line) for line in lines))
    wanted = struct.pack("@HP", len(lines), ctypes.addressof(program))
    _checked(libc.prctl(_SECCOMP, _FILTER, wanted, 0, 0), "seccomp")


def _checked(result: int, what: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result
