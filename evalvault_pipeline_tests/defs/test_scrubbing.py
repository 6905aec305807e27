"""A step that leaks a key and a phone everywhere leaves them nowhere: not in the event log, the compute logs, or the output of the process."""

from __future__ import annotations

from pathlib import Path

from evalvault_pipeline_tests.stack import UserProject

CANARY = "canary-4f9a81c2-0d7e"
PHONE = "010-8417-2093"
LEAKS = """
import logging, os, sys, warnings
import dagster as dg
import evalvault_pipeline.definitions
from evalvault_pipeline.defs.scrubbing import scrubbed

key = os.environ["OPENAI_API_KEY"] + " 010-8417" + "-2093"

@dg.op
@scrubbed
def leak(context: dg.OpExecutionContext) -> None:
    print("printed", key)
    sys.stderr.write("written " + key + "\\n")
    warnings.warn("warned of " + key)
    logging.getLogger("evalvault_pipeline.x").warning("logged %s", key)
    context.log.info(f"told {key}")
    try:
        raise ValueError("inner " + key)
    except ValueError as error:
        raise RuntimeError("outer " + key) from error

@dg.job(executor_def=dg.in_process_executor)
def leaking_job():
    leak()

defs = dg.Definitions(jobs=[leaking_job])
"""


def test_a_key_and_a_phone_that_are_leaked_everywhere_are_found_nowhere(tmp_path: Path) -> None:
    user = UserProject(tmp_path / "project", OPENAI_API_KEY=CANARY)
    (user.folder / "leaks.py").write_text(LEAKS, encoding="utf-8")
    done = user.run("dagster", "job", "execute", "-f", "leaks.py", "-j", "leaking_job", check=False)
    assert done.returncode == 1
    kept = [file for file in (user.folder / "data" / ".dagster").rglob("*") if file.is_file()]
    found = b"".join(file.read_bytes() for file in kept) + (done.stdout + done.stderr).encode()
    assert CANARY.encode() not in found
    assert CANARY[-8:].encode() not in found
    assert PHONE.encode() not in found
    for word in ("printed", "written", "logged", "told", "outer", "inner"):
        assert f"{word} [SECRET] [PHONE]".encode() in found, word
