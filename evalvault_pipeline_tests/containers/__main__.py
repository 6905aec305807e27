"""`python -m evalvault_pipeline_tests.containers`: everything, as root on Debian. `... build`: the image alone, by buildah.

Exit codes: 0 all holds, 1 something does not, 2 it cannot be run here.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

from evalvault_pipeline_tests.containers.buildah import check_build
from evalvault_pipeline_tests.containers.debian import CannotRun, CommandFailed
from evalvault_pipeline_tests.containers.engine import Engine
from evalvault_pipeline_tests.containers.images import build_all
from evalvault_pipeline_tests.containers.stack import Checks, check_stack

INSIDE = ["unshare", "-n", sys.executable, "-m", "evalvault_pipeline_tests.containers", "stack"]


def everything() -> int:
    """Build on the machine's network, then check in a network namespace whose bridges end with it."""
    with Engine(network=False) as engine:
        build_all(engine)
    return subprocess.run(INSIDE).returncode


def stack() -> int:
    subprocess.run(
        ["ip", "link", "set", "lo", "up"], check=True, env={**os.environ, "PATH": f"{os.environ['PATH']}:/sbin:/usr/sbin"}
    )
    checks = Checks()
    with Engine(network=True) as engine:
        check_stack(engine, checks)
    print(f"{checks.count} checks, {checks.count - len(checks.failed)} hold, {len(checks.failed)} failed")
    return 1 if checks.failed else 0


def main() -> int:
    started = time.monotonic()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the engine ends with us
    what = {"all": everything, "stack": stack, "build": check_build}[sys.argv[1] if len(sys.argv) > 1 else "all"]
    try:
        return what()
    except CannotRun as error:
        print(f"cannot run here: {error}", file=sys.stderr)
        return 2
    except CommandFailed as error:
        print(error, file=sys.stderr)
        return 1
    finally:
        print(f"{time.monotonic() - started:.0f} s", flush=True)


if __name__ == "__main__":
    sys.exit(main())
