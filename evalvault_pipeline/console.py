"""The console that the commands print to."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console


def new_console() -> Console:
    """Standard output as it stands, without colours of rich's own guess; 140 columns where it is no terminal."""
    from rich.console import Console

    class Quiet(Console):
        def on_broken_pipe(self) -> None:
            """The reader, `head` say, has seen enough: the rest goes nowhere, and the work counts."""
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())

    console = Quiet(highlight=False, markup=False)
    return console if console.is_terminal else Quiet(highlight=False, markup=False, width=140)
