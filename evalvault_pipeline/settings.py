"""What the environment says: one `Settings` object, and the profile that names the judge.

Sources, the first that names a variable wins: process environment, then the settings file (`environment.py`), then the
defaults below. What is secret is not held here: `secrets.py` reads it where it is used. What a dataset is, stands in
`data/catalog.toml` (cases/catalog.py).
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, replace
from importlib.util import find_spec
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple
from urllib.parse import quote, unquote
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import AfterValidator, Field, SecretStr, ValidationError

from evalvault_pipeline.environment import Url, read_into, refuse_plain_file, settings_file, wrong_values
from evalvault_pipeline.errors import InvalidSetting, MissingSetting
from evalvault_pipeline.logs import know_secrets, password_of
from evalvault_pipeline.secrets import SECRETS, SecretSources, is_set, load_sources, read_secret

ProfileName = Literal["offline", "dev", "prod", "openai", "gguf"]


IN_DAGSTER = "dagster"  # of EVALVAULT_STORE_URL: the score store is in Dagster's Postgres
DAGSTER_VARIABLES = {
    "DAGSTER_PG_HOST": "Host of Dagster's Postgres; without it Dagster keeps its runs in SQLite.",
    "DAGSTER_PG_PORT": "Its port; default 5432.",
    "DAGSTER_PG_USER": "Its user; its password is the secret `DAGSTER_PG_PASSWORD`.",
    "DAGSTER_PG_DB": "Its database; default dagster.",
}
CELERY_VARIABLES = {
    "EVALVAULT_CELERY_BROKER": "Celery's broker, such as redis://host:6379/0, for EVALVAULT_EXECUTOR=celery.",
    "EVALVAULT_CELERY_BACKEND": "Celery's result backend, such as redis://host:6379/1.",
}
# Executor -> its extra, and the packages of that.
_EXTRAS = {"celery": ("celery", ("celery", "dagster_celery")), "k8s": ("kubernetes", ("dagster_k8s",))}
# Read by Dagster, from the process environment only.
PROCESS_VARIABLES = {
    **CELERY_VARIABLES,
    "EVALVAULT_CODE_SERVER_HOST": "Host at which `deploy/workspace.yaml` finds the code server.",
    "EVALVAULT_CODE_SERVER_PORT": "Its port.",
}


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
        return f"{self.provider}/{self.model or 'unset'}" if self.provider else "none"

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


def _host_names(text: str) -> str:
    names = [name.strip().lower() for name in text.split(",")]
    try:
        bare = [str(ip_address(name.strip("[]"))) if ":" in name else name for name in names]
    except ValueError:  # a port, or a scheme
        bare = [""]
    if not all(re.fullmatch(r"[a-z0-9._-]+|[0-9a-f:.]+", name) for name in bare):
        raise ValueError("write names of this server without scheme and port, separated by commas, such as eval.example")
    return ",".join(bare)


def _networks(text: str) -> str:
    try:
        return ",".join(str(ip_network(part.strip())) for part in text.split(","))
    except ValueError:
        raise ValueError("write addresses or networks of proxies, separated by commas, such as 10.0.0.2,10.1.0.0/24") from None


def _native(url: str) -> str:
    if url.endswith("/v1"):
        raise ValueError("it ends in /v1, which is OpenAI's API; Ollama's own is wanted: leave /v1 out")
    return url


def _without_traces(url: str) -> str:
    return url.removesuffix("/v1/traces").rstrip("/")


Hours = Annotated[float, Field(gt=0.0)]
Seconds = Annotated[float, Field(gt=0.0)]
BUDGET = re.compile(r"(?P<amount>\d+(\.\d+)?)\s*(?P<unit>USD|tok|ktok|Mtok)", re.IGNORECASE)
Share = Annotated[float, Field(ge=0.0, le=1.0)]


class Settings(SecretSources):
    """Every setting that is no secret, with the environment variable that sets it; `docs/configuration.md` lists them all."""

    profile_name: ProfileName = Field(
        "offline", validation_alias="EVALVAULT_PROFILE", description="Which judge scores: offline, dev, prod, openai or gguf."
    )
    environment: str | None = Field(
        None,
        validation_alias="EVALVAULT_ENV",
        description="Reads `.env.<name>` of the working directory; set in the process itself.",
    )
    env_file: Path | None = Field(
        None,
        validation_alias="EVALVAULT_ENV_FILE",
        description="Reads this file instead of `.env.<name>`; set in the process itself.",
    )
    catalog: Path = Field(Path("data/catalog.toml"), validation_alias="EVALVAULT_CATALOG", description="The dataset catalog.")
    results_dir: Path = Field(
        Path("data/results"), validation_alias="EVALVAULT_RESULTS_DIR", description="Where runs write reports and tables."
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
    executor: Literal["in_process", "multiprocess", "celery", "k8s"] = Field(
        "in_process",
        validation_alias="EVALVAULT_EXECUTOR",
        description="How Dagster runs the steps of one run: in_process, multiprocess, celery or k8s.",
    )
    run_retries: Annotated[int, Field(ge=0, le=20)] = Field(
        0,
        validation_alias="EVALVAULT_RUN_RETRIES",
        description="How often Dagster tries an evaluation again whose worker died, or whose judge or store is away.",
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
    slack_channel: str | None = Field(
        None, validation_alias="SLACK_CHANNEL", description="Channel id that the bot writes to, such as C0123456789."
    )
    slack_api_url: Url | None = Field(
        None, validation_alias="SLACK_API_URL", description="Slack's Web API behind a proxy of your own."
    )
    alert_email_from: str | None = Field(
        None, validation_alias="EVALVAULT_ALERT_EMAIL_FROM", description="Sender of alert mails."
    )
    alert_email_to: str | None = Field(
        None, validation_alias="EVALVAULT_ALERT_EMAIL_TO", description="Receivers of alert mails, separated by commas."
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
        None, validation_alias="EVALVAULT_BACKUPS_DIR", description="Folder of backups; the newest one is watched."
    )
    backup_keep: Annotated[int, Field(ge=1)] = Field(
        7,
        validation_alias="EVALVAULT_BACKUP_KEEP",
        description="Backups that are kept: so many of the newest, and the last one of each of so many weeks.",
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
    web_hosts: Annotated[str, AfterValidator(_host_names)] | None = Field(
        None,
        validation_alias="EVALVAULT_WEB_HOSTS",
        description="Names under which browsers reach `evalvault webserver`, separated by commas, such as `eval.example`.",
    )
    web_proxies: Annotated[str, AfterValidator(_networks)] | None = Field(
        None,
        validation_alias="EVALVAULT_WEB_PROXIES",
        description="Addresses of reverse proxies whose `X-Forwarded-For` and `X-Forwarded-Proto` are believed.",
    )
    web_session_hours: Hours = Field(
        12.0, validation_alias="EVALVAULT_WEB_SESSION_HOURS", description="Hours after which a browser must log in again."
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
        30, validation_alias="EVALVAULT_LOG_KEEP_DAYS", description="Days after which rotated log files are deleted."
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
    def log_file_options(self) -> dict[str, Any]:
        """Of `logs.configure_logging`."""
        return {"file": self.logs, "max_mb": self.log_max_mb, "keep_days": self.log_keep_days, "form": self.log_format}

    @property
    def default_store_url(self) -> str:
        return f"sqlite:///{self.results_dir / 'scores.sqlite'}"

    @property
    def score_store_url(self) -> str:
        """Read when it is asked for: it may hold a password. Raises InvalidSetting where it is `dagster`, and there is none."""
        chosen = read_secret("EVALVAULT_STORE_URL", self)
        text = chosen.get_secret_value() if chosen else self.default_store_url
        return _dagster_postgres_url(self) if text == IN_DAGSTER else text

    @property
    def api_key(self) -> SecretStr | None:
        """What others must send to our servers, read when it is asked for."""
        return read_secret("EVALVAULT_API_KEY", self)

    def require_judge(self) -> None:
        """Raises MissingSetting where the profile's judge lacks something, as far as can be told without asking a service."""
        names = {str(field.validation_alias): name for name, field in type(self).model_fields.items()}
        for variable in self.profile.required:
            there = is_set(variable, self) if variable in SECRETS else getattr(self, names[variable]) is not None
            if not there:
                raise MissingSetting(variable, profile=self.profile.name)


def _dagster_postgres_url(sources: SecretSources) -> str:
    database = dagster_postgres(sources)
    if database is None:
        raise InvalidSetting("EVALVAULT_STORE_URL is `dagster`, but DAGSTER_PG_HOST is not set. Set it, or write a URL.")
    who = f"{quote(database['username'], safe='')}:{quote(database['password'], safe='')}"
    return f"postgresql+psycopg2://{who}@{database['hostname']}:{database['port']}/{quote(database['db_name'], safe='')}"


class Variable(NamedTuple):
    """An environment variable that we read. `default` is text, "" for none."""

    default: str
    description: str
    secret: bool = False


def variables() -> dict[str, Variable]:
    """Every environment variable that we read by its name: settings, secrets, and where secrets are looked for."""
    inherited = SecretSources.model_fields
    fields = [*(field for name, field in Settings.model_fields.items() if name not in inherited), *inherited.values()]
    found = {str(field.validation_alias): Variable(as_text(field.default), field.description or "") for field in fields}
    return found | {name: Variable("", description, secret=True) for name, description in SECRETS.items()}


def our_names() -> set[str]:
    """Every name of an environment variable that means something to us."""
    return {*variables(), *DAGSTER_VARIABLES, *PROCESS_VARIABLES, *(f"{name}_FILE" for name in SECRETS)}


def as_text(value: Any) -> str:
    """A setting's value as it is written into the environment; "" for none."""
    if value is None:
        return ""
    return str(value).lower() if isinstance(value, bool) else str(value)


def load_settings(directory: Path | None = None, **overrides: Any) -> Settings:
    """Read the settings; `overrides` (by variable name) beat every other source, as a command-line option does.

    Raises InvalidSetting, one sentence with the remedy.
    """
    refuse_plain_file(directory, our_names())
    file = settings_file(directory)
    given = {name: str(overrides.pop(name)) for name in SECRETS if name in overrides}
    try:
        settings = read_into(Settings, file, **overrides)
    except ValidationError as error:
        raise InvalidSetting(next(iter(wrong_values(error).values()))) from None
    settings.with_places(file, given)
    know_secrets(_passwords(settings))
    return settings


def dagster_postgres(sources: SecretSources | None = None) -> dict[str, Any] | None:
    """How Dagster's Postgres is reached, None where Dagster keeps its runs in SQLite. Raises InvalidSetting.

    `sources` None means those of the environment: Dagster's processes, too, read the settings file.
    """
    sources = sources or load_sources()
    kept = sources.kept()
    host, port, user, database = (os.environ.get(name) or kept.get(name) for name in DAGSTER_VARIABLES)
    if not host:
        return None
    password = read_secret("DAGSTER_PG_PASSWORD", sources)
    missing = [name for name, value in (("DAGSTER_PG_USER", user), ("DAGSTER_PG_PASSWORD", password)) if not value]
    if missing or password is None:
        raise InvalidSetting(f"DAGSTER_PG_HOST is set, but {', '.join(missing)} is not. Set both.")
    port = port or "5432"
    if not is_port(port):
        raise InvalidSetting(f"DAGSTER_PG_PORT is `{port}`. Write a number from 1 to 65535, such as 5432.")
    return {
        "hostname": host,
        "port": int(port),
        "username": user,
        "password": password.get_secret_value(),
        "db_name": database or "dagster",
    }


def is_port(text: str) -> bool:
    return text.isascii() and text.isdecimal() and 0 < int(text) < 65536


def require_executor(name: str) -> None:
    """Raises InvalidSetting where Celery's broker or backend is not set, or the package of an executor is not installed."""
    missing = [variable for variable in CELERY_VARIABLES if not os.environ.get(variable)]
    if name == "celery" and missing:
        raise InvalidSetting(f"EVALVAULT_EXECUTOR is `celery`, but {', '.join(missing)} is not set. Set both.")
    extra, packages = _EXTRAS.get(name, ("", ()))
    for package in packages:
        if find_spec(package) is None:
            raise InvalidSetting(
                f"EVALVAULT_EXECUTOR is `{name}`, which needs the extra `{extra}`, and {package} is not installed: "
                f"pip install 'evalvault-pipeline[{extra}]'"
            )


def _passwords(settings: Settings) -> list[str]:
    """In the addresses of servers, where some people keep them."""
    addresses = (value for name in type(settings).model_fields if isinstance(value := getattr(settings, name), str))
    found = [password_of(address) for address in addresses if address.startswith(("http://", "https://"))]
    return [*found, *map(unquote, found)]
