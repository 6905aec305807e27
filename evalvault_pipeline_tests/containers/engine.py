"""A Docker engine of our own, unpacked from Debian's packages, in mount and network namespaces that end with it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

from evalvault_pipeline_tests.containers.debian import CannotRun, CommandFailed, cache_folder, run, suite

ENGINE = ["docker.io", "containerd", "runc", "tini"]
FIREWALL = "iptables libip4tc2 libip6tc2 libnetfilter-conntrack3 libnfnetlink0 libnftnl11 libxtables12".split()
PLUGINS = ["docker-compose", "docker-buildx"]
READY_SECONDS = 60


class Engine:
    """dockerd, from entering to leaving. Without `network` it builds on the machine's network; with it, it has bridges.

    One with bridges must be started within a network namespace of its own (`unshare -n`), else it changes the machine's rules.
    """

    def __init__(self, *, network: bool) -> None:
        self._network = network
        self._folder = cache_folder() / "engine"
        self._programs = _programs()
        self._socket = self._folder / "docker.sock"
        path = f"{self._programs / 'usr/sbin'}:{self._programs / 'usr/bin'}:{os.environ['PATH']}:/usr/sbin:/sbin"
        self.environment = {
            **os.environ,
            "PATH": path,
            "LD_LIBRARY_PATH": str(self._programs / "usr/lib" / f"{os.uname().machine}-linux-gnu"),
            "XTABLES_LIBDIR": str(self._programs / "usr/lib" / f"{os.uname().machine}-linux-gnu" / "xtables"),
            "HOME": str(self._folder / "home"),
            "DOCKER_HOST": f"unix://{self._socket}",
            "DOCKER_BUILDKIT": "1",
            "DOCKER_CONFIG": str(self._folder / "home" / ".docker"),
        }

    def __enter__(self) -> Engine:
        plugins = self._folder / "home" / ".docker" / "cli-plugins"
        shutil.rmtree(plugins, ignore_errors=True)
        shutil.copytree(self._programs / "usr/libexec/docker/cli-plugins", plugins)
        shutil.rmtree(self._folder / "exec", ignore_errors=True)
        places = ["--data-root", "data", "--exec-root", "exec", "-p", "pid"]
        alone = [] if self._network else ["--iptables=false", "--ip6tables=false", "--bridge=none"]
        (self._folder / "pid").unlink(missing_ok=True)
        with (self._folder / "dockerd.log").open("wb") as log:
            self._process = subprocess.Popen(
                [
                    *("unshare", "-m", "--propagation", "private"),
                    *("dockerd", "-H", f"unix://{self._socket}", "--exec-opt", "native.cgroupdriver=cgroupfs"),
                    *(str(self._folder / word) if not word.startswith("-") else word for word in places),
                    *("--init-path", str(self._programs / "usr/bin/tini-static")),
                    *alone,
                ],
                env=self.environment,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        started = time.monotonic()
        while subprocess.run(["docker", "version"], env=self.environment, capture_output=True).returncode:
            if self._process.poll() is not None or time.monotonic() - started > READY_SECONDS:
                told = (self._folder / "dockerd.log").read_text(errors="replace")[-3000:]
                self.__exit__()
                raise CannotRun(f"dockerd did not start:\n{told}")
            time.sleep(0.3)
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait(60)

    def docker(self, *arguments: str | Path, cwd: Path | None = None, check: bool = True, **environment: str) -> str:
        """Output and errors of a docker command. Raises CommandFailed where it fails and `check` is set."""
        command = ["docker", *(str(part) for part in arguments)]
        output, errors = subprocess.PIPE, subprocess.STDOUT
        done = subprocess.run(
            command, cwd=cwd, env={**self.environment, **environment}, stdout=output, stderr=errors, text=True
        )
        if check and done.returncode:
            raise CommandFailed(f"{' '.join(command[:6])} ... ended with {done.returncode}:\n{done.stdout[-4000:]}")
        return done.stdout

    def inspect(self, *names: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads(self.docker("inspect", *names))
        return found


def _programs() -> Path:
    if os.geteuid() != 0:
        raise CannotRun("an engine in namespaces of its own needs root")
    for tool in ("unshare", "ip"):
        if not shutil.which(tool, path=f"{os.environ['PATH']}:/usr/sbin:/sbin"):
            raise CannotRun(f"there is no {tool} (util-linux, iproute2)")
    target = cache_folder() / "programs"
    if not (target / "whole").exists():
        codename = run("sh", "-c", '. /etc/os-release; echo "$VERSION_CODENAME"').strip()
        suite(codename).unpack(target, *ENGINE, *FIREWALL)
        suite("trixie").unpack(target, *PLUGINS)
        for name in ("iptables", "ip6tables"):
            link = target / "usr/sbin" / name
            link.unlink(missing_ok=True)
            link.symlink_to(f"{name}-legacy")
        (target / "whole").touch()
    return target
