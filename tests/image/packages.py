"""Which packages an unpacked image has, by dpkg's database and by Python's metadata, and the SBOM made of both."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from email.parser import HeaderParser
from pathlib import Path
from typing import Any
from urllib.parse import quote

SITE_PACKAGES = "opt/rds-csi/lib/python3.*/site-packages"


@dataclass(frozen=True, slots=True, order=True)
class Package:
    """A package and how the package URL specification names it: pkg:deb/debian/… or pkg:pypi/…"""

    name: str
    version: str
    purl: str
    depends: tuple[tuple[str, ...], ...] = ()
    """Debian only: one tuple of alternatives for each dependency."""
    license: str = ""


def debian_packages(root: Path) -> tuple[Package, ...]:
    """Every package of /var/lib/dpkg/status, by name."""
    text = (root / "var/lib/dpkg/status").read_text(encoding="utf-8")
    return tuple(sorted(_debian_package(stanza) for stanza in text.strip().split("\n\n")))


def _debian_package(stanza: str) -> Package:
    fields = dict(re.findall(r"^([A-Za-z-]+): *(.*)$", stanza, re.MULTILINE))
    name, version, architecture = fields["Package"], fields["Version"], fields["Architecture"]
    needed = ", ".join(fields[field] for field in ("Pre-Depends", "Depends") if field in fields)
    depends = tuple(
        tuple(re.split(r"[ (:]", choice.strip(), maxsplit=1)[0] for choice in dependency.split("|"))
        for dependency in needed.split(",")
        if dependency.strip()
    )
    purl = f"pkg:deb/debian/{quote(name)}@{quote(version)}?arch={architecture}&distro=trixie"
    return Package(name, version, purl, depends)


def python_packages(root: Path) -> tuple[Package, ...]:
    """Every distribution in the driver's virtual environment, by its normalised name."""
    return tuple(sorted(_python_package(path) for path in root.glob(f"{SITE_PACKAGES}/*.dist-info/METADATA")))


def _python_package(metadata: Path) -> Package:
    fields = HeaderParser().parsestr(metadata.read_text(encoding="utf-8"))
    name = normalised(fields["Name"])
    purl = f"pkg:pypi/{name}@{quote(fields['Version'])}"
    return Package(name, fields["Version"], purl, license=fields.get("License-Expression", ""))


def normalised(name: str) -> str:
    """A Python distribution's name as indexes compare it (PyPA, "Name normalization")."""
    return re.sub(r"[-_.]+", "-", name).lower()


def bill_of_materials(root: Path, version: str, digest: str) -> dict[str, Any]:
    """A CycloneDX 1.6 document of every package; the same image gives the same document."""
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {
            "component": {
                "type": "container",
                "bom-ref": "rds-csi-image",
                "name": "rds-csi",
                "version": version,
                "hashes": [{"alg": "SHA-256", "content": digest.removeprefix("sha256:")}],
            }
        },
        "components": [*_components(debian_packages(root)), *_components(python_packages(root))],
    }


def _components(packages: tuple[Package, ...]) -> Iterator[dict[str, Any]]:
    for package in packages:
        component: dict[str, Any] = {
            "type": "library",
            "bom-ref": package.purl,
            "name": package.name,
            "version": package.version,
            "purl": package.purl,
        }
        if package.license:
            component["licenses"] = [{"expression": package.license}]
        yield component


def write_bill(root: Path, version: str, digest: str, output: Path) -> None:
    """The SBOM as a file."""
    output.write_text(json.dumps(bill_of_materials(root, version, digest), indent=2) + "\n", encoding="utf-8")
