"""Known vulnerabilities of what is locked, by pip-audit; where its service does not answer, that is said, and is no pass.

pip-audit ends with 0 and "No known vulnerabilities found" when its service knows none of the packages, or cannot be
reached behind a mirror. So its exit code is not asked; what it could look up is counted.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

SECONDS = 600


@dataclass(frozen=True, kw_only=True)
class Audited:
    """`found`: vulnerabilities, one sentence each; `ignored`: those that the policy passes over; `skipped`: what could not
    be looked up; `why`: of nothing, where pip-audit itself failed."""

    lock: str
    looked_up: int
    found: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()
    skipped: tuple[str, ...] = ()
    why: str = ""

    @property
    def line(self) -> str:
        """What was audited, and what was not, in one line."""
        if not self.looked_up:
            reason = self.why or "the advisory service does not answer, or knows none of the packages"
            return f"{self.lock}: NOT AUDITED for known vulnerabilities: {reason}"
        said = f"{self.lock}: {self.looked_up} packages looked up, {len(self.found)} known vulnerabilities"
        if self.ignored:
            said += f", {len(self.ignored)} ignored by audit/policy.toml"
        if self.skipped:
            some = ", ".join(self.skipped[:5]) + (", ..." if len(self.skipped) > 5 else "")
            said += f"; COULD NOT BE AUDITED: {len(self.skipped)} packages ({some})"
        return said


def audited(lock: Path, *, ignored: Sequence[Mapping[str, Any]], today: date, osv_url: str | None = None) -> Audited:
    """Ask the service of pip-audit (PyPI; with `osv_url` a server that speaks OSV's API) about a lock file."""
    service = ["--vulnerability-service", "osv", "--osv-url", osv_url] if osv_url else []
    command = [sys.executable, "-m", "pip_audit", "--requirement", str(lock), "--require-hashes", "--disable-pip"]
    command += ["--format", "json", "--progress-spinner", "off", *service]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS)  # noqa: S603  no shell
    except subprocess.TimeoutExpired:
        return Audited(lock=lock.name, looked_up=0, why=f"no answer within {SECONDS} s")
    try:
        packages = json.loads(done.stdout)["dependencies"]
    except (ValueError, KeyError):
        last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        return Audited(lock=lock.name, looked_up=0, why=f"pip-audit ended with {done.returncode}: {last[:300]}")
    return _of(lock.name, packages, ignored=ignored, today=today)


def _of(lock: str, packages: Iterable[Mapping[str, Any]], *, ignored: Sequence[Mapping[str, Any]], today: date) -> Audited:
    passed_over = {str(one["id"]) for one in ignored if one["until"] >= today}
    found, over, skipped = list[str](), list[str](), list[str]()
    count = 0
    for package in packages:
        if "skip_reason" in package:
            skipped.append(package["name"])
            continue
        count += 1
        for fault in package["vulns"]:
            cure = f"cured in {', '.join(fault['fix_versions'])}" if fault["fix_versions"] else "without a cure yet"
            sentence = f"{package['name']} {package['version']}: {fault['id']}, {cure}"
            (over if {fault["id"], *fault.get("aliases", ())} & passed_over else found).append(sentence)
    return Audited(lock=lock, looked_up=count, found=tuple(found), ignored=tuple(over), skipped=tuple(skipped))
