"""Secrets, read where they are used and held nowhere else: `read_secret(name)`.

Sources, of which the first that has a value wins: process environment, the file that `<NAME>_FILE` names, a file in the secrets
folder, the settings file, AWS Secrets Manager, HashiCorp Vault. The last two are asked for a secret only where
EVALVAULT_AWS_SECRET or EVALVAULT_VAULT_PATH names it, and their answers are kept for EVALVAULT_SECRETS_TTL; the others are read
each time. Every value that is read is hidden from then on in what this process writes (`logs.py`). How the services are asked
stands in `aws.py` and `vault.py`.
"""

from __future__ import annotations

import json
import logging
import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import unquote, unquote_plus, urlsplit

from pydantic import AfterValidator, Field, PrivateAttr, SecretStr, ValidationError
from pydantic_settings import BaseSettings

from evalvault_pipeline.aws import ask_aws
from evalvault_pipeline.environment import READ_AS, Url, read_into, settings_file, values_in, wrong_values
from evalvault_pipeline.errors import InvalidSetting, PipelineError, SecretUnavailable, UnusableSecret
from evalvault_pipeline.logs import know_secrets
from evalvault_pipeline.vault import ask_vault

log = logging.getLogger(__name__)

SECRETS: dict[str, str] = {
    "OPENAI_API_KEY": "Key of OpenAI or of a compatible server.",
    "PHOENIX_API_TOKEN": "Key of a Phoenix server with authentication.",
    "SLACK_WEBHOOK_URL": "Slack's incoming webhook for alerts; it has no threads.",
    "SLACK_BOT_TOKEN": "Slack bot token (`chat:write`): a thread for each incident.",
    "SMTP_URL": "Mail server for alerts, `smtp://user:password@host:587` (STARTTLS) or `smtps://host`.",
    "EVALVAULT_ALERT_WEBHOOK_URL": "An address that every alert is posted to as JSON.",
    "EVALVAULT_API_KEY": "Key of webserver and exporter (`X-API-Key`), of 24 characters; else only this machine is served.",
    "EVALVAULT_STORE_URL": "Score store: SQLAlchemy URL of SQLite or Postgres, or `dagster`; default: a file in the results.",
    "DAGSTER_PG_PASSWORD": "Password of Dagster's Postgres.",
    "VAULT_TOKEN": "Token for HashiCorp Vault; default: that of `vault login`.",
}
GUIDES_KEY = "OPENAI_API_KEY"  # what `evalvault/openai` without a name means
# These go into no HTTP header, and may hold what a person typed.
FREE_TEXT = {"EVALVAULT_STORE_URL", "DAGSTER_PG_PASSWORD"}
SECRETS_DIR = Path("/run/secrets")
SHOWN_FROM = 24  # characters: of a shorter secret nothing is shown
PATH_FROM = 20  # characters: a shorter path of a webhook is an ordinary word, and the whole address is its secret
PAUSE_SECONDS = 15.0  # a service that failed, or gave what was refused, is not asked again sooner


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One secret of a service: which of ours it is, where it is there, and the key of the JSON object, "" for our name."""

    name: str
    id: str
    key: str = ""

    @property
    def told(self) -> str:
        return f"{self.id}#{self.key}" if self.key else self.id


def entries(text: str) -> list[Entry]:
    """`[NAME=]id[#key]`, separated by commas. Raises ValueError."""
    found = [_entry(part.strip()) for part in text.split(",") if part.strip()]
    names = [entry.name for entry in found]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"it names {', '.join(twice)} twice")
    return found


def _entry(text: str) -> Entry:
    name, equals, rest = text.partition("=")
    if not equals or not re.fullmatch(r"[A-Z][A-Z0-9_]*", name):  # the name of a secret of AWS may hold a `=` too
        name, rest = "", text
    if name and name not in SECRETS:
        raise ValueError(f"{name} is none of our secrets (docs/secrets.md)")
    place, _, key = rest.partition("#")
    if not place or place.strip("/") != place:
        raise ValueError("an entry of it names no place; write evalvault/openai or OPENAI_API_KEY=evalvault/openai#key")
    if not name and key and key not in SECRETS:
        raise ValueError("an entry has a key that is no secret of ours; write which it is: OPENAI_API_KEY=evalvault/openai#key")
    return Entry(name=name or key or GUIDES_KEY, id=place, key=key)


def _entries_checked(text: str) -> str:
    entries(text)
    return text


def _paths_checked(text: str) -> str:
    for entry in entries(text):
        if "/" not in entry.id:
            raise ValueError("a path has the mount in front, as in `vault kv get`: secret/openai")
        if entry.name == "VAULT_TOKEN":
            raise ValueError("VAULT_TOKEN cannot be read from Vault itself")
    return text


def _folder_checked(folder: Path) -> Path:
    if not folder.is_dir() or not os.access(folder, os.R_OK | os.X_OK):
        raise ValueError("there is no such folder, or this user may not read it")
    return folder


class SecretSources(BaseSettings):
    """Where secrets are looked for; `Settings` is one of these."""

    model_config = READ_AS

    secrets_dir: Annotated[Path, AfterValidator(_folder_checked)] | None = Field(
        None,
        validation_alias="EVALVAULT_SECRETS_DIR",
        description="Folder with a file for each secret, named as it or in small letters; default: /run/secrets.",
    )
    aws_secret: Annotated[str, AfterValidator(_entries_checked)] | None = Field(
        None,
        validation_alias="EVALVAULT_AWS_SECRET",
        description="Secrets in AWS Secrets Manager (extra `aws`): `evalvault/openai`, `NAME=id#key`, separated by commas.",
    )
    vault_path: Annotated[str, AfterValidator(_paths_checked)] | None = Field(
        None,
        validation_alias="EVALVAULT_VAULT_PATH",
        description="Secrets in HashiCorp Vault, kv v2 (extra `vault`): `secret/openai`, `NAME=path#key`, separated by commas.",
    )
    vault_addr: Url | None = Field(None, validation_alias="VAULT_ADDR", description="The server of HashiCorp Vault.")
    secrets_ttl_seconds: Annotated[float, Field(ge=0.0)] = Field(
        300.0,
        validation_alias="EVALVAULT_SECRETS_TTL",
        description="Seconds for which an answer of AWS or Vault is used before it is asked again.",
    )
    _given: dict[str, SecretStr] = PrivateAttr(default_factory=dict)  # by whoever loads the settings in Python
    _file: Path | None = PrivateAttr(default=None)

    def with_places(self, file: Path | None, given: dict[str, str]) -> None:
        """Note the settings file, and secrets that beat every source."""
        self._file, self._given = file, {name: SecretStr(value) for name, value in given.items() if value}

    def kept(self) -> dict[str, str]:
        """The variables of the settings file. Raises InvalidSetting where it is gone."""
        return values_in(self._file) if self._file is not None else {}

    def entry(self, listed: str | None, name: str) -> Entry | None:
        return next((entry for entry in entries(listed or "") if entry.name == name), None)


def load_sources(folder: Path | None = None) -> SecretSources:
    """Where the environment says that secrets are. Raises InvalidSetting."""
    file = settings_file(folder)
    try:
        sources = read_into(SecretSources, file)
    except ValidationError as error:
        raise InvalidSetting(next(iter(wrong_values(error).values()))) from None
    sources.with_places(file, {})
    return sources


def read_secret(name: str, sources: SecretSources | None = None, *, refused: SecretStr | None = None) -> SecretStr | None:
    """The value of a secret now, None where no source has one; an empty value is none.

    `sources` None means those of the environment. `refused` is a value that a server did not take: where AWS or Vault gave it,
    it is asked again, so that a rotated key is taken up at once. Raises UnusableSecret where a source that is named for the
    secret does not give it, SecretUnavailable where it does not answer; neither text holds a value.
    """
    found = find_secret(name, sources or load_sources(), refused=refused)
    return found[0] if found else None


def find_secret(name: str, sources: SecretSources, *, refused: SecretStr | None = None) -> tuple[SecretStr, str] | None:
    """As `read_secret`, with the name of the source."""
    for place in places(name, sources):
        text = _usable(name, place.read(sources.secrets_ttl_seconds), place.told)
        if text and refused is not None and text == refused.get_secret_value():
            text = _usable(name, place.read(PAUSE_SECONDS), place.told)
        if text:
            know_secrets(_parts(name, text))
            return SecretStr(text), place.told
    return None


def required_secret(name: str, sources: SecretSources) -> SecretStr:
    """As `read_secret`, of a secret that `is_set`. Raises UnusableSecret where it is empty after all."""
    secret = read_secret(name, sources)
    if secret is None:
        raise UnusableSecret(f"`{name}` is empty where it is looked for. See where that is: evalvault check-env")
    return secret


def is_set(name: str, sources: SecretSources) -> bool:
    """Whether a secret is to be had, as far as can be told without asking a service. Raises as `places`."""
    return any(place.has_value() for place in places(name, sources))


@dataclass(frozen=True, kw_only=True)
class Secret:
    """A secret by its name, for what uses it more than once: whoever holds this holds no value."""

    name: str
    sources: SecretSources = field(repr=False)

    def read(self, *, refused: SecretStr | None = None) -> SecretStr | None:
        """As `read_secret`."""
        return read_secret(self.name, self.sources, refused=refused)


def mask_api_key(key: str) -> str:
    """What may be shown of a key: its last four characters, and of one of less than 24 nothing."""
    return f"...{key[-4:]}" if len(key) >= SHOWN_FROM else "***"


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a secret may be. `get` takes how many seconds old an answer of a service may be."""

    told: str
    get: Callable[[float], str]
    is_service: bool = False

    def read(self, max_age_seconds: float) -> str:
        return self.get(max_age_seconds).strip()

    def has_value(self) -> bool:
        try:
            return self.is_service or bool(self.read(0.0))
        except PipelineError:  # it is there, and who reads it learns what is wrong with it
            return True


def places(name: str, sources: SecretSources) -> Iterator[Place]:
    """Where a secret of this name is looked for, in this order. Raises InvalidSetting for a settings file that is gone."""
    if name not in SECRETS:
        raise KeyError(f"{name} is none of {', '.join(SECRETS)}")
    if given := sources._given.get(name):
        yield Place(told="argument", get=lambda _: given.get_secret_value())
    if name in os.environ:
        yield Place(told="environment", get=lambda _: os.environ.get(name, ""))
    kept = sources.kept()
    pointer = f"{name}_FILE"
    if named := os.environ.get(pointer) or kept.get(pointer):
        yield _file(Path(named), f"{pointer} {named}")
    folder = sources.secrets_dir or SECRETS_DIR
    for file in (folder / name, folder / name.lower()):
        if os.path.lexists(file):
            yield _file(file, str(file))
    if (value := kept.get(name)) and sources._file is not None:
        yield Place(told=sources._file.name, get=lambda _: value)
    if entry := sources.entry(sources.aws_secret, name):
        yield _in_aws(entry)
    if entry := sources.entry(sources.vault_path, name):
        yield _in_vault(entry, sources)


def _file(file: Path, told: str) -> Place:
    def read(_: float) -> str:
        try:
            return file.read_text(encoding="utf-8-sig")
        except UnicodeDecodeError:
            raise UnusableSecret(f"{told} is no text in UTF-8. Write the secret, and nothing else, into it.") from None
        except OSError as error:
            what = error.strerror or type(error).__name__
            raise UnusableSecret(f"{told} cannot be read: {what}. Mount it for this user, or unset its variable.") from None

    return Place(told=told, get=read)


def _usable(name: str, text: str, told: str) -> str:
    """The text, which must fit into one line, and into an HTTP header where it goes there."""
    if not text.isprintable() or (name not in FREE_TEXT and not text.isascii()):
        raise UnusableSecret(
            f"`{name}` ({told}) holds characters that no secret has, such as a line end in its middle. Write it again."
        )
    return text


def _parts(name: str, text: str) -> list[str]:
    """What must be hidden: the value, the passwords in it, and a webhook's path, which is what libraries tell of it."""
    if "://" not in text:
        return [] if (name, text) == ("EVALVAULT_STORE_URL", "dagster") else [text]
    try:
        parts = urlsplit(text)
        password = parts.password or ""
    except ValueError:  # no address: then it is hidden whole
        return [text]
    if name == "EVALVAULT_STORE_URL":
        query = [pair.partition("=") for pair in parts.query.split("&")]
        told = [value for key, _, value in query if "pass" in key.lower()]  # other values are words, such as `require`
        return [password, *told, *map(unquote_plus, told)]
    path = parts.path.lstrip("/")
    return [text, password, unquote(password), parts.query, path if len(path) >= PATH_FROM else ""]


# --- services


@dataclass(frozen=True, kw_only=True)
class _Answer:
    text: str = field(default="", repr=False)
    error: PipelineError | None = None
    asked_at: float = 0.0


_answers: dict[tuple[str, ...], _Answer] = {}
_asking = threading.RLock()  # the token for Vault may itself be asked for


def _asked(key: tuple[str, ...], ask: Callable[[], str], max_age_seconds: float) -> str:
    """What a service answers, or has answered within this time. One that is down leaves the value that it gave before."""
    with _asking:
        known, now = _answers.get(key), time.monotonic()
        if known is not None and now - known.asked_at < (PAUSE_SECONDS if known.error else max_age_seconds):
            return _told(known)
        try:
            _answers[key] = _Answer(text=ask(), asked_at=now)
        except SecretUnavailable as error:
            if known is None or known.error is not None:
                _answers[key] = _Answer(error=error, asked_at=now)
            else:
                log.warning("%s What it gave before is used.", error)
                _answers[key] = _Answer(text=known.text, asked_at=now - max(max_age_seconds - PAUSE_SECONDS, 0.0))
        except UnusableSecret as error:
            _answers[key] = _Answer(error=error, asked_at=now)
        return _told(_answers[key])


def _told(answer: _Answer) -> str:
    if answer.error is not None:
        raise type(answer.error)(*answer.error.args)
    return answer.text


def _selected(document: str, entry: Entry, told: str) -> str:
    """The key's value of a JSON object; a plain text is the secret itself."""
    try:
        found: Any = json.loads(document)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        if entry.key:
            raise UnusableSecret(f"{told} is no JSON object and has no keys. Leave #{entry.key} out.")
        return document
    key = entry.key or entry.name
    if not isinstance(found.get(key), str):
        raise UnusableSecret(
            f"{told} is a JSON object without a text under the key {key}. Write which key it is: {entry.name}={entry.id}#key"
        )
    return str(found[key])


def _in_aws(entry: Entry) -> Place:
    told = f"AWS Secrets Manager {entry.told}"
    at = os.environ.get("AWS_ENDPOINT_URL_SECRETS_MANAGER") or os.environ.get("AWS_ENDPOINT_URL") or ""

    def read(max_age_seconds: float) -> str:
        return _selected(_asked(("aws", at, entry.id), lambda: ask_aws(entry.id), max_age_seconds), entry, told)

    return Place(told=told, get=read, is_service=True)


def _in_vault(entry: Entry, sources: SecretSources) -> Place:
    told = f"Vault {entry.told}"
    key = ("vault", str(sources.vault_addr), os.environ.get("VAULT_NAMESPACE", ""), entry.id)

    def ask() -> str:
        if sources.vault_addr is None:
            raise UnusableSecret("EVALVAULT_VAULT_PATH is set, but VAULT_ADDR is not. Name Vault's address, https://host:8200.")
        return ask_vault(entry.id, address=sources.vault_addr, token=read_secret("VAULT_TOKEN", sources))

    def read(max_age_seconds: float) -> str:
        return _selected(_asked(key, ask, max_age_seconds), entry, told)

    return Place(told=told, get=read, is_service=True)
