"""Vectors of texts for the drift report: by the judge's embedding model, kept so that no text is paid twice, or without one."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evalvault_pipeline.errors import JudgeUnavailable
from evalvault_pipeline.scoring.judges import CallFailed, JudgeIdentity
from evalvault_pipeline.scoring.model import Reason
from evalvault_pipeline.scoring.providers import judge_for

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

TEXTS_AT_ONCE = 64


def judge_vectors(texts: Sequence[str], *, identity: JudgeIdentity, folder: Path) -> NDArray[np.float64]:
    """A row for each text, by the judge's embedding model; those of earlier calls are in a file of `folder`.

    Raises JudgeUnavailable.
    """
    import numpy as np

    file = folder / f"{identity.fingerprint(chat=False, embeddings=True).replace('/', '-').replace(':', '-')}.npz"
    known = _kept(file)
    asked = [text if text.strip() else " " for text in texts]
    missing = [text for text in dict.fromkeys(asked) if _digest(text) not in known]
    if missing:
        try:
            vectors = asyncio.run(_asked(missing, identity))
        except CallFailed as failed:
            raise JudgeUnavailable(
                f"The embedding model {identity.spec.embedding_model} gives no vectors: {failed.detail.rstrip('.')}. "
                "`evalvault doctor` checks it."
            ) from None
        known |= {_digest(text): vector for text, vector in zip(missing, vectors, strict=True)}
        _keep(file, known)
    return np.vstack([known[_digest(text)] for text in asked])


async def _asked(texts: Sequence[str], identity: JudgeIdentity) -> list[Any]:
    judge = judge_for(identity.spec)
    await judge.open()
    try:
        found: list[Any] = []
        for start in range(0, len(texts), TEXTS_AT_ONCE):
            some = texts[start : start + TEXTS_AT_ONCE]
            call = judge.embed(some)
            found += (await asyncio.wait_for(call, identity.spec.timeout_seconds)).vectors
        return found
    except TimeoutError:
        raise CallFailed(Reason.TIMEOUT, f"no answer in {identity.spec.timeout_seconds:.0f} s") from None
    finally:
        await judge.close()


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _kept(file: Path) -> dict[str, Any]:
    import numpy as np

    if not file.exists():
        return {}
    with np.load(file) as stored:
        return dict(zip(stored["digests"].tolist(), stored["vectors"].astype(np.float64), strict=True))


def _keep(file: Path, vectors: dict[str, Any]) -> None:
    import numpy as np

    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_name(f".{file.stem}.{os.getpid()}.npz")
    np.savez(temporary, digests=np.array(list(vectors)), vectors=np.vstack(list(vectors.values())).astype(np.float32))
    temporary.replace(file)
