"""csi-sanity against the driver on a simulated RouterOS, over SSH and over REST: all that the array can do, no less.

Devices and mounts of the node are made up; tests/kernel has them real.
"""

from pathlib import Path

import pytest

from tests.integration.test_sanity import MAX_VOLUMES_PER_NODE
from tests.integration.test_sanity import csi_sanity as csi_sanity  # noqa: PLC0414  # a fixture
from tests.support.driver import Driver
from tests.support.made_up_paths import write_command
from tests.support.sanity import PENDING_SPEC, RUNNABLE_SPECS, SANITY_SECONDS, SanityReport, run_sanity
from tests.support.simulated import Simulated

BTRFS = ("--pool", "raid10:btrfs:1T", "--routeros-version", "7.24")
XFS = ("--pool", "raid10:xfs:1T", "--routeros-version", "7.24")
# The oldest release that the driver works with.
OLD_XFS = ("--pool", "raid10:xfs:1T", "--routeros-version", "7.21")

BOTH = pytest.mark.parametrize(("transport", "access_type"), [("ssh", "mount"), ("https", "block")])

# Specs by how their names begin, and how many there are in csi-sanity v5.6.0.
GROUPS = {"GroupController Service": 6}
SNAPSHOTS = {
    "Controller Service [Controller Server] CreateVolume should create volume from an existing source": 2,
    "Controller Service [Controller Server] CreateVolume should fail when the volume source": 2,
    "CreateSnapshot": 6,
    "DeleteSnapshot": 3,
    "GetSnapshot": 3,
    "ListSnapshots": 7,
}


def sanity_on(program: str, home: Path, simulator: Simulated, url: str, access_type: str) -> SanityReport:
    """All of csi-sanity with the driver on the simulator; afterwards the device has what it had before."""
    before = simulator.belongings()
    flags = ("--array", url, "--connector", "memory", "--node-id", "node-1")
    with Driver(home, *flags, "--max-volumes-per-node", MAX_VOLUMES_PER_NODE) as driver:
        asking = write_command(home / "kind-of-path", driver.socket)
        report = run_sanity(program, driver.socket, home, access_type=access_type, flags=asking)
    assert simulator.belongings() == before
    return report


def assert_passed(report: SanityReport, *, without: dict[str, int]) -> None:
    """Every spec has passed, but those without which this array is; these were skipped, each of them."""
    assert report.failed == (), report.output
    assert {begin: sum(name.startswith(begin) for name in report.skipped) for begin in without} == without
    assert [name for name in report.pending if not name.endswith(PENDING_SPEC)] == []
    lacking = sum(without.values())
    assert (len(report.passed), len(report.skipped)) == (RUNNABLE_SPECS - lacking, lacking)


@pytest.mark.timeout(SANITY_SECONDS + 120)
@BOTH
def test_every_spec_of_csi_sanity_passes(csi_sanity: str, home: Path, transport: str, access_type: str) -> None:
    with Simulated(home, *BTRFS) as simulator:
        report = sanity_on(csi_sanity, home, simulator, simulator.url(transport), access_type)
    assert_passed(report, without={})


@pytest.mark.timeout(SANITY_SECONDS + 120)
@BOTH
def test_without_snapshots_only_their_specs_are_skipped(
    csi_sanity: str, home: Path, transport: str, access_type: str
) -> None:
    with Simulated(home, *OLD_XFS) as simulator:
        report = sanity_on(csi_sanity, home, simulator, simulator.url(transport), access_type)
    assert_passed(report, without=SNAPSHOTS | GROUPS)


@pytest.mark.timeout(SANITY_SECONDS + 120)
@BOTH
def test_with_copied_snapshots_only_the_specs_of_groups_are_skipped(
    csi_sanity: str, home: Path, transport: str, access_type: str
) -> None:
    with Simulated(home, *XFS) as simulator:
        url = simulator.url(transport, snapshots="file-copy")
        report = sanity_on(csi_sanity, home, simulator, url, access_type)
    assert_passed(report, without=GROUPS)
