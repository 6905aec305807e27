"""Scoring by a judge: this package beside ragas and bare loops, all against one latency server (`judge_server.py`).

`python -m benchmarks judges` prints the tables; `python -m benchmarks.judges --only slow --json rows.json` a part of them.
Every row is a fresh process that imports first, then scores faithfulness and answer_relevancy. The calls, their latencies
and the time from the first request to the last answer are what the server counted, the same way for every client.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

from benchmarks.measure import table
from benchmarks.synthetic import write_cases

ROOT = Path(__file__).resolve().parents[1]
METRICS = ("faithfulness", "answer_relevancy")
MODEL, EMBEDDING_MODEL = "gpt-5-mini", "text-embedding-3-small"
OURS, OLLAMA = "evalvault", "evalvault, Ollama's native API"
COLLECTIONS = "ragas 0.4.3, collections metrics and a semaphore"
LEGACY = "ragas 0.4.3, `evaluate()`"
SDK, AIOHTTP = "bare loop, OpenAI SDK", "bare loop, aiohttp and orjson"
LATENCY, SLOW_LATENCY, SLOW_SHARE = 0.2, 2.0, 0.05
SCENARIOS = ("clients", "slow", "rerun", "ollama")


@dataclass(frozen=True)
class Job:
    """What one process does; `rerun` leaves the imports to the scoring, to see what an unchanged run needs."""

    client: str
    file: str
    cases: int
    in_flight: int
    server: str
    folder: str
    rerun: bool = False


@dataclass(frozen=True)
class Scored:
    """What the process says of itself. `cpu` is of the scoring, `import_cpu` of the imports before it, both in seconds."""

    scores: int
    wall: float
    cpu: float
    import_cpu: float
    peak_mb: float
    problem: str = ""


@dataclass(frozen=True)
class Row:
    """A process and what the server counted meanwhile; `process_cpu` is of the whole process, from start to end."""

    job: Job
    scored: Scored
    process_cpu: float
    process_wall: float
    calls: int
    embedding_calls: int
    latencies: float
    span: float
    peak_in_flight: int
    server_cpu: float

    @property
    def ideal(self) -> float:
        """Seconds, had every slot always held a call."""
        return self.latencies / self.job.in_flight

    @property
    def efficiency(self) -> float:
        return self.ideal / self.span if self.span else 0.0

    @property
    def cpu_per_call(self) -> float:
        """Milliseconds."""
        return 1000 * self.scored.cpu / self.calls if self.calls else 0.0

    def figures(self) -> dict[str, Any]:
        return {**asdict(self), "ideal": self.ideal, "efficiency": self.efficiency, "cpu_ms_per_call": self.cpu_per_call}


def run(folder: Path, *, full: bool = False, only: Sequence[str] = SCENARIOS, save: Path | None = None) -> str:
    """Measure and return the section as Markdown; `save` also writes every figure there as JSON."""
    bench = Bench(folder, full=full)
    sections = [getattr(bench, scenario)() for scenario in only]
    if save:
        save.write_text(json.dumps([row.figures() for row in bench.rows], indent=1, ensure_ascii=False), encoding="utf-8")
    return "\n\n".join(
        [
            f"## Scoring by a judge: {' and '.join(METRICS)} against a server that answers after {LATENCY * 1000:.0f} ms",
            *sections,
        ]
    )


class Bench:
    """The scenarios; a row that did not measure everything, raises."""

    def __init__(self, folder: Path, *, full: bool = False) -> None:
        self._folder, self._full = folder, full
        self.rows: list[Row] = []

    def clients(self) -> str:
        with server(latency=LATENCY) as url:
            rows = [self._row(OURS, 1000, 64, url)]
            rows += [self._row(OURS, cases, 256, url) for cases in (1000, 3000)]
            return self._table_of_clients([*rows, *self._peers(url)])

    def peers(self) -> str:
        with server(latency=LATENCY) as url:
            return self._table_of_clients(self._peers(url))

    def _peers(self, url: str) -> list[Row]:
        rows = [self._row(client, 1000, 64, url) for client in (AIOHTTP, SDK)]
        rows += [self._row(client, 200, 64, url) for client in (COLLECTIONS, LEGACY)]
        rows += [self._row(client, 1000, 256, url) for client in (AIOHTTP, SDK)]
        return [*rows, self._row(COLLECTIONS, 200, 256, url)]

    def _table_of_clients(self, rows: list[Row]) -> str:
        rows = sorted(rows, key=lambda row: row.job.in_flight)
        lines = [
            [
                row.job.client,
                str(row.job.in_flight),
                f"{row.job.cases:,}",
                f"{row.calls:,}",
                f"{row.span:.1f} s",
                f"{row.scored.wall:.1f} s",
                f"{row.efficiency:.0%}",
                f"{row.cpu_per_call:.2f} ms",
                f"{row.scored.peak_mb:.0f} MB",
                f"{row.scored.import_cpu:.1f} s",
            ]
            for row in rows
        ]
        header = "client|in flight|cases|LLM calls|scoring|with reading and reporting|efficiency|CPU a call|peak|CPU of imports"
        share = max(1000 * row.server_cpu / (row.calls + row.embedding_calls) for row in rows)
        return "\n\n".join(
            [
                table(header.split("|"), lines),
                "Scoring is from the first request to the last answer, on the server's clock. Efficiency is the sum of the "
                "latencies of the LLM calls / in flight / scoring: 100 % is a call in every slot all the time. Embeddings "
                f"(20 ms) are not in that sum. CPU a call is of the whole process after its imports. The server spent at most "
                f"{share:.2f} ms of the other core on a request. The slower clients got fewer cases. One case costs three LLM "
                "calls where the client asks for three questions in one (`n=3`), else five.",
            ]
        )

    def slow(self) -> str:
        with server(latency=LATENCY, slow_share=SLOW_SHARE, slow_latency=SLOW_LATENCY) as url:
            rows = [self._row(OURS, cases, 64, url) for cases in (1000, 3000)] + [self._row(AIOHTTP, 1000, 64, url)]
        lines = [
            [
                row.job.client,
                f"{row.job.cases:,}",
                f"{row.calls:,}",
                f"{row.span:.1f} s",
                f"{row.ideal:.1f} s",
                f"{row.span / row.ideal:.2f}",
            ]
            for row in rows
        ]
        header = ["client", "cases", "LLM calls", "scoring", "sum of latencies / 64", "ratio"]
        return "\n\n".join(
            [
                f"### {SLOW_SHARE:.0%} of the calls take {SLOW_LATENCY:.0f} s, 64 in flight",
                table(header, lines),
                f"Among the last 64 calls there is nearly always a slow one, and who does not know beforehand which one waits "
                f"{SLOW_LATENCY:.0f} s for it, however few cases there are.",
            ]
        )

    def rerun(self) -> str:
        rows = []
        with server(latency=0, embedding_latency=0) as url:
            rows.append(self._row(OURS, 1000, 64, url))
            store = self._folder / "again"
            rows.append(self._row(OURS, 10_000, 64, url, store=store))
            again = self._row(OURS, 10_000, 64, url, store=store, rerun=True)
            if self._full:
                rows.append(self._row(OURS, 100_000, 64, url))
        if again.calls:
            raise RuntimeError(f"the unchanged run made {again.calls} calls")
        lines = [
            [
                f"{row.job.cases:,}",
                f"{row.calls:,}",
                f"{row.process_wall:.1f} s",
                f"{row.process_cpu:.1f} s",
                f"{row.scored.peak_mb:.0f} MB",
            ]
            for row in (*rows, again)
        ]
        lines[-1][0] += ", the same again: nothing changed"
        ratios = [
            f"{row.job.cases:,} cases take {row.scored.peak_mb / less.scored.peak_mb:.2f} times the memory of {less.job.cases:,}"
            for less, row in pairwise(rows)
        ]
        return "\n\n".join(
            [
                "### A server that answers at once: memory, and a second run",
                table(["cases", "LLM calls", "wall of the process", "CPU of the process", "peak"], lines),
                f"{'; '.join(ratios)}. The whole process, with start and imports.",
            ]
        )

    def ollama(self) -> str:
        with server(latency=LATENCY) as url:
            row = self._row(OLLAMA, 500, 64, url)
        line = [
            f"{row.job.cases:,}",
            f"{row.calls:,}",
            f"{row.span:.1f} s",
            f"{row.efficiency:.0%}",
            f"{row.cpu_per_call:.2f} ms",
        ]
        line.append(f"{row.scored.peak_mb:.0f} MB")
        header = ["cases", "LLM calls", "scoring", "efficiency", "CPU a call", "peak"]
        return f"### Ollama's native API, 64 in flight\n\n{table(header, [line])}"

    def _row(self, client: str, cases: int, in_flight: int, url: str, *, store: Path | None = None, rerun: bool = False) -> Row:
        folder = store or self._folder / str(len(self.rows))
        folder.mkdir(exist_ok=True)
        job = Job(client, str(self._cases(cases)), cases, in_flight, url, str(folder), rerun)
        if client in (SDK, AIOHTTP):
            self._write_prompts()
        _call(url, "/reset", b"{}")
        before, started = _cpu(resource.RUSAGE_CHILDREN), time.monotonic()
        output = _process(json.dumps(asdict(job)))
        wall, cpu = time.monotonic() - started, _cpu(resource.RUSAGE_CHILDREN) - before
        scored, counted = Scored(**json.loads(output.splitlines()[-1])), _call(url, "/stats")
        if scored.scores != cases * len(METRICS):
            raise RuntimeError(f"{client} measured {scored.scores} of {cases * len(METRICS)} scores: {scored.problem}")
        row = Row(
            job=job,
            scored=scored,
            process_cpu=cpu,
            process_wall=wall,
            calls=counted["chat_calls"],
            embedding_calls=counted["embedding_calls"],
            latencies=counted["latency_seconds_sum"],
            span=counted["span_seconds"],
            peak_in_flight=counted["peak_in_flight"],
            server_cpu=counted["cpu_seconds"],
        )
        self.rows.append(row)
        return row

    def _cases(self, count: int) -> Path:
        """Synthetic cases, each with a question and an answer of its own, so that no client can spare a call."""
        file, plain = self._folder / f"cases-{count}.jsonl", self._folder / "plain.jsonl"
        if not file.exists():
            write_cases(plain, count)
            with plain.open(encoding="utf-8") as rows, file.open("w", encoding="utf-8") as lines:
                for number, row in enumerate(rows):
                    case = json.loads(row)
                    case["question"] = f"접수번호 {number:06d}: {case['question']}"
                    case["answer"] = f"접수번호 {number:06d}: {case['answer']}"
                    lines.write(json.dumps(case, ensure_ascii=False) + "\n")
            plain.unlink()
        return file

    def _write_prompts(self) -> None:
        file = self._folder / "prompts.json"
        if not file.exists():
            file.write_text(_process("prompts").splitlines()[-1], encoding="utf-8")


@contextmanager
def server(
    *, latency: float, embedding_latency: float = 0.02, slow_share: float = 0.0, slow_latency: float = 0.0
) -> Iterator[str]:
    """The latency server in a process of its own; gives its address."""
    options = {
        "latency": latency,
        "embedding-latency": embedding_latency,
        "slow-share": slow_share,
        "slow-latency": slow_latency,
    }
    arguments = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    command = [sys.executable, "-m", "benchmarks.judge_server", *arguments]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout
        yield f"http://127.0.0.1:{int(process.stdout.readline())}"
    finally:
        process.terminate()
        process.wait()


def _call(url: str, path: str, body: bytes | None = None) -> dict[str, Any]:
    with urlopen(Request(url + path, data=body)) as answer:
        return json.load(answer)


def _process(argument: str) -> str:
    """Run `argument` in a fresh process without the settings of this one; its output."""
    ours = ("EVALVAULT_", "OPENAI_", "OLLAMA_")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    environment["RAGAS_DO_NOT_TRACK"] = "true"
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.judges", "--process", argument]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{argument} failed:\n{done.stderr[-4000:]}")
    return done.stdout


def _cpu(*who: int) -> float:
    used = [resource.getrusage(each) for each in who or (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


# What runs in a process of its own. A client imports when it is called, and returns what scores.

Score = Callable[[], tuple[int, str]]


def _in_process(argument: str) -> None:
    if argument == "prompts":
        print(json.dumps(_prompts(), ensure_ascii=False))
        return
    job = Job(**json.loads(argument))
    before = _cpu()
    score = CLIENTS[job.client](job)
    imported, started = _cpu(), time.monotonic()
    scores, problem = score()
    wall, cpu = time.monotonic() - started, _cpu() - imported
    status = Path("/proc/self/status").read_text()
    peak = int(status.partition("VmHWM:")[2].split()[0]) / 1024
    print(json.dumps(asdict(Scored(scores, wall, cpu, imported - before, peak, problem))))


def _ours(job: Job) -> Score:
    from evalvault_pipeline.evaluate import evaluate_file
    from evalvault_pipeline.settings import load_settings

    if not job.rerun:
        import ragas.metrics.collections  # noqa: F401

    folder = Path(job.folder)
    judge = (
        {"EVALVAULT_PROFILE": "dev", "OLLAMA_BASE_URL": job.server}
        if job.client == OLLAMA
        else {"EVALVAULT_PROFILE": "openai", "OPENAI_BASE_URL": f"{job.server}/v1", "OPENAI_API_KEY": "bench"}
    )
    settings = load_settings(
        folder,
        **judge,
        EVALVAULT_MAX_CONCURRENCY=str(job.in_flight),
        EVALVAULT_STORE_URL=f"sqlite:///{folder / 'scores.sqlite'}",
        EVALVAULT_RESULTS_DIR=str(folder / "results"),
    )

    def score() -> tuple[int, str]:
        with evaluate_file(Path(job.file), settings=settings, metrics=list(METRICS)) as report:
            return report.measured_scores, "; ".join(report.unmeasured_details[:3])

    return score


def _collections(job: Job) -> Score:
    import instructor
    from openai import AsyncOpenAI
    from ragas.embeddings import OpenAIEmbeddings
    from ragas.llms.base import InstructorLLM
    from ragas.metrics.collections import AnswerRelevancy, Faithfulness

    async def score() -> int:
        client = AsyncOpenAI(base_url=f"{job.server}/v1", api_key="bench")
        llm = InstructorLLM(
            client=instructor.from_openai(client, mode=instructor.Mode.JSON_SCHEMA), model=MODEL, provider="openai"
        )
        faithfulness = Faithfulness(llm=llm)
        relevancy = AnswerRelevancy(llm=llm, embeddings=OpenAIEmbeddings(client=client, model=EMBEDDING_MODEL))
        work = []
        for case in _read(job):
            asked = {"user_input": case["question"], "response": case["answer"]}
            work += [
                lambda asked=asked, case=case: faithfulness.ascore(**asked, retrieved_contexts=case["contexts"]),
                lambda asked=asked: relevancy.ascore(**asked),
            ]
        return sum(int(result.value is not None) for result in await _limited(work, job.in_flight))

    return lambda: (asyncio.run(score()), "")


def _legacy(job: Job) -> Score:
    from langchain_openai import ChatOpenAI, OpenAIEmbeddings
    from ragas import EvaluationDataset, RunConfig, evaluate
    from ragas.embeddings import LangchainEmbeddingsWrapper
    from ragas.llms import LangchainLLMWrapper
    from ragas.metrics import answer_relevancy, faithfulness

    def score() -> tuple[int, str]:
        url = f"{job.server}/v1"
        embeddings = OpenAIEmbeddings(base_url=url, api_key="bench", model=EMBEDDING_MODEL, check_embedding_ctx_length=False)
        rows = [
            {"user_input": case["question"], "response": case["answer"], "retrieved_contexts": case["contexts"]}
            for case in _read(job)
        ]
        result = evaluate(
            EvaluationDataset.from_list(rows),
            metrics=[faithfulness, answer_relevancy],
            llm=LangchainLLMWrapper(ChatOpenAI(base_url=url, api_key="bench", model=MODEL)),
            embeddings=LangchainEmbeddingsWrapper(embeddings),
            run_config=RunConfig(max_workers=job.in_flight),
            show_progress=False,
            raise_exceptions=True,
        )
        return sum(int(value == value) for row in result.scores for value in row.values()), ""

    return score


# A bare loop sends what ragas would, three questions in one call, and keeps one number a score.

Post = Callable[[str, dict[str, Any]], Coroutine[Any, Any, Any]]


def _bare_sdk(job: Job) -> Score:
    from openai import AsyncOpenAI

    async def score() -> int:
        async with AsyncOpenAI(base_url=f"{job.server}/v1", api_key="bench") as client:

            async def post(path: str, body: dict[str, Any]) -> Any:
                if path == "embeddings":
                    return [item.embedding for item in (await client.embeddings.create(**body)).data]
                completion = await client.chat.completions.create(**body)
                return [choice.message.content for choice in completion.choices]

            return await _bare(job, post, json.loads)

    return lambda: (asyncio.run(score()), "")


def _bare_aiohttp(job: Job) -> Score:
    import aiohttp
    import orjson

    async def score() -> int:
        headers = {"authorization": "Bearer bench", "content-type": "application/json"}
        async with aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0), cookie_jar=aiohttp.DummyCookieJar(), headers=headers
        ) as session:

            async def post(path: str, body: dict[str, Any]) -> Any:
                async with session.post(f"{job.server}/v1/{path}", data=orjson.dumps(body)) as response:
                    answer = orjson.loads(await response.read())
                if path == "embeddings":
                    return [item["embedding"] for item in answer["data"]]
                return [choice["message"]["content"] for choice in answer["choices"]]

            return await _bare(job, post, orjson.loads)

    return lambda: (asyncio.run(score()), "")


async def _bare(job: Job, post: Post, loads: Callable[[str], Any]) -> int:
    prompts = json.loads((Path(job.folder).parent / "prompts.json").read_text(encoding="utf-8"))

    async def ask(kind: str, given: dict[str, Any], n: int = 1) -> list[Any]:
        head, schema = prompts[kind]
        content = f"{head}{json.dumps(given, indent=4, ensure_ascii=False)}\nOutput: "
        body = {
            "model": MODEL,
            "messages": [{"role": "user", "content": content}],
            "n": n,
            "response_format": {"type": "json_schema", "json_schema": {"name": kind, "schema": schema}},
        }
        return [loads(answer) for answer in await post("chat/completions", body)]

    async def faithfulness(case: dict[str, Any]) -> float:
        asked = {"question": case["question"], "answer": case["answer"]}
        statements = (await ask("StatementGeneratorOutput", asked))[0]["statements"]
        given = {"context": "\n".join(case["contexts"]), "statements": statements}
        verdicts = (await ask("NLIStatementOutput", given))[0]["statements"]
        return sum(verdict["verdict"] for verdict in verdicts) / len(verdicts)

    async def relevancy(case: dict[str, Any]) -> float:
        made = await ask("AnswerRelevanceOutput", {"response": case["answer"]}, n=3)
        texts = [case["question"], *[each["question"] for each in made]]
        asked, *others = await post("embeddings", {"model": EMBEDDING_MODEL, "input": texts})
        return sum(sum(a * b for a, b in zip(asked, other, strict=True)) for other in others) / len(others)

    work = [lambda each=each, case=case: each(case) for case in _read(job) for each in (faithfulness, relevancy)]
    return len(await _limited(work, job.in_flight))


async def _limited(work: Sequence[Callable[[], Coroutine[Any, Any, Any]]], limit: int) -> list[Any]:
    slots = asyncio.Semaphore(limit)

    async def one(start: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
        async with slots:
            return await start()

    return await asyncio.gather(*map(one, work))


def _read(job: Job) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(job.file).read_text(encoding="utf-8").splitlines()]


def _prompts() -> dict[str, tuple[str, Any]]:
    """By the name of the answer: ragas's prompt up to the input, and the schema of the answer."""
    from ragas.metrics.collections.answer_relevancy import util as relevancy
    from ragas.metrics.collections.faithfulness import util as faithfulness

    filled = (
        (faithfulness.StatementGeneratorPrompt(), faithfulness.StatementGeneratorInput(question="", answer="")),
        (faithfulness.NLIStatementPrompt(), faithfulness.NLIStatementInput(context="", statements=[])),
        (relevancy.AnswerRelevancePrompt(), relevancy.AnswerRelevanceInput(response="")),
    )
    return {
        prompt.output_model.__name__: (
            prompt.to_string(given).rpartition(given.model_dump_json(indent=4))[0],
            prompt.output_model.model_json_schema(),
        )
        for prompt, given in filled
    }


CLIENTS: dict[str, Callable[[Job], Score]] = {
    OURS: _ours,
    OLLAMA: _ours,
    COLLECTIONS: _collections,
    LEGACY: _legacy,
    SDK: _bare_sdk,
    AIOHTTP: _bare_aiohttp,
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.judges", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--full", action="store_true", help="also 100,000 cases, which takes minutes")
    parser.add_argument(
        "--only", nargs="+", help="peers: the clients without this package", choices=(*SCENARIOS, "peers"), default=SCENARIOS
    )
    parser.add_argument("--json", type=Path, help="write every figure to this file")
    parser.add_argument("--process", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.process:
        _in_process(options.process)
        return
    with tempfile.TemporaryDirectory() as folder:
        print(run(Path(folder), full=options.full, only=options.only, save=options.json))


if __name__ == "__main__":
    main()
