"""What is in the image, and what is not: packages with their reasons, no identity, no secrets, nothing loose."""

import json
import re
import stat
import struct
import tarfile
import tomllib
from pathlib import Path

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from rds_csi import __version__
from tests.image.__main__ import MB, describe
from tests.image.archive import Archive
from tests.image.build import ROOT
from tests.image.packages import debian_packages, normalised, python_packages

LARGEST = 150 * MB
USER = 65532
CHOSEN = tomllib.loads((ROOT / "container/packages.toml").read_text(encoding="utf-8"))

# Of each, nothing may be there: by it two nodes, or two clusters, would be taken for one.
IDENTITY = (
    *("etc/nvme/hostnqn", "etc/nvme/hostid", "etc/machine-id", "var/lib/dbus/machine-id", "etc/hostname"),
    *("var/lib/systemd/random-seed", "etc/ssh/ssh_host_*", "root/.ssh/*", "etc/krb5.keytab"),
)
# What was needed to make it, and what helps an intruder.
TOOLS = (
    *(
        "pip*",
        "apt*",
        "dpkg*",
        "gcc*",
        "cc",
        "ld",
        "as",
        "make",
        "busybox",
        "perl*",
        "sh",
        "bash",
        "dash",
        "su",
        "sudo",
    ),
    *("curl", "wget", "runuser", "systemctl"),
)


@pytest.fixture(scope="module")
def members(image: Archive) -> dict[str, tarfile.TarInfo]:
    """Every file of the image by its path without the leading slash."""
    return {member.name.strip("./"): member for member in image.members()}


def test_it_is_one_layer(image: Archive) -> None:
    # Squashed: what one layer removes from another would still be carried.
    assert len(image.layers) == 1


def test_no_host_identity_is_inside(root: Path) -> None:
    assert [str(path) for pattern in IDENTITY for path in root.glob(pattern)] == []
    assert list((root / "etc/nvme").glob("host*")) == []


def test_neither_a_compiler_nor_an_installer_nor_a_shell_is_inside(root: Path) -> None:
    places = ("usr/bin", "usr/sbin", "usr/local/bin", "opt/rds-csi/bin", "usr/lib/gcc", "usr/include")
    assert [str(path) for place in places for pattern in TOOLS for path in (root / place).glob(pattern)] == []
    assert not {"pip", "setuptools", "wheel", "hatchling"} & {package.name for package in python_packages(root)}
    assert list(root.rglob("ensurepip")) == []


def test_every_script_has_its_interpreter(root: Path) -> None:
    for place in ("usr/bin", "usr/sbin", "usr/lib", "opt/rds-csi/bin"):
        for path in (root / place).rglob("*"):
            if path.is_file() and not path.is_symlink() and path.stat().st_mode & stat.S_IXUSR:
                first = path.read_bytes()[:200].partition(b"\n")[0]
                assert not first.startswith(b"#!") or b"python3" in first, path


def test_every_debian_package_has_a_reason(root: Path) -> None:
    packages = {package.name: package for package in debian_packages(root)}
    wanted: dict[str, str] = CHOSEN["wanted"]
    assert set(wanted) <= set(packages)
    assert all(wanted.values())
    needed = {name for package in packages.values() for choices in package.depends for name in choices}
    assert set(packages) - set(wanted) - needed == set()
    assert set(packages) & set(CHOSEN["left-out"]) == set()


def test_the_python_packages_are_the_pinned_ones(root: Path) -> None:
    pins = (ROOT / "requirements/runtime.txt").read_text(encoding="utf-8")
    pinned = {normalised(name): version for name, version in re.findall(r"^([\w.-]+)==([^\s;]+)", pins, re.MULTILINE)}
    found = {package.name: package.version for package in python_packages(root)}
    assert found.pop("rds-csi") == __version__
    assert found == pinned


def test_it_is_small(image: Archive, members: dict[str, tarfile.TarInfo]) -> None:
    unpacked = sum(member.size for member in members.values() if member.isfile())
    assert unpacked <= LARGEST


def test_no_file_gives_rights_to_who_runs_it(members: dict[str, tarfile.TarInfo]) -> None:
    assert [name for name, member in members.items() if member.mode & (stat.S_ISUID | stat.S_ISGID)] == []
    assert [name for name, member in members.items() if any("xattr" in key for key in member.pax_headers)] == []


def test_only_sticky_directories_are_writable_for_all(members: dict[str, tarfile.TarInfo]) -> None:
    loose = {name for name, member in members.items() if member.mode & stat.S_IWOTH and not member.issym()}
    assert all(members[name].isdir() and members[name].mode & stat.S_ISVTX for name in loose)
    assert loose <= {"tmp", "var/tmp"}


def test_all_belongs_to_root_but_the_directories_of_the_user(members: dict[str, tarfile.TarInfo]) -> None:
    others = {name: (member.uid, member.gid) for name, member in members.items() if (member.uid, member.gid) != (0, 0)}
    groups = {name: gid for name, (uid, gid) in others.items() if uid == 0}
    assert {name: owner for name, owner in others.items() if name not in groups} == {
        "csi": (USER, USER),
        "var/lib/rds-csi": (USER, USER),
    }
    # Debian gives some directories to a group; none of these groups has members here.
    assert [name for name in groups if not members[name].isdir()] == []


def test_nothing_of_the_machine_that_built_it_is_inside(root: Path) -> None:
    assert not (root / "etc/pip.conf").exists()
    assert not (root / "etc/resolv.conf").exists()
    assert list((root / "run").iterdir()) == []
    assert list(root.glob("etc/apt*")) == []
    texts = [*root.glob("opt/rds-csi/**/*.json"), *root.glob("opt/rds-csi/*.cfg"), *root.glob("opt/rds-csi/bin/*")]
    for path in texts:
        assert str(ROOT) not in path.read_text(encoding="utf-8", errors="replace")


def test_every_module_is_compiled_and_its_source_is_never_asked(root: Path) -> None:
    for tree in ("usr/lib/python3.13", "opt/rds-csi/lib"):
        sources = list((root / tree).rglob("*.py"))
        assert len(sources) > 100, tree
        for source in sources:
            compiled = source.with_name("__pycache__") / f"{source.stem}.cpython-313.pyc"
            # PEP 552: the flags behind the magic number; 1 is "by hash, not checked".
            assert struct.unpack_from("<I", compiled.read_bytes(), 4) == (1,), source


def test_it_says_what_it_is(image: Archive) -> None:
    labels: dict[str, str] = image.container["Labels"]
    assert labels["org.opencontainers.image.version"] == __version__
    assert labels["org.opencontainers.image.licenses"] == "Apache-2.0"
    assert {"org.opencontainers.image.title", "org.opencontainers.image.description"} <= set(labels)
    assert image.container["User"] == f"{USER}:{USER}"
    assert image.container["Entrypoint"] == ["/opt/rds-csi/bin/rds-csi"]


def test_the_bill_of_materials_is_valid_and_lists_both_kinds_of_packages(
    image: Archive, root: Path, tmp_path: Path
) -> None:
    describe(image, tmp_path / "bill.json")
    text = (tmp_path / "bill.json").read_text(encoding="utf-8")
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    names = {component["purl"].partition("@")[0] for component in json.loads(text)["components"]}
    assert {"pkg:deb/debian/nvme-cli", "pkg:deb/debian/libc6", "pkg:pypi/rds-csi", "pkg:pypi/cryptography"} <= names
    assert len(names) == len(debian_packages(root)) + len(python_packages(root))
