"""The image of the sources as they are, unpacked once; what the lane measured is printed at its end.

They need root, buildah and runc. With CI=true what the machine lacks fails a test; otherwise the test is skipped.
"""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.image.archive import Archive
from tests.image.base import BuildError
from tests.image.build import ready_image
from tests.support.missing import give_up
from tests.support.traces import loops_below, mounts_below

PROGRAMS = ("apt-config", "buildah", "mmdebstrap", "mount", "runc")
TOOL_SECONDS = 30.0

MEASURED = pytest.StashKey[list[str]]()


@pytest.fixture(scope="session", autouse=True)
def machine() -> None:
    """The machine has what these tests need."""
    if os.geteuid() != 0:
        give_up("root is needed to build and run an image")
    missing = [program for program in PROGRAMS if not shutil.which(program)]
    if missing:
        give_up(f"programs are missing: {', '.join(missing)} (tests/image/packages.txt)")


@pytest.fixture(scope="session")
def image(machine: None) -> Archive:
    """The image, built when there is none of these sources."""
    try:
        return ready_image()
    except BuildError as error:
        pytest.fail(str(error), pytrace=False)


@pytest.fixture(scope="session")
def root(image: Archive) -> Iterator[Path]:
    """Its root directory, for containers that cannot write to it. runc may add mount points."""
    with tempfile.TemporaryDirectory(prefix="rds-csi-root-") as scratch:
        # The root directory itself is for all users, unlike what tempfile makes.
        directory = Path(scratch, "root")
        directory.mkdir(mode=0o755)
        image.unpack(directory)
        yield directory
        assert mounts_below(directory) == []


@pytest.fixture
def home() -> Iterator[Path]:
    """A directory for everything of one test that host and containers share: mounts in it are seen by both.

    Its path is short, because a unix socket's may have no more than 107 bytes.
    """
    directory = Path(tempfile.mkdtemp(prefix="rds-csi-")).resolve()
    _run("mount", "--bind", str(directory), str(directory))
    try:
        _run("mount", "--make-shared", str(directory))
        yield directory
    finally:
        for point in reversed(mounts_below(directory)):
            _run("umount", point)
        for loop in loops_below(directory):
            _run("losetup", "--detach", f"/dev/{loop.split()[0]}")
        _run("umount", str(directory))
        shutil.rmtree(directory)


def _run(*words: str) -> None:
    subprocess.run(words, check=True, timeout=TOOL_SECONDS)


@pytest.fixture
def csi_sanity() -> str:
    """The program: ``nox -s image`` builds it and tells where it is."""
    program = os.environ.get("CSI_SANITY") or shutil.which("csi-sanity")
    if not program:
        give_up("csi-sanity is missing: run nox -s image, or name it in CSI_SANITY")
    return program


@pytest.fixture
def measured(request: pytest.FixtureRequest) -> list[str]:
    """Lines for the end of the lane's output."""
    return request.config.stash.setdefault(MEASURED, [])


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """What was measured."""
    for line in config.stash.get(MEASURED, []):
        terminalreporter.write_line(line)
