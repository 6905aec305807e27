"""Start Phoenix with its open defaults closed: `make phoenix`, on this machine alone, and the image `phoenix`.

Phoenix binds its gRPC port to every interface and has no switch for it, so the address is replaced before it starts. Every
PHOENIX_ variable that is set already stays as it is; PHOENIX_<NAME>_FILE names a file with the value, for secrets. It runs in
an environment of its own, which has `arize-phoenix` and nothing of this package.
"""

import os
import sys
from pathlib import Path
from typing import Any

import grpc.aio
from phoenix.server.main import main

LOOPBACK = "127.0.0.1"
CLOSED = {
    "PHOENIX_HOST": LOOPBACK,
    "PHOENIX_TELEMETRY_ENABLED": "false",
    "PHOENIX_ALLOW_EXTERNAL_RESOURCES": "false",
    "PHOENIX_DISABLE_AGENT_ASSISTANT": "true",
    "PHOENIX_AGENTS_DISABLE_BASH": "true",
    "PHOENIX_ENABLE_MCP_SERVER": "false",
    "PHOENIX_ALLOWED_SANDBOX_PROVIDERS": "NONE",
    "PHOENIX_OAUTH2_DYNAMIC_CLIENT_REGISTRATION": "disabled",
}

SECRETS = ("PHOENIX_SECRET", "PHOENIX_ADMIN_SECRET", "PHOENIX_DEFAULT_ADMIN_INITIAL_PASSWORD")


def _read_files() -> None:
    for name in SECRETS:
        file = os.environ.pop(f"{name}_FILE", None)
        if file is None:
            continue
        os.environ[name] = Path(file).read_text(encoding="utf-8").strip()
        if not os.environ[name]:
            sys.exit(f"{file} is empty. Write the secret into it, or unset {name}_FILE.")


def _bind_to_loopback() -> None:
    kind = type(grpc.aio.server())
    bind = kind.add_insecure_port

    def add_insecure_port(self: Any, address: str) -> int:
        return int(bind(self, f"{LOOPBACK}:{address.rpartition(':')[2]}"))

    kind.add_insecure_port = add_insecure_port


if __name__ == "__main__":
    _read_files()
    for name, value in CLOSED.items():
        os.environ.setdefault(name, value)
    _bind_to_loopback()
    sys.argv = ["phoenix", "serve"]
    main()
