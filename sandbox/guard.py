"""Runs one command that must not outlive the process that asked for it.

Started as `python -I -S guard.py PARENT_PID FOLDER COMMAND...` with a pipe as its standard input
whose other end is in the parent's hands alone, in a session of its own, so that Ctrl-C in a terminal
reaches the parent only. It prints the command's process id, and ends with the command's exit code
(128 + signal when a signal ended it). Two mechanisms, each enough for one way to die:

* the parent goes: the pipe reports its end (at once), or the parent's id changes (when something
  the parent forked still holds the pipe; seen within POLL_SECONDS). The command's whole process
  group gets SIGKILL, and FOLDER, if not empty, is removed;
* the guard itself goes: on Linux the kernel kills the command (PR_SET_PDEATHSIG). The guard has
  one thread only, so the signal cannot come because a thread of the parent ended.

Standard library only, and little of it: it is on the way of every start.
"""

import contextlib
import os
import select
import signal
import sys

POLL_SECONDS = 0.5
PR_SET_PDEATHSIG = 1


def die_with_the_guard(guard_pid: int) -> None:
    """In the child before exec: ask the kernel for SIGKILL when the guard ends. Linux only."""
    if sys.platform != "linux":
        return
    import ctypes  # noqa: PLC0415 - 5 ms that other platforms need not pay

    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != guard_pid:  # it went before the request was made
        os._exit(1)


def spawn(command: list[str]) -> int:
    """Start the command in a process group of its own, with the guard's standard error as its output."""
    guard_pid = os.getpid()
    pid = os.fork()
    if pid:
        with contextlib.suppress(OSError):  # whoever of the two comes first makes the group
            os.setpgid(pid, pid)
        return pid
    try:
        os.setpgid(0, 0)
        die_with_the_guard(guard_pid)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(2, 1)
        for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM, signal.SIGPIPE):
            signal.signal(number, signal.SIG_DFL)
        os.execv(command[0], command)  # noqa: S606 - no shell is wanted
    except OSError as error:
        os.write(2, f"{command[0]}: {error.strerror}\n".encode())
    os._exit(127)


def watch(pid: int, parent_pid: int, wakeup: int) -> tuple[int, bool]:
    """Wait for the command to end; kill it when the parent is gone.

    Returns its wait status, and whether the parent was gone.
    """
    orphaned = False
    while True:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return status, orphaned
        readable, _, _ = select.select([wakeup] if orphaned else [wakeup, 0], [], [], POLL_SECONDS)
        if wakeup in readable:
            os.read(wakeup, 64)
        if (0 in readable and not os.read(0, 64)) or os.getppid() != parent_pid:
            orphaned = True
            kill_group(pid)


def kill_group(pid: int) -> None:
    """SIGKILL to the command and whatever it started; already gone is as good."""
    with contextlib.suppress(ProcessLookupError, PermissionError):  # macOS: EPERM for a zombie
        os.killpg(pid, signal.SIGKILL)


def main(arguments: list[str]) -> int:
    """Run the command. Returns its exit code, 128 + signal if a signal ended it."""
    parent_pid, folder, command = int(arguments[0]), arguments[1], arguments[2:]
    if os.getppid() != parent_pid:
        return 1
    wakeup, wakeup_writer = os.pipe()
    os.set_blocking(wakeup_writer, False)
    signal.set_wakeup_fd(wakeup_writer, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    pid = spawn(command)
    # SIGTERM meant for the guard is meant for the command.
    signal.signal(signal.SIGTERM, lambda *_: os.kill(pid, signal.SIGTERM))
    with contextlib.suppress(BrokenPipeError):  # the parent is gone: watch() acts on it
        os.write(1, b"%d\n" % pid)
    status, orphaned = watch(pid, parent_pid, wakeup)
    kill_group(pid)  # what the command itself may have started
    if orphaned and folder:
        import shutil  # noqa: PLC0415 - only on this way out

        shutil.rmtree(folder, ignore_errors=True)
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
