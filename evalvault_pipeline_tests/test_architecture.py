"""The floors and the wall of the house, read from the source."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "evalvault_pipeline"
FLOORS = [
    "errors",
    "logs",
    "environment",
    "aws",
    "vault",
    "secrets",
    "settings",
    "console",
    "access",
    "cases",
    "scoring",
    "reporting",
    "publishing",
    "backups",
    "evaluate",
    "verdicts",
    "tracking",
    "drifting",
    "alerting",
    "check_env",
    "defs",
    "cli_check_env",
    "cli_verdicts",
    "cli_watching",
    "cli_operating",
    "cli",
]
# A vendor's package -> the modules that may import it, and only inside functions.
VENDORS = {
    "ragas": {"scoring/ragas_metrics.py"},
    "phoenix": {"publishing/phoenix.py"},
    "opentelemetry": {"publishing/tracing.py"},
    "openai": {"scoring/openai.py"},
    "ollama": {"scoring/ollama.py"},
    "aiohttp": {"scoring/transport.py"},
    "xllamacpp": {"scoring/gguf.py"},
    "uvloop": {"scoring/judging.py"},
    "genai_prices": {"scoring/usage.py"},
    "boto3": {"aws.py"},
    "botocore": {"aws.py"},
    "hvac": {"vault.py"},
    "slack_sdk": {"publishing/slack.py"},
    "prometheus_client": {"publishing/prometheus.py"},
    "concurrent_log_handler": {"logs.py"},
    "kiwipiepy": {"scoring/korean.py"},
    "pyarrow": {"cases/loading.py", "publishing/tables.py"},
    "openpyxl": {"cases/loading.py"},
    "pandas": set(),
    "scipy": {"reporting/statistics.py", "reporting/distances.py"},
    "matplotlib": {"publishing/charts.py"},
    "umap": {"reporting/distances.py"},
    "jinja2": {"publishing/html.py"},
    "uvicorn": {"defs/webserver.py"},
}
MODULES = sorted(path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py"))


def imports_of(module: str) -> Iterator[tuple[str, bool]]:
    """(dotted name, whether it is imported when the module is) of every import, type-checking ones left out."""
    tree = ast.parse((PACKAGE / module).read_text(encoding="utf-8"))

    def visit(node: ast.AST, at_import: bool) -> Iterator[tuple[str, bool]]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING":
                continue
            if isinstance(child, ast.Import):
                yield from ((alias.name, at_import) for alias in child.names)
            elif isinstance(child, ast.ImportFrom):
                assert child.level == 0, f"{module}: write absolute imports"
                yield child.module or "", at_import
                if child.module == "evalvault_pipeline":
                    yield from ((f"evalvault_pipeline.{alias.name}", at_import) for alias in child.names)
            inner = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            yield from visit(child, at_import and not inner)

    return visit(tree, True)


def floor_of(module: str) -> int:
    name = module.removesuffix(".py").split("/")[0]
    if name in {"definitions"}:
        name = "cli"
    return FLOORS.index(name)


@pytest.mark.parametrize("module", [name for name in MODULES if name != "__init__.py"])
def test_a_module_imports_only_from_the_floors_below_it_and_from_its_own_room(module: str) -> None:
    mine = module.removesuffix(".py").split("/")[0]
    for name, _ in imports_of(module):
        if not name.startswith("evalvault_pipeline."):
            continue
        room = name.split(".")[1]
        if room == mine or room.startswith("__"):
            continue
        assert room in FLOORS, f"{module} imports {name}"
        assert FLOORS.index(room) < floor_of(module), f"{module} imports {name}, which stands above it"


@pytest.mark.parametrize("room", ["access", "cases", "scoring", "reporting", "publishing", "backups", "defs"])
def test_the_modules_of_a_room_import_each_other_in_no_circle(room: str) -> None:
    graph = {
        module: {
            name.replace(".", "/").removeprefix("evalvault_pipeline/") + ".py"
            for name, _ in imports_of(module)
            if name.startswith(f"evalvault_pipeline.{room}.")
        }
        for module in MODULES
        if module.startswith(f"{room}/")
    }
    while graph:
        free = [module for module, needs in graph.items() if not needs & set(graph)]
        assert free, f"a circle among {sorted(graph)}"
        for module in free:
            del graph[module]


def test_dagster_is_imported_behind_the_wall_only() -> None:
    outside = {
        module
        for module in MODULES
        for name, _ in imports_of(module)
        if name.split(".")[0].startswith("dagster") and not module.startswith("defs/")
    }
    assert outside == set()


def test_a_vendors_package_is_imported_in_its_own_module_and_inside_functions_only() -> None:
    wrong = [
        f"{module}: {name}"
        for module in MODULES
        for name, at_import in imports_of(module)
        if (allowed := VENDORS.get(name.split(".")[0])) is not None and (at_import or module not in allowed)
    ]
    assert wrong == []


def test_no_module_has_a_name_that_says_nothing() -> None:
    empty = {"utils", "helpers", "common", "manager", "service", "port", "adapter", "misc", "base"}
    assert [module for module in MODULES if set(module.removesuffix(".py").split("/")) & empty] == []


@pytest.mark.parametrize("module", MODULES)
def test_every_module_opens_with_what_it_is_for(module: str) -> None:
    assert ast.get_docstring(ast.parse((PACKAGE / module).read_text(encoding="utf-8")))


@pytest.mark.parametrize("imported", ["evalvault_pipeline", "evalvault_pipeline.cli", "evalvault_pipeline.definitions"])
def test_importing_loads_nothing_heavy(imported: str) -> None:
    """Every Dagster run and step imports the definitions again; ragas alone would cost it 5 CPU-seconds."""
    heavy = sorted({*VENDORS, "langchain", "numpy", "celery", "dagster_celery", "dagster_k8s", "kubernetes"})
    code = f"import sys, {imported}; print([name for name in {heavy} if name in sys.modules])"
    project = PACKAGE.parent
    found = subprocess.run([sys.executable, "-c", code], cwd=project, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_the_command_line_starts_without_dagster() -> None:
    code = "import sys, evalvault_pipeline.cli, evalvault_pipeline.evaluate; print('dagster' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], cwd=PACKAGE.parent, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "False"
