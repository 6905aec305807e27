"""A judge in this process: a GGUF file run by llama.cpp (`xllamacpp`, extra `local-judge`). No server, no key.

Chat and embeddings are two models, each loaded when it is first asked; calls run in threads, as many at once as the model
has slots.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evalvault_pipeline.errors import JudgeMisconfigured
from evalvault_pipeline.scoring.judges import (
    TEMPERATURE,
    TOP_P,
    Answer,
    CallFailed,
    Embeddings,
    Judge,
    JudgeSpec,
    Message,
    Reply,
    Shape,
)
from evalvault_pipeline.scoring.model import Reason

if TYPE_CHECKING:
    import xllamacpp

TOO_LONG = re.compile(r"context size|physical batch size")


class GgufJudge(Judge):
    """Chat and embeddings by llama.cpp in process."""

    def __init__(self, spec: JudgeSpec) -> None:
        super().__init__(spec)
        self.several_replies = spec.max_concurrency >= 3  # llama.cpp gives as many replies to one call as it has slots
        self._threads = ThreadPoolExecutor(spec.max_concurrency, thread_name_prefix="gguf")
        self._chat: xllamacpp.Server | None = None
        self._embed: xllamacpp.Server | None = None

    async def open(self) -> None:
        loop = asyncio.get_running_loop()
        if self.spec.model_path is not None:
            self._chat = await loop.run_in_executor(self._threads, _load, self.spec.model_path, self.spec, False)
        if self.spec.embedding_path is not None:
            self._embed = await loop.run_in_executor(self._threads, _load, self.spec.embedding_path, self.spec, True)

    async def close(self) -> None:
        self._chat = self._embed = None
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def chat(self, messages: Sequence[Message], shape: Shape, *, n: int, max_tokens: int, seed: int) -> Answer:
        assert self._chat is not None, "the judge is not open"
        wanted = {
            "messages": [{"role": role, "content": text} for role, text in messages],
            "n": n,
            "max_tokens": max_tokens,
            "temperature": TEMPERATURE,
            "top_p": TOP_P,
            "seed": seed,
            "response_format": {"type": "json_schema", "json_schema": {"name": shape.name, "schema": shape.schema}},
        }
        body = await self._answered(self._chat.handle_chat_completions, wanted)
        usage = body.get("usage") or {}
        replies = tuple(
            Reply(choice["message"].get("content") or "", choice.get("finish_reason") == "length") for choice in body["choices"]
        )
        prompt_tokens, completion_tokens = usage.get("prompt_tokens") or 0, usage.get("completion_tokens") or 0
        if completion_tokens < max_tokens * sum(reply.cut for reply in replies):
            raise CallFailed(
                Reason.TRUNCATED,
                f"the prompt of {prompt_tokens} tokens leaves no room for the answer (OLLAMA_NUM_CTX is {self.spec.num_ctx}; "
                "raise it)",
            )
        return Answer(replies, prompt_tokens, completion_tokens)

    async def embed(self, texts: Sequence[str]) -> Embeddings:
        import numpy as np

        if self._embed is None:
            raise CallFailed(Reason.JUDGE_ERROR, "no embedding model is loaded. Set EVALVAULT_EMBEDDING_GGUF.", fatal=True)
        body = await self._answered(self._embed.handle_embeddings, {"input": list(texts)})
        vectors = [np.asarray(item["embedding"], dtype=np.float64) for item in body["data"]]
        return Embeddings(vectors, (body.get("usage") or {}).get("prompt_tokens") or 0)

    async def _answered(self, handle: Any, wanted: Mapping[str, Any]) -> dict[str, Any]:
        body = await asyncio.get_running_loop().run_in_executor(self._threads, handle, wanted)
        if isinstance(body, str | bytes):
            body = json.loads(body)
        if error := body.get("error"):
            message = str(error.get("message", error))
            if TOO_LONG.search(message) or error.get("type") == "exceed_context_size_error":
                limit = self.spec.num_ctx
                raise CallFailed(Reason.TRUNCATED, f"{message[:200]} (OLLAMA_NUM_CTX is {limit}; raise it)")
            raise CallFailed(Reason.JUDGE_ERROR, f"llama.cpp failed: {message[:200]}", retry=error.get("code", 500) >= 500)
        return dict(body)


def _load(path: Path, spec: JudgeSpec, embedding: bool) -> xllamacpp.Server:
    try:
        import xllamacpp
    except ModuleNotFoundError:
        raise JudgeMisconfigured(
            "Profile gguf needs xllamacpp, which is not installed. Install it: pip install 'evalvault-pipeline[local-judge]'"
        ) from None
    params = xllamacpp.CommonParams()
    params.model.path = str(path)
    # One slot for many texts of a call: with a number of slots that is no power of two, mean pooling fails an assertion of
    # llama.cpp, which ends the process.
    slots = 1 if embedding else spec.max_concurrency
    params.n_parallel = slots
    params.n_ctx = spec.num_ctx * slots  # shared by the slots
    params.embedding = embedding
    if embedding:
        params.n_batch = params.n_ubatch = spec.num_ctx  # a text is embedded in one piece; 512 tokens unless told
    params.hostnames = ["127.0.0.1"]
    params.port = 0
    params.verbosity = -1
    # Its threads wait for each other by spinning: with one for every core, any other work on the machine slows each token.
    threads = max((os.cpu_count() or 2) - 1, 1)
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
    try:
        server = xllamacpp.Server(params)
    except (RuntimeError, OSError) as error:
        raise JudgeMisconfigured(
            f"{path} cannot be loaded as a GGUF model: {str(error).rstrip('.')}. Name another file."
        ) from None
    # One that is closed before its loop has begun never ends: llama.cpp forgets that it was told to.
    if embedding:
        server.handle_embeddings({"input": ["a"]})
    else:
        server.handle_completions({"prompt": "a", "max_tokens": 1})
    return server
