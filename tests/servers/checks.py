"""What the end-to-end checks in Python share: checks that are counted, waits that end, children that are ended."""

import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
PATH = os.environ.get("PATH", "") + os.pathsep + "/usr/sbin"
passed = failed = 0


def binary():
    """The penstock to look at."""
    return pathlib.Path(os.environ.get("PENSTOCK_BINARY", ROOT / "target/release/penstock")).resolve()


def environment():
    """Without variables that would override the file."""
    return {name: value for name, value in os.environ.items() if not name.startswith("PENSTOCK_")}


class Wrong(Exception):
    """What a check found."""


def check(name, function, *arguments):
    global passed, failed
    try:
        said = function(*arguments)
    except Exception as why:  # whatever goes wrong is this check's failure, not the end of the others
        failed += 1
        print(f"FAILED {name}: {type(why).__name__ if not isinstance(why, Wrong) else ''} {why}", flush=True)
    else:
        passed += 1
        print(f"ok {name}" + (f": {said}" if said else ""), flush=True)


def expect(true, why):
    if not true:
        raise Wrong(why)


def until(what, function, seconds=10.0, pause=0.01):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found = function()
        if found:
            return found
        time.sleep(pause)
    raise Wrong(f"waited {seconds:.0f} s for {what}")


def free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def accepts(port):
    try:
        socket.create_connection(("127.0.0.1", port), 0.5).close()
        return True
    except OSError:
        return False


class Process:
    """A child, and nothing but that child."""

    def __init__(self, folder, name, *command, **options):
        self.log = open(folder / f"{name}.log", "ab")
        self.child = subprocess.Popen(
            [str(part) for part in command], stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log,
            start_new_session=True, **options)

    def kill(self):
        """At once, with the workers it started."""
        if self.child.poll() is None:
            os.killpg(self.child.pid, signal.SIGKILL)
        self.child.wait()
        self.log.close()


def finish():
    """The last line, and the exit code."""
    print(f"{passed} passed, {failed} failed")
    sys.exit(1 if failed else 0)
