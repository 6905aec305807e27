"""Log lines of the command line: one format, on standard error."""

from __future__ import annotations

import logging

FORMAT = "%(asctime)s - %(name)s - %(levelname)s - %(message)s"


def configure_logging(*, verbose: bool) -> None:
    """Log INFO and above with `verbose`, otherwise warnings only."""
    logging.basicConfig(level=logging.INFO if verbose else logging.WARNING, format=FORMAT)
