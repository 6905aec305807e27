"""`make bench`: print every table. `python -m benchmarks --cases 10000 --batches 100` for a quick look, `judges` for one."""

from __future__ import annotations

import argparse
import platform
import tempfile
from pathlib import Path

from benchmarks import comparison, judges, large_dataset, partitions, phoenix, redaction

TABLES = ("large", "partitions", "comparison", "redaction", "judges", "phoenix")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("tables", nargs="*", help=f"only some of {', '.join(TABLES)}")
    parser.add_argument("--cases", type=int, default=100_000)
    parser.add_argument("--batches", type=int, default=1_000)
    parser.add_argument("--full", action="store_true", help="also 100,000 cases by a judge, which takes minutes")
    parser.add_argument("--json", type=Path, help="write every figure of the judges to this file")
    options = parser.parse_args()
    unknown = set(options.tables) - set(TABLES)
    if unknown:
        parser.error(f"no table {', '.join(sorted(unknown))}; there are {', '.join(TABLES)}")
    run = {
        "large": lambda folder: large_dataset.run(folder, cases=options.cases),
        "partitions": lambda folder: partitions.run(folder, batches=options.batches),
        "comparison": lambda folder: comparison.run(folder, cases=options.cases),
        "redaction": lambda folder: redaction.run(folder, cases=options.cases),
        "judges": lambda folder: judges.run(folder, full=options.full, save=options.json),
        "phoenix": lambda folder: phoenix.run(folder),
    }
    print(f"{platform.machine()}, Python {platform.python_version()}\n")
    for name in options.tables or TABLES:
        with tempfile.TemporaryDirectory() as folder:
            print(run[name](Path(folder)), end="\n\n", flush=True)


if __name__ == "__main__":
    main()
