"""Score RAG answers in batches, compare them with a baseline, and know whether they got worse."""

__version__ = "0.1.0"
