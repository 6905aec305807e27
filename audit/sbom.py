"""The bill of materials of a lock, as CycloneDX JSON: every package with its hashes, licence and what it asks for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import Distribution

from cyclonedx.contrib.license.factories import LicenseFactory
from cyclonedx.model import ExternalReference, ExternalReferenceType, HashAlgorithm, HashType, XsUri
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.output.json import JsonV1Dot6
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from packageurl import PackageURL
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from audit.licences import Licence
from audit.locks import Lock


def sbom(lock: Lock, environment: Mapping[str, Distribution], found: Sequence[Licence], *, name: str, version: str) -> str:
    """CycloneDX 1.6 of what `name` is built from."""
    licences = {one.package: one.spdx for one in found}
    root = Component(type=ComponentType.APPLICATION, name=name, version=version, bom_ref=f"{name}@{version}")
    bom = Bom()
    bom.metadata.component = root
    by_name: dict[str, list[Component]] = {}
    for package in lock.packages:
        purl = PackageURL("pypi", None, package.name, package.version)
        spdx = licences.get(package.name)
        component = Component(
            type=ComponentType.LIBRARY,
            name=package.name,
            version=package.version,
            purl=purl,
            bom_ref=purl.to_string(),
            licenses=[LicenseFactory().make_from_string(spdx)] if spdx else [],
            external_references=[
                ExternalReference(
                    type=ExternalReferenceType.DISTRIBUTION,
                    url=XsUri(purl.to_string()),
                    comment=f"wheels and source{f'; where {package.marker}' if package.marker else ''}",
                    hashes=[HashType(alg=HashAlgorithm.SHA_256, content=one) for one in package.hashes],
                )
            ],
        )
        bom.components.add(component)
        by_name.setdefault(package.name, []).append(component)
    direct = {canonicalize_name(requirement.name) for requirement in lock.requirements}
    bom.register_dependency(root, [one for each in sorted(direct) for one in by_name.get(each, ())])
    for each, components in by_name.items():
        asked = {canonicalize_name(Requirement(text).name) for text in _requires(environment.get(each))}
        needed = [one for inner in sorted(asked - {each}) for one in by_name.get(inner, ())]
        for component in components:
            bom.register_dependency(component, needed)
    return JsonV1Dot6(bom).output_as_string(indent=1)


def faults(text: str) -> str:
    """What the schema of CycloneDX 1.6 does not take; "" for a valid one."""
    error = JsonStrictValidator(SchemaVersion.V1_6).validate_str(text)
    return str(error) if error else ""


def _requires(package: Distribution | None) -> list[str]:
    return [] if package is None else list(package.requires or ())
