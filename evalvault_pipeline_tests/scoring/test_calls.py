"""The pool of calls, alone with a judge that stands in for every provider."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from evalvault_pipeline.scoring.calls import CallPool, Patience, Scope
from evalvault_pipeline.scoring.journal import Journal
from evalvault_pipeline.scoring.judges import Answer, CallFailed, Embeddings, Judge, JudgeSpec, Reply, Shape
from evalvault_pipeline.scoring.model import Reason
from evalvault_pipeline.scoring.usage import Budget, Spending

SHAPE = Shape(name="s", schema={}, schema_json=b"{}", parse=json.loads)
IMPATIENT = Patience(wait_min=0.01, wait_max=0.02, least_deadline=0.1)


class Scripted(Judge):
    """Says what it is given, one list of replies a call; nothing at all where the list is at its end."""

    def __init__(self, answers: Sequence[Sequence[str]], *, several: bool = False, **spec: Any) -> None:
        super().__init__(JudgeSpec(provider="openai", model="m", embedding_model="e", timeout_seconds=0.4, **spec))
        self.several_replies = several
        self.answers = list(answers)

    async def open(self) -> None: ...

    async def close(self) -> None: ...

    async def chat(self, *_: Any, n: int, **__: Any) -> Answer:
        if not self.answers:
            await asyncio.sleep(1e6)
        return Answer(tuple(Reply(text) for text in self.answers.pop(0)), 100, 30)

    async def embed(self, texts: Sequence[str]) -> Embeddings:
        return Embeddings([np.ones(2)] * len(texts), 1)


def pool(judge: Judge, journal: Journal) -> CallPool:
    return CallPool(judge, spending=Spending(Budget(), None, None), journal=journal, patience=IMPATIENT)


@pytest.mark.parametrize("embeds", [False, True])
def test_a_chat_model_that_hangs_ends_the_run_although_the_embedding_model_answers(embeds: bool, tmp_path: Path):
    async def run() -> bool:
        judge = Scripted([["{}"]] * 9, max_concurrency=4)
        with Journal(tmp_path) as journal:
            calls = pool(judge, journal)
            await calls.open()

            async def embed() -> None:
                while embeds:
                    await calls.embed(["x"])
                    await asyncio.sleep(0.02)

            embedding = asyncio.create_task(embed())

            async def ask(number: int) -> None:
                if calls.broken is None:
                    with contextlib.suppress(CallFailed):
                        await calls.ask(f"p{number}", SHAPE, Scope("d m 0", "j"))

            for start in range(0, 240, 12):
                await asyncio.gather(*(ask(number) for number in range(start, start + 12)))
            embedding.cancel()
            await calls.close()
            return calls.broken is not None

    assert asyncio.run(run())


def test_good_replies_of_a_call_are_kept_where_one_is_beyond_repair(tmp_path: Path):
    """Three in one call: two are paid and good, so the next run asks for the third only."""

    async def run(answers: list[list[str]]) -> tuple[int, list[Any] | Reason]:
        judge = Scripted(answers, several=True)
        with Journal(tmp_path) as journal:
            calls = pool(judge, journal)
            await calls.open()
            try:
                found: list[Any] | Reason = await calls.ask("p", SHAPE, Scope("d m 0", "j"), n=3)
            except CallFailed as failed:
                found = failed.reason
            await calls.close()
            return len(answers) - len(judge.answers), found

    assert asyncio.run(run([["1", "bad", "3"], ["bad again"]])) == (2, Reason.UNPARSABLE)
    assert Journal.paid(tmp_path)["d m 0"].calls == 2
    assert asyncio.run(run([["2"]])) == (1, [1, 2, 3])
