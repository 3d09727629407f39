"""Processes that outlive the call that starts them: started in a session of their own, known again by pid and start mark.

A pid alone names nobody: the kernel gives it out again. So a process is identified by its pid and the moment it started
(and the boot), and is signalled only while both still fit. Nothing here ever looks a process up by name.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import msgspec

from heteroscale.servers.failure import PortTaken, ServerFailure

STANDARD_ERROR = 2
TAIL_LINES = 15
ENDED = "ended at once"
_POLL_S = 0.05
_PORT_TAKEN = "Address already in use"
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class ProcessId(msgspec.Struct, frozen=True, kw_only=True):
    """A process, unmistakably: `mark` is its start as the system tells it."""

    pid: int
    mark: str


def identify(pid: int) -> ProcessId | None:
    """The running process with this pid, or null. A zombie does not run."""
    mark = _start_mark(pid)
    return None if mark is None else ProcessId(pid=pid, mark=mark)


def myself() -> ProcessId:
    """The calling process."""
    found = identify(os.getpid())
    if found is None:
        raise ServerFailure("cannot read this process's own start time", cure="use Linux with /proc, or a system with `ps`")
    return found


def runs(process: ProcessId) -> bool:
    """Whether it is still the process that was started."""
    _reap(process.pid)
    return _start_mark(process.pid) == process.mark


def start(argv: Sequence[str], *, log: Path, environment: Mapping[str, str] | None = None) -> ProcessId:
    """Start `argv` (absolute program first) in a session of its own, output appended to `log`. Raises ServerFailure.

    It gets none of the caller's other descriptors: a server that outlives the caller must not keep a lock or a pipe of its shell.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    append = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    actions = [
        (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
        (os.POSIX_SPAWN_OPEN, 1, str(log), append, 0o644),
        (os.POSIX_SPAWN_DUP2, 1, 2),
        *((os.POSIX_SPAWN_CLOSE, number) for number in _inherited()),
    ]
    try:
        pid = os.posix_spawn(argv[0], list(argv), dict(environment or os.environ), file_actions=actions, setsid=True)
    except OSError as error:
        raise ServerFailure(f"cannot start {argv[0]}: {error.strerror}", cure="check that the program is there and may be run") from error
    return ProcessId(pid=pid, mark=_start_mark(pid) or ENDED)  # one that has ended already is found out by `wait_ready`


def _inherited() -> list[int]:
    """Open descriptors beside the standard ones that a new program would be given."""
    found = []
    for number in sorted(int(path.name) for path in Path("/dev/fd").iterdir()):
        with contextlib.suppress(OSError):  # the one that listed the folder is closed by now
            if number > STANDARD_ERROR and os.get_inheritable(number):
                found.append(number)
    return found


def stop(process: ProcessId, *, deadline_s: float = 15.0) -> bool:
    """SIGTERM, wait, then SIGKILL. False if it was not running any more (or the pid is somebody else's now)."""
    if not runs(process):
        return False
    _signal(process, signal.SIGTERM)
    if not wait_until(lambda: not runs(process), deadline_s=deadline_s):
        _signal(process, signal.SIGKILL)
        wait_until(lambda: not runs(process), deadline_s=5.0)
    return True


def wait_until(condition: Callable[[], bool], *, deadline_s: float) -> bool:
    """Poll until it holds; false at the deadline."""
    give_up_at = time.monotonic() + deadline_s
    while True:
        if condition():
            return True
        if time.monotonic() >= give_up_at:
            return False
        time.sleep(_POLL_S)


def wait_ready(name: str, process: ProcessId, answers: Callable[[], bool], *, log: Path, deadline_s: float) -> None:
    """Wait until the server answers. Raises ServerFailure with the log's last lines when it ends or stays mute."""
    alive_or_answering = wait_until(lambda: answers() or not runs(process), deadline_s=deadline_s)
    if runs(process) and alive_or_answering:
        return
    tail = tail_of(log)
    if not runs(process):
        if _PORT_TAKEN in tail:
            raise PortTaken(f"{name}'s port was taken while it started", cure="try again, or choose a port that is free", tail=tail)
        raise ServerFailure(f"{name} ended while starting", cure=f"read {log}; remove its data folder if that is damaged", tail=tail)
    stop(process)
    raise ServerFailure(
        f"{name} did not answer within {deadline_s:g} s", cure=f"try again on a less busy machine, or read {log}", tail=tail
    )


def tail_of(log: Path, lines: int = TAIL_LINES) -> str:
    """The last lines of a log file, or an empty text."""
    try:
        text = log.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    return "\n".join(f"    {line}" for line in text.splitlines()[-lines:])


def run(argv: Sequence[str], *, deadline_s: float) -> tuple[int, str]:
    """Run to the end; exit code and combined output. The process is ended if the caller is interrupted or time is up."""
    with subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as child:
        try:
            output, _ = child.communicate(timeout=deadline_s)
        except BaseException as error:
            child.kill()
            child.communicate()
            if isinstance(error, subprocess.TimeoutExpired):
                raise ServerFailure(f"{argv[0]} took longer than {deadline_s:g} s", cure="check the network and try again") from error
            raise
    return child.returncode, output


def _signal(process: ProcessId, what: signal.Signals) -> None:
    try:
        os.kill(process.pid, what)
    except ProcessLookupError:
        return


def _reap(pid: int) -> None:
    """Let go of an ended child, if it is one."""
    try:
        os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:
        return


def _start_mark(pid: int) -> str | None:
    if _BOOT_ID.exists():
        return _linux_mark(pid)
    done = subprocess.run(["ps", "-o", "stat=,lstart=", "-p", str(pid)], capture_output=True, text=True, check=False)
    state, _, started = done.stdout.strip().partition(" ")
    return None if not started or state.startswith("Z") else started.strip()


def _linux_mark(pid: int) -> str | None:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    except OSError:
        return None
    fields = stat.rpartition(")")[2].split()  # the command name may hold blanks and brackets
    state, start_ticks = fields[0], fields[19]
    return None if state in {"Z", "X"} else f"{_BOOT_ID.read_text().strip()[:8]}:{start_ticks}"
