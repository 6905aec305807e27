"""Vectors of texts for the drift report: by the judge's embedding model, kept so that no text is paid twice, or without one."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zipfile import BadZipFile

from evalvault_pipeline.errors import JudgeUnavailable
from evalvault_pipeline.scoring.judges import CallFailed, JudgeIdentity
from evalvault_pipeline.scoring.model import Reason
from evalvault_pipeline.scoring.providers import judge_for

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

log = logging.getLogger(__name__)

TEXTS_AT_ONCE = 64


def judge_vectors(texts: Sequence[str], *, identity: JudgeIdentity, folder: Path) -> NDArray[np.float64]:
    """A row for each text, by the judge's embedding model; those of earlier calls are in a file of `folder`.

    Raises JudgeUnavailable.
    """
    import numpy as np

    file = folder / f"{identity.fingerprint(chat=False, embeddings=True).replace('/', '-').replace(':', '-')}.npz"
    known = _kept(file)

    def keep(some: dict[str, Any]) -> None:
        known.update(_kept(file) | some)  # another process may have kept others meanwhile
        _keep(file, known)

    asked = [text if text.strip() else " " for text in texts]
    missing = [text for text in dict.fromkeys(asked) if _digest(text) not in known]
    if missing:
        try:
            asyncio.run(_ask(missing, identity, keep))
        except CallFailed as failed:
            raise JudgeUnavailable(
                f"The embedding model {identity.spec.embedding_model} gives no vectors: {failed.detail.rstrip('.')}. "
                "`evalvault doctor` checks it."
            ) from None
    return np.vstack([known[_digest(text)] for text in asked])


async def _ask(texts: Sequence[str], identity: JudgeIdentity, keep: Callable[[dict[str, Any]], None]) -> None:
    """Ask for the vectors of these texts; `keep` gets those of each call, before the next one may fail."""
    judge = judge_for(identity.spec)
    await judge.open()
    try:
        for start in range(0, len(texts), TEXTS_AT_ONCE):
            some = texts[start : start + TEXTS_AT_ONCE]
            call = judge.embed(some)
            vectors = (await asyncio.wait_for(call, identity.spec.timeout_seconds)).vectors
            keep({_digest(text): vector for text, vector in zip(some, vectors, strict=True)})
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
    try:
        with np.load(file) as stored:
            return dict(zip(stored["digests"].tolist(), stored["vectors"].astype(np.float64), strict=True))
    except (OSError, ValueError, KeyError, BadZipFile, EOFError):
        log.warning("%s is damaged: its texts are embedded again", file)
        return {}


def _keep(file: Path, vectors: dict[str, Any]) -> None:
    import numpy as np

    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_name(f".{file.stem}.{os.getpid()}.npz")
    np.savez(temporary, digests=np.array(list(vectors)), vectors=np.vstack(list(vectors.values())).astype(np.float32))
    temporary.replace(file)
