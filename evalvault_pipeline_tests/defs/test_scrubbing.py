"""A step that leaks a key everywhere leaves it nowhere: not in the event log, the compute logs, or the output of the process."""

from __future__ import annotations

import traceback
from pathlib import Path

import dagster as dg
import pytest

from evalvault_pipeline.defs.scrubbing import StepFailed, scrubbed
from evalvault_pipeline.errors import PipelineError, UnreadableFile
from evalvault_pipeline_tests.stack import UserProject

CANARY = "canary-4f9a81c2-0d7e"
LEAKS = """
import logging, os, sys, warnings
import dagster as dg
import evalvault_pipeline.definitions
from evalvault_pipeline.defs.scrubbing import scrubbed

key = os.environ["OPENAI_API_KEY"]

@dg.op
@scrubbed
def leak(context: dg.OpExecutionContext) -> None:
    print("printed", key)
    sys.stderr.write("written " + key + "\\n")
    warnings.warn("warned of " + key)
    logging.getLogger("evalvault_pipeline.x").warning("logged %s", key)
    context.log.info(f"told {key}")
    print("asked by kim.canary@example.invalid")
    context.log.info("asked by 010-1234-5678로")
    try:
        raise ValueError("inner " + key)
    except ValueError as error:
        raise RuntimeError("outer " + key) from error

@dg.job(executor_def=dg.in_process_executor)
def leaking_job():
    leak()

defs = dg.Definitions(jobs=[leaking_job])
"""


def test_a_key_that_is_leaked_everywhere_is_found_nowhere(tmp_path: Path) -> None:
    user = UserProject(tmp_path / "project", OPENAI_API_KEY=CANARY)
    (user.folder / "leaks.py").write_text(LEAKS, encoding="utf-8")
    done = user.run("dagster", "job", "execute", "-f", "leaks.py", "-j", "leaking_job", check=False)
    assert done.returncode == 1
    kept = [file for file in (user.folder / "data" / ".dagster").rglob("*") if file.is_file()]
    found = b"".join(file.read_bytes() for file in kept) + (done.stdout + done.stderr).encode()
    assert CANARY.encode() not in found
    assert CANARY[-8:].encode() not in found
    assert b"kim.canary" not in found
    assert b"1234-5678" not in found
    for word in (
        b"asked by [EMAIL]",
        "asked by [PHONE]로".encode(),
        b"printed [SECRET]",
        b"written [SECRET]",
        b"logged [SECRET]",
        b"told [SECRET]",
        b"outer [SECRET]",
        b"inner [SECRET]",
    ):
        assert word in found, word


PERSON = "kim.canary@example.invalid"
NAMES_A_PERSON = """
import logging, sys, warnings
import dagster as dg
import evalvault_pipeline.definitions

person = "kim.canary" + "@example.invalid, 010-1234-5678"

@dg.op
def tell(context: dg.OpExecutionContext) -> None:
    print("printed", person)
    sys.stderr.write("written " + person + "\\n")
    warnings.warn("warned of " + person)
    logging.getLogger("evalvault_pipeline.x").warning("logged %s", person)
    context.log.info(f"told {person}")

@dg.job(executor_def=dg.multiprocess_executor)
def telling_job():
    tell()

defs = dg.Definitions(jobs=[telling_job])
"""


def test_who_is_named_in_a_process_of_a_step_is_named_in_no_log(tmp_path: Path) -> None:
    user = UserProject(tmp_path / "project")
    (user.folder / "tells.py").write_text(NAMES_A_PERSON, encoding="utf-8")
    done = user.run("dagster", "job", "execute", "-f", "tells.py", "-j", "telling_job")
    kept = [file for file in (user.folder / "data").rglob("*") if file.is_file()]
    found = b"".join(file.read_bytes() for file in kept) + (done.stdout + done.stderr).encode()
    assert PERSON.encode() not in found
    assert b"1234-5678" not in found
    for word in ("printed", "written", "warned of", "logged", "told"):
        assert f"{word} [EMAIL], [PHONE]".encode() in found, word


PHONE = "010-1234-5678"


def raised_by(error: Exception, cause: Exception | None = None) -> Exception:
    @scrubbed
    def step() -> None:
        raise error from cause

    with pytest.raises(Exception) as caught:
        step()
    assert PHONE not in "".join(traceback.format_exception(caught.value))
    return caught.value


def test_an_error_of_ours_keeps_its_kind_and_names_nobody():
    told = raised_by(UnreadableFile(f"x.csv: found {PHONE}"))
    assert (type(told), str(told)) == (UnreadableFile, "x.csv: found [PHONE]")


def test_a_failure_names_nobody_in_its_description_and_its_metadata():
    told = raised_by(dg.Failure(f"found {PHONE}", metadata={"people": f"is {PHONE}", "cases": 3}, allow_retries=False))
    assert isinstance(told, dg.Failure)
    assert (told.description, told.allow_retries) == ("found [PHONE]", False)
    assert {name: value.value for name, value in told.metadata.items()} == {"people": "is [PHONE]", "cases": 3}


def test_what_a_retry_or_an_error_of_ours_was_raised_from_names_nobody():
    told = raised_by(dg.RetryRequested(max_retries=2), PipelineError(f"found {PHONE}"))
    assert (type(told), str(told.__cause__)) == (dg.RetryRequested, "found [PHONE]")
    told = raised_by(PipelineError("away"), ValueError(PHONE))
    assert isinstance(told.__cause__, StepFailed)
