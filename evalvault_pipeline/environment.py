"""Where settings come from: the process environment, then one settings file; and what is said of a value that cannot be used.

The file is `.env.<EVALVAULT_ENV>` in the working directory, or the one that EVALVAULT_ENV_FILE names. Never `.env`: Dagster's
commands load that *over* the process environment (docs/decisions/0002-env-files.md). Which settings there are stands in
`settings.py`; those that are secret are read by `secrets.py`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from io import StringIO
from pathlib import Path
from typing import Annotated, Any, TypeVar
from urllib.parse import urlsplit

from dotenv import dotenv_values
from dotenv.parser import parse_stream
from pydantic import AfterValidator, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from evalvault_pipeline.errors import InvalidSetting

S = TypeVar("S", bound=BaseSettings)

READ_AS = SettingsConfigDict(frozen=True, extra="ignore", env_ignore_empty=True, case_sensitive=True, hide_input_in_errors=True)


def _with_scheme(url: str) -> str:
    """An address of a server. Its text is never repeated: it may hold a password."""
    url = url.strip()
    url = (url if re.match(r"https?:|.*://", url, re.IGNORECASE) else f"http://{url}").rstrip("/")
    try:
        parts = urlsplit(url)
        fine = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        fine = fine and not parts.query and not parts.fragment and url.isprintable() and " " not in url
    except ValueError:  # a port that is no number, a bracket that is not closed
        fine = False
    if not fine:
        raise ValueError("it is no address of a server; write http://host:port or https://host")
    return url


Url = Annotated[str, AfterValidator(_with_scheme)]


def settings_file(folder: Path | None = None) -> Path | None:
    """The file that is read beside the process environment, None where none is chosen. Raises InvalidSetting: no such file."""
    folder = folder or Path.cwd()
    named, environment = os.environ.get("EVALVAULT_ENV_FILE"), os.environ.get("EVALVAULT_ENV")
    if named:
        file, chosen = folder / named, f"EVALVAULT_ENV_FILE is `{named}`"
    elif environment:
        file, chosen = folder / f".env.{environment}", f"EVALVAULT_ENV is `{environment}`"
    else:
        return None
    if not _is_file(file):
        raise InvalidSetting(f"{chosen}, but there is no file {file}. Create it, or unset {chosen.split()[0]}.")
    return file


def values_in(file: Path) -> dict[str, str]:
    """The variables that a settings file sets, empty ones left out. Raises InvalidSetting."""
    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise InvalidSetting(f"{file} is not UTF-8. Save it as UTF-8.") from None
    except OSError as error:
        raise InvalidSetting(f"{file} cannot be read: {error.strerror or error}.") from None
    for one in parse_stream(StringIO(text)):
        if one.error or (one.key is not None and one.value is None) or "\0" in one.original.string:  # its text may be a key
            said = one.original.string
            line = one.original.line + said[: len(said) - len(said.lstrip())].count("\n")
            raise InvalidSetting(
                f"{file}:{line}: this is no NAME=value, or a quote is not closed. Mend the line, or put a # before it."
            )
    return {name: value for name, value in dotenv_values(stream=StringIO(text)).items() if value}


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name that is too long
        return False


def refuse_plain_file(folder: Path | None, names: Iterable[str]) -> None:
    """Raises InvalidSetting for a file called exactly `.env` that sets one of these variables."""
    file = (folder or Path.cwd()) / ".env"
    if not file.is_file():
        return
    try:
        text = file.read_text(encoding="utf-8-sig", errors="replace")  # most such files are not ours
    except OSError as error:
        raise InvalidSetting(
            f"{file} cannot be read: {error.strerror or error}. Dagster's commands read it: make it readable, or remove it."
        ) from None
    ours = sorted({one.key for one in parse_stream(StringIO(text)) if one.key} & set(names))
    if ours:
        raise InvalidSetting(
            f"{file} sets {', '.join(ours)}, and Dagster's commands would let it override the process environment. "
            f"Rename it to .env.<name> and choose it with EVALVAULT_ENV=<name>."
        )


def read_into(kind: type[S], file: Path | None, **overrides: Any) -> S:
    """Settings of this kind; `overrides` (by variable name) beat every other source. Raises ValidationError, InvalidSetting."""
    if file is not None:
        values_in(file)  # readable, UTF-8, and without a line that says nothing
    return kind(_env_file=file, _env_file_encoding="utf-8-sig", **overrides)


def wrong_values(error: ValidationError) -> dict[str, str]:
    """Variable -> what is wrong with its value, without the value: a key may stand in the wrong variable."""
    wrong: dict[str, str] = {}
    for one in error.errors():
        name, what = str(one["loc"][0]), one["msg"].removeprefix("Value error, ")
        wrong.setdefault(name, f"The value of `{name}` cannot be used: {what}. See docs/configuration.md.")
    return wrong
