"""Dagster's webserver behind the guard (access/), in one process: `evalvault webserver`.

Dagster has no public way to build its web application. The names of its inside that this takes are imported in
`dagster_app`; test_webserver.py says when one of them changes.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import dagster as dg

from evalvault_pipeline.access.guard import Application, Guard
from evalvault_pipeline.access.keys import ApiKey, is_loopback, required_key
from evalvault_pipeline.access.login import Login
from evalvault_pipeline.defs.in_process_runs import dagster_instance
from evalvault_pipeline.errors import InvalidSetting, ServiceUnavailable
from evalvault_pipeline.settings import Settings

if TYPE_CHECKING:
    import uvicorn

STATEMENT_TIMEOUT_MS, POOL_RECYCLE_SECONDS, MAX_OVERFLOW = 15_000, 3600, 20  # those of dagster-webserver
POLL_MS = 2000  # how often the UI asks for news of assets; that of dagster-webserver
DAEMON_CLOSING_SECONDS = 30
CLOSING_SECONDS = 5  # for how long open WebSockets hold up the end
FRAME_BYTES = 1 << 20


def serve_webserver(
    settings: Settings,
    *,
    host: str,
    port: int,
    workspace: Path,
    read_only: bool = False,
    daemon: bool = False,
    started: Callable[[str, bool], None] = lambda url, key: None,
) -> None:
    """Serve the UI until the process is told to end. `started` is told the address, and whether a key is needed.

    `daemon` runs Dagster's daemon beside it. Raises InvalidSetting where others could come in without a key or there is no
    workspace, ServiceUnavailable where the port is taken or the daemon ends.
    """
    names = settings.web_hosts.split(",") if settings.web_hosts else []
    login = login_of(settings, [host, *names])
    if not workspace.is_file():
        raise InvalidSetting(f"There is no {workspace}. Run this in the project's folder, or name it with --workspace.")
    with suppress(KeyboardInterrupt), _listening(host, port) as listening:
        for number in (signal.SIGINT, signal.SIGTERM):  # else SIGTERM, or a shell's `&`, would leave processes behind
            signal.signal(number, signal.default_int_handler)
        with dagster_app(workspace, read_only=read_only) as app:
            server = web_server(Guard(app, login=login, hosts=[host, *names]), proxies=settings.web_proxies)
            with dagster_daemon(workspace, ended=lambda: setattr(server, "should_exit", True)) if daemon else nullcontext():
                address = f"[{host}]" if ":" in host else host
                started(f"http://{address}:{listening.getsockname()[1]}", login is not None)
                server.run(sockets=[listening])


def login_of(settings: Settings, names: list[str]) -> Login | None:
    """None: no key is set, and these names of the server are all of loopback. Raises InvalidSetting."""
    reached = next((name for name in names if not is_loopback(name)), names[0])  # behind a proxy: its name

    def read() -> ApiKey | None:
        key = settings.api_key
        return required_key(key.get_secret_value() if key else None, host=reached, what="The Dagster UI")

    def read_again() -> ApiKey:
        if key := read():
            return key
        raise InvalidSetting("EVALVAULT_API_KEY was set when the Dagster UI was started, and is not any more. Set it again.")

    return Login(read_again, hours=settings.web_session_hours) if read() else None


@contextmanager
def dagster_app(workspace: Path, *, read_only: bool) -> Iterator[Application]:
    """Dagster's web application over a workspace file, with its code servers, and without any guard."""
    from dagster._core.workspace.context import WorkspaceProcessContext
    from dagster._core.workspace.load_target import WorkspaceFileTarget
    from dagster_webserver.app import create_app_from_workspace_process_context

    with dagster_instance() as instance:
        instance.optimize_for_webserver(STATEMENT_TIMEOUT_MS, POOL_RECYCLE_SECONDS, MAX_OVERFLOW)
        target = WorkspaceFileTarget([str(workspace)])
        with WorkspaceProcessContext(instance, target, version=dg.__version__, read_only=read_only) as context:
            yield create_app_from_workspace_process_context(context, live_data_poll_rate=POLL_MS)


@contextmanager
def _listening(host: str, port: int) -> Iterator[socket.socket]:
    """The port, from before the code location is loaded: who comes early waits, and a taken one is told at once."""
    try:
        found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, _, _, _, address = found[0]
        both = family == socket.AF_INET6 and socket.has_dualstack_ipv6()  # `::` is IPv4 as well
        listening = socket.create_server(address[:2], family=family, backlog=2048, dualstack_ipv6=both)
    except OSError as error:
        raise ServiceUnavailable(
            f"Port {port} of {host or 'this machine'} cannot be had: {error.strerror or error}. Choose another with --port."
        ) from None
    with listening:
        yield listening


@contextmanager
def dagster_daemon(workspace: Path, *, ended: Callable[[], None]) -> Iterator[None]:
    """Dagster's daemon over the same instance, ended with us. Where it ends first, `ended` is called, and it is an error."""
    command = [str(Path(sys.executable).with_name("dagster-daemon")), "run", "--workspace", str(workspace)]
    home = os.environ.get("DAGSTER_HOME") or str(Path.cwd())  # the daemon asks for it; dagster_instance() would guess it
    environment = {
        **os.environ,
        "DAGSTER_HOME": home,
        "DAGSTER_DISABLE_TELEMETRY": "yes",  # else it makes folders there
        "DAGSTER_BACKFILL_RETRY_DEFINITION_CHANGED_ERROR": "1",  # else a backfill fails while the code cannot be loaded
    }
    process = subprocess.Popen(command, env=environment)  # noqa: S603 - a command of this environment

    def watch() -> None:
        process.wait()
        ended()

    threading.Thread(target=watch, daemon=True).start()
    try:
        yield
        if process.poll() is not None:
            raise ServiceUnavailable(f"Dagster's daemon ended with exit code {process.returncode}; it said why above.")
    finally:
        process.terminate()
        try:
            process.wait(DAEMON_CLOSING_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()


def web_server(app: Application, *, proxies: str | None = None) -> uvicorn.Server:
    """A server that is run over a listening socket. `proxies`: those whose word on a client's address is believed."""
    import uvicorn

    config = uvicorn.Config(
        app,
        http="h11",  # the stricter parser: a whole address as target stays one, and the guard refuses it
        ws_max_size=FRAME_BYTES,
        proxy_headers=proxies is not None,  # else any client could say what its address and scheme are
        forwarded_allow_ips=proxies,
        server_header=False,
        access_log=False,
        log_config=None,
        log_level="error",
        timeout_graceful_shutdown=CLOSING_SECONDS,
    )
    return uvicorn.Server(config)
