"""What `evalvault webserver` takes of Dagster's inside, and what it refuses before it starts."""

from __future__ import annotations

import inspect
import re
import socket
import threading
from pathlib import Path

import pytest

from evalvault_pipeline.defs.webserver import dagster_daemon, login_of, serve_webserver
from evalvault_pipeline.errors import InvalidSetting, ServiceUnavailable
from evalvault_pipeline.settings import load_settings
from evalvault_pipeline_tests.conftest import PROJECT
from evalvault_pipeline_tests.stack import free_port

KEY = "Evalvault-Key-0123456789-abcdef"


def test_the_functions_of_dagsters_inside_are_those_that_we_call() -> None:
    """Not public, so that any release may change them. If one did: look at `dagster_app` in defs/webserver.py."""
    from dagster import DagsterInstance
    from dagster._core.workspace.context import WorkspaceProcessContext
    from dagster._core.workspace.load_target import WorkspaceFileTarget
    from dagster_webserver.app import create_app_from_workspace_process_context

    context = inspect.signature(WorkspaceProcessContext).bind("instance", "target", version="1", read_only=True)
    assert set(context.arguments) == {"instance", "workspace_load_target", "version", "read_only"}
    app = inspect.signature(create_app_from_workspace_process_context).bind("context", live_data_poll_rate=1)
    assert set(app.arguments) == {"workspace_process_context", "live_data_poll_rate"}
    assert WorkspaceFileTarget(["workspace.yaml"]).paths == ["workspace.yaml"]
    inspect.signature(DagsterInstance.optimize_for_webserver).bind("instance", 1, 1, 1)


def test_the_dagster_that_is_tested_is_that_of_the_lock() -> None:
    import dagster
    import dagster_webserver

    locked = dict(re.findall(r"^([a-z-]+)==(\S+)", (PROJECT / "requirements.lock").read_text(encoding="utf-8"), re.MULTILINE))
    assert (dagster.__version__, dagster_webserver.__version__) == (locked["dagster"], locked["dagster-webserver"])


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.5"])
@pytest.mark.parametrize("key", ["", "  ", "short", KEY[:23]])
def test_it_refuses_to_be_reached_by_others_without_a_key_of_24_characters(tmp_path: Path, host: str, key: str) -> None:
    settings = load_settings(tmp_path, EVALVAULT_API_KEY=key or None)
    with pytest.raises(InvalidSetting, match="The Dagster UI would be open") as refusal:
        serve_webserver(settings, host=host, port=0, workspace=PROJECT / "workspace.yaml")
    assert refusal.value.exit_code == 2


def test_a_name_of_a_proxy_in_front_needs_a_key_as_well(tmp_path: Path) -> None:
    settings = load_settings(tmp_path, EVALVAULT_WEB_HOSTS="eval.example")
    with pytest.raises(InvalidSetting, match=r"on eval\.example"):
        serve_webserver(settings, host="127.0.0.1", port=0, workspace=PROJECT / "workspace.yaml")


def test_on_loopback_there_is_a_login_where_there_is_a_key(tmp_path: Path) -> None:
    assert login_of(load_settings(tmp_path), ["127.0.0.1"]) is None
    assert login_of(load_settings(tmp_path, EVALVAULT_API_KEY="short"), ["127.0.0.1"]) is not None


def test_a_workspace_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidSetting, match=r"elsewhere\.yaml"):
        serve_webserver(load_settings(tmp_path), host="127.0.0.1", port=0, workspace=tmp_path / "elsewhere.yaml")


def test_a_port_or_an_address_that_cannot_be_had_is_named() -> None:
    workspace, settings = PROJECT / "workspace.yaml", load_settings(EVALVAULT_API_KEY=KEY)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ServiceUnavailable, match=f"Port {port} of 127.0.0.1 cannot be had"):
            serve_webserver(settings, host="127.0.0.1", port=port, workspace=workspace)
    with pytest.raises(ServiceUnavailable, match="cannot be had"):
        serve_webserver(settings, host="203.0.113.1", port=free_port(), workspace=workspace)


def test_a_daemon_that_ends_is_told_and_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    ended = threading.Event()
    with (
        pytest.raises(ServiceUnavailable, match=r"Dagster's daemon ended with exit code [1-9]"),
        dagster_daemon(tmp_path / "missing.yaml", ended=ended.set),
    ):
        assert ended.wait(60)
