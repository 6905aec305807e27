"""`make audit`: locks, licences, bill of materials and known vulnerabilities. Exit code 1 where something is wrong.

Writes `licences.md` and a CycloneDX file per lock to build/audit/.
"""

from __future__ import annotations

import argparse
import sys
import tomllib
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import Distribution
from pathlib import Path

from audit.licences import Licence, Policy, licences, load_policy, stale
from audit.locks import PROJECT, BadLine, Lock, installed, locks, problems
from audit.sbom import faults, sbom
from audit.vulnerabilities import audited

PHOENIX = "requirements-phoenix.lock"
SHIPPED = {"requirements-image.lock": "sbom.cdx.json", PHOENIX: "sbom-phoenix.cdx.json"}  # what an image holds


def main() -> None:
    parser = argparse.ArgumentParser(prog="make audit", description=__doc__)
    parser.add_argument("--strict", action="store_true", help="what could not be audited is wrong too")
    parser.add_argument("--phoenix", type=Path, default=Path(".venv-phoenix"), help="where `make setup-phoenix` put it")
    parser.add_argument("--output", type=Path, default=Path("build/audit"), help="where the files go")
    parser.add_argument("--osv-url", help="a server that speaks OSV's API, in place of PyPI's advisories")
    arguments = parser.parse_args()
    try:
        found = locks()
    except BadLine as error:
        sys.exit(f"audit: {error}")
    policy, wrong = load_policy(), list[str]()
    arguments.output.mkdir(parents=True, exist_ok=True)
    about: dict[str, list[Licence]] = {}
    for lock in found:
        environment = environment_of(lock, arguments.phoenix)
        if environment is None:
            wrong += _not_looked_at(lock, strict=arguments.strict)
            continue
        wrong += problems(lock, environment)
        about[lock.path.name] = licences(lock.packages, environment, policy)
        wrong += [one.problem for one in about[lock.path.name] if one.problem]
        print(f"{lock.path.name}: {len(lock.packages)} packages, each with hashes; {len(about[lock.path.name])} licences")
        if lock.path.name in SHIPPED:
            wrong += _write_sbom(lock, environment, about[lock.path.name], arguments.output)
    wrong += stale(policy, {name for lock in found for name in lock.names})
    _write_table(about, arguments.output)
    wrong += vulnerable(found, policy, strict=arguments.strict, osv_url=arguments.osv_url)
    for sentence in dict.fromkeys(wrong):
        print(f"WRONG: {sentence}", file=sys.stderr)
    sys.exit(1 if wrong else 0)


def environment_of(lock: Lock, phoenix: Path) -> dict[str, Distribution] | None:
    """Where the packages of a lock are installed; None where they are not."""
    if lock.path.name != PHOENIX:
        return installed()
    folders = sorted(phoenix.glob("lib/python*/site-packages"))
    return installed(folders[0]) if folders else None


def _not_looked_at(lock: Lock, *, strict: bool) -> list[str]:
    sentence = f"{lock.path.name}: licences of {len(lock.names)} packages NOT LOOKED AT: `make setup-phoenix` installs them"
    print(sentence)
    return [sentence] if strict else []


def _write_sbom(lock: Lock, environment: dict[str, Distribution], found: list[Licence], output: Path) -> list[str]:
    about = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    phoenix = lock.path.name == PHOENIX
    version = next((one.version for one in lock.packages if phoenix and one.name == "arize-phoenix"), about["version"])
    text = sbom(lock, environment, found, name="arize-phoenix-server" if phoenix else about["name"], version=version)
    file = output / SHIPPED[lock.path.name]
    file.write_text(text, encoding="utf-8")
    print(f"{lock.path.name}: bill of materials in {file}")
    return [f"{file.name} is no valid CycloneDX: {fault}"] if (fault := faults(text)) else []


def _write_table(about: dict[str, list[Licence]], output: Path) -> None:
    rows = {(one.package, one.version): one for found in about.values() for one in found}
    held = {
        key: [name for name, found in about.items() if any((one.package, one.version) == key for one in found)] for key in rows
    }
    lines = ["| package | version | licence | in | why all the same |", "| --- | --- | --- | --- | --- |"]
    for key, one in sorted(rows.items()):
        lines.append(f"| {one.package} | {one.version} | {one.spdx or 'UNKNOWN'} | {', '.join(held[key])} | {one.note} |")
    file = output / "licences.md"
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(f"licences of {len(rows)} packages in {file}")


def vulnerable(found: Sequence[Lock], policy: Policy, *, strict: bool, osv_url: str | None) -> list[str]:
    """Say what was audited; what is wrong, which with `strict` includes what could not be."""
    wrong: list[str] = []
    for lock in found:
        result = audited(lock.path, ignored=policy.ignored, today=datetime.now(UTC).date(), osv_url=osv_url)
        print(result.line)
        wrong += result.found
        if strict and (result.skipped or not result.looked_up):
            wrong.append(result.line)
    return wrong


if __name__ == "__main__":
    main()
