"""A real Postgres server on loopback, with a password, in a folder of its own."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import sqlalchemy as sa

from evalvault_pipeline_tests.stack import free_port, wait_for

PASSWORD = "a word of the test"


@dataclass(frozen=True)
class Server:
    port: int

    def url(self, database: str) -> str:
        return f"postgresql://evalvault:{PASSWORD.replace(' ', '%20')}@127.0.0.1:{self.port}/{database}"

    def create(self, database: str) -> str:
        engine = sa.create_engine(
            self.url("postgres").replace("postgresql:", "postgresql+psycopg2:"), isolation_level="AUTOCOMMIT"
        )
        with engine.connect() as connection:
            connection.execute(sa.text(f"CREATE DATABASE {database}"))
        engine.dispose()
        return self.url(database)


@contextmanager
def running_postgres(folder: Path) -> Iterator[Server]:
    """Skips the test where no Postgres is installed."""
    programs = [Path(found).parent for name in ("initdb",) if (found := shutil.which(name))]
    programs += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    if not programs:
        pytest.skip("no Postgres server is installed (Debian: apt-get install postgresql)")
    as_owner: Callable[[], None] | None = None
    if os.geteuid() == 0:  # Postgres refuses to run as root
        owner = pwd.getpwnam("postgres")
        for path in (folder, *list(folder.parents)[:3]):
            if not path.stat().st_mode & 0o001:  # pytest's folders, three deep beside pytest-xdist, are root's alone
                path.chmod(0o755)
        os.chown(folder, owner.pw_uid, owner.pw_gid)

        def as_owner() -> None:
            os.setgid(owner.pw_gid)
            os.setuid(owner.pw_uid)

    word = folder / "word"
    word.write_text(PASSWORD, encoding="utf-8")
    word.chmod(0o644)
    port, data = free_port(), folder / "data"
    environment = {"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8"}
    init = [programs[0] / "initdb", "-D", data, "-U", "evalvault", "-A", "scram-sha-256", f"--pwfile={word}", "--no-sync"]
    subprocess.run(init, check=True, capture_output=True, preexec_fn=as_owner, env=environment, cwd=folder)
    options = ["-D", data, "-p", str(port), "-c", "listen_addresses=127.0.0.1", "-k", folder, "-c", "fsync=off"]
    log = (folder.parent / "postgres.log").open("wb")
    server = subprocess.Popen(
        [programs[0] / "postgres", *options], stdout=log, stderr=log, preexec_fn=as_owner, env=environment, cwd=folder
    )
    found = Server(port)
    engine = sa.create_engine(found.url("postgres").replace("postgresql:", "postgresql+psycopg2:"))

    def answers() -> bool:
        try:
            with engine.connect():
                return True
        except sa.exc.OperationalError:
            return False

    try:
        wait_for(answers, seconds=30)
        yield found
    finally:
        engine.dispose()
        server.terminate()
        server.wait(timeout=30)
