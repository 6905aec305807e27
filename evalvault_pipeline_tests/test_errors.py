"""An error says what is wrong and the way out; its class says which exit code the command ends with."""

from __future__ import annotations

import inspect
import pickle
from dataclasses import replace

import pytest

from evalvault_pipeline import errors
from evalvault_pipeline.cases.model import RowProblem
from evalvault_pipeline.errors import (
    ChannelUnavailable,
    JudgeMisconfigured,
    JudgeUnavailable,
    MalformedCases,
    MissingSetting,
    PhoenixUnavailable,
    PipelineError,
    ScoreStoreUnavailable,
    SecretUnavailable,
    ServiceUnavailable,
    UnknownCase,
    UnknownDataset,
    UnknownMetric,
    UnknownSnapshot,
)

PROBLEM = RowProblem(path="x.csv", line=2, field="answer", found="is empty", remedy="Write the answer.")


def test_every_error_is_a_pipeline_error_and_only_a_dead_service_exits_with_3():
    raised = [cls for _name, cls in inspect.getmembers(errors, inspect.isclass) if issubclass(cls, Exception)]
    assert all(issubclass(cls, PipelineError) for cls in raised)
    assert {cls for cls in raised if cls.exit_code == 3} == {
        ServiceUnavailable,
        ScoreStoreUnavailable,
        JudgeUnavailable,
        PhoenixUnavailable,
        ChannelUnavailable,
        SecretUnavailable,
    }
    assert {cls.exit_code for cls in raised} == {2, 3}


@pytest.mark.parametrize(
    ("name", "known", "hint"),
    [
        ("chrF", ["chrf", "exact_match"], "Did you mean `chrf`?"),
        ("x", ["chrf", "exact_match"], "Known: chrf, exact_match."),
        ("x", [], "None is known."),
    ],
)
def test_an_unknown_name_suggests_the_nearest_or_lists_all(name: str, known: list[str], hint: str):
    assert str(UnknownMetric(name, known=known)) == f"There is no metric `{name}`. {hint} List all: evalvault metrics"


def test_one_bad_row_is_a_row_and_more_are_rows():
    assert str(MalformedCases("x.csv", [PROBLEM])).startswith(
        "x.csv: 1 bad row\nx.csv:2: answer: is empty. Write the answer.\n"
    )
    assert str(MalformedCases("x.csv", [PROBLEM, replace(PROBLEM, line=3)])).startswith("x.csv: 2 bad rows\n")
    assert str(MalformedCases("x.csv", [PROBLEM, replace(PROBLEM, field="id")])).startswith("x.csv: 1 bad row\n")


@pytest.mark.parametrize(
    "error",
    [
        MissingSetting("OPENAI_API_KEY", profile="openai"),
        UnknownDataset("x", known=["y"]),
        UnknownMetric("x", known=["y"]),
        UnknownSnapshot("x", "y", known=["z"]),
        MalformedCases("x.csv", [PROBLEM]),
        ScoreStoreUnavailable("away"),
        JudgeUnavailable("away"),
        JudgeMisconfigured("refused"),
        UnknownCase("x", known=["y"], where="results.json"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_error_of_a_worker_process_arrives_as_it_was(error: PipelineError):
    """An exception that cannot be unpickled would break the process pool and hide what was wrong."""
    arrived = pickle.loads(pickle.dumps(error))
    assert (type(arrived), str(arrived), vars(arrived)) == (type(error), str(error), vars(error))
