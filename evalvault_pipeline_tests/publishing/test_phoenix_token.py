"""The token for Phoenix is read with each request, so that one that is rotated is taken up by an upload and by traces."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from evalvault_pipeline.cases.model import EvalCase
from evalvault_pipeline.errors import InvalidSetting, SecretUnavailable
from evalvault_pipeline.publishing.phoenix import PhoenixAccess, PhoenixServer
from evalvault_pipeline.publishing.tracing import JudgeTracer
from evalvault_pipeline.settings import Settings, load_settings
from evalvault_pipeline.tracking import judge_tracer, phoenix_access
from evalvault_pipeline_tests.doubles.secret_services import AwsSecrets, HttpDouble


class Guarded(HttpDouble):
    """Lists nothing and takes everything, from whoever sends this `Authorization`; repeats a wrong one."""

    wanted = "Bearer px-first"

    def answer(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> tuple[int, bytes]:
        given = headers.get("authorization", "")
        return (200, b'{"data": []}') if given == self.wanted else (401, json.dumps({"detail": f"no {given}"}).encode())


@pytest.fixture
def phoenix() -> Iterator[Guarded]:
    with Guarded() as double:
        yield double


@pytest.fixture
def token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    file = tmp_path / "token"
    file.write_text("px-first")
    monkeypatch.setenv("PHOENIX_API_TOKEN_FILE", str(file))
    return file


def access_of(phoenix: Guarded, **given: str) -> PhoenixAccess:
    return phoenix_access(load_settings(PHOENIX_ENDPOINT=phoenix.url, **given))


def test_a_connection_goes_on_with_a_token_that_was_rotated(phoenix: Guarded, token: Path) -> None:
    with PhoenixServer(access_of(phoenix)) as server:
        assert server.get("/v1/datasets") == {"data": []}
        token.write_text("px-second")
        phoenix.wanted = "Bearer px-second"
        assert server.get("/v1/datasets") == {"data": []}


def test_a_token_of_aws_that_was_refused_is_asked_for_again(phoenix: Guarded, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("evalvault_pipeline.secrets.PAUSE_SECONDS", 0.0)
    with AwsSecrets(px="px-first") as aws:
        for name, value in aws.environment.items():
            monkeypatch.setenv(name, value)
        with PhoenixServer(access_of(phoenix, EVALVAULT_AWS_SECRET="PHOENIX_API_TOKEN=px")) as server:
            aws.secrets["px"], phoenix.wanted = "px-second", "Bearer px-second"
            assert server.get("/v1/datasets") == {"data": []}
        assert len(aws.requests) == 2


def test_a_wrong_token_is_named_and_not_shown(phoenix: Guarded, token: Path) -> None:
    token.write_text("px-canary")
    with pytest.raises(InvalidSetting, match="refuses the token") as refused, PhoenixServer(access_of(phoenix)):
        pass
    assert "canary" not in str(refused.value)
    assert len(phoenix.requests) == 1, "the same one is not sent twice"


def test_a_proxy_before_phoenix_gets_the_user_of_the_address(phoenix: Guarded) -> None:
    phoenix.wanted = f"Basic {base64.b64encode(b'user:pass').decode()}"
    address = phoenix.url.replace("http://", "http://user:pass@")
    with PhoenixServer(phoenix_access(load_settings(PHOENIX_ENDPOINT=address))) as server:
        assert server.get("/v1/datasets") == {"data": []}


def test_traces_carry_the_token_as_it_is_when_they_are_sent(
    phoenix: Guarded, token: Path, a_case: Callable[..., EvalCase]
) -> None:
    with JudgeTracer(access_of(phoenix), run_id="r", dataset="d") as tracer:
        token.write_text("px-second")
        phoenix.wanted = "Bearer px-second"
        trace = tracer.start(a_case())
        assert trace is not None
        trace.end([])
        assert tracer.finish()["exported"] == 1
    ((*_, body),) = [one for one in phoenix.requests if one[1] == "/v1/traces"]
    assert b"px-" not in body


def test_a_vault_that_is_down_costs_the_traces_and_not_the_run(settings: Settings, caplog: pytest.LogCaptureFixture) -> None:
    given = {"EVALVAULT_VAULT_PATH": "PHOENIX_API_TOKEN=secret/px", "VAULT_ADDR": "http://127.0.0.1:9", "VAULT_TOKEN": "t"}
    access = phoenix_access(load_settings(**given))
    assert access.token is not None
    with pytest.raises(SecretUnavailable):
        access.token.read()
    assert judge_tracer(access, run_id="r", dataset="d") is None
    assert "judge calls are not traced: Vault does not give secret/px" in caplog.text
