"""Settings come from the first source that names them, and a value that cannot be used is one sentence with the remedy."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import get_args

import pytest
import sqlalchemy as sa

from evalvault_pipeline.environment import values_in
from evalvault_pipeline.errors import InvalidSetting, MissingSetting
from evalvault_pipeline.scoring.judges import JudgeSpec, judge_spec
from evalvault_pipeline.secrets import SECRETS, read_secret
from evalvault_pipeline.settings import DAGSTER_VARIABLES, PROCESS_VARIABLES, PROFILES, ProfileName, load_settings, variables
from evalvault_pipeline_tests.conftest import PROJECT

KEY = "sk-very-secret"


def refusal_of(folder: Path, **overrides: str) -> str:
    with pytest.raises(InvalidSetting) as refusal:
        load_settings(folder, **overrides)
    return str(refusal.value)


def test_without_any_setting_the_profile_is_offline_and_needs_no_judge(tmp_path: Path):
    settings = load_settings(tmp_path)
    assert (settings.profile.name, settings.profile.provider, settings.profile.judge) == ("offline", None, "none")
    assert (settings.catalog, settings.results_dir) == (Path("data/catalog.toml"), Path("data/results"))
    assert (settings.min_pass_rate, settings.min_coverage, settings.timezone) == (0.8, 1.0, "Asia/Seoul")


def test_every_profile_name_has_a_profile_of_that_name():
    assert [profile.name for profile in PROFILES.values()] == list(get_args(ProfileName))


@pytest.mark.parametrize(
    ("name", "judge"), [("dev", "ollama/gemma3:1b"), ("prod", "ollama/gpt-oss-safeguard:20b"), ("openai", "openai/gpt-5-mini")]
)
def test_a_profile_names_its_judge(tmp_path: Path, name: str, judge: str):
    assert load_settings(tmp_path, EVALVAULT_PROFILE=name, OPENAI_API_KEY=KEY).profile.judge == judge


def test_a_model_may_take_the_place_of_the_profiles(tmp_path: Path):
    chosen = {"EVALVAULT_JUDGE_MODEL": "qwen3:8b", "EVALVAULT_EMBEDDING_MODEL": "bge-m3"}
    profile = load_settings(tmp_path, EVALVAULT_PROFILE="prod", **chosen).profile
    assert (profile.judge, profile.model, profile.embedding_model) == ("ollama/qwen3:8b", "qwen3:8b", "bge-m3")
    profile = load_settings(tmp_path, EVALVAULT_PROFILE="dev", EVALVAULT_JUDGE_MODEL="qwen3:8b").profile
    assert (profile.model, profile.embedding_model) == ("qwen3:8b", PROFILES["dev"].embedding_model)


def test_a_model_makes_no_judge_of_a_profile_without_one(tmp_path: Path):
    profile = load_settings(tmp_path, EVALVAULT_JUDGE_MODEL="qwen3:8b", EVALVAULT_EMBEDDING_MODEL="bge-m3").profile
    assert profile == PROFILES["offline"]


def test_the_judge_of_a_gguf_file_has_the_name_of_its_file_unless_another_is_given(tmp_path: Path):
    files = {"EVALVAULT_GGUF": "/models/Qwen3-8B-Q4_K_M.gguf", "EVALVAULT_EMBEDDING_GGUF": "/models/bge-m3.gguf"}
    profile = load_settings(tmp_path, EVALVAULT_PROFILE="gguf", **files).profile
    assert (profile.judge, profile.embedding_model) == ("gguf/Qwen3-8B-Q4_K_M", "bge-m3")
    named = load_settings(tmp_path, EVALVAULT_PROFILE="gguf", EVALVAULT_JUDGE_MODEL="qwen", **files).profile
    assert (named.model, named.embedding_model) == ("qwen", "bge-m3")
    alone = load_settings(tmp_path, EVALVAULT_PROFILE="gguf", EVALVAULT_GGUF="/models/x.gguf").profile
    assert (alone.model, alone.embedding_model) == ("x", None)


def test_a_profile_of_a_gguf_file_needs_the_file(tmp_path: Path):
    settings = load_settings(tmp_path, EVALVAULT_PROFILE="gguf", EVALVAULT_EMBEDDING_GGUF="/models/bge-m3.gguf")
    with pytest.raises(MissingSetting) as refusal:
        settings.require_judge()
    assert str(refusal.value).startswith("`EVALVAULT_GGUF` is not set, and profile `gguf` needs it. ")


@pytest.mark.parametrize("variable", ["EVALVAULT_GGUF", "EVALVAULT_EMBEDDING_GGUF"])
def test_a_model_file_that_is_not_there_is_named_with_its_variable(tmp_path: Path, variable: str):
    """When a judge is asked for, and not when settings are read: other commands do without."""
    (tmp_path / "model.gguf").touch()
    files = {name: str(tmp_path / "model.gguf") for name in ("EVALVAULT_GGUF", "EVALVAULT_EMBEDDING_GGUF")}
    gone = tmp_path / "gone.gguf"
    settings = load_settings(tmp_path, EVALVAULT_PROFILE="gguf", **{**files, variable: str(gone)})
    with pytest.raises(InvalidSetting) as refusal:
        judge_spec(settings)
    assert str(refusal.value) == f"{variable} names {gone}, and there is no such file. Name a GGUF model file."


def test_offline_says_how_to_get_a_judge():
    message = PROFILES["offline"].no_judge
    assert message.startswith("no judge in profile offline: choose one with EVALVAULT_PROFILE=dev")


# --- where settings come from


def test_the_process_environment_comes_before_the_env_file_and_that_before_the_defaults(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / ".env.prod").write_text("EVALVAULT_PROFILE=prod\nEVALVAULT_TOKENIZER=ngram\n")
    monkeypatch.setenv("EVALVAULT_ENV", "prod")
    monkeypatch.setenv("EVALVAULT_PROFILE", "dev")
    settings = load_settings(tmp_path)
    assert (settings.profile_name, settings.tokenizer, settings.executor) == ("dev", "ngram", "in_process")
    assert settings.environment == "prod"


def test_an_override_comes_before_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("EVALVAULT_PROFILE", "dev")
    assert load_settings(tmp_path, EVALVAULT_PROFILE="offline").profile_name == "offline"


def test_only_the_env_file_of_the_named_environment_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / ".env.prod").write_text("EVALVAULT_PROFILE=prod\n")
    (tmp_path / ".env.dev").write_text("EVALVAULT_PROFILE=dev\n")
    assert load_settings(tmp_path).profile_name == "offline"
    monkeypatch.setenv("EVALVAULT_ENV", "dev")
    assert load_settings(tmp_path).profile_name == "dev"


def test_the_working_directory_is_where_env_files_are_looked_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / ".env.prod").write_text("EVALVAULT_PROFILE=prod\n")
    monkeypatch.setenv("EVALVAULT_ENV", "prod")
    monkeypatch.chdir(tmp_path)
    assert load_settings().profile_name == "prod"


def test_an_environment_without_its_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("EVALVAULT_ENV", "prod")
    assert refusal_of(tmp_path) == (
        f"EVALVAULT_ENV is `prod`, but there is no file {tmp_path / '.env.prod'}. Create it, or unset EVALVAULT_ENV."
    )


def test_a_settings_file_may_be_named_and_then_the_environments_own_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / ".env.prod").write_text("EVALVAULT_PROFILE=prod\nEVALVAULT_EXECUTOR=multiprocess\n")
    (tmp_path / "elsewhere.txt").write_text("EVALVAULT_PROFILE=dev\nEVALVAULT_TOKENIZER=ngram\n")
    monkeypatch.setenv("EVALVAULT_ENV", "prod")
    for named in ("elsewhere.txt", str(tmp_path / "elsewhere.txt")):
        monkeypatch.setenv("EVALVAULT_ENV_FILE", named)
        settings = load_settings(tmp_path)
        assert (settings.profile_name, settings.tokenizer, settings.executor) == ("dev", "ngram", "in_process")
    monkeypatch.setenv("EVALVAULT_TOKENIZER", "kiwi")
    assert load_settings(tmp_path).tokenizer == "kiwi", "the process environment comes first"


def test_a_settings_file_that_is_named_must_be_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("EVALVAULT_ENV_FILE", "gone.txt")
    gone = tmp_path / "gone.txt"
    assert refusal_of(tmp_path) == (
        f"EVALVAULT_ENV_FILE is `gone.txt`, but there is no file {gone}. Create it, or unset EVALVAULT_ENV_FILE."
    )


def test_a_plain_env_file_is_refused_also_where_it_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Dagster's commands read it all the same."""
    (tmp_path / ".env").write_text("EVALVAULT_PROFILE=prod\n")
    monkeypatch.setenv("EVALVAULT_ENV_FILE", ".env")
    assert " sets EVALVAULT_PROFILE, " in refusal_of(tmp_path)


@pytest.mark.parametrize(
    ("name", "profile", "ollama", "phoenix"),
    [
        ("development", "dev", "http://localhost:11434", None),
        ("staging", "prod", "http://ollama-staging:11434", "http://phoenix-staging:6006"),
        ("production", "prod", "http://ollama-prod:11434", "http://phoenix-prod:6006"),
    ],
)
def test_the_projects_own_settings_files_hold_the_guides_values_and_no_secret(
    monkeypatch: pytest.MonkeyPatch, name: str, profile: str, ollama: str, phoenix: str | None
):
    monkeypatch.setenv("EVALVAULT_ENV", name)
    settings = load_settings(PROJECT)
    assert (settings.profile_name, settings.ollama_base_url, settings.phoenix_enabled) == (profile, ollama, phoenix is not None)
    assert phoenix is None or settings.phoenix_endpoint == phoenix
    assert not set(values_in(PROJECT / f".env.{name}")) & set(SECRETS)
    ignored = subprocess.run(["git", "check-ignore", f".env.{name}"], cwd=PROJECT, capture_output=True, text=True)
    assert ignored.stdout == "", "it can be committed"


def test_the_example_changes_nothing_as_it_stands_and_holds_every_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    text = (PROJECT / ".env.example").read_text(encoding="utf-8")
    monkeypatch.setenv("EVALVAULT_ENV", "example")
    (tmp_path / ".env.example").write_text(text)
    assert values_in(tmp_path / ".env.example") == {}
    plain = load_settings(tmp_path)
    (tmp_path / ".env.example").write_text(re.sub(r"^# ([A-Z_]+=)", r"\1", text, flags=re.MULTILINE))
    assert load_settings(tmp_path) == plain
    listed = re.findall(r"^# ([A-Z_]+)=", text, flags=re.MULTILINE)
    assert sorted(listed) == sorted([*variables(), *DAGSTER_VARIABLES, *PROCESS_VARIABLES])


def test_an_env_file_that_is_not_utf_8_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / ".env.prod").write_bytes("# 운영\nEVALVAULT_PROFILE=prod\n".encode("cp949"))
    monkeypatch.setenv("EVALVAULT_ENV", "prod")
    assert refusal_of(tmp_path) == f"{tmp_path / '.env.prod'} is not UTF-8. Save it as UTF-8."


@pytest.mark.parametrize("wrong", ["OPENAI_API_KEY sk-canary-0123", 'OPENAI_API_KEY="sk-canary-0123'])
def test_a_line_of_an_env_file_that_sets_nothing_is_refused_by_its_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], wrong: str
):
    (tmp_path / ".env.prod").write_text(f"# ours\n\nEVALVAULT_PROFILE=prod\n\n{wrong}\nEVALVAULT_MARGIN=0.1\n")
    monkeypatch.setenv("EVALVAULT_ENV", "prod")
    said = refusal_of(tmp_path)
    assert said.startswith(f"{tmp_path / '.env.prod'}:5: this is no NAME=value, or a quote is not closed.")
    assert "canary" not in said and capfd.readouterr().err == ""


def test_a_byte_order_mark_does_not_hide_the_first_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Windows' editor writes one."""
    (tmp_path / ".env.prod").write_text("EVALVAULT_PROFILE=prod\n", encoding="utf-8-sig")
    monkeypatch.setenv("EVALVAULT_ENV", "prod")
    assert load_settings(tmp_path).profile_name == "prod"
    (tmp_path / ".env").write_text("EVALVAULT_PROFILE=prod\n", encoding="utf-8-sig")
    assert " sets EVALVAULT_PROFILE, " in refusal_of(tmp_path)


def test_a_plain_env_file_that_sets_one_of_our_variables_is_refused(tmp_path: Path):
    (tmp_path / ".env").write_text(f"OTHER=1\nexport OPENAI_API_KEY={KEY}\nEVALVAULT_PROFILE=openai\n")
    message = refusal_of(tmp_path)
    assert message.startswith(f"{tmp_path / '.env'} sets EVALVAULT_PROFILE, OPENAI_API_KEY, and Dagster's commands would")
    assert message.endswith("Rename it to .env.<name> and choose it with EVALVAULT_ENV=<name>.")
    assert KEY not in message


@pytest.mark.parametrize(
    "name", ["OPENAI_API_KEY_FILE", "DAGSTER_PG_HOST", "VAULT_TOKEN", "EVALVAULT_AWS_SECRET", *PROCESS_VARIABLES]
)
def test_a_plain_env_file_that_says_where_secrets_or_runs_are_is_refused_too(tmp_path: Path, name: str):
    (tmp_path / ".env").write_text(f"{name}=anything\n")
    assert f" sets {name}, " in refusal_of(tmp_path)


@pytest.mark.parametrize("content", [b"", b"OTHER=1\n# EVALVAULT_PROFILE=dev\n", "# 운영\nOTHER=1\n".encode("cp949")])
def test_a_plain_env_file_of_others_is_left_alone(tmp_path: Path, content: bytes):
    (tmp_path / ".env").write_bytes(content + b"EVALVAULT_OTHER_TOOL=1\n")
    assert load_settings(tmp_path).profile_name == "offline"


@pytest.mark.parametrize("name", [name for name in variables() if name != "OPENAI_API_KEY"])
def test_an_empty_variable_counts_as_unset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str):
    monkeypatch.setenv(name, "")
    assert load_settings(tmp_path) == load_settings(tmp_path, EVALVAULT_PROFILE="offline")


def test_an_empty_variable_of_the_process_does_not_hide_the_env_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / ".env.dev").write_text("EVALVAULT_PROFILE=dev\n")
    monkeypatch.setenv("EVALVAULT_ENV", "dev")
    monkeypatch.setenv("EVALVAULT_PROFILE", "")
    assert load_settings(tmp_path).profile_name == "dev"


# --- values


@pytest.mark.parametrize("key", [None, ""])
def test_a_missing_key_is_one_sentence_with_variable_profile_and_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str | None
):
    monkeypatch.setenv("EVALVAULT_PROFILE", "openai")
    if key is not None:
        monkeypatch.setenv("OPENAI_API_KEY", key)
    settings = load_settings(tmp_path)
    with pytest.raises(MissingSetting) as refusal:
        settings.require_judge()
    assert str(refusal.value) == (
        "`OPENAI_API_KEY` is not set, and profile `openai` needs it. "
        "Export it, or choose the profile that needs no judge: EVALVAULT_PROFILE=offline"
    )


@pytest.mark.parametrize(
    "name",
    [
        "EVALVAULT_PROFILE",
        "EVALVAULT_MIN_PASS_RATE",
        "EVALVAULT_MIN_COVERAGE",
        "EVALVAULT_TOKENIZER",
        "EVALVAULT_WORKERS",
        "EVALVAULT_TIMEZONE",
        "EVALVAULT_EXECUTOR",
        "OLLAMA_TIMEOUT",
        "OPENAI_TIMEOUT",
        "OLLAMA_NUM_CTX",
        "EVALVAULT_MAX_CONCURRENCY",
        "EVALVAULT_JUDGE_MAX_TOKENS",
        "EVALVAULT_JUDGE_REPEATS",
        "EVALVAULT_RUN_DEADLINE",
        "EVALVAULT_BUDGET",
    ],
)
def test_a_value_that_cannot_be_used_names_the_variable_and_is_never_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
):
    """Someone may have pasted a key into the wrong variable."""
    monkeypatch.setenv(name, KEY)
    with pytest.raises(InvalidSetting) as refusal:
        load_settings(tmp_path)
    assert str(refusal.value).startswith(f"The value of `{name}` cannot be used: ")
    assert str(refusal.value).endswith(". See docs/configuration.md.")
    assert KEY not in str(refusal.value)
    assert refusal.value.__suppress_context__


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("EVALVAULT_MIN_PASS_RATE", "80"),
        ("EVALVAULT_MIN_PASS_RATE", "-0.1"),
        ("EVALVAULT_MIN_PASS_RATE", "nan"),
        ("EVALVAULT_WORKERS", "0"),
        ("EVALVAULT_WORKERS", "257"),
        ("EVALVAULT_WORKERS", "1.5"),
        ("OLLAMA_TIMEOUT", "0"),
        ("OPENAI_TIMEOUT", "-1"),
        ("OLLAMA_NUM_CTX", "511"),
        ("EVALVAULT_MAX_CONCURRENCY", "0"),
        ("EVALVAULT_MAX_CONCURRENCY", "2049"),
        ("EVALVAULT_JUDGE_MAX_TOKENS", "63"),
        ("EVALVAULT_JUDGE_REPEATS", "0"),
        ("EVALVAULT_JUDGE_REPEATS", "21"),
        ("EVALVAULT_RUN_DEADLINE", "0"),
        ("EVALVAULT_RUN_DEADLINE", "nan"),
    ],
)
def test_a_number_out_of_its_range_is_refused(tmp_path: Path, name: str, value: str):
    assert refusal_of(tmp_path, **{name: value}).startswith(f"The value of `{name}` cannot be used: Input should be ")


@pytest.mark.parametrize(
    ("name", "value", "read"),
    [
        ("OLLAMA_TIMEOUT", "45.5", "ollama_timeout_seconds"),
        ("OPENAI_TIMEOUT", "45.5", "openai_timeout_seconds"),
        ("OLLAMA_NUM_CTX", "512", "ollama_num_ctx"),
        ("OLLAMA_KEEP_ALIVE", "-1", "ollama_keep_alive"),
        ("EVALVAULT_JUDGE_MODEL", "qwen3:8b", "judge_model"),
        ("EVALVAULT_EMBEDDING_MODEL", "bge-m3", "embedding_model"),
        ("EVALVAULT_MAX_CONCURRENCY", "2048", "max_concurrency"),
        ("EVALVAULT_JUDGE_MAX_TOKENS", "64", "judge_max_tokens"),
        ("EVALVAULT_JUDGE_REPEATS", "20", "judge_repeats"),
        ("EVALVAULT_RUN_DEADLINE", "0.5", "run_deadline_seconds"),
        ("EVALVAULT_BUDGET", "5USD", "budget"),
    ],
)
def test_a_variable_of_the_judge_is_read_from_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str, read: str
):
    assert str(getattr(load_settings(tmp_path), read) or "") != value
    monkeypatch.setenv(name, value)
    assert str(getattr(load_settings(tmp_path), read)) == value


def test_the_judge_is_asked_as_the_settings_say(tmp_path: Path):
    """A timeout, a concurrency and a context length of the provider, and the key of an OpenAI judge alone."""
    given = {"OPENAI_API_KEY": KEY, "OPENAI_BASE_URL": "http://gpu:8000/v1/", "OPENAI_TIMEOUT": "30", "OLLAMA_TIMEOUT": "60"}
    openai = judge_spec(load_settings(tmp_path, EVALVAULT_PROFILE="openai", **given))
    ollama = judge_spec(load_settings(tmp_path, EVALVAULT_PROFILE="dev", OLLAMA_NUM_CTX="2048", **given))
    assert openai is not None and ollama is not None
    assert (openai.base_url, openai.timeout_seconds, openai.max_concurrency) == ("http://gpu:8000/v1", 30.0, 64)
    assert (ollama.base_url, ollama.timeout_seconds, ollama.max_concurrency) == ("http://localhost:11434", 60.0, 4)
    assert (ollama.num_ctx, ollama.api_key, openai.api_key is not None) == (2048, None, True)
    assert KEY not in repr(openai)
    assert judge_spec(load_settings(tmp_path, **given)) is None
    few = judge_spec(load_settings(tmp_path, EVALVAULT_PROFILE="openai", EVALVAULT_MAX_CONCURRENCY="3", **given))
    assert few is not None and few.max_concurrency == 3


@pytest.mark.parametrize("budget", ["5USD", "0.5usd", "5 USD", " 500ktok ", "2Mtok", "2mtok", "100tok", "1.5ktok"])
def test_a_budget_is_an_amount_and_a_unit(tmp_path: Path, budget: str):
    assert load_settings(tmp_path, EVALVAULT_BUDGET=budget).budget == budget.strip()


@pytest.mark.parametrize(
    "budget", ["5", "USD", "5 EUR", "$5", "-5USD", "5,5USD", "5USD 2Mtok", "2M", "1e6tok", "nan USD", ".5USD"]
)
def test_a_budget_in_any_other_form_is_refused_with_one_that_is_right(tmp_path: Path, budget: str):
    message = refusal_of(tmp_path, EVALVAULT_BUDGET=budget)
    assert message.startswith("The value of `EVALVAULT_BUDGET` cannot be used: ")
    assert "5USD or 2Mtok" in message and "See docs/configuration.md." in message


@pytest.mark.parametrize("name", ["OLLAMA_BASE_URL", "OPENAI_BASE_URL"])
@pytest.mark.parametrize(
    "url",
    [
        "ftp://localhost",
        "htp://localhost:11434",
        "http://localhost:abc",
        "http://localhost:99999",
        "http://[::1",
        "http://",
        "http://a b",
        "http://a\tb",
    ],
)
def test_an_address_that_no_server_can_have_is_refused_before_anything_is_asked(tmp_path: Path, name: str, url: str):
    message = refusal_of(tmp_path, **{name: url})
    assert message.startswith(f"The value of `{name}` cannot be used: it is no address of a server; write http://host:port")


def test_the_address_of_openais_api_is_no_address_of_ollamas_own(tmp_path: Path):
    assert "leave /v1 out" in refusal_of(tmp_path, OLLAMA_BASE_URL="http://localhost:11434/v1/")
    assert load_settings(tmp_path, OLLAMA_BASE_URL="gpu:11434/").ollama_base_url == "http://gpu:11434"
    assert load_settings(tmp_path, OPENAI_BASE_URL="http://gpu:8000/v1/").openai_base_url == "http://gpu:8000/v1"


@pytest.mark.parametrize("zone", ["Korea/Seoul", "Asia", "../etc/passwd", "Asia/" + "x" * 300, "KST+9 "])
def test_a_time_zone_that_does_not_exist_is_refused(tmp_path: Path, zone: str):
    assert refusal_of(tmp_path, EVALVAULT_TIMEZONE=zone) == (
        "The value of `EVALVAULT_TIMEZONE` cannot be used: no such time zone; write an IANA name such as Asia/Seoul. "
        "See docs/configuration.md."
    )


@pytest.mark.parametrize("zone", ["Asia/Seoul", "UTC", "America/New_York"])
def test_an_iana_name_is_a_time_zone(tmp_path: Path, zone: str):
    assert load_settings(tmp_path, EVALVAULT_TIMEZONE=zone).timezone == zone


@pytest.mark.parametrize(
    ("url", "completed"),
    [
        ("gpu-1:11434", "http://gpu-1:11434"),
        ("http://gpu-1:11434", "http://gpu-1:11434"),
        ("https://ollama.example.com", "https://ollama.example.com"),
    ],
)
def test_a_url_without_a_scheme_is_completed(tmp_path: Path, url: str, completed: str):
    settings = load_settings(tmp_path, OLLAMA_BASE_URL=url, OPENAI_BASE_URL=url)
    assert (settings.ollama_base_url, settings.openai_base_url) == (completed, completed)


def test_the_ollama_server_is_the_local_one_unless_set(tmp_path: Path):
    assert load_settings(tmp_path).ollama_base_url == "http://localhost:11434"


def test_no_secret_is_shown_by_the_settings(tmp_path: Path):
    settings = load_settings(
        tmp_path, EVALVAULT_PROFILE="openai", OPENAI_API_KEY=KEY, EVALVAULT_STORE_URL=f"postgresql://user:{KEY}@db/scores"
    )
    key = read_secret("OPENAI_API_KEY", settings)
    assert key is not None and key.get_secret_value() == KEY
    assert settings.score_store_url == f"postgresql://user:{KEY}@db/scores"
    for shown in (repr(settings), str(settings), f"{key}", repr(key), settings.model_dump_json(), repr(judge_spec(settings))):
        assert KEY not in shown


def test_the_score_store_is_a_file_in_the_results_folder_unless_set(tmp_path: Path):
    assert load_settings(tmp_path).score_store_url == "sqlite:///data/results/scores.sqlite"
    moved = load_settings(tmp_path, EVALVAULT_RESULTS_DIR="/srv/results")
    assert moved.score_store_url == "sqlite:////srv/results/scores.sqlite"
    chosen = load_settings(tmp_path, EVALVAULT_STORE_URL="postgresql://db/scores")
    assert chosen.score_store_url == "postgresql://db/scores"


def test_the_score_store_may_be_dagsters_postgres_by_its_variables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A password with any characters, which nobody has to encode."""
    for name, value in {"HOST": "db", "USER": "eval vault", "PASSWORD": "p@ss/wörd:%"}.items():
        monkeypatch.setenv(f"DAGSTER_PG_{name}", value)
    settings = load_settings(tmp_path, EVALVAULT_STORE_URL="dagster")
    url = sa.make_url(settings.score_store_url)
    assert (url.drivername, url.host, url.port, url.database) == ("postgresql+psycopg2", "db", 5432, "dagster")
    assert (url.username, url.password) == ("eval vault", "p@ss/wörd:%")
    monkeypatch.setenv("DAGSTER_PG_PORT", "6432")
    monkeypatch.setenv("DAGSTER_PG_DB", "runs")
    url = sa.make_url(settings.score_store_url)
    assert (url.port, url.database) == (6432, "runs")


def test_dagsters_postgres_as_score_store_without_its_variables_is_one_clear_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    settings = load_settings(tmp_path, EVALVAULT_STORE_URL="dagster")
    with pytest.raises(InvalidSetting, match="EVALVAULT_STORE_URL is `dagster`, but DAGSTER_PG_HOST is not set"):
        _ = settings.score_store_url
    monkeypatch.setenv("DAGSTER_PG_HOST", "db")
    with pytest.raises(InvalidSetting, match="DAGSTER_PG_HOST is set, but DAGSTER_PG_USER, DAGSTER_PG_PASSWORD is not"):
        _ = settings.score_store_url


def test_every_variable_has_a_description():
    assert all(variable.description.endswith(".") for variable in variables().values())
    assert variables()["EVALVAULT_PROFILE"][0] == "offline"


@pytest.mark.parametrize(
    "address", ["http:/host", "https:host", "http://host/v1?key=canary", "http://host/v1#canary", "ftp://host", "http://"]
)
def test_an_address_that_cannot_be_meant_is_refused_without_repeating_it(address: str) -> None:
    with pytest.raises(InvalidSetting, match="no address of a server") as refused:
        load_settings(OPENAI_BASE_URL=address)
    assert "canary" not in str(refused.value)


def test_white_space_around_an_address_is_no_part_of_it() -> None:
    assert load_settings(OPENAI_BASE_URL=" http://host:8000/v1/ ").openai_base_url == "http://host:8000/v1"


@pytest.mark.parametrize("password", ["plain", "with@sign", "@@"])
def test_a_password_in_the_judges_address_is_not_shown(password: str) -> None:
    spec = JudgeSpec(provider="openai", model="m", base_url=f"https://user:{password}@host:8000/v1")
    assert spec.shown_url == "https://host:8000/v1"


@pytest.mark.parametrize("hosts", ["http://eval.example", "eval.example:3000", "eval.example/x", "*", "a,,b", "eval example", "10.0.0.5:80"])  # fmt: skip
def test_a_name_of_the_webserver_is_a_bare_one(tmp_path: Path, hosts: str) -> None:
    with pytest.raises(InvalidSetting, match=r"EVALVAULT_WEB_HOSTS.*without scheme and port"):
        load_settings(tmp_path, EVALVAULT_WEB_HOSTS=hosts)


def test_names_and_proxies_of_the_webserver_are_separated_by_commas(tmp_path: Path) -> None:
    settings = load_settings(
        tmp_path, EVALVAULT_WEB_HOSTS=" Eval.example, [::1],10.0.0.5 ", EVALVAULT_WEB_PROXIES="10.0.0.2, ::1"
    )
    assert (settings.web_hosts, settings.web_proxies) == ("eval.example,::1,10.0.0.5", "10.0.0.2/32,::1/128")


@pytest.mark.parametrize("proxies", ["*", "proxy.example", "10.0.0.0/33", "10.0.0.1/8", "10.0.0.1,"])
def test_a_proxy_that_is_no_address_is_refused(tmp_path: Path, proxies: str) -> None:
    with pytest.raises(InvalidSetting, match=r"EVALVAULT_WEB_PROXIES.*addresses or networks"):
        load_settings(tmp_path, EVALVAULT_WEB_PROXIES=proxies)
