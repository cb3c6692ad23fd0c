"""The driver is what CSI 1.13 asks for: csi-sanity against the real server, on real mounts and block devices."""

import os
import shutil
from pathlib import Path

import pytest

from tests.support.driver import Driver
from tests.support.missing import give_up
from tests.support.sanity import PENDING_SPEC, RUNNABLE_SPECS, SANITY_SECONDS, run_sanity

# Small, because one spec attaches as many volumes as a node may have, and one more.
MAX_VOLUMES_PER_NODE = "4"


@pytest.fixture
def csi_sanity() -> str:
    """The program: ``nox -s integration`` builds it and tells where it is."""
    program = os.environ.get("CSI_SANITY") or shutil.which("csi-sanity")
    if not program:
        give_up("csi-sanity is missing: run nox -s integration, or name it in CSI_SANITY")
    return program


@pytest.mark.timeout(SANITY_SECONDS + 120)
@pytest.mark.parametrize("access_type", ["mount", "block"])
def test_every_spec_of_csi_sanity_passes(csi_sanity: str, home: Path, access_type: str) -> None:
    (home / "array").mkdir()
    flags = ("--array", f"local://{home / 'array'}", "--connector", "loop", "--node-id", "node-1")
    with Driver(home, *flags, "--max-volumes-per-node", MAX_VOLUMES_PER_NODE) as driver:
        report = run_sanity(csi_sanity, driver.socket, home, access_type=access_type)
    assert report.failed == (), report.output
    assert report.skipped == ()
    assert [name for name in report.pending if not name.endswith(PENDING_SPEC)] == []
    assert (len(report.passed), len(report.pending)) == (RUNNABLE_SPECS, 1)
