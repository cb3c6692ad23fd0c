"""csi-sanity against the real server, its volumes over real NVMe/TCP."""

import os
import shutil
from pathlib import Path

import pytest

from tests.support.driver import Driver
from tests.support.sanity import PENDING_SPEC, RUNNABLE_SPECS, run_sanity
from tests.support.traces import assert_no_traces

# Small, because one spec attaches as many volumes as a node may have, and one more.
MAX_VOLUMES_PER_NODE = "4"
# About a minute on a machine that is not emulated.
SANITY_SECONDS = 1500.0


@pytest.fixture
def csi_sanity() -> str:
    """The program: ``nox -s kernel`` builds it and tells where it is."""
    program = os.environ.get("CSI_SANITY") or shutil.which("csi-sanity")
    assert program, "csi-sanity is missing: run nox -s kernel, or name it in CSI_SANITY"
    return program


@pytest.mark.timeout(SANITY_SECONDS + 120)
@pytest.mark.parametrize("access_type", ["mount", "block"])
def test_every_spec_of_csi_sanity_passes(csi_sanity: str, scratch: Path, access_type: str) -> None:
    backing = scratch / "array"
    backing.mkdir()
    flags = ("--array", f"nvmet://127.0.0.1:4420?backing={backing}", "--connector", "nvme-cli", "--node-id", "n1")
    with Driver(scratch, *flags, "--max-volumes-per-node", MAX_VOLUMES_PER_NODE) as driver:
        report = run_sanity(csi_sanity, driver.socket, scratch, access_type=access_type, seconds=SANITY_SECONDS)
    assert report.failed == (), report.output
    assert report.skipped == ()
    assert [name for name in report.pending if not name.endswith(PENDING_SPEC)] == []
    assert (len(report.passed), len(report.pending)) == (RUNNABLE_SPECS, 1)
    assert_no_traces(scratch)
