"""A secret is read where it is used, from the first source that has it, and is hidden from then on."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from evalvault_pipeline import secrets
from evalvault_pipeline.errors import InvalidSetting, SecretUnavailable, UnusableSecret
from evalvault_pipeline.logs import without_secrets
from evalvault_pipeline.secrets import SECRETS, Secret, entries, find_secret, is_set, load_sources, mask_api_key, read_secret
from evalvault_pipeline.settings import Settings, load_settings
from evalvault_pipeline_tests.doubles.secret_services import AwsSecrets, VaultKv

NAME = "OPENAI_API_KEY"


def value_of(name: str = NAME, settings: Settings | None = None, refused: str | None = None) -> str | None:
    found = read_secret(name, settings, refused=secrets.SecretStr(refused) if refused else None)
    return found.get_secret_value() if found else None


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch) -> Iterator[AwsSecrets]:
    with AwsSecrets() as double:
        for name, value in double.environment.items():
            monkeypatch.setenv(name, value)
        yield double


@pytest.fixture
def vault(monkeypatch: pytest.MonkeyPatch) -> Iterator[VaultKv]:
    with VaultKv() as double:
        for name, value in double.environment.items():
            monkeypatch.setenv(name, value)
        yield double


# --- sources


def test_the_first_source_that_has_a_value_wins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, aws: AwsSecrets, vault: VaultKv
) -> None:
    """Each is taken away in turn, and the next one is there."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "secrets"
    folder.mkdir()
    named = tmp_path / "named.txt"
    named.write_text("sk-of-the-named-file\n")
    (folder / NAME).write_text("sk-of-the-folder")
    (folder / NAME.lower()).write_text("sk-of-the-folder-in-small-letters")
    (tmp_path / ".env.test").write_text(f"{NAME}=sk-of-the-settings-file\n")
    aws.secrets["evalvault/openai"] = "sk-of-aws"
    vault.secrets["openai"] = {NAME: "sk-of-vault"}
    monkeypatch.setenv(NAME, "sk-of-the-environment")
    monkeypatch.setenv(f"{NAME}_FILE", str(named))
    monkeypatch.setenv("EVALVAULT_SECRETS_DIR", str(folder))
    monkeypatch.setenv("EVALVAULT_ENV", "test")
    monkeypatch.setenv("EVALVAULT_AWS_SECRET", "evalvault/openai")
    monkeypatch.setenv("EVALVAULT_VAULT_PATH", "secret/openai")
    seen = []
    for taken_away in (
        lambda: monkeypatch.delenv(NAME),
        lambda: monkeypatch.delenv(f"{NAME}_FILE"),
        (folder / NAME).unlink,
        (folder / NAME.lower()).unlink,
        lambda: (tmp_path / ".env.test").write_text(""),
        lambda: monkeypatch.delenv("EVALVAULT_AWS_SECRET"),
        lambda: monkeypatch.delenv("EVALVAULT_VAULT_PATH"),
    ):
        found = find_secret(NAME, load_sources())
        assert found is not None
        seen.append((found[0].get_secret_value(), found[1]))
        taken_away()
    assert seen == [
        ("sk-of-the-environment", "environment"),
        ("sk-of-the-named-file", f"{NAME}_FILE {named}"),
        ("sk-of-the-folder", str(folder / NAME)),
        ("sk-of-the-folder-in-small-letters", str(folder / NAME.lower())),
        ("sk-of-the-settings-file", ".env.test"),
        ("sk-of-aws", "AWS Secrets Manager evalvault/openai"),
        ("sk-of-vault", "Vault secret/openai"),
    ]
    assert value_of() is None


def test_an_empty_value_counts_as_none_whatever_the_source(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, aws: AwsSecrets, vault: VaultKv
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").write_text(" \n")
    (tmp_path / NAME.lower()).write_text("\n")
    (tmp_path / ".env.test").write_text(f"{NAME}=\n")
    aws.secrets["evalvault/openai"] = json.dumps({NAME: ""})
    vault.secrets["openai"] = {NAME: " "}
    for name, value in {
        NAME: "",
        f"{NAME}_FILE": str(tmp_path / "empty"),
        "EVALVAULT_SECRETS_DIR": str(tmp_path),
        "EVALVAULT_ENV": "test",
        "EVALVAULT_AWS_SECRET": "evalvault/openai",
        "EVALVAULT_VAULT_PATH": "secret/openai",
    }.items():
        monkeypatch.setenv(name, value)
    assert value_of() is None
    vault.secrets["openai"] = {NAME: "sk-last"}
    secrets._answers.clear()
    assert value_of() == "sk-last"


def test_the_settings_file_may_name_the_file_of_a_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "key").write_text("sk-mounted")
    (tmp_path / ".env.test").write_text(f"{NAME}_FILE={tmp_path / 'key'}\n")
    monkeypatch.setenv("EVALVAULT_ENV", "test")
    assert value_of(settings=load_settings(tmp_path)) == "sk-mounted"


@pytest.mark.parametrize("what", ["missing", "a folder", "binary"])
def test_a_file_that_is_named_and_does_not_give_its_secret_is_an_error_with_the_way_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    file = tmp_path / "key"
    if what == "a folder":
        file.mkdir()
    elif what == "binary":
        file.write_bytes(b"sk-\xff\xfe")
    monkeypatch.setenv(f"{NAME}_FILE", str(file))
    with pytest.raises(UnusableSecret) as refused:
        value_of()
    assert str(refused.value).startswith(f"{NAME}_FILE {file} ") and "sk-" not in str(refused.value)
    assert value_of("SLACK_WEBHOOK_URL") is None, "what does not need it goes on"
    assert load_settings(tmp_path).score_store_url == "sqlite:///data/results/scores.sqlite"


def test_a_secret_of_kubernetes_is_taken_up_when_it_is_rotated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kubelet swaps the link `..data`."""
    for version, key in (("..1", "sk-first"), ("..2", "sk-second")):
        (tmp_path / version).mkdir()
        (tmp_path / version / NAME).write_text(key)
    (tmp_path / "..data").symlink_to("..1")
    (tmp_path / NAME).symlink_to(Path("..data") / NAME)
    monkeypatch.setenv("EVALVAULT_SECRETS_DIR", str(tmp_path))
    settings = load_settings(tmp_path)
    assert value_of(settings=settings) == "sk-first"
    (tmp_path / "next").symlink_to("..2")
    (tmp_path / "next").replace(tmp_path / "..data")
    assert value_of(settings=settings) == "sk-second"


def test_a_folder_that_is_named_and_not_there_is_refused_and_the_usual_one_need_not_be_there(tmp_path: Path) -> None:
    assert load_settings(tmp_path).secrets_dir is None
    with pytest.raises(InvalidSetting, match=r"EVALVAULT_SECRETS_DIR.*no such folder"):
        load_settings(tmp_path, EVALVAULT_SECRETS_DIR=str(tmp_path / "gone"))


@pytest.mark.parametrize("text", ["sk-first\nsk-second", "sk-한글", "sk-\x00", "sk-\ttab"])
def test_a_value_that_no_header_can_carry_is_named_and_not_shown(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setattr(secrets.os, "environ", {NAME: text})
    with pytest.raises(UnusableSecret, match=f"`{NAME}` \\(environment\\) holds characters") as refused:
        value_of()
    assert "sk-" not in str(refused.value)


def test_a_password_may_be_in_any_language(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DAGSTER_PG_PASSWORD", "비밀번호 1234")
    assert value_of("DAGSTER_PG_PASSWORD") == "비밀번호 1234"


def test_a_name_that_is_no_secret_of_ours_is_a_mistake_of_the_caller() -> None:
    with pytest.raises(KeyError, match="EVALVAULT_PROFILE is none of OPENAI_API_KEY"):
        read_secret("EVALVAULT_PROFILE")


# --- AWS Secrets Manager


def test_aws_gives_a_plain_text_and_any_key_of_a_json_object(tmp_path: Path, aws: AwsSecrets) -> None:
    aws.secrets["evalvault/openai"] = "sk-plain"
    aws.secrets["evalvault/prod"] = json.dumps({"PHOENIX_API_TOKEN": "px-1", "slack": "https://hooks.invalid/1", "n": 5})
    listed = (
        "evalvault/openai, evalvault/prod#PHOENIX_API_TOKEN, SLACK_WEBHOOK_URL=evalvault/prod#slack, SMTP_URL=evalvault/prod#n"
    )
    settings = load_settings(tmp_path, EVALVAULT_AWS_SECRET=listed)
    assert value_of(settings=settings) == "sk-plain"
    assert value_of("PHOENIX_API_TOKEN", settings) == "px-1"
    assert value_of("SLACK_WEBHOOK_URL", settings) == "https://hooks.invalid/1"
    with pytest.raises(
        UnusableSecret, match=r"without a text under the key n. Write which key it is: SMTP_URL=evalvault/prod#key"
    ):
        value_of("SMTP_URL", settings)
    assert value_of("EVALVAULT_STORE_URL", settings) is None
    assert len(aws.requests) == 2, "each secret of AWS once, and nothing for what is not named"


def test_the_key_of_a_json_object_is_our_name_where_no_other_is_given(tmp_path: Path, aws: AwsSecrets) -> None:
    aws.secrets["evalvault/openai"] = json.dumps({NAME: "sk-of-the-object"})
    assert value_of(settings=load_settings(tmp_path, EVALVAULT_AWS_SECRET="evalvault/openai")) == "sk-of-the-object"
    aws.secrets["evalvault/other"] = json.dumps({"api_key": "sk-canary"})
    with pytest.raises(
        UnusableSecret, match=f"under the key {NAME}. Write which key it is: {NAME}=evalvault/other#key"
    ) as refused:
        value_of(settings=load_settings(tmp_path, EVALVAULT_AWS_SECRET="evalvault/other"))
    assert "canary" not in str(refused.value)
    aws.secrets["evalvault/plain"] = "sk-canary"
    with pytest.raises(UnusableSecret, match=r"has no keys. Leave #api_key out"):
        value_of(settings=load_settings(tmp_path, EVALVAULT_AWS_SECRET=f"{NAME}=evalvault/plain#api_key"))


@pytest.mark.parametrize(
    ("fault", "kind", "said"),
    [
        ("AccessDeniedException", UnusableSecret, "Allow secretsmanager:GetSecretValue on it to the role"),
        ("DecryptionFailure", UnusableSecret, "Allow kms:Decrypt"),
        ("ExpiredTokenException", UnusableSecret, "the role of this process"),
        ("ThrottlingException", SecretUnavailable, "Try again"),
        ((500, "InternalServiceError"), SecretUnavailable, "Try again"),
    ],
)
def test_what_aws_refuses_names_the_secret_and_the_way_out_and_shows_nothing(
    tmp_path: Path, aws: AwsSecrets, fault: str | tuple[int, str], kind: type[Exception], said: str
) -> None:
    aws.secrets["evalvault/openai"] = "sk-canary"
    aws.fault = fault
    settings = load_settings(tmp_path, EVALVAULT_AWS_SECRET="evalvault/openai")
    with pytest.raises(kind, match=said) as refused:
        value_of(settings=settings)
    assert "AWS Secrets Manager does not give evalvault/openai" in str(refused.value)
    assert "canary" not in str(refused.value) and refused.value.__cause__ is None
    asked = len(aws.requests)
    with pytest.raises(kind):
        value_of(settings=settings)
    assert len(aws.requests) == asked, "it is left alone for a while"


def test_an_unknown_secret_and_a_dead_aws_are_told_apart(
    tmp_path: Path, aws: AwsSecrets, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UnusableSecret, match=r"ResourceNotFoundException.*Check the name in EVALVAULT_AWS_SECRET"):
        value_of(settings=load_settings(tmp_path, EVALVAULT_AWS_SECRET="evalvault/nothing"))
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(SecretUnavailable, match=r"EndpointConnectionError.*Check the network"):
        value_of(settings=load_settings(tmp_path, EVALVAULT_AWS_SECRET="evalvault/openai"))


@pytest.mark.parametrize(
    ("gone", "said"),
    [
        (["AWS_DEFAULT_REGION"], "Set AWS_DEFAULT_REGION"),
        (["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"], "credentials of AWS"),
    ],
)
def test_what_boto3_lacks_is_named(
    tmp_path: Path, aws: AwsSecrets, monkeypatch: pytest.MonkeyPatch, gone: list[str], said: str
) -> None:
    for name in (*gone, "AWS_REGION", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(UnusableSecret, match=said):
        value_of(settings=load_settings(tmp_path, EVALVAULT_AWS_SECRET="evalvault/openai"))


def test_the_region_of_an_arn_needs_no_variable(tmp_path: Path, aws: AwsSecrets, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_DEFAULT_REGION")
    arn = "arn:aws:secretsmanager:eu-west-1:123456789012:secret:evalvault/openai-AbCdEf"
    aws.secrets[arn] = "sk-of-the-arn"
    assert value_of(settings=load_settings(tmp_path, EVALVAULT_AWS_SECRET=arn)) == "sk-of-the-arn"
    assert "/eu-west-1/secretsmanager/" in aws.requests[0][2]["Authorization"]


def test_the_debug_lines_of_boto3_do_not_tell_what_aws_answers(
    tmp_path: Path, aws: AwsSecrets, caplog: pytest.LogCaptureFixture
) -> None:
    aws.secrets["evalvault/openai"] = json.dumps({NAME: "sk-one", "another": "canary-of-another-program"})
    with caplog.at_level(logging.DEBUG):
        assert value_of(settings=load_settings(tmp_path, EVALVAULT_AWS_SECRET="evalvault/openai")) == "sk-one"
    assert "canary" not in caplog.text


# --- HashiCorp Vault


def test_vault_gives_the_fields_of_a_secret_of_kv_v2(tmp_path: Path, vault: VaultKv) -> None:
    vault.secrets["openai"] = {"api_key": "sk-of-the-field", NAME: "sk-of-our-name"}
    assert value_of(settings=load_settings(tmp_path, EVALVAULT_VAULT_PATH="secret/openai")) == "sk-of-our-name"
    chosen = load_settings(tmp_path, EVALVAULT_VAULT_PATH=f"{NAME}=secret/openai#api_key")
    assert value_of(settings=chosen) == "sk-of-the-field"
    assert [path for _, path, _, _ in vault.requests] == ["/v1/secret/data/openai"]


def test_the_token_for_vault_is_read_as_every_secret(tmp_path: Path, vault: VaultKv, monkeypatch: pytest.MonkeyPatch) -> None:
    vault.secrets["openai"] = {NAME: "sk-1"}
    monkeypatch.delenv("VAULT_TOKEN")
    (tmp_path / "token").write_text(f"{vault.token}\n")
    monkeypatch.setenv("VAULT_TOKEN_FILE", str(tmp_path / "token"))
    monkeypatch.setenv("VAULT_NAMESPACE", "team")
    assert value_of(settings=load_settings(tmp_path, EVALVAULT_VAULT_PATH="secret/openai")) == "sk-1"
    headers = {name.lower(): value for name, value in vault.requests[0][2].items()}
    assert (headers["x-vault-token"], headers["x-vault-namespace"]) == (vault.token, "team")
    assert without_secrets(f"with {vault.token}") == "with [SECRET]"


@pytest.mark.parametrize(
    ("path", "fault", "kind", "said"),
    [
        ("secret/nothing", "", UnusableSecret, "there is none.*without data/"),
        ("secret/data/openai", "", UnusableSecret, "there is none.*without data/"),
        ("secret/deleted", "", UnusableSecret, "there is none"),
        ("secret/openai", "token", UnusableSecret, "denied.*Check VAULT_TOKEN.*secret/data/openai"),
        ("secret/openai", "sealed", SecretUnavailable, "VaultDown.*Try again"),
        ("secret/openai", "gone", SecretUnavailable, "Check VAULT_ADDR and the network"),
        ("secret/openai", "address", UnusableSecret, "VAULT_ADDR is not"),
    ],
)
def test_what_vault_refuses_names_the_path_and_the_way_out(
    tmp_path: Path, vault: VaultKv, monkeypatch: pytest.MonkeyPatch, path: str, fault: str, kind: type[Exception], said: str
) -> None:
    vault.secrets.update(openai={NAME: "sk-1"}, deleted=None)
    vault.sealed = fault == "sealed"
    monkeypatch.setenv("VAULT_TOKEN", "hvs.canary" if fault == "token" else vault.token)
    if fault in ("gone", "address"):
        monkeypatch.setenv("VAULT_ADDR", "" if fault == "address" else "127.0.0.1:9")
    with pytest.raises(kind, match=said) as refused:
        value_of(settings=load_settings(tmp_path, EVALVAULT_VAULT_PATH=path))
    assert "canary" not in str(refused.value) and refused.value.__cause__ is None


def test_what_answers_and_is_no_vault_is_named(tmp_path: Path, aws: AwsSecrets, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aws, "answer", lambda *_: (200, b"<html>a login page</html>"))
    settings = load_settings(tmp_path, EVALVAULT_VAULT_PATH="secret/openai", VAULT_ADDR=aws.url)
    with pytest.raises(UnusableSecret, match="Check that VAULT_ADDR is a Vault"):
        value_of(settings=settings)


# --- both services


@pytest.mark.parametrize("package", ["boto3", "hvac"])
def test_a_missing_package_is_named_with_the_command_that_installs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    extra, variable = {"boto3": ("aws", "EVALVAULT_AWS_SECRET"), "hvac": ("vault", "EVALVAULT_VAULT_PATH")}[package]
    settings = load_settings(tmp_path, VAULT_ADDR="http://127.0.0.1:9", **{variable: "secret/openai"})
    with pytest.raises(UnusableSecret, match=rf"pip install 'evalvault-pipeline\[{extra}\]'"):
        value_of(settings=settings)


@pytest.mark.parametrize("variable", ["EVALVAULT_AWS_SECRET", "EVALVAULT_VAULT_PATH"])
@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("OPENAI_KEY=secret/openai", "OPENAI_KEY is none of our secrets"),
        ("secret/openai#api_key", "a key that is no secret of ours"),
        ("OPENAI_API_KEY=", "names no place"),
        ("secret/openai,OPENAI_API_KEY=secret/other", "names OPENAI_API_KEY twice"),
    ],
)
def test_an_entry_that_cannot_be_meant_is_refused_when_settings_are_read(
    tmp_path: Path, variable: str, text: str, said: str
) -> None:
    """A misspelt name must not send one service's secret to another."""
    with pytest.raises(InvalidSetting, match=f"`{variable}` cannot be used: .*{said}"):
        load_settings(tmp_path, **{variable: text})


def test_a_name_of_aws_may_hold_an_equals_sign() -> None:
    (entry,) = entries("team=a/openai")
    assert (entry.name, entry.id, entry.key) == (NAME, "team=a/openai", "")


def test_a_value_is_used_until_it_expires_and_then_asked_for_again(
    tmp_path: Path, aws: AwsSecrets, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = SimpleNamespace(monotonic=lambda: now)
    monkeypatch.setattr(secrets, "time", clock)
    now = 1000.0
    aws.secrets["evalvault/openai"] = "sk-first"
    settings = load_settings(tmp_path, EVALVAULT_AWS_SECRET="evalvault/openai", EVALVAULT_SECRETS_TTL="60")
    assert value_of(settings=settings) == "sk-first"
    aws.secrets["evalvault/openai"] = "sk-rotated"
    now += 59.9
    assert value_of(settings=settings) == "sk-first"
    now += 0.2
    assert value_of(settings=settings) == "sk-rotated"
    assert len(aws.requests) == 2


def test_a_value_that_was_refused_is_asked_for_again_at_once_but_not_all_the_time(
    tmp_path: Path, aws: AwsSecrets, monkeypatch: pytest.MonkeyPatch
) -> None:
    aws.secrets["evalvault/openai"] = "sk-first"
    settings = load_settings(tmp_path, EVALVAULT_AWS_SECRET="evalvault/openai")
    assert value_of(settings=settings) == "sk-first"
    aws.secrets["evalvault/openai"] = "sk-rotated"
    assert value_of(settings=settings, refused="sk-first") == "sk-first", "it was asked a moment ago"
    monkeypatch.setattr(secrets, "PAUSE_SECONDS", 0.0)
    assert value_of(settings=settings, refused="sk-first") == "sk-rotated"
    monkeypatch.setattr(secrets, "PAUSE_SECONDS", 15.0)
    for _ in range(64):
        assert value_of(settings=settings, refused="sk-first") == "sk-rotated"
    assert len(aws.requests) == 2


def test_a_service_that_is_down_leaves_the_value_that_it_gave_and_one_that_denies_takes_it(
    tmp_path: Path, aws: AwsSecrets, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(secrets, "PAUSE_SECONDS", 0.0)
    aws.secrets["evalvault/openai"] = "sk-first"
    settings = load_settings(tmp_path, EVALVAULT_AWS_SECRET="evalvault/openai", EVALVAULT_SECRETS_TTL="0")
    assert value_of(settings=settings) == "sk-first"
    aws.fault = (500, "InternalServiceError")
    assert value_of(settings=settings) == "sk-first"
    assert "What it gave before is used" in caplog.text and "sk-first" not in caplog.text
    aws.fault = "AccessDeniedException"
    with pytest.raises(UnusableSecret):
        value_of(settings=settings)


def test_whether_a_secret_is_set_is_told_without_asking_a_service(tmp_path: Path, aws: AwsSecrets) -> None:
    settings = load_settings(tmp_path, EVALVAULT_AWS_SECRET="evalvault/openai", SMTP_URL="smtp://mail.invalid")
    assert [name for name in SECRETS if is_set(name, settings)] == [NAME, "SMTP_URL"]
    assert aws.requests == []


# --- what is shown


def test_a_mask_shows_four_characters_at_most_and_nothing_of_a_short_key() -> None:
    """The guide's rule shows 8 of the 9 characters of `sk-123456`."""
    alphabet = "abcdefghijklmnopqrstuvwxyz0123456789"
    masked = [mask_api_key(alphabet[:length]) for length in range(len(alphabet) + 1)]
    assert masked[:24] == ["***"] * 24
    assert masked[24:] == [f"...{alphabet[length - 4 : length]}" for length in range(24, len(alphabet) + 1)]


@pytest.mark.parametrize(
    ("name", "value", "hidden"),
    [
        (NAME, "canary-0123456789", "canary-0123456789"),
        ("SMTP_URL", "smtp://user:p%40ss%21word@mail.invalid:587", "p@ss!word"),
        ("SLACK_WEBHOOK_URL", "https://slack.invalid/services/T000/B000/canary", "POST /services/T000/B000/canary HTTP/1.1"),
        ("EVALVAULT_ALERT_WEBHOOK_URL", "https://pager.invalid/hook?token=canary-1", "/hook?token=canary-1"),
        ("EVALVAULT_STORE_URL", "postgresql://user:canary%2D1@db/scores", "canary-1"),
        ("EVALVAULT_STORE_URL", "postgresql://db/scores?user=u&password=canary%2F2+3&sslmode=require", "canary/2 3"),
        ("EVALVAULT_STORE_URL", "postgresql://db/scores?user=u&password=canary%2F4+5&sslmode=require", "canary%2F4+5"),
        ("DAGSTER_PG_PASSWORD", 'c@nary/"4ö', "c%40nary%2F%224%C3%B6"),
        ("DAGSTER_PG_PASSWORD", 'c@nary/"5ö', r"c@nary/\"5ö"),
        ("DAGSTER_PG_PASSWORD", 'c@nary/"6ö', r"c@nary/\"6\u00f6"),
    ],
)
def test_a_value_is_hidden_from_the_moment_when_it_is_read_and_so_are_its_parts(
    tmp_path: Path, name: str, value: str, hidden: str
) -> None:
    settings = load_settings(tmp_path, **{name: value})
    assert hidden in without_secrets(hidden)
    assert value_of(name, settings) == value
    shown = without_secrets(f"it said {hidden} and {value}")
    assert hidden not in shown and value not in shown and "[SECRET]" in shown


def test_a_store_without_a_password_and_an_ordinary_path_are_no_secrets(tmp_path: Path) -> None:
    settings = load_settings(
        tmp_path,
        EVALVAULT_STORE_URL="sqlite:///results/my-scores.sqlite?isolation=required",
        EVALVAULT_ALERT_WEBHOOK_URL="https://pager.invalid/alerts",
    )
    assert settings.score_store_url == "sqlite:///results/my-scores.sqlite?isolation=required"
    assert without_secrets("it is required") == "it is required"
    assert value_of("EVALVAULT_ALERT_WEBHOOK_URL", settings)
    assert without_secrets("sqlite:///results/my-scores.sqlite and alerts") == "sqlite:///results/my-scores.sqlite and alerts"


def test_the_store_in_dagsters_database_hides_no_word(tmp_path: Path) -> None:
    assert value_of("EVALVAULT_STORE_URL", load_settings(tmp_path, EVALVAULT_STORE_URL="dagster")) == "dagster"
    assert without_secrets("dagster/_core is of dagster") == "dagster/_core is of dagster"


def test_where_a_secret_is_is_no_secret(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(f"{NAME}_FILE", "/mnt/keys/openai")
    monkeypatch.setenv("EVALVAULT_AWS_SECRET", "evalvault/openai")
    monkeypatch.setenv("EVALVAULT_SECRETS_DIR", str(tmp_path))
    load_settings(tmp_path)
    said = f"/mnt/keys/openai evalvault/openai {tmp_path}"
    assert without_secrets(said) == said


def test_what_names_a_secret_does_not_hold_it(tmp_path: Path, aws: AwsSecrets) -> None:
    settings = load_settings(tmp_path, OPENAI_API_KEY="canary-0123456789")
    secret = Secret(name=NAME, sources=settings)
    found = secret.read()
    assert found is not None and found.get_secret_value() == "canary-0123456789"
    for shown in (repr(secret), str(secret), repr(settings), settings.model_dump_json(), repr(found)):
        assert "canary" not in shown
    aws.secrets["evalvault/openai"] = "canary-0123456789"
    assert value_of(settings=load_settings(tmp_path, EVALVAULT_AWS_SECRET="evalvault/openai")) == "canary-0123456789"
    assert "canary" not in repr(secrets._answers)


def test_the_password_in_a_servers_address_is_hidden_from_the_beginning(tmp_path: Path) -> None:
    load_settings(tmp_path, OLLAMA_BASE_URL="http://user:canary-of-ollama@gpu:11434")
    assert without_secrets("denied: canary-of-ollama") == "denied: [SECRET]"
