"""From two snapshots' results to the drift report in one call: behind the asset in `defs/drift_asset.py`."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

from evalvault_pipeline.errors import InvalidSetting, PipelineError
from evalvault_pipeline.publishing.baselines import Baselines
from evalvault_pipeline.publishing.tables import ResultsFolder, SnapshotResults
from evalvault_pipeline.reporting.distances import lexical_vectors, projected, require_umap, umap_projected
from evalvault_pipeline.reporting.drift import Drift, Side, measure_drift, side_of
from evalvault_pipeline.scoring.embeddings import judge_vectors
from evalvault_pipeline.scoring.judges import judge_spec
from evalvault_pipeline.scoring.korean import choose_tokenizer, topic_words
from evalvault_pipeline.scoring.providers import identify
from evalvault_pipeline.settings import Settings

log = logging.getLogger(__name__)


def drift_of(folder: ResultsFolder, snapshot: str, settings: Settings) -> Drift:
    """A snapshot beside the promoted baseline's, or beside the one before it.

    Where the embedding model does not answer, the vectors are lexical, and the report says so.
    """
    name = _reference(folder, snapshot, settings)
    current = _side(folder, snapshot)
    reference = _side(folder, name) if name else None
    embed, embedder = _embedder(settings)
    project: Callable[[Any], Any] = projected
    notes: list[str] = []
    if settings.drift_map == "umap":
        try:
            require_umap()
            project = umap_projected
        except InvalidSetting as error:
            notes.append(f"{error} The map is drawn by PCA instead.")
            log.warning("%s", notes[0])
    if embed is not None:
        try:
            return measure_drift(
                current, reference, embed=embed, words=topic_words, embedder=embedder, project=project, notes=notes
            )
        except PipelineError as error:  # a wrong key as well: an evaluation does not end for it
            notes.append(f"{error} The vectors are lexical instead.")
            log.warning("%s", notes[-1])
    tokenizer = choose_tokenizer(settings.tokenizer)

    def lexical(texts: Sequence[str]) -> Any:
        return lexical_vectors([tokenizer.content(text) for text in texts])

    named = f"lexical, {tokenizer.name}"
    return measure_drift(current, reference, embed=lexical, words=topic_words, embedder=named, project=project, notes=notes)


def _side(folder: ResultsFolder, snapshot: str) -> Side:
    return side_of(snapshot, SnapshotResults(folder, snapshot))


def _reference(folder: ResultsFolder, snapshot: str, settings: Settings) -> str | None:
    known = folder.snapshots()
    baseline = Baselines(settings.baselines_dir).find(folder.dataset)
    promoted = str(baseline.header["snapshot"]) if baseline else ""
    if promoted != snapshot and promoted in known:
        return promoted
    return max((name for name in known if name < snapshot), default=None)


def _embedder(settings: Settings) -> tuple[Callable[[Sequence[str]], Any] | None, str]:
    spec = judge_spec(settings)
    if spec is None or spec.embedding_model is None:
        return None, ""
    chosen = spec

    def embed(texts: Sequence[str]) -> Any:
        return judge_vectors(texts, identity=identify(chosen), folder=settings.results_dir / "vectors")

    return embed, f"{spec.provider}/{spec.embedding_model}"
