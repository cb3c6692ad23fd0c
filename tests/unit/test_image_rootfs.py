"""Which Debian packages and files get into the image."""

from pathlib import Path

import pytest

from container.rootfs import Package, can_run, is_left_out, parse, with_dependencies

STATUS = """\
Package: nvme-cli
Status: install ok installed
Version: 2.13-2
Provides: nvme-tool (= 2.13)
Pre-Depends: libc6 (>= 2.38)
Depends: libnvme1t64:any (>= 1.11), uuid-runtime | uuid-tools
Description: NVMe management tool
 Depends: this line is text
"""


def package(name: str, *depends: tuple[str, ...], provides: tuple[str, ...] = ()) -> Package:
    return Package(name, f"Package: {name}\n", provides, depends)


def installed(*packages: Package) -> dict[str, Package]:
    return {found.name: found for found in packages}


def names(packages: list[Package]) -> list[str]:
    return [found.name for found in packages]


def test_a_stanza_tells_what_a_package_needs_and_stands_for() -> None:
    found = parse(STATUS)

    assert found.name == "nvme-cli"
    assert found.depends == (("libc6",), ("libnvme1t64",), ("uuid-runtime", "uuid-tools"))
    assert found.provides == ("nvme-tool",)


def test_dependencies_of_dependencies_come_too_and_nothing_else() -> None:
    there = installed(package("a", ("b",)), package("b", ("c",)), package("c"), package("d"))

    assert names(with_dependencies(there, ["a"], [])) == ["a", "b", "c"]


def test_a_package_that_stands_for_another_is_as_good() -> None:
    there = installed(package("a", ("awk",)), package("mawk", provides=("awk",)))

    assert names(with_dependencies(there, ["a"], [])) == ["a", "mawk"]


def test_of_alternatives_the_one_that_is_installed_is_taken() -> None:
    there = installed(package("a", ("x", "y")), package("y"))

    assert names(with_dependencies(there, ["a"], [])) == ["a", "y"]


def test_what_is_left_out_is_left_out_with_what_only_it_needs() -> None:
    there = installed(package("a", ("b",)), package("b", ("c",)), package("c"))

    assert names(with_dependencies(there, ["a"], ["b"])) == ["a"]


def test_a_circle_of_dependencies_ends() -> None:
    there = installed(package("a", ("b",)), package("b", ("a",)))

    assert names(with_dependencies(there, ["a"], [])) == ["a", "b"]


def test_a_wanted_package_that_is_not_installed_is_refused_by_name() -> None:
    with pytest.raises(SystemExit, match="none of xfsprogs is installed"):
        with_dependencies(installed(package("a")), ["xfsprogs"], [])


def test_a_reason_for_leaving_out_what_nobody_needs_is_refused() -> None:
    with pytest.raises(SystemExit, match="nothing depends on what is left out: old"):
        with_dependencies(installed(package("a")), ["a"], ["old"])


@pytest.mark.parametrize(
    ("path", "left_out"),
    [
        ("usr/share/doc/nvme-cli/copyright", False),
        ("usr/share/doc/nvme-cli/changelog.Debian.gz", True),
        ("usr/share/man/man1/nvme.1.gz", True),
        ("usr/sbin/nvme", False),
    ],
)
def test_of_the_documentation_only_the_copyright_is_taken(path: str, left_out: bool) -> None:
    assert is_left_out(path, ["usr/share/man/*"]) is left_out


@pytest.mark.parametrize(
    ("first", "runs"),
    [(b"#!/bin/sh -e\n", False), (b"#! /usr/bin/perl\n", False), (b"#!/usr/bin/python3\n", True), (b"\x7fELF", True)],
)
def test_scripts_without_an_interpreter_stay_behind(tmp_path: Path, first: bytes, runs: bool) -> None:
    program = tmp_path / "program"
    program.write_bytes(first)
    program.chmod(0o755)

    assert can_run(program) is runs
