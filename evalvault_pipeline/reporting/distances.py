"""How far apart two sets of vectors are: MMD and PSI with permutation p-values, clusters, a map. Seeded, so repeatable."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from evalvault_pipeline.errors import InvalidSetting

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Whole = NDArray[np.int64]

SEED = 20_260_101
PERMUTATIONS = 999
MOST_CLUSTERS = 8
NEIGHBOURS = 3
LEXICAL_DIMENSIONS = 32
STARTS = 5  # of k-means: the best is kept


def unit(vectors: Floats) -> Floats:
    """Rows of length 1; a row of zeros stays."""
    import numpy as np

    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.where(lengths == 0.0, 1.0, lengths)


def mmd(first: Floats, second: Floats) -> tuple[float, float]:
    """(squared maximum mean discrepancy, p-value by permutation). 0 where the two are of one distribution.

    Gaussian kernel, its width the median distance. Source: Gretton et al., JMLR 13, 2012 (the biased statistic).
    """
    import numpy as np

    pooled = np.vstack([first, second])
    squares = (pooled**2).sum(axis=1)
    distances = np.maximum(squares[:, None] + squares[None, :] - 2.0 * pooled @ pooled.T, 0.0)
    width = float(np.median(distances[np.triu_indices(len(pooled), 1)])) or 1.0
    kernel = np.exp(-distances / width)
    weights = np.concatenate([np.full(len(first), 1.0 / len(first)), np.full(len(second), -1.0 / len(second))])
    generator = np.random.default_rng(SEED)
    shuffled = np.column_stack([weights, *(generator.permutation(weights) for _ in range(PERMUTATIONS))])
    found = np.einsum("ij,ij->j", kernel @ shuffled, shuffled)
    return float(max(found[0], 0.0)), _share_at_least(found)


def neighbours(first: Floats, second: Floats) -> tuple[float, float]:
    """(share of the 3 nearest neighbours of each row that are of its own side, p-value by permutation).

    About the sum of the squared shares of both sides where the two are of one distribution, 1 where they are apart. It sees a
    small new group that a mean hardly moves for. Source: Schilling, JASA 81, 1986.
    """
    import numpy as np

    pooled = np.vstack([first, second])
    similar = pooled @ pooled.T - 0.5 * (pooled**2).sum(axis=1)[None, :]
    np.fill_diagonal(similar, -np.inf)
    count = min(NEIGHBOURS, len(pooled) - 1)
    if count < 1:
        return 0.0, 1.0
    # Equal texts are equally near: the noise draws lots, the same ones every time.
    generator = np.random.default_rng(SEED)
    nearest = np.argpartition(-similar + 1e-9 * generator.random(similar.shape), count - 1, axis=1)[:, :count]
    sides = np.repeat([0, 1], [len(first), len(second)])
    orders = [sides, *(generator.permutation(sides) for _ in range(PERMUTATIONS))]
    found = np.array([(order[nearest] == order[:, None]).mean() for order in orders])
    return float(found[0]), _share_at_least(found)


def psi(first: Whole, second: Whole, clusters: int) -> tuple[float, float]:
    """(population stability index of two lists of cluster numbers, p-value by permutation). 0 where shares are equal.

    PSI = sum over clusters of (share - reference share) * ln(share / reference share); half a case is added to each count,
    so that an empty cluster has a share. Up to 0.1 counts as stable, above 0.25 as shifted (Siddiqi, 2006).
    """
    import numpy as np

    pooled = np.concatenate([first, second])
    generator = np.random.default_rng(SEED)
    orders = [pooled, *(generator.permutation(pooled) for _ in range(PERMUTATIONS))]
    found = np.array([_index(order[: len(first)], order[len(first) :], clusters) for order in orders])
    return float(found[0]), _share_at_least(found)


def _index(first: Whole, second: Whole, clusters: int) -> float:
    import numpy as np

    counts = (np.bincount(side, minlength=clusters) + 0.5 for side in (first, second))
    before, after = (count / count.sum() for count in counts)
    return float(((after - before) * np.log(after / before)).sum())


def _share_at_least(found: Floats) -> float:
    """The first is the observed one and counts as one of its permutations, so no p-value is 0 (Phipson and Smyth, 2010)."""
    return float((found >= found[0] * (1.0 - 1e-9) - 1e-15).mean())


def clustered(vectors: Floats) -> Whole:
    """The cluster of each row, numbered from 0, the largest first: k-means, about as many as the root of half the rows."""
    import numpy as np

    wanted = int(np.clip(np.sqrt(len(vectors) / 2.0), 1, MOST_CLUSTERS))
    distinct = len(np.unique(vectors.round(9), axis=0))
    generator = np.random.default_rng(SEED)
    made = [_kmeans(vectors, min(wanted, distinct), generator) for _ in range(STARTS)]
    labels = min(made, key=lambda one: one[0])[1]
    sizes = np.bincount(labels)
    rank = np.argsort(np.argsort(-sizes, kind="stable"), kind="stable")
    return np.asarray(rank[labels], dtype=np.int64)


def _kmeans(vectors: Floats, count: int, generator: np.random.Generator) -> tuple[float, Whole]:
    """(sum of squared distances to the centres, cluster of each row, numbered without gaps)."""
    import warnings

    import numpy as np
    from scipy.cluster.vq import kmeans2

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # an empty cluster is dropped below
        centres, labels = kmeans2(vectors, count, minit="++", iter=30, seed=generator)
    _, numbered = np.unique(labels, return_inverse=True)
    return float(((vectors - centres[labels]) ** 2).sum()), numbered


def projected(vectors: Floats, dimensions: int = 2) -> Floats:
    """The rows in so many dimensions, those of the largest variance (PCA); narrower vectors are filled with zeros."""
    import numpy as np

    centred = vectors - vectors.mean(axis=0)
    _, _, axes = np.linalg.svd(centred, full_matrices=False)
    signs = np.sign(axes[np.arange(len(axes)), np.abs(axes).argmax(axis=1)])  # a map that is not mirrored at random
    found = centred @ (axes * signs[:, None])[:dimensions].T
    return np.pad(found, ((0, 0), (0, max(dimensions - found.shape[1], 0))))


def require_umap() -> None:
    """Raises InvalidSetting where umap-learn is not installed."""
    if find_spec("umap") is None:
        raise InvalidSetting(
            "EVALVAULT_DRIFT_MAP is `umap`, and umap-learn is not installed. Install it: pip install 'evalvault-pipeline[umap]'"
        )


def umap_projected(vectors: Floats) -> Floats:
    """The rows in two dimensions that keep neighbours together (UMAP). Raises InvalidSetting where it is not installed."""
    import numpy as np

    require_umap()
    from umap import UMAP

    if len(vectors) < 5:
        return projected(vectors)
    neighbours = min(15, len(vectors) - 1)
    made = UMAP(n_neighbors=neighbours, init="pca", random_state=SEED, n_jobs=1).fit_transform(vectors)
    return np.asarray(made, dtype=np.float64)


def lexical_vectors(texts: list[frozenset[str]]) -> Floats:
    """Texts, as sets of tokens, as vectors without a model: weighted by rarity, reduced to 32 dimensions.

    Source: latent semantic analysis (Deerwester et al., 1990).
    """
    import numpy as np
    from scipy.sparse import csr_array
    from scipy.sparse.linalg import svds

    known: dict[str, int] = {}
    cells = [(row, known.setdefault(token, len(known))) for row, text in enumerate(texts) for token in sorted(text)]
    if len(texts) < 3 or len(known) < 3:
        return np.ones((len(texts), 1))
    rows, columns = (np.array(side) for side in zip(*cells, strict=True))
    rarity = np.log((1.0 + len(texts)) / (1.0 + np.bincount(columns))) + 1e-3
    matrix: Any = csr_array((rarity[columns], (rows, columns)), shape=(len(texts), len(known)))
    wide = min(LEXICAL_DIMENSIONS, len(texts) - 1, len(known) - 1)
    left, values, _ = svds(matrix, k=wide, v0=np.ones(min(matrix.shape)))
    return unit(left * np.sqrt(values))  # between whitened and not: the commonest phrases do not drown the topics


def same_distribution(first: list[float], second: list[float]) -> float:
    """p-value of the two-sample Kolmogorov-Smirnov test; 1 where a side has no value."""
    from scipy.stats import ks_2samp

    return float(ks_2samp(first, second).pvalue) if first and second else 1.0
