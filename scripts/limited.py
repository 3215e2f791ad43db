"""Programs with a limit of time, which are ended with all that they started. For the scripts that use a GPU."""
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


def run(command, log, limit, environment=None, gently=0, cwd=None):
    """The exit code of a command, or None where it was ended after `limit` seconds. `log` is a path, or None for nothing."""
    out = open(log, "wb") if log else subprocess.DEVNULL
    try:
        with _lock:
            if _over:
                return None
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT, env=environment,
                                       cwd=cwd, start_new_session=True)
            _running.add(process)
        if _over:  # said while the process began
            end(process)
        try:
            return process.wait(max(limit, 0.1))
        except subprocess.TimeoutExpired:
            end(process, gently)
            return None
        finally:
            with _lock:
                _running.discard(process)
    finally:
        if log:
            out.close()


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
        for process in list(_running):
            try:
                os.killpg(process.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        sys.exit(128 + number)
    signal.signal(signal.SIGTERM, ended)
    signal.signal(signal.SIGINT, ended)
