"""Runs programs with a limit of time, for the GPU's scripts."""
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import threading

_running = set()
_lock = threading.Lock()
_over = False


def end(process, gently=0):
    """Ends a process and its group. SIGINT comes first where it has `gently` seconds to tell what it knows."""
    for number, seconds in ((signal.SIGINT, gently), (signal.SIGKILL, 10)):
        if seconds == 0:
            continue
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            pass
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            continue  # what hangs inside a driver is not even killed: nobody waits for it
        if number == signal.SIGINT:
            end(process)  # the children that did not mind it
        return


@contextlib.contextmanager
def started(command, **options):
    """A process in a group of its own, which ends with the script: subprocess.Popen's, or None where the script is ending."""
    with _lock:
        process = None if _over else subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True, **options)
        _running.add(process)
    if _over and process:  # said while the process began
        end(process)
    try:
        yield process
    finally:
        with _lock:
            _running.discard(process)


def run(command, log, limit, environment=None, gently=0):
    """The exit code of a command, or None where it was ended after `limit` seconds. `log` is a path, or None for nothing."""
    with open(log or os.devnull, "wb") as out, started(command, stdout=out, stderr=subprocess.STDOUT, env=environment) as process:
        if process is None:
            return None
        try:
            return process.wait(max(limit, 0.1))
        except subprocess.TimeoutExpired:
            end(process, gently)
            return None


def lines_at_once(command):
    """The command with its lines written as they come: what is ended keeps those that it had printed."""
    return [*([shutil.which("stdbuf"), "-oL"] if shutil.which("stdbuf") else []), *command]


def is_over():
    """Whether the script was asked to end: None of run says nothing then."""
    return _over


def end_with_us():
    """Ends what runs where the script itself is asked to end. What the script does about that is done by its `finally`."""
    def ended(number, _):
        global _over
        _over = True  # no lock: the thread that is interrupted may hold it
        for process in filter(None, list(_running)):
            try:
                os.killpg(process.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        sys.exit(128 + number)
    signal.signal(signal.SIGTERM, ended)
    signal.signal(signal.SIGINT, ended)
