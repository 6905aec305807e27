"""A real Postgres server on loopback, of the machine's own package, in a folder of the test."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Self

import pytest
import sqlalchemy as sa

from evalvault_pipeline_tests.stack import children_of, free_port, wait_for

PASSWORD = "a word of the test"
USER = "evalvault"


class PostgresServer:
    """`kill` is SIGKILL for the server and all its processes; `start` begins again on the same port and data.

    Its log is `<folder>.log`.
    """

    def __init__(self, folder: Path) -> None:
        programs = [Path(found).parent for name in ("initdb",) if (found := shutil.which(name))]
        programs += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
        if not programs:
            pytest.skip("no Postgres server is installed (Debian: apt-get install postgresql)")
        self._programs, self.port = programs[0], free_port()
        # Not below pytest's folders: each session of pytest closes those of all to whom the server runs as.
        self._folder = Path(tempfile.mkdtemp(prefix="postgres-"))
        self._data, self._log = self._folder / "data", folder.parent / f"{folder.name}.log"
        self._environment = {"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8"}
        self._as_owner: Callable[[], None] | None = None
        self._process: subprocess.Popen[bytes] | None = None
        if os.geteuid() == 0:  # Postgres refuses to run as root
            self._give_away()
        word = self._folder / "word"
        word.write_text(PASSWORD, encoding="utf-8")
        word.chmod(0o644)
        self._run("initdb", "-D", self._data, "-U", USER, "-A", "scram-sha-256", f"--pwfile={word}", "--no-sync")

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        options = ["-D", self._data, "-p", str(self.port), "-c", "listen_addresses=127.0.0.1", "-k", self._folder]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [self._programs / "postgres", *options, "-c", "fsync=off"],
                stdout=log,
                stderr=log,
                preexec_fn=self._as_owner,
                env=self._environment,
                cwd=self._folder,
            )
        wait_for(self._answers, seconds=30, what=lambda: self._log.read_text(errors="replace")[-3000:])

    def stop(self) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGINT)  # ends sessions, as a service manager does
            self._process.wait(timeout=30)
        shutil.rmtree(self._folder)

    def kill(self) -> None:
        assert self._process is not None
        for process in (self._process.pid, *children_of(self._process.pid)):  # each is the leader of a group of its own
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        self._process.wait()

    def url(self, database: str) -> str:
        return f"postgresql://{USER}:{PASSWORD.replace(' ', '%20')}@127.0.0.1:{self.port}/{database}"

    def create(self, database: str) -> str:
        self.execute("postgres", f"CREATE DATABASE {database}")
        return self.url(database)

    def execute(self, database: str, statement: str) -> list[sa.Row[tuple[object, ...]]]:
        """The rows of a statement, if it has any."""
        url = self.url(database).replace("postgresql:", "postgresql+psycopg2:")
        engine = sa.create_engine(url, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)
        with engine.connect() as connection:
            done = connection.execute(sa.text(statement))
            return list(done.all()) if done.returns_rows else []

    def variables(self, database: str) -> dict[str, str]:
        """The environment in which Dagster keeps its runs here."""
        named = {"HOST": "127.0.0.1", "PORT": str(self.port), "USER": USER, "PASSWORD": PASSWORD, "DB": database}
        return {f"DAGSTER_PG_{name}": value for name, value in named.items()}

    def _answers(self) -> bool:
        try:
            self.execute("postgres", "SELECT 1")
        except sa.exc.OperationalError:
            return False
        return True

    def _give_away(self) -> None:
        owner = pwd.getpwnam("postgres")
        os.chown(self._folder, owner.pw_uid, owner.pw_gid)

        def as_owner() -> None:
            os.setgid(owner.pw_gid)
            os.setuid(owner.pw_uid)

        self._as_owner = as_owner

    def _run(self, program: str, *arguments: object) -> None:
        subprocess.run(
            [self._programs / program, *map(str, arguments)],
            check=True,
            capture_output=True,
            preexec_fn=self._as_owner,
            env=self._environment,
            cwd=self._folder,
        )
