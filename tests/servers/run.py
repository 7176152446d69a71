#!/usr/bin/env python3
"""End to end with servers, clients and load that nobody here wrote: nginx, Python's http.server, curl and wrk.

Starts them and `penstock serve` on free loopback ports, breaks the canary (or everything) while wrk runs, and looks at
what the proxy makes of it. Ends only what it started. Needs the standard library only.

Prints `ok NAME` or `FAILED NAME: why` per check; the last line is `N passed, M failed`.
PENSTOCK_BINARY names another binary than target/release/penstock.
"""

import datetime
import json
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parents[2]
PATH = os.environ.get("PATH", "") + os.pathsep + "/usr/sbin"
TOOLS = {name: shutil.which(name, path=PATH) for name in ("nginx", "wrk", "curl")}
BODY = "answered by {name}\n"
passed = failed = 0


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


class Nginx:
    """A version: answers 200, until it is told to answer 500."""

    def __init__(self, folder, name, port):
        self.folder, self.name, self.port = folder / f"nginx-{name}", name, port
        (self.folder / "site").mkdir(parents=True)
        (self.folder / "site" / "index.html").write_text(BODY.format(name=name))
        self.access = self.folder / "access.log"
        self.configure(failing=False)
        self.process = Process(folder, f"nginx-{name}", TOOLS["nginx"], "-p", self.folder, "-c", self.folder / "nginx.conf")
        until(f"nginx {name}", lambda: accepts(port))

    def configure(self, failing):
        answer = 'return 500 "broken\\n";' if failing else f"root {self.folder}/site;"
        (self.folder / "nginx.conf").write_text(f"""
daemon off;
pid {self.folder}/nginx.pid;
error_log {self.folder}/error.log warn;
worker_processes 1;
worker_shutdown_timeout 1s;
events {{ worker_connections 1024; }}
http {{
    log_format times '$msec $status';
    access_log {self.access} times;
    types {{ text/html html; }}
    default_type application/octet-stream;
    keepalive_requests 1000000;
    client_body_temp_path {self.folder}/t1; proxy_temp_path {self.folder}/t2; fastcgi_temp_path {self.folder}/t3;
    uwsgi_temp_path {self.folder}/t4; scgi_temp_path {self.folder}/t5;
    server {{ listen 127.0.0.1:{self.port}; location / {{ {answer} }} }}
}}
""")

    def turn_bad(self):
        self.configure(failing=True)
        self.process.child.send_signal(signal.SIGHUP)

    def failures(self):
        """When it answered 500: seconds since the epoch."""
        lines = (line.split() for line in self.access.read_text().splitlines())
        return [float(line[0]) for line in lines if len(line) == 2 and line[1] == "500"]

    def kill(self):
        self.process.kill()


class HttpServer:
    """Python's own, over a folder."""

    def __init__(self, folder, name, port):
        site = folder / f"python-{name}"
        site.mkdir()
        (site / "index.html").write_text(BODY.format(name=name))
        (site / "large.bin").write_bytes(os.urandom(1 << 20) * 64)
        self.process = Process(folder, f"python-{name}", sys.executable, "-u", "-m", "http.server", port, "--bind", "127.0.0.1", "--directory", site)
        self.large = site / "large.bin"
        until(f"http.server {name}", lambda: accepts(port))

    def kill(self):
        self.process.kill()


class Penstock:
    """`penstock serve` in front of v1 (stable) and v2 (canary)."""

    def __init__(self, folder, binary, v1, v2, weight):
        self.port, self.admin = free_ports(2)
        self.binary, self.file = binary, folder / "penstock.toml"
        self.file.write_text(f"""
[[listeners]]
address = "127.0.0.1:{self.port}"

[admin]
address = "127.0.0.1:{self.admin}"

[shutdown]
linger = "500ms"
drain = "10s"

[services.shop]
routes = [{{ host = "*", path_prefix = "/" }}]
stable = "v1"
canary = "v2"
weight = "{weight}%"
pins = [{{ header = "x-canary", value = "always", version = "canary" }},
        {{ header = "x-canary", value = "never", version = "stable" }}]

[services.shop.versions.v1]
endpoints = ["127.0.0.1:{v1}"]

[services.shop.versions.v2]
endpoints = ["127.0.0.1:{v2}"]
""")
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PENSTOCK_")}
        self.log = folder / "penstock.log"
        self.process = Process(folder, "penstock", binary, "serve", self.file, env=environment)
        until("penstock to be ready", self.ready)

    def ready(self):
        if self.process.child.poll() is not None:
            raise Wrong(f"penstock ended with {self.process.child.returncode}: {self.log.read_text()[-500:]}")
        try:
            return self.get("/ready")
        except OSError:
            return False

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}"

    def get(self, path):
        with urllib.request.urlopen(f"http://127.0.0.1:{self.admin}{path}", timeout=2) as answer:
            return json.load(answer)

    def weight(self):
        return self.get("/v1/services/shop/split")["weight"]

    def rolled_back(self):
        """The journal's entry of the rollback, once there is one."""
        request = urllib.request.Request(f"http://127.0.0.1:{self.admin}/v1/events", headers={"Last-Event-ID": "0"})
        with urllib.request.urlopen(request, timeout=1) as feed:
            try:
                for line in feed:
                    if line.startswith(b"data:"):
                        entry = json.loads(line[5:])
                        if entry.get("change") == "rolled_back":
                            return entry
            except TimeoutError:
                return None

    def verb(self, *arguments):
        command = [str(self.binary), "--admin", f"127.0.0.1:{self.admin}", *arguments]
        return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=10)

    def kill(self):
        self.process.kill()


class Wrk:
    """Load, as fast as it goes, over sixteen connections that are kept."""

    def __init__(self, url, seconds):
        self.child = subprocess.Popen(
            [TOOLS["wrk"], "-t1", "-c16", f"-d{seconds}s", url + "/"],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def stop(self):
        """Ends it early, and returns its figures."""
        if self.child.poll() is None:
            self.child.send_signal(signal.SIGINT)
        text = self.child.communicate(timeout=30)[0]
        number = lambda pattern: int(found[1]) if (found := re.search(pattern, text)) else 0
        rate = re.search(r"Requests/sec:\s*([\d.]+)", text)
        return {
            "requests": number(r"(\d+) requests in"),
            "rate": float(rate[1]) if rate else 0.0,
            "bad": number(r"Non-2xx or 3xx responses: (\d+)"),
            "read": number(r"read (\d+)"),
            "timeout": number(r"timeout (\d+)"),
        }


class Stage:
    """A folder and what runs in it; everything is ended at its end, the last first."""

    def __init__(self):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="penstock-servers-"))
        self.folder.chmod(0o755)  # nginx that root starts serves as somebody else
        self.running = []

    def __enter__(self):
        return self

    def run(self, thing):
        self.running.append(thing)
        return thing

    def __exit__(self, *_):
        for thing in reversed(self.running):
            thing.kill() if hasattr(thing, "kill") else thing.stop()
        shutil.rmtree(self.folder, ignore_errors=True)


def curl(url, *options):
    command = [TOOLS["curl"], "-sS", "--noproxy", "*", "--max-time", "20", *options, url]
    return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=True).stdout


def with_curl(binary):
    """nginx is stable, Python's server the canary."""
    with Stage() as stage:
        ports = free_ports(2)
        stage.run(Nginx(stage.folder, "v1", ports[0]))
        python = stage.run(HttpServer(stage.folder, "v2", ports[1]))
        penstock = stage.run(Penstock(stage.folder, binary, *ports, weight=50))
        always, never = ("-H", "x-canary: always"), ("-H", "x-canary: never")

        def both_answer():
            answers = [curl(penstock.url).decode() for _ in range(40)]
            seen = {name: answers.count(BODY.format(name=name)) for name in ("v1", "v2")}
            expect(sum(seen.values()) == 40, f"other answers among {set(answers)}")
            expect(min(seen.values()) >= 5, f"a coin that falls like this: {seen}")
            return f"{seen['v1']} by nginx, {seen['v2']} by http.server"

        def pins_hold():
            for options, name in ((always, "v2"), (never, "v1")):
                answers = {curl(penstock.url, *options).decode() for _ in range(10)}
                expect(answers == {BODY.format(name=name)}, f"{options[1]} got {answers}")

        def large_answers_are_whole():
            expect(curl(penstock.url + "/large.bin", *always) == python.large.read_bytes(), "64 MiB came out differently")

        def refusals_pass_through():
            status = lambda *options: curl(penstock.url + "/none", "-o", "/dev/null", "-w", "%{http_code}", *options)
            expect(status(*always) == status(*never) == b"404", "404 did not pass")
            # http.server knows no POST and says 501; nginx says 405 to a POST of a file.
            post = lambda *options: curl(penstock.url + "/", "-o", "/dev/null", "-w", "%{http_code}", "-d", "x", *options)
            expect((post(*always), post(*never)) == (b"501", b"405"), "the servers' own refusals did not pass")

        def head_has_no_body():
            head = curl(penstock.url, "-I", *always).decode().lower()
            expect(f"content-length: {len(BODY.format(name='v2'))}" in head, head)

        def verbs_work():
            status = penstock.verb("status")
            expect(status.returncode == 0 and "shop" in status.stdout, status)
            weights = penstock.verb("weights", "shop", "25%")
            expect(weights.returncode == 0 and penstock.weight() == "25%", f"{weights}, {penstock.weight()}")
            abort = penstock.verb("abort", "shop")
            expect(abort.returncode == 0 and penstock.weight() == "0%", f"{abort}, {penstock.weight()}")
            refused = penstock.verb("weights", "shop", "10%")
            expect(refused.returncode == 5, f"a sealed canary's weight was raised: {refused}")
            expect({curl(penstock.url, *always) for _ in range(5)} == {BODY.format(name="v1").encode()}, "sealed, and served")
            unseal = penstock.verb("unseal", "shop", "v2")
            expect(unseal.returncode == 0 and penstock.weight() == "0%", f"{unseal}, {penstock.weight()}")

        def check_reads_it():
            read = lambda file: subprocess.run([str(binary), "check", str(file)], capture_output=True, text=True, timeout=10)
            expect(read(penstock.file).returncode == 0, read(penstock.file))
            wrong = stage.folder / "wrong.toml"
            wrong.write_text(penstock.file.read_text().replace("stable =", "stabel ="))
            expect(read(wrong).returncode == 1, read(wrong))

        check("curl reaches nginx and http.server", both_answer)
        check("pins hold", pins_hold)
        check("64 MiB come whole", large_answers_are_whole)
        check("refusals of the servers pass", refusals_pass_through)
        check("HEAD has no body", head_has_no_body)
        check("check reads the file that serve runs on", check_reads_it)
        check("status, weights, abort and unseal work", verbs_work)


def with_wrk(binary, weight):
    """Two nginx, a proxy and a load, up and running."""
    stage = Stage()
    try:
        ports = free_ports(2)
        versions = [stage.run(Nginx(stage.folder, name, port)) for name, port in zip(("v1", "v2"), ports)]
        penstock = stage.run(Penstock(stage.folder, binary, *ports, weight=weight))
        wrk = stage.run(Wrk(penstock.url, 60))
        time.sleep(3)
        expect(penstock.weight() == f"{weight}%", f"healthy, and at {penstock.weight()}")
        return stage, *versions, penstock, wrk
    except BaseException:
        stage.__exit__()
        raise


def canary_fails(binary, weight):
    """The canary answers 500: from its first 500, by its own access log, to weight zero."""
    stage, _, v2, penstock, wrk = with_wrk(binary, weight)
    with stage:
        v2.turn_bad()
        until("weight zero", lambda: penstock.weight() == "0%", seconds=20)
        entry = until("the rollback in the feed", penstock.rolled_back, seconds=5)
        time.sleep(0.5)
        load, bad = wrk.stop(), v2.failures()
        zero = seconds(entry["at"])
        # nginx closes its sixteen connections when it reloads: what is on its way to them then is lost.
        expect(0 <= load["bad"] - len(bad) <= 16, f"clients saw {load['bad']} failures, the canary made {len(bad)}")
        late = max(bad) - zero
        expect(late < 0.25, f"the canary was asked {late * 1000:.0f} ms after weight zero")
        return (f"{(zero - bad[0]) * 1000:.0f} ms from the first 500 to weight zero, {len(bad)} requests failed"
                f" ({load['rate']:.0f} requests/s; {entry['conviction']['trigger']}: {entry['conviction']['because']})")


def canary_dies(binary, weight):
    """The canary is killed: stable answers in its place, and it loses its weight."""
    stage, _, v2, penstock, wrk = with_wrk(binary, weight)
    with stage:
        killed = time.time()
        v2.kill()
        until("weight zero", lambda: penstock.weight() == "0%", seconds=20)
        entry = until("the rollback in the feed", penstock.rolled_back, seconds=5)
        time.sleep(0.5)
        load = wrk.stop()
        # Sixteen connections: what was under way when it died is lost, what came later stable has answered.
        expect(load["bad"] <= 32, f"clients saw {load['bad']} failures")
        return (f"{(seconds(entry['at']) - killed) * 1000:.0f} ms from its death to weight zero, {load['bad']} requests"
                f" failed ({load['rate']:.0f} requests/s; {entry['conviction']['trigger']})")


def both(binary, break_them, what):
    """The canary is not to blame for what happens to both."""
    stage, v1, v2, penstock, wrk = with_wrk(binary, 50)
    with stage:
        break_them(v1, v2)
        time.sleep(8)
        split = penstock.get("/v1/services/shop/split")
        load = wrk.stop()
        expect(load["bad"] > 0, f"nobody saw that {what}")
        expect(split["weight"] == "50%" and not split["sealed"], f"rolled back: {penstock.rolled_back()}")
        return f"after 8 s and {load['bad']} failures still at {split['weight']}"


def kill_both(v1, v2):
    for version in (v2, v1):
        version.kill()


def break_both(v1, v2):
    for version in (v2, v1):
        version.turn_bad()


def stops_gracefully(binary):
    stage, _, _, penstock, wrk = with_wrk(binary, 50)
    with stage:
        began = time.monotonic()
        penstock.process.child.send_signal(signal.SIGTERM)
        until("the end", lambda: penstock.process.child.poll() is not None, seconds=15)
        took, load = time.monotonic() - began, wrk.stop()
        status = penstock.process.child.returncode
        expect(status == 0, f"exit code {status}")
        expect(load["bad"] == 0, f"clients saw {load['bad']} failures")
        expect(load["read"] <= 8, f"{load['read']} answers were cut short")
        return f"in {took:.1f} s, {load['requests']} requests answered, none failed"


def seconds(at):
    """RFC 3339, with more decimals than Python takes."""
    return datetime.datetime.fromisoformat(re.sub(r"(\.\d{6})\d*", r"\1", at).replace("Z", "+00:00")).timestamp()


def main():
    binary = pathlib.Path(os.environ.get("PENSTOCK_BINARY", ROOT / "target/release/penstock")).resolve()
    for name, found in TOOLS.items():
        check(f"{name} is there", expect, found, "install it: apt-get install nginx-light wrk curl")
    check("penstock is there", expect, binary.exists(), "build it: cargo build --release")
    if not failed:
        with_curl(binary)
        for weight in (5, 50, 100):
            check(f"rollback at {weight} %, the canary answers 500", canary_fails, binary, weight)
            check(f"rollback at {weight} %, the canary is killed", canary_dies, binary, weight)
        check("no rollback when both are killed", both, binary, kill_both, "both are dead")
        check("no rollback when both answer 500", both, binary, break_both, "both fail")
        check("SIGTERM under load ends well", stops_gracefully, binary)
    print(f"{passed} passed, {failed} failed")
    sys.exit(1 if failed else 0)


main()
