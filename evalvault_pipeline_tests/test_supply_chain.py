"""What the project is built from: locks, licences, bill of materials, known vulnerabilities (`make audit`)."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from datetime import date
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import Distribution, PathDistribution
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from packaging.requirements import Requirement

from audit.__main__ import PHOENIX, environment_of, vulnerable
from audit.licences import is_allowed, licence_of, licences, load_policy, stale
from audit.locks import BadLine, Lock, Locked, installed, locks, problems, read_lock
from audit.sbom import faults, sbom
from audit.vulnerabilities import audited
from evalvault_pipeline_tests.conftest import PROJECT
from evalvault_pipeline_tests.phoenix_server import PYTHON

LOCKS = {lock.path.name: lock for lock in locks()}
A, B = "a" * 64, "b" * 64
TODAY = date(2026, 11, 24)


def environment(lock: Lock) -> Mapping[str, Distribution] | None:
    return environment_of(lock, PYTHON.parent.parent)


def package(folder: Path, name: str, version: str = "1.0", **fields: str | list[str]) -> PathDistribution:
    """A package as it is installed."""
    lines = [f"Name: {name}", f"Version: {version}"]
    for field, values in fields.items():
        lines += [f"{field.replace('_', '-')}: {value}" for value in ([values] if isinstance(values, str) else values)]
    place = folder / f"{name}-{version}.dist-info"
    place.mkdir(exist_ok=True)
    (place / "METADATA").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return PathDistribution(place)


def lock_of(requirements: list[str], *packages: str) -> Lock:
    pinned = tuple(Locked(name=name, version=version, hashes=(A,)) for name, version in (one.split("==") for one in packages))
    return Lock(path=Path("some.lock"), packages=pinned, requirements=tuple(map(Requirement, requirements)))


# --- locks


def test_every_lock_of_the_makefile_is_there() -> None:
    assert set(LOCKS) == {path.name for path in PROJECT.glob("requirements*.lock")}


@pytest.mark.parametrize("name", LOCKS)
def test_a_lock_pins_every_package_with_hashes_and_holds_no_url(name: str) -> None:
    assert "://" not in LOCKS[name].path.read_text(encoding="utf-8")
    assert len(LOCKS[name].packages) > 5 and all(package.hashes for package in LOCKS[name].packages)


@pytest.mark.parametrize("name", LOCKS)
def test_a_lock_is_what_pyproject_asks_for_no_less_and_no_more(name: str) -> None:
    """Also through what the packages ask for in their turn, on every system."""
    found = environment(LOCKS[name])
    if found is None:
        pytest.skip("there is no Phoenix here: make setup-phoenix")
    assert problems(LOCKS[name], found) == []


@pytest.mark.parametrize("name", ["requirements.lock", "requirements-image.lock"])
def test_what_is_run_is_what_is_tested(name: str) -> None:
    ours, tested = (
        {(one.name, one.version, one.hashes) for one in LOCKS[lock].packages} for lock in (name, "requirements-dev.lock")
    )
    assert ours < tested


def test_the_image_holds_the_engines_for_many_machines_and_the_clients_of_secret_stores() -> None:
    assert LOCKS["requirements.lock"].names < LOCKS["requirements-image.lock"].names
    assert {"dagster-celery", "redis", "dagster-k8s", "boto3", "hvac"} <= LOCKS["requirements-image.lock"].names
    assert "requirements-image.lock" in (PROJECT / "Dockerfile").read_text(encoding="utf-8")


def test_a_requirement_for_the_first_releases_of_a_python_is_asked_for(tmp_path: Path) -> None:
    there = {"a": package(tmp_path, "a", Requires_Dist=["b; python_full_version < '3.11.3'"])}
    assert problems(lock_of(["a"], "a==1.0", "b==1.0"), there) == []


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("a==1.0", "has no SHA-256 hash"),
        (f"a==1.0 --hash=md5:{A[:32]}", "has no SHA-256 hash"),
        (f"a==1.0 --hash=sha256:{A[:-1]}", "has no SHA-256 hash"),
        (f"a==1.0 --hash=sha256:{A} --hash=sha1:{A[:40]}", "has no SHA-256 hash"),
        (f"a>=1.0 --hash=sha256:{A}", "is not pinned to one version"),
        (f"a==1.* --hash=sha256:{A}", "is not pinned to one version"),
        (f"a --hash=sha256:{A}", "is not pinned to one version"),
        (f"a @ https://host/a.whl --hash=sha256:{A}", "is not pinned to one version"),
        ("--index-url https://host/simple", "is no pinned package"),
        ("https://host/a.whl", "is no pinned package"),
        ("-r other.txt", "is no pinned package"),
    ],
)
def test_a_line_that_could_install_something_else_is_named(tmp_path: Path, line: str, why: str) -> None:
    file = tmp_path / "some.lock"
    file.write_text(f"b==2.0 \\\n    --hash=sha256:{A} \\\n    --hash=sha256:{B}\n{line}\n", encoding="utf-8")
    with pytest.raises(BadLine, match=rf"some\.lock:4: .*{why}"):
        list(read_lock(file))


def test_a_marker_and_every_hash_are_read(tmp_path: Path) -> None:
    file = tmp_path / "some.lock"
    file.write_text(
        f"B_b==2.0 ; sys_platform == 'win32' \\\n    --hash=sha256:{A} \\\n    --hash=sha256:{B}\n", encoding="utf-8"
    )
    assert list(read_lock(file)) == [Locked(name="b-b", version="2.0", hashes=(A, B), marker='sys_platform == "win32"')]


def test_what_is_missing_too_old_or_asked_for_by_nobody_is_named(tmp_path: Path) -> None:
    asks = ["b>=2", "c; sys_platform == 'win32'", "d[fast]>=1", "e; extra == 'more'"]
    there = {
        "a": package(tmp_path, "a", Requires_Dist=asks),
        "d": package(tmp_path, "d", Requires_Dist=["f; extra == 'fast'", "g; extra == 'slow'", "h; python_version < '3'"]),
    }
    assert problems(lock_of(["a"], "a==1.0", "b==2.1", "c==1.0", "d==1.0", "f==1.0"), there) == []
    assert problems(lock_of(["a>=2"], "a==1.0", "b==1.9", "d==1.0", "f==1.0", "g==1.0"), there) == [
        "some.lock has a 1.0, and pyproject.toml asks for a>=2. Run `make lock`.",
        'some.lock lacks c; sys_platform == "win32", which a asks for. Run `make lock`.',
        "some.lock has b 1.9, and a asks for b>=2. Run `make lock`.",
        "some.lock holds g, and nobody asks for it. Run `make lock`.",
    ]


# --- licences


@pytest.mark.parametrize("name", LOCKS)
def test_every_licence_is_known_and_allowed_or_excepted_with_a_reason(name: str) -> None:
    found = environment(LOCKS[name])
    if found is None:
        pytest.skip("there is no Phoenix here: make setup-phoenix")
    about = licences(LOCKS[name].packages, found, load_policy())
    assert [one.problem for one in about if one.problem] == []
    assert {one.package for one in about} == LOCKS[name].names


def test_the_policy_speaks_of_no_package_that_is_not_locked_and_gives_a_reason_for_each_exception() -> None:
    policy = load_policy()
    assert stale(policy, {name for lock in LOCKS.values() for name in lock.names}) == []
    assert all(len(one["why"]) > 20 for one in policy.excepted.values())
    assert not [one for one in policy.allowed if "GPL" in one]
    assert stale(policy, [])[0].startswith("audit/policy.toml speaks of antlr4-python3-runtime, which no lock holds")


@pytest.mark.parametrize(
    ("fields", "spdx"),
    [
        ({"License_Expression": "MIT OR GPL-3.0-only"}, "MIT OR GPL-3.0-only"),
        ({"License": "MIT", "Classifier": "License :: OSI Approved :: BSD License"}, "MIT"),
        ({"License": "see LICENSE", "Classifier": "License :: OSI Approved :: MIT License"}, "MIT"),
        ({"License": "Permission is hereby granted " * 9}, None),
        ({"Classifier": ["License :: OSI Approved", "License :: OSI Approved :: MIT License"]}, "MIT"),
        (
            {"Classifier": ["License :: OSI Approved :: MIT License", "License :: OSI Approved :: Apache Software License"]},
            "MIT AND Apache-2.0",
        ),
        ({"Classifier": "License :: Other/Proprietary License"}, None),
        ({}, None),
    ],
)
def test_a_licence_is_read_from_the_clearest_thing_that_a_package_says(
    tmp_path: Path, fields: dict[str, Any], spdx: str | None
) -> None:
    assert licence_of(package(tmp_path, "a", **fields), load_policy()) == spdx


@pytest.mark.parametrize(
    ("spdx", "allowed"),
    [
        ("MIT", True),
        ("GPL-3.0-only", False),
        ("MIT AND GPL-3.0-only", False),
        ("MIT OR GPL-3.0-only", True),
        ("AGPL-3.0-only OR (MIT AND GPL-2.0-only)", False),
        ("AGPL-3.0-only OR (MIT AND Apache-2.0)", True),
        ("GPL-2.0-only WITH Classpath-exception-2.0", False),
    ],
)
def test_one_licence_of_a_choice_and_all_of_a_sum_must_be_allowed(spdx: str, allowed: bool) -> None:
    assert is_allowed(spdx, frozenset({"MIT", "Apache-2.0"})) is allowed


def test_an_unknown_a_forbidden_and_a_changed_licence_are_named_with_the_way_out(tmp_path: Path) -> None:
    policy = replace(load_policy(), stated={}, excepted={"d": {"licence": "LGPL-3.0-only", "why": "it is only imported"}})
    names = "abcd"
    there = {
        "a": package(tmp_path, "a"),
        "c": package(tmp_path, "c", License_Expression="AGPL-3.0-only"),
        "d": package(tmp_path, "d", License_Expression="LGPL-3.0-only"),
    }
    packages = [Locked(name=name, version="1.0", hashes=(A,)) for name in names]
    said = {one.package: one.problem for one in licences(packages, there, policy)}
    assert said == {
        "a": "a 1.0 says no known licence. Read its files, and state it under [stated].",
        "b": "b 1.0 is not installed here, and audit/policy.toml states no licence. Read its files, and state it under [stated].",
        "c": "c 1.0 is under AGPL-3.0-only, which is not allowed. Replace it, or except it by name with a reason.",
        "d": "",
    }
    changed = {**there, "d": package(tmp_path, "d", License_Expression="AGPL-3.0-only")}
    assert "d 1.0 is under AGPL-3.0-only" in licences(packages, changed, policy)[3].problem


# --- bill of materials


def test_the_bill_of_materials_is_valid_cyclonedx_and_holds_every_package_with_hashes_and_licence() -> None:
    lock = LOCKS["requirements.lock"]
    text = sbom(lock, installed(), licences(lock.packages, installed(), load_policy()), name="evalvault-pipeline", version="1")
    assert faults(text) == ""
    bom = json.loads(text)
    assert (bom["bomFormat"], bom["specVersion"]) == ("CycloneDX", "1.6")
    parts = {part["purl"]: part for part in bom["components"]}
    assert set(parts) == {f"pkg:pypi/{one.name}@{one.version}" for one in lock.packages}
    assert all(part["licenses"] for part in parts.values())
    for one in lock.packages:
        (where,) = parts[f"pkg:pypi/{one.name}@{one.version}"]["externalReferences"]
        assert {each["content"] for each in where["hashes"]} == set(one.hashes)
    needs = {each["ref"].split("@")[0]: each.get("dependsOn", []) for each in bom["dependencies"]}
    assert [each.split("@")[0] for each in needs["pkg:pypi/jinja2"]] == ["pkg:pypi/markupsafe"]
    assert {"pkg:pypi/dagster", "pkg:pypi/ragas"} <= {each.split("@")[0] for each in needs["evalvault-pipeline"]}


def test_a_bill_of_materials_that_is_none_is_found_out() -> None:
    assert "licences" in faults('{"bomFormat": "CycloneDX", "specVersion": "1.6", "licences": []}')


# --- known vulnerabilities


@contextmanager
def advisories(known: Mapping[str, list[dict[str, Any]]]) -> Iterator[str]:
    """A server on loopback that speaks OSV's API; the address to ask."""

    class Answer(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            found = known.get(asked["package"]["name"])
            body = json.dumps({"vulns": found} if found else {}).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/v1/query"
        finally:
            server.shutdown()
            thread.join()


def advisory(name: str, fixed: str) -> dict[str, Any]:
    ranges = [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": fixed}]}]
    affected = {"package": {"ecosystem": "PyPI", "name": name}, "ranges": ranges, "versions": ["2.10"]}
    return {"id": "PYSEC-2026-1", "aliases": ["CVE-2026-1"], "summary": "s", "details": "d", "affected": [affected]}


@pytest.fixture
def small(tmp_path: Path) -> Path:
    file = tmp_path / "small.lock"
    file.write_text("".join(f"{pin} \\\n    --hash=sha256:{A}\n" for pin in ("jinja2==2.10", "rich==15.0.0")), encoding="utf-8")
    return file


def test_a_known_vulnerability_is_named_with_its_cure_and_ignored_only_until_a_day(small: Path) -> None:
    with advisories({"jinja2": [advisory("jinja2", "2.10.1")]}) as url:
        result = audited(small, ignored=[], today=TODAY, osv_url=url)
        assert result.found == ("jinja2 2.10: PYSEC-2026-1, cured in 2.10.1",)
        assert result.line == "small.lock: 2 packages looked up, 1 known vulnerabilities"
        ignored = {"id": "CVE-2026-1", "until": TODAY, "why": "it does not touch us"}
        passed = audited(small, ignored=[ignored], today=TODAY, osv_url=url)
        assert (passed.found, len(passed.ignored)) == ((), 1) and "1 ignored by audit/policy.toml" in passed.line
        assert audited(small, ignored=[ignored], today=date(2026, 11, 25), osv_url=url).found == result.found


def test_a_service_that_knows_of_nothing_is_a_pass(small: Path) -> None:
    with advisories({}) as url:
        result = audited(small, ignored=[], today=TODAY, osv_url=url)
    assert (result.looked_up, result.found, result.skipped) == (2, (), ())


def test_where_no_service_answers_that_is_said_and_is_no_pass(small: Path) -> None:
    result = audited(small, ignored=[], today=TODAY, osv_url="http://127.0.0.1:1/v1/query")
    assert (result.looked_up, result.found) == (0, ())
    assert result.line.startswith("small.lock: NOT AUDITED for known vulnerabilities: pip-audit ended with 1: ")
    assert "Connection refused" in result.line and "\n" not in result.line


def test_packages_that_the_service_does_not_know_are_counted_as_not_audited(
    small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stand-in with pip-audit's own words, as it says them behind a mirror: it ends with 0."""
    skipped = [{"name": name, "skip_reason": "Dependency not found on PyPI and could not be audited"} for name in ("a", "b")]

    def says(packages: list[dict[str, Any]]) -> None:
        done = subprocess.CompletedProcess([], 0, stdout=json.dumps({"dependencies": packages}), stderr="")
        monkeypatch.setattr(subprocess, "run", lambda *_, **__: done)

    says(skipped)
    nothing = audited(small, ignored=[], today=TODAY)
    assert "NOT AUDITED" in nothing.line and nothing.looked_up == 0
    says([*skipped, {"name": "c", "version": "1", "vulns": []}])
    some = audited(small, ignored=[], today=TODAY)
    assert some.line == ("small.lock: 1 packages looked up, 0 known vulnerabilities; COULD NOT BE AUDITED: 2 packages (a, b)")


@pytest.mark.parametrize("strict", [False, True])
def test_what_could_not_be_audited_is_wrong_only_when_that_is_asked_for(small: Path, strict: bool) -> None:
    lock = Lock(path=small, packages=tuple(read_lock(small)), requirements=())
    wrong = vulnerable([lock], load_policy(), strict=strict, osv_url="http://127.0.0.1:1/v1/query")
    assert len(wrong) == strict and all("NOT AUDITED" in one for one in wrong)


def test_make_audit_without_a_service_says_so_and_writes_its_files(tmp_path: Path) -> None:
    options = ["--osv-url", "http://127.0.0.1:1/v1/query", "--phoenix", str(tmp_path / "none"), "--output", str(tmp_path)]
    done = subprocess.run([sys.executable, "-m", "audit", *options], cwd=PROJECT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    for name in LOCKS:
        assert f"{name}: NOT AUDITED for known vulnerabilities" in done.stdout
    assert f"{PHOENIX}: licences of {len(LOCKS[PHOENIX].names)} packages NOT LOOKED AT" in done.stdout
    table = (tmp_path / "licences.md").read_text(encoding="utf-8")
    assert "| psycopg2-binary | " in table and "UNKNOWN" not in table
    assert faults((tmp_path / "sbom.cdx.json").read_text(encoding="utf-8")) == ""
