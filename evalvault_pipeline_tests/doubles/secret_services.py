"""Where secrets are kept, on loopback: AWS Secrets Manager and HashiCorp Vault (kv v2), with the refusals of the real ones.

The words of AWS were compared with moto 5.2.5's, those of Vault are those of its API documentation.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self


class HttpDouble:
    """A server that notes (method, path, headers, body) of every request, and answers as `answer` says."""

    def __init__(self, port: int = 0) -> None:
        self.requests: list[tuple[str, str, dict[str, str], bytes]] = []
        self.lock = threading.Lock()
        double = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                with double.lock:
                    double.requests.append((self.command, self.path, dict(self.headers), body))
                status, content = double.answer(self.command, self.path, {k.lower(): v for k, v in self.headers.items()}, body)
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def do_POST(self) -> None:
                self.do_GET()

            def log_message(self, *args: object) -> None:
                """Quiet."""

        self._server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def answer(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> tuple[int, bytes]:
        raise NotImplementedError

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


class AwsSecrets(HttpDouble):
    """AWS Secrets Manager by its JSON protocol: `secrets` by name; `fault` is the error that it answers with.

    An error is its name (400), or its status and its name.
    """

    def __init__(self, **secrets: str) -> None:
        self.secrets: dict[str, str] = dict(secrets)
        self.fault: str | tuple[int, str] | None = None
        super().__init__()

    @property
    def environment(self) -> dict[str, str]:
        """What boto3 needs to come here, and nowhere else."""
        return {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_DEFAULT_REGION": "ap-northeast-2",
            "AWS_ACCESS_KEY_ID": "testing",
            "AWS_SECRET_ACCESS_KEY": "testing",
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def answer(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> tuple[int, bytes]:
        assert headers["x-amz-target"] == "secretsmanager.GetSecretValue"
        name = json.loads(body)["SecretId"]
        if self.fault is not None:
            status, code = self.fault if isinstance(self.fault, tuple) else (400, self.fault)
            return status, _json({"__type": code, "Message": f"{code}: {self.secrets}"})  # as careless as can be
        if name not in self.secrets:
            said = "Secrets Manager can't find the specified secret."
            return 400, _json({"__type": "ResourceNotFoundException", "Message": said})
        kept = {
            "ARN": f"arn:aws:secretsmanager:ap-northeast-2:123456789012:secret:{name}-AbCdEf",
            "Name": name,
            "VersionId": "f1e2d3c4-0000-4000-8000-000000000000",
            "SecretString": self.secrets[name],
            "VersionStages": ["AWSCURRENT"],
            "CreatedDate": time.time(),
        }
        return 200, _json(kept)


class VaultKv(HttpDouble):
    """A Vault with a KV engine of version 2 under `secret/`: `secrets` by path, None for a deleted version."""

    def __init__(self, token: str = "hvs.testing", **secrets: dict[str, Any] | None) -> None:
        self.token = token
        self.secrets: dict[str, dict[str, Any] | None] = dict(secrets)
        self.sealed = False
        super().__init__()

    @property
    def environment(self) -> dict[str, str]:
        return {"VAULT_ADDR": self.url, "VAULT_TOKEN": self.token}

    def answer(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> tuple[int, bytes]:
        if self.sealed:
            return 503, _json({"errors": ["Vault is sealed"]})
        if headers.get("x-vault-token") != self.token:
            return 403, _json({"errors": [f"permission denied: {headers.get('x-vault-token')}"]})
        name = path.removeprefix("/v1/secret/data/")
        if method != "GET" or name not in self.secrets:
            return 404, _json({"errors": []})
        about = {"created_time": "2026-11-01T00:00:00Z", "custom_metadata": None, "destroyed": False, "version": 3}
        value = self.secrets[name]
        if value is None:
            return 404, _json({"data": {"data": None, "metadata": {**about, "deletion_time": "2026-11-02T00:00:00Z"}}})
        return 200, _json({"request_id": "1", "data": {"data": value, "metadata": {**about, "deletion_time": ""}}})


def _json(value: Any) -> bytes:
    return json.dumps(value).encode()
