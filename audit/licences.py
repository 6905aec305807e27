"""The licence of every locked package, held against the policy.

Read from the metadata of what is installed: `License-Expression`, else `License` where it names one, else the classifiers.
Where that says nothing clear, and for packages that are not installed on this system, `audit/policy.toml` states it.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import Distribution
from pathlib import Path
from typing import Any

from license_expression import ExpressionError, get_spdx_licensing

from audit.locks import Locked

POLICY = Path(__file__).with_name("policy.toml")
SPDX = get_spdx_licensing()
LONGEST_NAME = 100  # a longer `License` is the text of one


@dataclass(frozen=True, kw_only=True)
class Policy:
    """`audit/policy.toml`."""

    allowed: frozenset[str]
    names: Mapping[str, str]
    stated: Mapping[str, str]
    excepted: Mapping[str, Mapping[str, str]]
    ignored: tuple[Mapping[str, Any], ...] = ()


@dataclass(frozen=True, kw_only=True)
class Licence:
    """Of one package. `spdx` is None where it is unknown; `problem` says why it may not be used, "" where it may."""

    package: str
    version: str
    spdx: str | None
    problem: str = ""
    note: str = ""


def load_policy(path: Path = POLICY) -> Policy:
    content = tomllib.loads(path.read_text(encoding="utf-8"))
    return Policy(
        allowed=frozenset(content["allowed"]),
        names=content["names"],
        stated=content["stated"],
        excepted=content["excepted"],
        ignored=tuple(content["vulnerabilities"]["ignored"]),
    )


def licences(packages: Iterable[Locked], environment: Mapping[str, Distribution], policy: Policy) -> list[Licence]:
    """Of each package once."""
    by_name: dict[str, list[str]] = {}
    for package in packages:
        by_name.setdefault(package.name, []).append(package.version)
    return [_licence(name, versions, environment.get(name), policy) for name, versions in sorted(by_name.items())]


def stale(policy: Policy, names: Iterable[str]) -> list[str]:
    """What the policy says of packages that no lock holds."""
    spoken_of = {*policy.stated, *policy.excepted} - set(names)
    return [f"audit/policy.toml speaks of {name}, which no lock holds. Delete the line." for name in sorted(spoken_of)]


def _licence(name: str, versions: list[str], found: Distribution | None, policy: Policy) -> Licence:
    version = found.version if found is not None and found.version in versions else versions[0]
    spdx = policy.stated.get(name) or (licence_of(found, policy) if found is not None else None)
    excepted = policy.excepted.get(name)
    note = excepted["why"] if excepted and excepted["licence"] == spdx else ""
    if spdx is None:
        where = "is not installed here, and audit/policy.toml states no licence" if found is None else "says no known licence"
        problem = f"{name} {version} {where}. Read its files, and state it under [stated]."
    elif not is_allowed(spdx, policy.allowed) and not note:
        problem = f"{name} {version} is under {spdx}, which is not allowed. Replace it, or except it by name with a reason."
    else:
        problem = ""
    return Licence(package=name, version=version, spdx=spdx, problem=problem, note=note)


def licence_of(package: Distribution, policy: Policy) -> str | None:
    """An SPDX expression, or None. Several classifiers are read as one licence *and* the other, which is the stricter."""
    if expression := _field(package, "License-Expression"):
        return _spdx([expression], policy)
    text = _field(package, "License")
    if 0 < len(text) <= LONGEST_NAME and (spdx := _spdx([text], policy)):
        return spdx
    lines = package.metadata.get_all("Classifier") or ()
    named = [name for line in lines if line.startswith("License ::") and (name := line.rpartition(" :: ")[2]) != "OSI Approved"]
    return _spdx(named, policy) if named else None


def _field(package: Distribution, name: str) -> str:
    return str((package.metadata.get_all(name) or [""])[0]).strip()


def is_allowed(spdx: str, allowed: frozenset[str]) -> bool:
    """Of licences joined by OR one must be allowed, of those joined by AND all."""

    def holds(node: Any) -> bool:
        if isinstance(node, SPDX.OR):
            return any(map(holds, node.args))
        if isinstance(node, SPDX.AND):
            return all(map(holds, node.args))
        return str(node) in allowed

    return holds(SPDX.parse(spdx))


def _spdx(texts: list[str], policy: Policy) -> str | None:
    known = [policy.names.get(text, text) for text in dict.fromkeys(texts)]
    try:
        return str(SPDX.parse(" AND ".join(f"({text})" if " " in text else text for text in known), validate=True))
    except ExpressionError:
        return None
