"""What the environment says: one `Settings` object, and the profile that names the judge.

Sources, the first that names a variable wins: process environment, then the file `.env.<EVALVAULT_ENV>` in the
working directory, then the defaults below. A file called exactly `.env` is refused when it sets one of our variables:
Dagster's commands load it *over* the process environment (docs/decisions/0002-env-files.md).
What a dataset is, stands in `data/catalog.toml` (cases/catalog.py), not here.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, replace
from io import StringIO
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from dotenv import dotenv_values
from pydantic import AfterValidator, Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from evalvault_pipeline.errors import InvalidSetting, MissingSetting

ProfileName = Literal["offline", "dev", "prod", "openai", "gguf"]


@dataclass(frozen=True, kw_only=True)
class Profile:
    """Which judge scores the LLM metrics; `provider` None means that there is none."""

    name: ProfileName
    provider: Literal["ollama", "openai", "gguf"] | None
    model: str | None
    embedding_model: str | None
    required: tuple[str, ...] = ()

    @property
    def judge(self) -> str:
        """The judge as it is named in reports: `provider/model`, or `none`."""
        return f"{self.provider}/{self.model}" if self.provider else "none"

    @property
    def no_judge(self) -> str:
        """Why an LLM metric cannot be measured under a profile without a judge, and the way out."""
        return (
            f"no judge in profile {self.name}: choose one with EVALVAULT_PROFILE=dev (local Ollama), prod (production Ollama), "
            "openai (OPENAI_API_KEY) or gguf (a model file), see docs/judges.md"
        )


PROFILES: dict[ProfileName, Profile] = {
    "offline": Profile(name="offline", provider=None, model=None, embedding_model=None),
    "dev": Profile(name="dev", provider="ollama", model="gemma3:1b", embedding_model="qwen3-embedding:0.6b"),
    "prod": Profile(name="prod", provider="ollama", model="gpt-oss-safeguard:20b", embedding_model="qwen3-embedding:8b"),
    "openai": Profile(
        name="openai",
        provider="openai",
        model="gpt-5-mini",
        embedding_model="text-embedding-3-small",
        required=("OPENAI_API_KEY",),
    ),
    "gguf": Profile(name="gguf", provider="gguf", model=None, embedding_model=None, required=("EVALVAULT_GGUF",)),
}


def _time_zone(name: str) -> str:
    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):  # OSError: `Asia` is a folder of zones
        raise ValueError("no such time zone; write an IANA name such as Asia/Seoul") from None
    return name


def _budget(text: str) -> str:
    if not BUDGET.fullmatch(text.strip()):
        raise ValueError("it is no budget; write an amount and USD, tok, ktok or Mtok, such as 5USD or 2Mtok")
    return text.strip()


def _key(key: SecretStr) -> SecretStr:
    """Without the line end that a mounted file brings; the rest must fit into an HTTP header."""
    text = key.get_secret_value().strip()
    if not text.isascii() or not text.isprintable():
        raise ValueError("it holds characters that no key has, such as a line end in its middle")
    return SecretStr(text)


def _with_scheme(url: str) -> str:
    """An address of a server. Its text is never repeated: it may hold a password."""
    url = url.strip()
    url = (url if re.match(r"https?:|.*://", url, re.IGNORECASE) else f"http://{url}").rstrip("/")
    try:
        parts = urlsplit(url)
        fine = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        fine = fine and not parts.query and not parts.fragment
    except ValueError:  # a port that is no number, a bracket that is not closed
        fine = False
    if not fine:
        raise ValueError("it is no address of a server; write http://host:port or https://host")
    return url


def _native(url: str) -> str:
    if url.endswith("/v1"):
        raise ValueError("it ends in /v1, which is OpenAI's API; Ollama's own is wanted: leave /v1 out")
    return url


def _without_traces(url: str) -> str:
    return url.removesuffix("/v1/traces").rstrip("/")


Url = Annotated[str, AfterValidator(_with_scheme)]
Secret = Annotated[SecretStr, AfterValidator(_key)]
Hours = Annotated[float, Field(gt=0.0)]
Seconds = Annotated[float, Field(gt=0.0)]
BUDGET = re.compile(r"(?P<amount>\d+(\.\d+)?)\s*(?P<unit>USD|tok|ktok|Mtok)", re.IGNORECASE)
Share = Annotated[float, Field(ge=0.0, le=1.0)]


class Settings(BaseSettings):
    """Every setting, with the environment variable that sets it; `docs/configuration.md` lists them all."""

    model_config = SettingsConfigDict(
        frozen=True, extra="ignore", env_ignore_empty=True, case_sensitive=True, hide_input_in_errors=True
    )

    profile_name: ProfileName = Field(
        "offline", validation_alias="EVALVAULT_PROFILE", description="Which judge scores: offline, dev, prod, openai or gguf."
    )
    environment: str | None = Field(
        None, validation_alias="EVALVAULT_ENV", description="Reads `.env.<name>` from the working directory."
    )
    catalog: Path = Field(Path("data/catalog.toml"), validation_alias="EVALVAULT_CATALOG", description="The dataset catalog.")
    results_dir: Path = Field(
        Path("data/results"), validation_alias="EVALVAULT_RESULTS_DIR", description="Where runs write reports and tables."
    )
    store_url: str | None = Field(
        None,
        validation_alias="EVALVAULT_STORE_URL",
        repr=False,  # it may hold a password
        description="Score store as an SQLAlchemy URL (SQLite or Postgres); default: scores.sqlite in the results folder.",
    )
    min_pass_rate: Share = Field(
        0.8,
        validation_alias="EVALVAULT_MIN_PASS_RATE",
        description="Pass rate that a run is held to; the catalog's `min_pass_rate` comes first.",
    )
    min_coverage: Share = Field(
        1.0, validation_alias="EVALVAULT_MIN_COVERAGE", description="Coverage below which `every_case_scored` fails."
    )
    gate_min_coverage: Share = Field(
        0.95,
        validation_alias="EVALVAULT_GATE_MIN_COVERAGE",
        description="Coverage below which a verdict is inconclusive.",
    )
    margin: Share = Field(
        0.02,
        validation_alias="EVALVAULT_MARGIN",
        description="By how much the pass rate may fall below the baseline's, as a share: 0.02 is 2 points.",
    )
    baselines_dir: Path = Field(
        Path("data/baselines"), validation_alias="EVALVAULT_BASELINES_DIR", description="Where promoted baselines are kept."
    )
    tokenizer: Literal["auto", "kiwi", "ngram"] = Field(
        "auto",
        validation_alias="EVALVAULT_TOKENIZER",
        description="Korean tokens by kiwipiepy (extra `korean`) or by character n-grams; auto takes kiwi where installed.",
    )
    workers: Annotated[int, Field(ge=1, le=256)] | None = Field(
        None,
        validation_alias="EVALVAULT_WORKERS",
        description="Processes that compute deterministic metrics with --parallel; default: one per core.",
    )
    timezone: Annotated[str, AfterValidator(_time_zone)] = Field(
        "Asia/Seoul", validation_alias="EVALVAULT_TIMEZONE", description="Time zone of the schedules."
    )
    pii: Literal["redact", "block", "off"] = Field(
        "redact",
        validation_alias="EVALVAULT_PII",
        description="Personal data in a file outside the catalog: redact, block or off; a dataset's `pii` is in the catalog.",
    )
    executor: Literal["in_process", "multiprocess"] = Field(
        "in_process", validation_alias="EVALVAULT_EXECUTOR", description="How Dagster runs the steps of one run."
    )
    openai_api_key: Secret | None = Field(
        None, validation_alias="OPENAI_API_KEY", description="Key of OpenAI or of a compatible server."
    )
    openai_base_url: Url | None = Field(
        None, validation_alias="OPENAI_BASE_URL", description="A server that speaks OpenAI's API."
    )
    ollama_base_url: Annotated[Url, AfterValidator(_native)] = Field(
        "http://localhost:11434", validation_alias="OLLAMA_BASE_URL", description="The Ollama server of dev and prod."
    )

    ollama_timeout_seconds: Seconds = Field(
        300.0, validation_alias="OLLAMA_TIMEOUT", description="Seconds until a call to Ollama, or to a GGUF model, is given up."
    )
    openai_timeout_seconds: Seconds = Field(
        120.0, validation_alias="OPENAI_TIMEOUT", description="Seconds until a call to an OpenAI server is given up."
    )
    ollama_num_ctx: Annotated[int, Field(ge=512)] = Field(
        8192,
        validation_alias="OLLAMA_NUM_CTX",
        description="Context length, in tokens, that Ollama or a GGUF model is loaded with.",
    )
    ollama_keep_alive: str = Field(
        "10m", validation_alias="OLLAMA_KEEP_ALIVE", description="How long Ollama keeps the model loaded after a call."
    )
    judge_model: str | None = Field(
        None, validation_alias="EVALVAULT_JUDGE_MODEL", description="The judge's model, over that of the profile."
    )
    embedding_model: str | None = Field(
        None, validation_alias="EVALVAULT_EMBEDDING_MODEL", description="The embedding model, over that of the profile."
    )
    gguf: Path | None = Field(
        None, validation_alias="EVALVAULT_GGUF", description="Model file of profile gguf (extra `local-judge`)."
    )
    embedding_gguf: Path | None = Field(
        None, validation_alias="EVALVAULT_EMBEDDING_GGUF", description="Embedding model file of profile gguf."
    )
    max_concurrency: Annotated[int, Field(ge=1, le=2048)] | None = Field(
        None,
        validation_alias="EVALVAULT_MAX_CONCURRENCY",
        description="Judge calls in flight at most; default: 64 for openai, 4 for Ollama, 2 for gguf.",
    )
    judge_max_tokens: Annotated[int, Field(ge=64)] = Field(
        2048, validation_alias="EVALVAULT_JUDGE_MAX_TOKENS", description="Longest answer of the judge, in tokens."
    )
    judge_repeats: Annotated[int, Field(ge=1, le=20)] = Field(
        1,
        validation_alias="EVALVAULT_JUDGE_REPEATS",
        description="How often a fixed 8 % sample is judged, to measure the judge's noise; 1: once, like all.",
    )
    run_deadline_seconds: Seconds | None = Field(
        None,
        validation_alias="EVALVAULT_RUN_DEADLINE",
        description="Seconds after which a run stops judging and reports the rest as unmeasured.",
    )
    budget: Annotated[str, AfterValidator(_budget)] | None = Field(
        None, validation_alias="EVALVAULT_BUDGET", description="What one run may spend on the judge: `5USD`, `2Mtok`."
    )

    drift_map: Literal["pca", "umap"] = Field(
        "pca", validation_alias="EVALVAULT_DRIFT_MAP", description="How the drift report draws questions; umap: extra `umap`."
    )
    phoenix_enabled: bool = Field(
        False, validation_alias="PHOENIX_ENABLED", description="Send every run to Phoenix: dataset, experiment, traces."
    )
    phoenix_endpoint: Annotated[Url, AfterValidator(_without_traces)] = Field(
        "http://localhost:6006",
        validation_alias="PHOENIX_ENDPOINT",
        description="The Phoenix server; with or without scheme and `/v1/traces`.",
    )
    phoenix_sample_rate: Share = Field(
        1.0, validation_alias="PHOENIX_SAMPLE_RATE", description="Share of the cases whose judge calls are traced to Phoenix."
    )
    phoenix_project: str = Field(
        "evalvault", validation_alias="PHOENIX_PROJECT_NAME", description="Phoenix's project for the traces of judge calls."
    )
    phoenix_api_token: Secret | None = Field(
        None, validation_alias="PHOENIX_API_TOKEN", description="Key of a Phoenix server with authentication."
    )

    alert_pass_rate: Share = Field(
        0.8,
        validation_alias="EVALVAULT_ALERT_PASS_RATE",
        description="Pass rate below which a dataset alerts; the catalog's `alert_pass_rate` comes first.",
    )
    alert_repeat_hours: Hours = Field(
        336.0, validation_alias="EVALVAULT_ALERT_REPEAT_HOURS", description="Hours after which an open incident is told again."
    )
    alert_no_data_hours: Hours = Field(
        192.0,
        validation_alias="EVALVAULT_ALERT_NO_DATA_HOURS",
        description="Hours without a new report after which a dataset alerts; more than the time between two runs.",
    )
    alert_language: Literal["auto", "en", "ko"] = Field(
        "auto", validation_alias="EVALVAULT_ALERT_LANGUAGE", description="Language of alerts; auto: that of the dataset."
    )
    slack_webhook_url: Secret | None = Field(
        None, validation_alias="SLACK_WEBHOOK_URL", description="Slack's incoming webhook for alerts; it has no threads."
    )
    slack_bot_token: Secret | None = Field(
        None, validation_alias="SLACK_BOT_TOKEN", description="Slack bot token (`chat:write`): a thread for each incident."
    )
    slack_channel: str | None = Field(
        None, validation_alias="SLACK_CHANNEL", description="Channel id that the bot writes to, such as C0123456789."
    )
    slack_api_url: Url | None = Field(
        None, validation_alias="SLACK_API_URL", description="Slack's Web API behind a proxy of your own."
    )
    smtp_url: Secret | None = Field(
        None,
        validation_alias="SMTP_URL",
        description="Mail server for alerts, `smtp://user:password@host:587` (STARTTLS) or `smtps://host`.",
    )
    alert_email_from: str | None = Field(
        None, validation_alias="EVALVAULT_ALERT_EMAIL_FROM", description="Sender of alert mails."
    )
    alert_email_to: str | None = Field(
        None, validation_alias="EVALVAULT_ALERT_EMAIL_TO", description="Receivers of alert mails, separated by commas."
    )
    alert_webhook_url: Secret | None = Field(
        None, validation_alias="EVALVAULT_ALERT_WEBHOOK_URL", description="An address that every alert is posted to as JSON."
    )
    dagster_url: Url | None = Field(
        None, validation_alias="EVALVAULT_DAGSTER_URL", description="Dagster's web address, for links in alerts."
    )
    reports_url: Url | None = Field(
        None,
        validation_alias="EVALVAULT_REPORTS_URL",
        description="Where the results folder is served, for links to report.html; without it alerts name the file.",
    )
    backups_dir: Path | None = Field(
        None, validation_alias="EVALVAULT_BACKUPS_DIR", description="Folder of backups; its newest file is watched."
    )
    backup_max_hours: Hours = Field(
        26.0, validation_alias="EVALVAULT_BACKUP_MAX_HOURS", description="Age of the newest backup after which it is overdue."
    )
    metrics_host: str = Field(
        "127.0.0.1", validation_alias="EVALVAULT_METRICS_HOST", description="Address that `evalvault serve-metrics` binds."
    )
    metrics_port: Annotated[int, Field(ge=1, le=65535)] = Field(
        9464, validation_alias="EVALVAULT_METRICS_PORT", description="Port of `evalvault serve-metrics`."
    )
    api_key: Secret | None = Field(
        None,
        validation_alias="EVALVAULT_API_KEY",
        description="Key that scrapers send as `X-API-Key`; without it only this machine is served.",
    )
    log_format: Literal["text", "json"] = Field(
        "text", validation_alias="EVALVAULT_LOG_FORMAT", description="Log lines as text, or as one JSON object a line."
    )
    log_file: Path | None = Field(
        None, validation_alias="EVALVAULT_LOG_FILE", description="Log file, such as evalvault.log; none: standard error only."
    )
    log_max_mb: Annotated[float, Field(gt=0.0)] = Field(
        20.0, validation_alias="EVALVAULT_LOG_MAX_MB", description="Size at which the log file is rotated, in MB."
    )
    log_keep_days: Annotated[int, Field(ge=1)] = Field(
        30, validation_alias="EVALVAULT_LOG_KEEP_DAYS", description="The log is rotated each day; older files are deleted."
    )
    retention_days: Annotated[int, Field(ge=1)] = Field(
        365,
        validation_alias="EVALVAULT_RETENTION_DAYS",
        description="Age at which `retention_job` deletes runs of Dagster with their events and compute logs.",
    )

    @property
    def profile(self) -> Profile:
        """The profile with the models that the settings put in its place."""
        profile = PROFILES[self.profile_name]
        if profile.provider is None:
            return profile
        if profile.provider == "gguf":
            model = self.judge_model or (self.gguf.stem if self.gguf else None)
            embedding = (self.embedding_model or self.embedding_gguf.stem) if self.embedding_gguf else None
        else:
            model, embedding = self.judge_model or profile.model, self.embedding_model or profile.embedding_model
        return replace(profile, model=model, embedding_model=embedding)

    @property
    def logs(self) -> Path:
        return self.log_file or self.results_dir / "logs" / "evalvault.log"

    @property
    def secrets(self) -> list[str]:
        """The values that must not be shown anywhere."""
        held = [value for name in type(self).model_fields if isinstance(value := getattr(self, name), SecretStr)]
        password = urlsplit(self.store_url or "").password
        return [*(secret.get_secret_value() for secret in held), *([password] if password else [])]

    @property
    def score_store_url(self) -> str:
        return self.store_url or f"sqlite:///{self.results_dir / 'scores.sqlite'}"


def variables() -> dict[str, tuple[str, str]]:
    """Environment variable -> (default as text, description), in the order of declaration."""
    return {
        str(field.validation_alias): ("" if field.default is None else str(field.default), field.description or "")
        for field in Settings.model_fields.values()
    }


def load_settings(directory: Path | None = None, **overrides: Any) -> Settings:
    """Read the settings; `overrides` (by variable name) beat every other source, as a command-line option does.

    Raises MissingSetting or InvalidSetting, each one sentence with the remedy.
    """
    folder = directory or Path.cwd()
    _refuse_plain_env_file(folder)
    environment = os.environ.get("EVALVAULT_ENV") or None
    env_file = folder / f".env.{environment}" if environment else None
    if env_file is not None and not env_file.is_file():
        raise InvalidSetting(
            f"EVALVAULT_ENV is `{environment}`, but there is no file {env_file}. Create it, or unset EVALVAULT_ENV."
        )
    try:
        settings = Settings(_env_file=env_file, _env_file_encoding="utf-8-sig", **overrides)
    except UnicodeDecodeError:
        raise InvalidSetting(f"{env_file} is not UTF-8. Save it as UTF-8.") from None
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0])
        raise InvalidSetting(
            f"The value of `{name}` cannot be used: {first['msg'].removeprefix('Value error, ')}. See docs/configuration.md."
        ) from None
    for variable in settings.profile.required:
        if not _is_set(settings, variable):
            raise MissingSetting(variable, profile=settings.profile.name)
    return settings


def _is_set(settings: Settings, variable: str) -> bool:
    names = {str(field.validation_alias): name for name, field in Settings.model_fields.items()}
    return getattr(settings, names[variable]) is not None


def _refuse_plain_env_file(folder: Path) -> None:
    file = folder / ".env"
    if not file.is_file():
        return
    text = file.read_text(encoding="utf-8-sig", errors="replace")  # most such files are not ours
    ours = sorted(set(dotenv_values(stream=StringIO(text), interpolate=False)) & set(variables()))
    if ours:
        raise InvalidSetting(
            f"{file} sets {', '.join(ours)}, and Dagster's commands would let it override the process environment. "
            f"Rename it to .env.<name> and choose it with EVALVAULT_ENV=<name>."
        )
