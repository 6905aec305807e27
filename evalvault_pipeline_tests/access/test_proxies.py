"""The guard behind nginx and Caddy with TLS, configured as docs/access.md says."""

from __future__ import annotations

import re
import shutil
import socket
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from websockets.sync.client import connect

from evalvault_pipeline_tests.access.served import KEY, Answer, Site, read_answer, served
from evalvault_pipeline_tests.conftest import PROJECT
from evalvault_pipeline_tests.stack import free_port, wait_for

NAME = "eval.example"
FORM = "Content-Type: application/x-www-form-urlencoded"


def example(language: str) -> str:
    """The proxy's configuration as the page shows it."""
    page = (PROJECT / "docs" / "access.md").read_text(encoding="utf-8")
    (found,) = re.findall(rf"^```{language}\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    return str(found)


class Proxy:
    def __init__(self, kind: str, folder: Path, behind: int) -> None:
        self.port = free_port()
        pem, key = folder / "cert.pem", folder / "cert.key"
        subject = ["-subj", f"/CN={NAME}", "-addext", f"subjectAltName=DNS:{NAME}"]
        make = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-keyout", str(key), "-out", str(pem)]
        subprocess.run([*make, *subject], check=True, capture_output=True)
        text = example("nginx" if kind == "nginx" else "caddyfile").replace("127.0.0.1:3000", f"127.0.0.1:{behind}")
        text = text.replace("/etc/ssl/eval.example.pem", str(pem)).replace("/etc/ssl/eval.example.key", str(key))
        file = folder / "proxy.conf"
        if kind == "nginx":
            text = text.replace("listen 443 ssl", f"listen 127.0.0.1:{self.port} ssl")
            kept = " ".join(f"{name}_temp_path {name};" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
            text = f"daemon off; error_log stderr; pid {folder}/pid; events {{}}\nhttp {{ access_log off; {kept}\n{text}\n}}"
            command = ["nginx", "-p", str(folder), "-c", str(file)]
        else:
            text = text.replace(f"{NAME} {{", f"{NAME}:{self.port} {{\n    bind 127.0.0.1")
            text = "{\n    admin off\n    auto_https disable_redirects\n}\n" + text
            command = ["caddy", "run", "--adapter", "caddyfile", "--config", str(file)]
        file.write_text(text, encoding="utf-8")
        self.log = folder / "log"
        self.context = ssl.create_default_context(cafile=str(pem))
        environment = {"HOME": str(folder), "PATH": "/usr/sbin:/usr/bin"}
        with self.log.open("wb") as log:
            found = str(shutil.which(command[0]))
            self.process = subprocess.Popen([found, *command[1:]], stdout=log, stderr=log, env=environment)
        wait_for(self._answers, seconds=20, what=self.log.read_text)

    def _answers(self) -> bool:
        try:
            return self.ask("/healthz").status == 200
        except OSError:
            return False

    def connection(self, source: str = "127.0.0.1") -> ssl.SSLSocket:
        plain = socket.create_connection(("127.0.0.1", self.port), timeout=10, source_address=(source, 0))
        return self.context.wrap_socket(plain, server_hostname=NAME)

    def ask(self, target: str, method: str = "GET", *headers: str, body: str = "", source: str = "127.0.0.1") -> Answer:
        lines = [f"{method} {target} HTTP/1.1", f"Host: {NAME}:{self.port}", "Connection: close", *headers]
        lines += [f"Content-Length: {len(body)}"] if body else []
        with self.connection(source) as connection:
            connection.sendall(("\r\n".join(lines) + f"\r\n\r\n{body}").encode())
            return read_answer(connection)


@pytest.fixture(scope="module", params=["nginx", "caddy"])
def proxied(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Proxy, Site]]:
    if not shutil.which(request.param):
        pytest.skip(f"{request.param} is not installed (Debian: apt-get install {request.param})")
    with served(hosts=[NAME], proxies="127.0.0.1/32") as site:
        proxy = Proxy(request.param, tmp_path_factory.mktemp("proxy"), site.port)
        yield proxy, site
        proxy.process.terminate()
        proxy.process.wait(10)


def test_behind_a_proxy_the_rules_are_the_same_and_the_cookie_is_secure(proxied: tuple[Proxy, Site]) -> None:
    proxy, site = proxied
    own = f"Origin: https://{NAME}:{proxy.port}"
    assert proxy.ask("/").status == 401
    assert proxy.ask("/", "GET", f"X-API-Key: {KEY.upper()}").status == 401
    assert proxy.ask("/", "GET", "X-API-Key:").status == 401
    assert proxy.ask("/", "GET", f"X-API-Key: {KEY}").body == b"inside"
    assert proxy.ask("/graphql?query=x", "GET", f"X-API-Key: {KEY}").status == 405
    assert proxy.ask("/login", "POST", "Origin: http://evil.example", FORM, body=f"key={KEY}").status == 403
    cookie = proxy.ask("/login", "POST", own, FORM, body=f"key={KEY}").header("set-cookie")
    assert cookie.endswith("; HttpOnly; SameSite=Strict; Secure")
    headers = {"Cookie": cookie.partition(";")[0], "Origin": own.partition(" ")[2]}
    with connect(f"ws://{NAME}:{proxy.port}/graphql", sock=proxy.connection(), additional_headers=headers) as connection:
        connection.send("hello")
        assert connection.recv(timeout=10) == "hello"
    assert {scope["client"][0] for scope in site.passed} == {"127.0.0.1"}


def test_who_is_wrong_too_often_is_told_from_others_by_the_proxys_word(proxied: tuple[Proxy, Site]) -> None:
    proxy, _ = proxied
    statuses = [
        proxy.ask("/", "GET", "X-API-Key: no", "X-Forwarded-For: 10.9.9.9", source="127.0.0.5").status for _ in range(11)
    ]
    assert statuses == [401] * 10 + [429]
    assert proxy.ask("/", "GET", f"X-API-Key: {KEY}", source="127.0.0.6").status == 200
