#!/usr/bin/env python3
"""At the edge, end to end: TLS and HTTP/2 with clients and servers that nobody here wrote: curl, openssl, wrk and nginx.

Prints `ok NAME` or `FAILED NAME: why` per check; the last line is `N passed, M failed`.
PENSTOCK_BINARY names another binary than target/release/penstock.
"""

import json
import pathlib
import shutil
import signal
import ssl
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "servers"))
import checks
from checks import PATH, Process, Wrong, check, expect, free_ports, until

TOOLS = {name: shutil.which(name, path=PATH) for name in ("curl", "openssl", "wrk")}


class Origin:
    """Says what it was asked."""

    def __init__(self):
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def answer(self):
                length = int(self.headers.get("content-length") or 0)
                body = self.rfile.read(length)
                if self.headers.get("transfer-encoding") == "chunked":
                    body = b"".join(iter(self.chunk, b""))
                seen = {"method": self.command, "path": self.path, "headers": [list(pair) for pair in self.headers.items()],
                        "body": len(body)}
                said = json.dumps(seen).encode()
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(said)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(said)

            def chunk(self):
                size = int(self.rfile.readline().split(b";")[0], 16)
                piece = self.rfile.read(size)
                self.rfile.readline()
                return piece

            do_GET = do_POST = do_HEAD = do_PUT = answer

            def log_message(self, *_):
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 512

            def handle_error(self, *_):
                pass  # the proxy that is stopping drops idle connections

        self.server = Server(("127.0.0.1", 0), Handler)
        self.port = self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


class Authority:
    """Makes certificates."""

    def __init__(self, folder, name="authority"):
        self.folder, self.name = folder, name
        self.run("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "30",
                 "-keyout", self.path(name, "key"), "-out", self.path(name, "crt"), "-subj", f"/CN={name}")

    def path(self, name, kind):
        return self.folder / f"{name}.{kind}"

    @property
    def certificate(self):
        return self.path(self.name, "crt")

    def run(self, *arguments):
        done = subprocess.run([TOOLS["openssl"], *map(str, arguments)], capture_output=True, text=True, cwd=self.folder)
        expect(done.returncode == 0, f"openssl: {done.stderr[-300:]}")

    def issue(self, name, names, days=90, subject=None):
        """A certificate and its key, signed."""
        request, extensions = self.path(name, "csr"), self.path(name, "ext")
        extensions.write_text("subjectAltName=" + ",".join(names))
        self.run("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", self.path(name, "key"),
                 "-out", request, "-subj", subject or f"/CN={name}")
        self.run("x509", "-req", "-in", request, "-CA", self.certificate, "-CAkey", self.path(self.name, "key"),
                 "-CAcreateserial", "-days", days, "-extfile", extensions, "-out", self.path(name, "crt"))
        return self.path(name, "crt"), self.path(name, "key")


class Penstock:
    """`penstock serve` with a plain listener, one with TLS, one that asks for client certificates, one that redirects."""

    def __init__(self, folder, origin, authority, clients):
        self.folder, self.origin, self.authority, self.clients = folder, origin, authority, clients
        self.plain, self.tls, self.mutual, self.redirect, self.admin = free_ports(5)
        self.file, self.log = folder / "penstock.toml", folder / "penstock.log"
        self.pairs = [authority.issue("site", ["DNS:localhost", "DNS:site.test"]),
                      authority.issue("wild", ["DNS:*.wild.test"])]
        self.configure()
        self.process = Process(folder, "penstock", checks.binary(), "serve", self.file, env=checks.environment())
        until("penstock to be ready", self.ready)

    def configure(self):
        pairs = ", ".join(f'{{ certificate = "{certificate}", key = "{key}" }}' for certificate, key in self.pairs)
        self.file.write_text(f"""
[[listeners]]
address = "127.0.0.1:{self.plain}"
h2c = true

[[listeners]]
address = "127.0.0.1:{self.tls}"
[listeners.tls]
certificates = [{pairs}]
hsts = "8760h"

[[listeners]]
address = "127.0.0.1:{self.mutual}"
[listeners.tls]
certificates = [{pairs}]
client_certificates = "required"
client_ca = "{self.clients.certificate}"
minimum_version = "1.3"
h2 = false

[[listeners]]
address = "127.0.0.1:{self.redirect}"
redirect_to_https = {self.tls}

[admin]
address = "127.0.0.1:{self.admin}"

[timeouts]
tls_handshake = "1s"

[shutdown]
linger = "0s"
drain = "10s"

[services.shop]
routes = [{{}}]
stable = "v1"

[services.shop.versions.v1]
endpoints = ["127.0.0.1:{self.origin.port}"]
""")

    def ready(self):
        if self.process.child.poll() is not None:
            raise Wrong(f"penstock ended with {self.process.child.returncode}: {self.log.read_text()[-500:]}")
        try:
            return self.scrape("/ready")
        except OSError:
            return False

    def scrape(self, path):
        with urllib.request.urlopen(f"http://127.0.0.1:{self.admin}{path}", timeout=2) as answer:
            return answer.read().decode()

    def curl(self, host, port, path="/", *arguments, scheme="https", code=0):
        """The answer's head and body."""
        command = [TOOLS["curl"], "-sS", "-i", "--max-time", "10", "--resolve", f"{host}:{port}:127.0.0.1",
                   "--cacert", str(self.authority.certificate), *map(str, arguments), f"{scheme}://{host}:{port}{path}"]
        done = subprocess.run(command, capture_output=True, timeout=20)
        expect(done.returncode == code, f"curl ended with {done.returncode}, not {code}: {done.stderr.decode()[-200:]}")
        head, _, body = done.stdout.replace(b"HTTP/1.1 100 Continue\r\n\r\n", b"").partition(b"\r\n\r\n")
        return head.decode(), body

    def asked(self, *arguments, **options):
        """What reached the origin."""
        head, body = self.curl(*arguments, **options)
        expect(" 200" in head.splitlines()[0], f"answered {head.splitlines()[:1]}")
        return head, json.loads(body)

    def shown(self, name):
        """The certificate's serial number that a client gets for a name."""
        context = ssl.create_default_context(cafile=self.authority.certificate)
        context.check_hostname = False
        with socket.create_connection(("127.0.0.1", self.tls), 5) as plain:
            with context.wrap_socket(plain, server_hostname=name) as stream:
                return stream.getpeercert()["serialNumber"]


def field(seen, name):
    return [value for key, value in seen["headers"] if key.lower() == name]


def speaks_both(penstock):
    for flag, version in (("--http1.1", "HTTP/1.1 200"), ("--http2", "HTTP/2 200")):
        head, seen = penstock.asked("site.test", penstock.tls, "/a?b=c", flag, "-H", "Cookie: a=1", "-d", "x" * 70000)
        expect(head.startswith(version), head.splitlines()[0])
        expect("strict-transport-security: max-age=31536000" in head.lower(), "no HSTS")
        expect((seen["method"], seen["path"], seen["body"]) == ("POST", "/a?b=c", 70000), seen)
        expect(field(seen, "x-forwarded-proto") == ["https"], seen)
        expect(field(seen, "host") == [f"site.test:{penstock.tls}"], seen)
        expect(field(seen, "via") == ["2.0 penstock" if "2" in flag else "1.1 penstock"], seen)


def prior_knowledge(penstock):
    head, seen = penstock.asked("localhost", penstock.plain, "/", "--http2-prior-knowledge", scheme="http")
    expect(head.startswith("HTTP/2 200"), head)
    expect(field(seen, "x-forwarded-proto") == ["http"], seen)
    head, _ = penstock.asked("localhost", penstock.plain, "/", scheme="http")
    expect(head.startswith("HTTP/1.1 200"), "and HTTP/1.1 on the same port")
    with socket.create_connection(("127.0.0.1", penstock.plain), 5) as slow:
        for byte in b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n":
            slow.sendall(bytes([byte]))
            time.sleep(0.002)
        slow.settimeout(5)
        expect(slow.recv(9)[3:4] == b"\x04", "a preface in pieces is one too: SETTINGS come back")


def names(penstock):
    expect(penstock.shown("site.test") == penstock.shown("other.test"), "the first certificate is for whom no other fits")
    expect(penstock.shown("a.wild.test") == penstock.shown("b.wild.test") != penstock.shown("site.test"), "wildcard")
    penstock.asked("a.wild.test", penstock.tls)
    head, _ = penstock.curl("site.test", penstock.tls, "/", "-H", "Host: elsewhere.test")
    expect(" 421" in head.splitlines()[0], f"for another name: {head.splitlines()[0]}")
    penstock.asked("site.test", penstock.tls, "/", "-H", "Host: localhost")


def clients(penstock):
    certificate, key = penstock.clients.issue("alice", ["DNS:alice"], subject="/O=Example/CN=Alice")
    _, seen = penstock.asked("site.test", penstock.mutual, "/", "--cert", certificate, "--key", key,
                             "-H", "Penstock-Client-Subject: CN=Mallory", "-H", "Client-Cert: :bWFsbG9yeQ==:")
    expect(field(seen, "penstock-client-subject") == ["O=Example, CN=Alice"], seen)
    told = field(seen, "client-cert")
    expect(len(told) == 1 and told[0].startswith(":MII"), told)
    penstock.curl("site.test", penstock.mutual, code=56)
    stranger = penstock.authority.issue("mallory", ["DNS:mallory"])
    penstock.curl("site.test", penstock.mutual, "/", "--cert", stranger[0], "--key", stranger[1], code=56)
    _, seen = penstock.asked("site.test", penstock.tls, "/", "-H", "Client-Cert: :bWFsbG9yeQ==:")
    expect(not field(seen, "client-cert"), "a client cannot claim to have one")
    penstock.curl("site.test", penstock.mutual, "/", "--tls-max", "1.2", "--cert", certificate, "--key", key, code=35)


def redirects(penstock):
    head, _ = penstock.curl("site.test", penstock.redirect, "/a?b=c", "-X", "POST", scheme="http")
    expect(" 308" in head.splitlines()[0], head)
    expect(f"location: https://site.test:{penstock.tls}/a?b=c" in head.lower(), head)


def silent(penstock):
    """Handshakes that do not come to an end are ended, and nobody else waits for them."""
    sockets = [socket.create_connection(("127.0.0.1", penstock.tls), 5) for _ in range(100)]
    for each in sockets[::2]:
        each.sendall(b"\x16\x03\x01\x02\x00\x01")
    begun = time.monotonic()
    penstock.asked("site.test", penstock.tls)
    expect(time.monotonic() - begun < 1, "a good client waits for bad ones")
    for each in sockets:
        each.settimeout(10)
        expect(each.recv(100) == b"", "no goodbye is owed")
        each.close()
    expect(time.monotonic() - begun < 5, f"ended after {time.monotonic() - begun:.1f} s")
    with socket.create_connection(("127.0.0.1", penstock.tls), 5) as wrong:
        wrong.sendall(b"GET / HTTP/1.1\r\nHost: site.test\r\n\r\n")
        wrong.settimeout(5)
        expect(b"200" not in wrong.recv(1000), "plain text on a port with TLS")


def renewal(penstock):
    """Under load: a new certificate comes into force by itself, a bad one does not."""
    wrk = subprocess.Popen([TOOLS["wrk"], "-t1", "-c8", "-d60s", f"https://127.0.0.1:{penstock.tls}/"],
                           stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        before = penstock.shown("site.test")
        penstock.authority.issue("site", ["DNS:localhost", "DNS:site.test"], days=3)
        after = until("the new certificate", lambda: (now := penstock.shown("site.test")) != before and now, seconds=20)
        expect("penstock_certificate_expiry_timestamp_seconds{file=" in penstock.scrape("/metrics"), "no metric")
        until("a warning of its end", lambda: "expires soon" in penstock.log.read_text())
        certificate = penstock.pairs[0][0]
        good = certificate.read_text()
        certificate.write_text(good[: len(good) // 2])
        until("an error in the log", lambda: "the last ones stay in force" in penstock.log.read_text(), seconds=20)
        penstock.process.child.send_signal(signal.SIGHUP)
        until("the reload's error", lambda: "no usable certificate" in penstock.log.read_text())
        expect(penstock.shown("site.test") == after, "the last good one stays in force")
        certificate.write_text(good)
        penstock.process.child.send_signal(signal.SIGHUP)
        until("a good reload", lambda: "is in force" in penstock.log.read_text())
    finally:
        wrk.send_signal(signal.SIGINT)
        text = wrk.communicate(timeout=30)[0]
    expect("Socket errors" not in text and "Non-2xx" not in text, text)
    return next(line.strip() for line in text.splitlines() if "requests in" in line)


def stops(penstock):
    """GOAWAY, and what was begun is answered."""
    command = [TOOLS["curl"], "-sS", "--max-time", "20", "--http2", "--cacert", str(penstock.authority.certificate),
               "--resolve", f"site.test:{penstock.tls}:127.0.0.1", "--limit-rate", "200k", "-w", "%{http_code}",
               "-o", "/dev/null", "-d", "@-", f"https://site.test:{penstock.tls}/slow"]
    slow = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    slow.stdin.write(b"x" * 300_000)
    slow.stdin.close()
    time.sleep(0.7)
    penstock.process.child.send_signal(signal.SIGTERM)
    expect(slow.wait(20) == 0 and slow.stdout.read() == b"200", "an upload over HTTP/2 was cut by the stop")
    until("the end", lambda: penstock.process.child.poll() is not None, seconds=15)
    expect(penstock.process.child.returncode == 0, f"exit code {penstock.process.child.returncode}")


def main():
    for name, found in TOOLS.items():
        check(f"{name} is there", expect, found, f"install it: apt-get install {name}")
    check("penstock is there", expect, checks.binary().exists(), "build it: cargo build --release")
    if not checks.failed:
        with tempfile.TemporaryDirectory() as folder:
            folder = pathlib.Path(folder)
            (folder / "clients").mkdir()
            penstock = Penstock(folder, Origin(), Authority(folder), Authority(folder / "clients"))
            try:
                check("HTTP/1.1 and HTTP/2 over TLS, as negotiated", speaks_both, penstock)
                check("HTTP/2 with prior knowledge", prior_knowledge, penstock)
                check("certificates by name, and 421 for another", names, penstock)
                check("client certificates", clients, penstock)
                check("redirect to https", redirects, penstock)
                check("handshakes that do not end", silent, penstock)
                check("certificates are renewed under load", renewal, penstock)
                check("SIGTERM under HTTP/2", stops, penstock)
            finally:
                penstock.process.kill()
    checks.finish()


main()
