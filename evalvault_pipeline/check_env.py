"""What is set, from where, what is missing and how to mend it: behind `evalvault check-env`, the checklist before a deployment.

Every fault is named, not only the first. Nothing is called but the services that secrets are read from: `evalvault doctor`
asks the judge, `evalvault alert test` the channels.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from difflib import get_close_matches
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pydantic import SecretStr, ValidationError

from evalvault_pipeline.access.keys import is_loopback, required_key
from evalvault_pipeline.alerting import channel_problems, channels_of, wrong_addresses
from evalvault_pipeline.cases.catalog import load_catalog
from evalvault_pipeline.environment import read_into, refuse_plain_file, settings_file, values_in, wrong_values
from evalvault_pipeline.errors import InvalidSetting, PipelineError, SecretUnavailable, UnusableSecret
from evalvault_pipeline.logs import without_secrets
from evalvault_pipeline.publishing.phoenix import shown
from evalvault_pipeline.scoring.database import checked_url
from evalvault_pipeline.scoring.judges import judge_spec
from evalvault_pipeline.secrets import SECRETS, find_secret, mask_api_key
from evalvault_pipeline.settings import (
    DAGSTER_VARIABLES,
    IN_DAGSTER,
    PROCESS_VARIABLES,
    Settings,
    as_text,
    dagster_postgres,
    is_port,
    our_names,
    require_executor,
    variables,
)

NOT_SET = "not set"


class State(StrEnum):
    """`MISSING` keeps something from working; `ADVICE` is what production should have and can run without."""

    OK = "ok"
    ADVICE = "advice"
    MISSING = "missing"


@dataclass(frozen=True, kw_only=True)
class Row:
    """A variable as it may be shown: a secret masked. `source` is environment, a file, a service, option or `default`."""

    variable: str
    value: str
    source: str


@dataclass(frozen=True, kw_only=True)
class Finding:
    """A line of the checklist; where it is not `OK`, `said` ends with what to do."""

    area: str
    said: str
    state: State = State.OK


@dataclass(frozen=True, kw_only=True)
class EnvironmentCheck:
    profile: str
    judge: str
    file: str
    rows: list[Row]
    findings: list[Finding]

    @property
    def exit_code(self) -> int:
        return InvalidSetting.exit_code if any(one.state is State.MISSING for one in self.findings) else 0


def check_environment(folder: Path | None = None, *, options: Mapping[str, str] | None = None) -> EnvironmentCheck:
    """Look at everything; `options` (by variable name) are those of the command line. Raises nothing of ours."""
    options = options or {}
    findings: list[Finding] = []
    file, kept = _settings_file(folder, findings)
    settings, wrong = _settings(file, options)
    findings += [Finding(area="settings", said=said, state=State.MISSING) for said in wrong.values()]
    if file is not None:
        findings += [_ignored(name, file) for name in PROCESS_VARIABLES if name in kept and name not in os.environ]
    findings += _unknown([*os.environ, *kept], file)

    def source_of(name: str) -> str:
        if name in options:
            return "option"
        if os.environ.get(name):
            return "environment"
        return file.name if file is not None and kept.get(name) else "default"

    secret_rows = [_secret_row(name, settings, file, findings) for name in SECRETS]  # first: then their values are hidden
    rows = [_row(name, settings, source_of(name), wrong) for name in variables() if name not in SECRETS]
    for name in DAGSTER_VARIABLES:
        value = os.environ.get(name) or kept.get(name, "")
        rows.append(Row(variable=name, value=_shown(value), source=source_of(name) if value else NOT_SET))
    for name in PROCESS_VARIABLES:
        value = os.environ.get(name, "")
        rows.append(Row(variable=name, value=_shown(value), source="environment" if value else NOT_SET))
    findings += checklist(settings)
    findings = [replace(one, said=without_secrets(one.said)) for one in findings]
    return EnvironmentCheck(
        profile=settings.profile.name,
        judge=without_secrets(settings.profile.judge),
        file=str(file or ""),
        rows=[*rows, *secret_rows],
        findings=sorted(findings, key=lambda one: list(State).index(one.state)),
    )


def checklist(settings: Settings) -> Iterator[Finding]:
    """The guide's checklist, as far as settings tell: one line or more for each of its points."""
    live = settings.profile_name in ("prod", "openai")
    yield from _tried("judge", lambda: _judge(settings))
    if live and settings.profile.provider == "ollama" and "ollama_base_url" not in settings.model_fields_set:
        said = f"OLLAMA_BASE_URL is not set: {settings.ollama_base_url} is asked. Set it to the server of production."
        yield Finding(area="judge", said=said, state=State.ADVICE)
    yield from _phoenix(settings, live)
    yield from _written("results", settings.results_dir, "EVALVAULT_RESULTS_DIR", str(settings.results_dir))
    rotated = f"rotated each day and at {settings.log_max_mb:g} MB, {settings.log_keep_days} days are kept"
    yield from _written("logs", settings.logs.parent, "EVALVAULT_LOG_FILE", f"{settings.logs}, {rotated}")
    yield from _tried("alerts", lambda: _channels(settings) or _advised(live, NO_CHANNEL))
    yield from _access(settings, live)
    yield from _tried("backups", lambda: _backups(settings, live))
    yield from _tried("dagster", lambda: _dagster(settings))
    yield from _tried("executor", lambda: _executor(settings))
    yield from _tried("store", lambda: checked_url(settings.score_store_url))
    yield from _tried("catalog", lambda: _catalog(settings))


NO_CHANNEL = (
    "nobody is told when a pass rate drops. Set SLACK_WEBHOOK_URL, SLACK_BOT_TOKEN, SMTP_URL or a webhook (docs/alerts.md)."
)
NO_API_KEY = (
    "only this machine is served. Set EVALVAULT_API_KEY where others are to see the UI or the metrics (docs/access.md)."
)
NO_PHOENIX = "runs are not sent to Phoenix. Set PHOENIX_ENABLED=true and PHOENIX_ENDPOINT (docs/phoenix.md)."
NO_BACKUPS = "backups are not watched. Set EVALVAULT_BACKUPS_DIR to their folder (docs/alerts.md)."


class _Advice(Exception):
    """Said of what production should have."""


def _advised(live: bool, said: str) -> str:
    if live:
        raise _Advice(said)
    return "off"


def _tried(area: str, look: Callable[[], str]) -> Iterator[Finding]:
    """What `look` says, or what it raises."""
    try:
        yield Finding(area=area, said=look())
    except _Advice as advice:
        yield Finding(area=area, said=str(advice), state=State.ADVICE)
    except PipelineError as error:
        yield Finding(area=area, said=str(error), state=State.MISSING)


def _judge(settings: Settings) -> str:
    settings.require_judge()
    spec = judge_spec(settings)
    if spec is None:
        return settings.profile.no_judge
    return f"{spec.name} at {spec.shown_url or spec.model_path}; to ask it: evalvault doctor"


def _phoenix(settings: Settings, live: bool) -> Iterator[Finding]:
    to = f"runs go to {shown(settings.phoenix_endpoint)}, with the calls of {settings.phoenix_sample_rate:.0%} of the cases"
    yield from _tried("phoenix", lambda: to if settings.phoenix_enabled else _advised(live, NO_PHOENIX))
    if live and settings.phoenix_enabled and "phoenix_endpoint" not in settings.model_fields_set:
        said = f"PHOENIX_ENDPOINT is not set: {shown(settings.phoenix_endpoint)} is used. Set it to the server of production."
        yield Finding(area="phoenix", said=said, state=State.ADVICE)


def _written(area: str, folder: Path, variable: str, told: str) -> Iterator[Finding]:
    """Whether files can be made in a folder, which need not be there yet."""
    there = next(one for one in (folder, *folder.absolute().parents) if one.exists())
    try:
        with tempfile.TemporaryFile(dir=there):
            yield Finding(area=area, said=told)
    except OSError as error:
        said = f"{folder} cannot be written by this user: {error.strerror}. Set {variable} to a place that can."
        yield Finding(area=area, said=said, state=State.MISSING)


def _access(settings: Settings, live: bool) -> Iterator[Finding]:
    """As the servers look before they start; one line for each that does not, or one for both."""
    names = (settings.web_hosts or "localhost").split(",")
    reached = next((name for name in names if not is_loopback(name)), names[0])
    servers = {"The Dagster UI (EVALVAULT_WEB_HOSTS)": reached, "The exporter (EVALVAULT_METRICS_HOST)": settings.metrics_host}
    tried = [one for what, host in servers.items() for one in _tried("access", partial(_guarded, settings, what, host, live))]
    worst = max(tried, key=lambda one: list(State).index(one.state)).state
    yield from dict.fromkeys(one for one in tried if one.state is worst)


def _guarded(settings: Settings, what: str, host: str, live: bool) -> str:
    key = settings.api_key
    required_key(key.get_secret_value() if key else None, host=host, what=what)
    return "behind EVALVAULT_API_KEY" if key else _advised(live, NO_API_KEY)


def _backups(settings: Settings, live: bool) -> str:
    folder = settings.backups_dir
    if folder is None:
        return _advised(live, NO_BACKUPS)
    if not folder.is_dir():
        raise InvalidSetting(
            f"EVALVAULT_BACKUPS_DIR is {folder}, and there is no such folder. Make the first backup, or unset it."
        )
    return f"the newest file in {folder} is to be younger than {settings.backup_max_hours:g} hours"


def _dagster(settings: Settings) -> str:
    port = os.environ.get("EVALVAULT_CODE_SERVER_PORT", "")
    if port and not is_port(port):
        raise InvalidSetting("EVALVAULT_CODE_SERVER_PORT is no port. Write a number from 1 to 65535, such as 4000.")
    postgres = dagster_postgres(settings)
    return f"Postgres, {postgres['hostname']}:{postgres['port']}" if postgres else "SQLite, for one machine"


def _executor(settings: Settings) -> str:
    require_executor(settings.executor)
    return settings.executor


def _catalog(settings: Settings) -> str:
    if settings.catalog.is_file():
        return f"{settings.catalog}, {len(load_catalog(settings.catalog).datasets)} datasets"
    said = f"{settings.catalog} is not there, and Dagster needs it. Set EVALVAULT_CATALOG (docs/datasets.md)."
    if "catalog" in settings.model_fields_set:
        raise InvalidSetting(said)
    raise _Advice(said)


def _settings_file(folder: Path | None, findings: list[Finding]) -> tuple[Path | None, dict[str, str]]:
    """The settings file and what it sets; what is wrong with it, or with a plain `.env`, is added to the findings."""
    try:
        refuse_plain_file(folder, our_names())
    except InvalidSetting as error:
        findings.append(Finding(area="settings", said=str(error), state=State.MISSING))
    try:
        file = settings_file(folder)
        return file, values_in(file) if file else {}
    except InvalidSetting as error:
        findings.append(Finding(area="settings", said=str(error), state=State.MISSING))
        return None, {}


def _settings(file: Path | None, options: Mapping[str, Any]) -> tuple[Settings, dict[str, str]]:
    """The settings with the default of each variable whose value cannot be used, and what is wrong with those."""
    defaults = {str(field.validation_alias): field.default for field in Settings.model_fields.values()}
    wrong: dict[str, str] = {}
    try:
        settings = read_into(Settings, file, **options)
    except ValidationError as error:
        wrong = wrong_values(error)
        settings = read_into(Settings, file, **{**options, **{name: defaults[name] for name in wrong}})
    settings.with_places(file, {})
    return settings, wrong


def _ignored(name: str, file: Path) -> Finding:
    said = f"{name} stands in {file.name}, and is read from the process environment only. Export it."
    return Finding(area="settings", said=said, state=State.MISSING)


def _unknown(names: list[str], file: Path | None) -> Iterator[Finding]:
    """Variables that look like ours and are not: most are misspelt."""
    prefix, known = "EVALVAULT_", our_names()
    ends = [name.removeprefix(prefix) for name in known if name.startswith(prefix)]
    for name in sorted({name for name in names if name.startswith(prefix)} - known):
        close = get_close_matches(name.removeprefix(prefix), ends, n=1)
        hint = f"Did you mean {prefix}{close[0]}?" if close else "See docs/configuration.md."
        yield Finding(area="settings", said=f"{name} is read by nothing here. {hint}", state=State.ADVICE)


def _row(name: str, settings: Settings, source: str, wrong: dict[str, str]) -> Row:
    if name in wrong:
        return Row(variable=name, value="(cannot be used)", source=source)
    field = next(field for field, info in Settings.model_fields.items() if info.validation_alias == name)
    value = getattr(settings, field)
    return Row(variable=name, value=_shown(as_text(value)), source=NOT_SET if value is None else source)


def _shown(value: str) -> str:
    """A value without a password in it, or a key that was put into the wrong variable."""
    try:
        if value.startswith(("http://", "https://")) and "@" in urlsplit(value).netloc:
            value = shown(value)
    except ValueError:  # a bracket that is not closed
        return "(no address)"
    return without_secrets(value)


def _secret_row(name: str, settings: Settings, file: Path | None, findings: list[Finding]) -> Row:
    try:
        found = find_secret(name, settings)
        if found is None:
            return Row(variable=name, value="", source=NOT_SET)
        secret, source = found
        row = Row(variable=name, value=_masked(name, secret), source=source)
    except PipelineError as error:
        said = str(error) if name in str(error) else f"{name}: {error}"
        findings.append(Finding(area="secrets", said=said, state=State.MISSING))
        return Row(variable=name, value="(cannot be read)", source="see below")
    if file is not None and source == file.name:
        said = f"{name} stands in {source} as it is. Keep it in a mounted file, AWS or Vault instead (docs/secrets.md)."
        findings.append(Finding(area="secrets", said=said, state=State.ADVICE))
    else:
        findings.append(Finding(area="secrets", said=f"{name} from {source}"))
    return row


def _masked(name: str, secret: SecretStr) -> str:
    value = secret.get_secret_value()
    if name != "EVALVAULT_STORE_URL":
        return mask_api_key(value)
    try:
        return value if value == IN_DAGSTER else checked_url(value)
    except InvalidSetting:  # the checklist says why
        return "(cannot be used)"


def _channels(settings: Settings) -> str:
    """Raises InvalidSetting for those that lack a part, or whose address is none."""
    problems = [str(one) for one in channel_problems(settings)]
    with suppress(SecretUnavailable, UnusableSecret):  # which stand in the checklist already
        problems += wrong_addresses(settings)
    if problems:
        raise InvalidSetting(" ".join(problems))
    return ", ".join(channels_of(settings))
