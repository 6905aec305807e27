"""`make bench`: print every table. `python -m benchmarks --cases 10000 --batches 100` for a quick look."""

from __future__ import annotations

import argparse
import platform
import tempfile
from pathlib import Path

from benchmarks import large_dataset, partitions


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--cases", type=int, default=100_000)
    parser.add_argument("--batches", type=int, default=1_000)
    options = parser.parse_args()
    print(f"{platform.machine()}, Python {platform.python_version()}\n")
    with tempfile.TemporaryDirectory() as folder:
        print(large_dataset.run(Path(folder), cases=options.cases), end="\n\n", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        print(partitions.run(Path(folder), batches=options.batches), flush=True)


if __name__ == "__main__":
    main()
