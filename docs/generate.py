"""Write the parts of `docs/` that the code knows better: `make docs`. With `--check`: say what is out of date, and exit 1.

A generated part stands between `<!-- generated: NAME -->` and `<!-- end -->`; what is around it is written by hand. Nothing
here depends on the width of a terminal. `--picture` draws `images/report.svg` again, which takes the Korean model.
"""

from __future__ import annotations

import argparse
import inspect
import json
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import typer

from evalvault_pipeline.cases.batches import BATCH_SIZES
from evalvault_pipeline.cases.catalog import DatasetSpec
from evalvault_pipeline.cli import app
from evalvault_pipeline.publishing.results_file import results_schema
from evalvault_pipeline.publishing.verdict_file import verdict_schema
from evalvault_pipeline.scoring.metrics import METRICS
from evalvault_pipeline.secrets import SECRETS
from evalvault_pipeline.settings import DAGSTER_VARIABLES, PROCESS_VARIABLES, PROFILES, variables

DOCS = Path(__file__).resolve().parent
PROJECT = DOCS.parent
CELL_WIDTH = 12.2  # pixels of a character in rich's SVG
PART = re.compile(r"(<!-- generated: (?P<name>[a-z_]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A Markdown table; a `|` in a cell is escaped."""
    titles = list(head)
    cells = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    lines = [titles, ["---"] * len(titles), *cells]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def code(text: str) -> str:
    return f"`{text}`" if text else ""


def batch_sizes() -> str:
    """The guide's table, the largest datasets last."""
    rows = []
    above: int | None = None
    for at_least, size in BATCH_SIZES:
        cases = f"{at_least:,} and more" if above is None else f"{at_least or 1:,} to {above - 1:,}"
        rows.append((cases, str(size)))
        above = at_least
    return table(("cases", "batch size"), reversed(rows))


def catalog_keys() -> str:
    rows = []
    for name, field in DatasetSpec.model_fields.items():
        if name in {"name", "folder"}:
            continue
        default = "required" if field.is_required() else _default(field.default)
        rows.append((code(name), default, field.description or ""))
    return table(("key", "default", "meaning"), rows)


def _default(value: object) -> str:
    return code(json.dumps(value)) if value else "none"


def metrics() -> str:
    rows = [
        (
            code(metric.name),
            ", ".join(map(code, metric.needs)),
            f"{metric.threshold:g}",
            "yes" if metric.tokenized else "no",
            metric.version,
            metric.summary,
        )
        for metric in METRICS.values()
        if metric.kind == "deterministic"
    ]
    return table(("metric", "needs", "threshold", "uses the tokenizer", "version", "what it measures"), rows)


def llm_metrics() -> str:
    rows = [
        (
            code(metric.name),
            ", ".join(map(code, metric.needs)),
            f"{'<=' if metric.lower_is_better else '>='} {metric.threshold:g}",
            metric.judge_calls,
            metric.embedding_calls,
            metric.summary,
        )
        for metric in METRICS.values()
        if metric.kind == "llm"
    ]
    return table(("metric", "needs", "passes at", "LLM calls a case", "embedding calls a case", "what it measures"), rows)


def formulas() -> str:
    """A section per deterministic metric, out of the docstring of the function that computes it."""
    scored = (metric for metric in METRICS.values() if metric.score is not None)
    return "\n".join(f"### {metric.name}\n\n{inspect.getdoc(metric.score)}\n" for metric in scored)


def profiles() -> str:
    rows = [
        (
            code(profile.name),
            profile.provider or "none",
            code(profile.model or ""),
            code(profile.embedding_model or ""),
            ", ".join(map(code, profile.required)),
        )
        for profile in PROFILES.values()
    ]
    return table(("profile", "judge", "model", "embedding model", "needs"), rows)


def settings() -> str:
    rows = [
        (code(name), "[secret](secrets.md)" if one.secret else code(one.default), one.description)
        for name, one in variables().items()
    ]
    return table(("variable", "default", "meaning"), rows)


def secrets() -> str:
    """Every secret, with the file that it is looked for in and the variable that names another."""
    rows = [(code(name), code(f"{name}_FILE"), code(name.lower()), description) for name, description in SECRETS.items()]
    return table(("secret", "variable that names a file", "file in the secrets folder", "what it is"), rows)


EXAMPLE_HEAD = """\
# Every variable, with its default. Copy what you change into .env.<name>, and choose the file with EVALVAULT_ENV=<name>,
# or name any file with EVALVAULT_ENV_FILE. The process environment comes before it. Never call it .env: Dagster would let
# that override the process environment (docs/configuration.md). Written by `make docs`.
"""
EXAMPLE_SECRETS = """
# --- Secrets. They do not belong into a file of the project: docs/secrets.md. Each is also read from the file that
# <NAME>_FILE names, from EVALVAULT_SECRETS_DIR, AWS Secrets Manager and HashiCorp Vault.
"""
EXAMPLE_DAGSTER = """
# --- Dagster's storage.
"""
EXAMPLE_PROCESS = """
# --- Dagster reads these from the process environment only: export them, a settings file does not set them.
"""


def env_example() -> str:
    """`.env.example`: all switched off, so that the file as it stands changes nothing."""

    def entry(name: str, default: str, description: str) -> str:
        return f"\n# {description}\n# {name}={default}\n"

    every = variables()
    plain = [entry(name, one.default, one.description) for name, one in every.items() if not one.secret]
    secret = [entry(name, "", one.description) for name, one in every.items() if one.secret]
    dagster = [entry(name, "", description) for name, description in DAGSTER_VARIABLES.items()]
    process = [entry(name, "", description) for name, description in PROCESS_VARIABLES.items()]
    return "".join([EXAMPLE_HEAD, *plain, EXAMPLE_SECRETS, *secret, EXAMPLE_DAGSTER, *dagster, EXAMPLE_PROCESS, *process])


def dagster_settings() -> str:
    named = {**DAGSTER_VARIABLES, **PROCESS_VARIABLES}
    return table(("variable", "meaning"), ((code(name), description) for name, description in named.items()))


def definitions() -> str:
    listing = (PROJECT / "evalvault_pipeline_tests" / "definitions.txt").read_text(encoding="utf-8")
    return f"```text\n{listing}```\n"


def commands() -> str:
    """Every command of the command line with its arguments and options."""
    return "\n".join(_command(name, command) for name, command in cli_commands())


def cli_commands() -> list[tuple[str, Any]]:
    """(full name, command) of every command that does something, in the order of declaration."""
    found: list[tuple[str, Any]] = []

    def visit(name: str, command: Any) -> None:
        inner: Mapping[str, Any] = getattr(command, "commands", {})
        if not inner:
            found.append((name, command))
        for part, child in inner.items():
            visit(f"{name} {part}", child)

    visit("evalvault", typer.main.get_command(app))
    return found


def _command(name: str, command: Any) -> str:
    arguments = [param for param in command.params if param.param_type_name == "argument"]
    options = [param for param in command.params if param.param_type_name == "option" and param.name != "help"]
    usage = " ".join([name, *(_placeholder(argument) for argument in arguments), *(["[options]"] if options else [])])
    rows = [(code(argument.name.upper()), "", argument.help or "") for argument in arguments]
    rows += [(_names(option), _option_default(option), option.help or "") for option in options]
    text = f"## {name}\n\n```text\n{usage}\n```\n\n{inspect.cleandoc(command.help)}\n"
    return f"{text}\n{table(('argument or option', 'default', 'meaning'), rows)}" if rows else text


def _placeholder(argument: Any) -> str:
    name = argument.name.upper() + ("..." if argument.nargs == -1 else "")
    return name if argument.required else f"[{name}]"


def _names(option: Any) -> str:
    value = "" if option.is_flag else f" {option.name.upper()}"
    return ", ".join(code(f"{name}{value}") for name in [*option.opts, *option.secondary_opts])


def _option_default(option: Any) -> str:
    if option.is_flag:
        return code(option.opts[0] if option.default else (option.secondary_opts or [""])[0])
    return "" if option.default is None else code(str(option.default))


PARTS: dict[str, dict[str, Callable[[], str]]] = {
    "architecture.md": {"definitions": definitions},
    "cli.md": {"commands": commands},
    "configuration.md": {"profiles": profiles, "settings": settings, "dagster_settings": dagster_settings},
    "datasets.md": {"batch_sizes": batch_sizes, "catalog_keys": catalog_keys},
    "secrets.md": {"secrets": secrets},
    "metrics.md": {"metrics": metrics, "formulas": formulas, "llm_metrics": llm_metrics},
}


def rendered(page: str) -> str:
    """A page of `docs/` with its generated parts as they should be."""
    parts = PARTS[page]
    text = (DOCS / page).read_text(encoding="utf-8")
    there = [match["name"] for match in PART.finditer(text)]
    if sorted(there) != sorted(parts):
        raise SystemExit(f"docs/{page} has the generated parts {there}, and should have each of {list(parts)} once")
    return PART.sub(lambda match: f"{match[1]}\n{parts[match['name']]()}\n{match[3]}", text)


def pages() -> dict[Path, str]:
    """File -> its text as it should be, for every file with a generated part."""
    schemas = {"results.schema.json": results_schema(), "verdict.schema.json": verdict_schema()}
    written = {DOCS / name: json.dumps(schema, ensure_ascii=False, indent=2) + "\n" for name, schema in schemas.items()}
    return {**{DOCS / page: rendered(page) for page in PARTS}, **written, PROJECT / ".env.example": env_example()}


def draw_report(target: Path) -> None:
    """The terminal's report of the demo dataset as SVG, without rich's fonts from elsewhere."""
    import html
    import tempfile

    from rich._export_format import CONSOLE_SVG_FORMAT
    from rich.cells import cell_len
    from rich.console import Console

    from evalvault_pipeline.cases.catalog import load_catalog
    from evalvault_pipeline.evaluate import evaluate_file
    from evalvault_pipeline.publishing.terminal import print_report
    from evalvault_pipeline.settings import load_settings

    file = PROJECT / "data" / "datasets" / "insurance_qa" / "2026w47.json"
    spec = load_catalog(PROJECT / "data" / "catalog.toml").dataset("insurance_qa")
    frame = re.sub(r"@font-face \{\{.*?\}\}\s*", "", CONSOLE_SVG_FORMAT, flags=re.DOTALL)
    with tempfile.TemporaryDirectory() as folder, Path(folder, "out").open("w", encoding="utf-8") as nowhere:
        console = Console(record=True, width=140, highlight=False, file=nowhere)
        with evaluate_file(file, settings=load_settings(EVALVAULT_RESULTS_DIR=folder), spec=spec) as report:
            print_report(report, console, cases=4)
        picture = console.export_svg(title="evalvault run", code_format=frame)

    def as_wide_as_its_cells(text: re.Match[str]) -> str:
        """Rich counts characters, which would print the syllables of Hangul over each other."""
        return f'textLength="{CELL_WIDTH * cell_len(html.unescape(text[2])):g}"{text[1]}>{text[2]}<'

    picture = re.sub(r'textLength="[^"]*"([^>]*)>([^<]*)<', as_wide_as_its_cells, picture)
    target.write_text("\n".join(line.rstrip() for line in picture.splitlines()) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 where something is out of date")
    parser.add_argument("--picture", action="store_true", help="draw images/report.svg too")
    options = parser.parse_args()
    old = {file: text for file, text in pages().items() if not file.exists() or file.read_text(encoding="utf-8") != text}
    for file, text in old.items():
        if options.check:
            print(f"{file.relative_to(PROJECT)} is out of date: make docs", file=sys.stderr)
        else:
            file.write_text(text, encoding="utf-8", newline="\n")
            print(f"{file.relative_to(PROJECT)} written")
    if options.picture:
        draw_report(DOCS / "images" / "report.svg")
    sys.exit(1 if options.check and old else 0)


if __name__ == "__main__":
    main()
