"""Sessions as sysfs shows them: every captured tree, and trees that vanish while they are read."""

import os
import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rds_csi.model.devices import DeviceNumber
from rds_csi.model.host import HostPaths
from rds_csi.nvme.sessions import OFF
from rds_csi.nvme.sysfs import NvmeSysfs
from tests.support.nvme_tree import HOSTID, HOSTNQN, NvmeTree, lay_out

DATA = Path(__file__).parent / "data" / "nvme"
DUMPS = sorted(DATA.glob("*/*.sysfs"))
NQN = "nqn.2026-01.io.example:s"

# Per dump: NQN → (controllers with state, devices). What the kernel had, as written down with the captures.
Expected = dict[str, tuple[dict[str, str], list[str]]]
EXPECTED: dict[str, Expected] = {
    "k6.1-cli2.3-mp/13-live": {
        f"{NQN}0": ({"nvme0": "live"}, ["nvme0n1"]),
        f"{NQN}1": ({"nvme1": "live"}, ["nvme1n1"]),
        f"{NQN}2": ({"nvme2": "live"}, ["nvme2n1"]),
    },
    "k6.1-cli2.3-mp/30-mp-live": {f"{NQN}3": ({"nvme0": "live", "nvme1": "live"}, ["nvme0n1"])},
    "k6.1-cli2.3-mp/40-connecting": {f"{NQN}0": ({"nvme0": "connecting"}, ["nvme0n1"])},
    "k6.1-cli2.3-mp/41-orphan-mounted": {f"{NQN}0": ({}, [])},
    "k6.1-cli2.3-mp/41-reconnected-while-orphan": {f"{NQN}0": ({"nvme1": "live"}, ["nvme0n2"])},
    "k6.1-cli2.3-mp/42-ctrl-loss-expired": {},
    "k6.1-cli2.3-mp/50-race-dup": {f"{NQN}0": ({"nvme0": "live", "nvme1": "live"}, ["nvme0n1"])},
    "k6.1-cli2.3-nomp/60-nomp-live": {
        f"{NQN}0": ({"nvme0": "live"}, ["nvme0n1"]),
        f"{NQN}1": ({"nvme1": "live"}, ["nvme1n1"]),
    },
    "k6.1-cli2.3-nomp/61-nomp-2paths": {
        f"{NQN}0": ({"nvme0": "live", "nvme2": "live"}, ["nvme0n1", "nvme2n1"]),
        f"{NQN}1": ({"nvme1": "live"}, ["nvme1n1"]),
    },
    "k6.1-cli2.3-nomp/62-nomp-disconnected-mounted": {
        f"{NQN}0": ({}, []),
        f"{NQN}1": ({"nvme1": "connecting"}, ["nvme1n1"]),
    },
    "k6.1-cli2.3-nomp/63-nomp-reconnected-mounted": {
        f"{NQN}0": ({"nvme2": "live"}, ["nvme2n2"]),
        f"{NQN}1": ({"nvme1": "connecting"}, ["nvme1n1"]),
    },
    "k6.12-cli2.13-mp/13-live": {
        f"{NQN}0": ({"nvme0": "live"}, ["nvme0n1"]),
        f"{NQN}1": ({"nvme1": "live"}, ["nvme1n1"]),
        f"{NQN}2": ({"nvme2": "live"}, ["nvme2n1"]),
    },
    "k6.12-cli2.13-mp/40-connecting": {f"{NQN}0": ({"nvme0": "connecting"}, ["nvme0n1"])},
    "k6.12-cli2.13-mp/41-orphan-mounted": {f"{NQN}0": ({}, [])},
    "k6.12-cli2.13-mp/41-reconnected-while-orphan": {f"{NQN}0": ({"nvme1": "live"}, ["nvme0n2"])},
    "k6.12-cli2.13-mp/42-ctrl-loss-expired": {},
}


def name_of(dump: Path) -> str:
    return f"{dump.parent.name}/{dump.stem}"


@pytest.mark.parametrize("dump", DUMPS, ids=name_of)
def test_a_captured_tree_is_read(dump: Path, tmp_path: Path) -> None:
    nodes = lay_out(dump.read_text(), tmp_path)
    sysfs = NvmeSysfs(HostPaths(str(tmp_path)))

    index = sysfs.scan()

    sessions = [session for sessions in index.by_nqn.values() for session in sessions]
    seen = {
        session.nqn: (
            {controller.name: controller.state for controller in session.controllers},
            [namespace.device for namespace in session.namespaces],
        )
        for session in sessions
    }
    assert seen == EXPECTED.get(name_of(dump), seen)
    # A namespace has a node, unless its last path has gone: what is hidden has none.
    devices = {f"/dev/{namespace.device}": namespace.number for s in sessions for namespace in s.namespaces}
    assert devices == {path: number for path, number in nodes.items() if path in devices}
    assert set(nodes) - set(devices) == set()
    for session in sessions:
        assert sysfs.session(session.nqn) == index.session(session.nqn)
        for namespace in session.namespaces:
            assert sysfs.nqn_of(namespace.number) == session.nqn
            assert namespace.nsid == 1
            assert namespace.size in (256 << 20, 512 << 20)
        for controller in session.controllers:
            assert (controller.transport, controller.hostnqn, controller.hostid) == ("tcp", HOSTNQN, HOSTID)
            assert controller.traddr == "127.0.0.1"
            assert controller.portal in ("127.0.0.1:4420", "127.0.0.1:4421")


def test_every_expectation_has_its_dump() -> None:
    assert set(EXPECTED) <= {name_of(dump) for dump in DUMPS}


def test_a_loss_timeout_of_for_ever_is_minus_one(tmp_path: Path) -> None:
    lay_out((DATA / "k6.1-cli2.3-mp/44-forever.sysfs").read_text(), tmp_path)
    session = NvmeSysfs(HostPaths(str(tmp_path))).session(f"{NQN}0")
    assert session is not None
    assert session.controllers[0].ctrl_loss_tmo == OFF
    assert session.controllers[0].fast_io_fail_tmo == OFF
    assert session.controllers[0].keep_alive_tmo == 5


def test_without_multipath_the_disk_of_a_live_path_is_taken(tmp_path: Path) -> None:
    lay_out((DATA / "k6.1-cli2.3-nomp/61-nomp-2paths.sysfs").read_text(), tmp_path)
    (tmp_path / "sys/class/nvme/nvme0/state").write_text("connecting\n")
    session = NvmeSysfs(HostPaths(str(tmp_path))).session(f"{NQN}0")
    assert session is not None
    namespace = session.namespace("")
    assert namespace is not None
    assert (namespace.device, namespace.controller) == ("nvme2n1", "nvme2")


def test_a_namespace_is_found_by_uuid_or_by_nsid_1(tmp_path: Path) -> None:
    tree = NvmeTree(tmp_path)
    number = tree.add_session(NQN)
    tree.add_namespace(number, nsid=2, uuid="00000000-0000-0000-0000-00000000000A")
    session = NvmeSysfs(tree.host).session(NQN)
    assert session is not None
    found = session.namespace("00000000-0000-0000-0000-00000000000a")
    assert found is not None
    assert found.nsid == 2
    assert session.namespace("") is None
    assert session.namespace("00000000-0000-0000-0000-00000000000b") is None


def test_a_left_over_beside_its_successor_is_not_taken_for_it(tmp_path: Path) -> None:
    tree = NvmeTree(tmp_path)
    old = tree.add_session(NQN)
    (tmp_path / f"sys/devices/virtual/nvme-subsystem/nvme-subsys{old}/nvme{old}").unlink()
    tree.add_session(NQN)
    session = NvmeSysfs(tree.host).session(NQN)
    assert session is not None
    assert session.subsystem == "nvme-subsys1"
    assert len(NvmeSysfs(tree.host).scan()) == 2


def test_a_machine_without_nvme_has_no_sessions(tmp_path: Path) -> None:
    sysfs = NvmeSysfs(HostPaths(str(tmp_path)))
    assert len(sysfs.scan()) == 0
    assert sysfs.session(NQN) is None
    assert sysfs.nqn_of(DeviceNumber(8, 0)) == ""
    assert sysfs.native_multipath()


def test_multipath_that_is_off_is_seen(tmp_path: Path) -> None:
    assert not NvmeSysfs(NvmeTree(tmp_path, multipath=False).host).native_multipath()


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_a_tree_with_anything_missing_is_read_without_an_error(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    root = tmp_path_factory.mktemp("tree")
    lay_out(data.draw(st.sampled_from(DUMPS)).read_text(), root)
    everything = sorted(str(path) for path in (root / "sys").rglob("*") if path.is_symlink() or path.is_file())
    for gone in data.draw(st.lists(st.sampled_from(everything), max_size=10) if everything else st.just([])):
        Path(gone).unlink(missing_ok=True)

    index = NvmeSysfs(HostPaths(str(root))).scan()

    for sessions in index.by_nqn.values():
        for session in sessions:
            assert all(controller.state for controller in session.controllers)


def test_a_scan_survives_sessions_that_come_and_go(tmp_path: Path) -> None:
    tree = NvmeTree(tmp_path)
    sysfs = NvmeSysfs(tree.host)
    for _ in range(5):
        tree.add_namespace(tree.add_session(f"{NQN}{os.urandom(4).hex()}"))
    ended = threading.Event()

    def churn() -> None:
        for _ in range(30):
            number = tree.add_session(NQN)
            tree.remove_session(number)
        ended.set()

    thread = threading.Thread(target=churn)
    thread.start()
    while not ended.is_set():
        assert len(sysfs.scan()) >= 5
        sysfs.session(NQN)
    thread.join()


def test_an_attribute_that_cannot_be_read_is_an_error_and_not_an_absent_session(tmp_path: Path) -> None:
    tree = NvmeTree(tmp_path)
    tree.add_session(NQN)
    nqn = next(tree.path("sys/class/nvme-subsystem").glob("*/subsysnqn"))
    nqn.unlink()
    nqn.mkdir()
    with pytest.raises(IsADirectoryError):
        NvmeSysfs(tree.host).session(NQN)
