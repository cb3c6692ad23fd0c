"""Sessions as sysfs shows them: every captured tree, and trees that vanish while they are read."""

import contextlib
import errno
import os
import resource
import shutil
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rds_csi.model.devices import DeviceNumber
from rds_csi.model.host import HostPaths
from rds_csi.nvme.attributes import Directory, open_directory
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


class Watched(Directory):
    """A directory that calls ``before`` with the name ahead of every look into it."""

    def __init__(self, inner: Directory, before: Callable[[str], None]) -> None:
        self._inner = inner
        self._before = before

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._inner.__exit__(kind, error, at)

    def open(self, name: str) -> Directory | None:
        self._before(name)
        found = self._inner.open(name)
        return Watched(found, self._before) if found is not None else None

    def entries(self) -> dict[str, int]:
        self._before("")
        return self._inner.entries()

    def read(self, name: str) -> str:
        self._before(name)
        return self._inner.read(name)


def watched(host: HostPaths, before: Callable[[str], None]) -> NvmeSysfs:
    def opener(path: str) -> Directory | None:
        found = open_directory(path)
        return Watched(found, before) if found is not None else None

    return NvmeSysfs(host, opener)


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
            assert controller.cntrltype == "io"
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


@pytest.mark.parametrize("multipath", [True, False])
def test_multipath_is_on_or_off_as_the_kernel_says(tmp_path: Path, multipath: bool) -> None:
    assert NvmeSysfs(NvmeTree(tmp_path, multipath=multipath).host).native_multipath() == multipath


def test_a_kernel_built_without_multipath_has_none(tmp_path: Path) -> None:
    tree = NvmeTree(tmp_path)
    tree.path("sys/module/nvme_core/parameters/multipath").unlink()
    assert not NvmeSysfs(tree.host).native_multipath()


def test_before_nvme_core_is_loaded_multipath_is_expected(tmp_path: Path) -> None:
    tree = NvmeTree(tmp_path)
    shutil.rmtree(tree.path("sys/module/nvme_core"))
    assert NvmeSysfs(tree.host).native_multipath()


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


def test_a_look_at_one_session_costs_the_same_beside_many(tmp_path: Path) -> None:
    looks = 0

    def count(_: str) -> None:
        nonlocal looks
        looks += 1

    def looks_of(nqn: str) -> int:
        nonlocal looks
        looks = 0
        assert (sysfs.session(nqn) is not None) == (nqn == NQN)
        return looks

    tree = NvmeTree(tmp_path)
    tree.add_namespace(tree.add_session(NQN))
    sysfs = watched(tree.host, count)
    sysfs.scan()
    alone, absent_alone = looks_of(NQN), looks_of("nqn.2026-01.io.example:absent")
    for number in range(100):
        tree.add_session(f"{NQN}{number}")

    assert looks_of(NQN) == alone
    # New neighbours are read once, when one is looked for that is not where it was.
    assert looks_of("nqn.2026-01.io.example:absent") == absent_alone + 100
    assert looks_of("nqn.2026-01.io.example:absent") == absent_alone
    assert looks_of(NQN) == alone


def test_a_scan_is_linear(tmp_path: Path) -> None:
    looks = 0

    def count(_: str) -> None:
        nonlocal looks
        looks += 1

    tree = NvmeTree(tmp_path)
    sysfs = watched(tree.host, count)
    costs = []
    for _ in range(3):
        for _ in range(10):
            tree.add_namespace(tree.add_session(f"{NQN}{os.urandom(4).hex()}"))
        sysfs.scan()
        looks = 0
        sysfs.scan()
        costs.append(looks)
    assert costs[2] - costs[1] == costs[1] - costs[0]


def test_what_changes_is_read_at_every_look(tmp_path: Path) -> None:
    tree = NvmeTree(tmp_path)
    device = tree.add_namespace(tree.add_session(NQN))
    sysfs = NvmeSysfs(tree.host)
    sysfs.scan()
    tree.set_state(0, "connecting")
    for attribute, value in {"ctrl_loss_tmo": "600", "address": "traddr=192.0.2.9,trsvcid=4421"}.items():
        tree.path("sys/class/nvme/nvme0", attribute).write_text(value + "\n")
    (device / "size").write_text("4096\n")

    session = sysfs.session(NQN)

    assert session is not None
    controller = session.controllers[0]
    assert (controller.state, controller.ctrl_loss_tmo, controller.portal) == ("connecting", 600, "192.0.2.9:4421")
    assert session.namespaces[0].size == 4096 * 512
    assert sysfs.scan().session(NQN) == session


def test_a_subsystem_that_took_the_name_of_another_is_read_anew(tmp_path: Path) -> None:
    tree = NvmeTree(tmp_path)
    tree.add_session(NQN)
    tree.add_session(f"{NQN}-next")
    sysfs = NvmeSysfs(tree.host)
    sysfs.scan()
    classes = tree.path("sys/class/nvme-subsystem")
    os.replace(classes / "nvme-subsys1", classes / "nvme-subsys0")

    assert sysfs.session(NQN) is None
    found = sysfs.session(f"{NQN}-next")
    assert found is not None
    assert found.subsystem == "nvme-subsys0"


def test_several_sessions_are_looked_at_without_the_others(tmp_path: Path) -> None:
    looks: list[str] = []
    tree = NvmeTree(tmp_path)
    wanted = [f"{NQN}-{number}" for number in range(3)]
    for nqn in (*wanted, *(f"{NQN}-other-{number}" for number in range(100))):
        tree.add_namespace(tree.add_session(nqn))
    sysfs = watched(tree.host, looks.append)
    everything = sysfs.scan()
    looks.clear()
    alone = {nqn: sysfs.session(nqn) for nqn in wanted}
    one_by_one = len(looks)
    looks.clear()

    found = sysfs.sessions(wanted)

    assert found == alone == {nqn: everything.session(nqn) for nqn in wanted}
    assert len(looks) <= one_by_one


def test_of_several_sessions_those_that_moved_or_are_not_there_are_found_out(tmp_path: Path) -> None:
    tree = NvmeTree(tmp_path)
    stays, moves = f"{NQN}-stays", f"{NQN}-moves"
    tree.add_session(stays)
    before = tree.add_session(moves)
    sysfs = NvmeSysfs(tree.host)
    assert set(sysfs.sessions((stays, moves, f"{NQN}-absent"))) == {stays, moves}
    tree.remove_session(before)
    assert set(sysfs.sessions((stays, moves))) == {stays}
    tree.add_session(f"{NQN}-between")
    tree.add_session(moves)
    assert sysfs.sessions((moves, stays)) == {nqn: NvmeSysfs(tree.host).session(nqn) for nqn in (moves, stays)}
    assert sysfs.sessions(()) == {}


def test_without_nvme_there_are_no_sessions(tmp_path: Path) -> None:
    assert NvmeSysfs(HostPaths(str(tmp_path))).sessions((NQN,)) == {}


def test_a_link_to_a_controller_of_another_subsystem_is_not_followed_into_the_session(tmp_path: Path) -> None:
    tree = NvmeTree(tmp_path)
    tree.add_session(NQN)
    other = tree.add_session(f"{NQN}-other")
    tree.path("sys/devices/virtual/nvme-subsystem/nvme-subsys0", f"nvme{other}").symlink_to(
        f"../../nvme-fabrics/ctl/nvme{other}"
    )
    session = NvmeSysfs(tree.host).session(NQN)
    assert session is not None
    assert [controller.name for controller in session.controllers] == ["nvme0"]


@pytest.mark.parametrize("kind", ["discovery", "admin"])
def test_the_type_of_a_controller_is_seen(tmp_path: Path, kind: str) -> None:
    tree = NvmeTree(tmp_path)
    tree.add_session(NQN)
    tree.path("sys/class/nvme/nvme0/cntrltype").write_text(kind + "\n")
    session = NvmeSysfs(tree.host).session(NQN)
    assert session is not None
    assert session.controllers[0].cntrltype == kind


@pytest.mark.parametrize("early", ["", "reserved"])
def test_the_type_of_a_controller_is_remembered_once_it_is_live(tmp_path: Path, early: str) -> None:
    tree = NvmeTree(tmp_path)
    tree.add_session(NQN, state="connecting")
    kind = tree.path("sys/class/nvme/nvme0/cntrltype")
    sysfs = NvmeSysfs(tree.host)

    def seen() -> str:
        session = sysfs.session(NQN)
        assert session is not None
        return session.controllers[0].cntrltype

    kind.write_text(early + "\n")
    assert seen() == early
    kind.write_text("discovery\n")
    tree.set_state(0, "live")
    assert seen() == "discovery"
    # It never changes, so it is read no more, whatever becomes of the controller.
    kind.write_text("io\n")
    for state in ("connecting", "live"):
        tree.set_state(0, state)
        assert seen() == "discovery"


@pytest.mark.parametrize("multipath", [True, False])
@pytest.mark.parametrize("missing", ["nsid", "dev", "size"])
def test_a_device_that_is_not_whole_is_named(tmp_path: Path, missing: str, multipath: bool) -> None:
    tree = NvmeTree(tmp_path, multipath=multipath)
    device = tree.add_namespace(tree.add_session(NQN))
    whole = NvmeSysfs(tree.host).session(NQN)
    assert whole is not None
    assert whole.incomplete == ()
    (device / missing).unlink()
    session = NvmeSysfs(tree.host).session(NQN)
    assert session is not None
    assert (session.namespaces, session.incomplete) == ((), ("nvme0n1",))


def test_a_kernel_that_does_not_show_the_type_of_a_controller_is_fine(tmp_path: Path) -> None:
    tree = NvmeTree(tmp_path)
    tree.add_session(NQN)
    tree.path("sys/class/nvme/nvme0/cntrltype").unlink()
    session = NvmeSysfs(tree.host).session(NQN)
    assert session is not None
    assert session.controllers[0].cntrltype == ""


def test_an_nqn_of_223_bytes_is_read_whole(tmp_path: Path) -> None:
    nqn = "nqn.2026-01.io.example:".ljust(223, "x")
    tree = NvmeTree(tmp_path)
    tree.add_session(nqn)
    tree.add_session(nqn[:-1])
    session = NvmeSysfs(tree.host).session(nqn)
    assert session is not None
    assert (session.nqn, session.subsystem) == (nqn, "nvme-subsys0")


def test_a_hidden_path_is_not_a_device(tmp_path: Path) -> None:
    tree = NvmeTree(tmp_path)
    device = tree.add_namespace(tree.add_session(NQN))
    shutil.copytree(device, tree.path("sys/class/nvme/nvme0/nvme0c0n1"))
    session = NvmeSysfs(tree.host).session(NQN)
    assert session is not None
    assert [namespace.device for namespace in session.namespaces] == ["nvme0n1"]


def test_an_attribute_that_must_not_be_read_is_not_there(tmp_path: Path) -> None:
    tree = NvmeTree(tmp_path)
    tree.add_session(NQN)
    attribute = tree.path("sys/devices/virtual/nvme-fabrics/ctl/nvme0/ctrl_loss_tmo")
    attribute.unlink()
    # ENXIO even for root, whom a mode does not stop.
    descriptor = os.open(attribute.parent, os.O_RDONLY)
    with socket.socket(socket.AF_UNIX) as listener:
        # The path itself is longer than a socket's name may be.
        listener.bind(f"/proc/self/fd/{descriptor}/{attribute.name}")
    os.close(descriptor)
    session = NvmeSysfs(tree.host).session(NQN)
    assert session is not None
    assert session.controllers[0].ctrl_loss_tmo is None
    assert session.is_live


def test_running_out_of_descriptors_is_an_error_and_not_an_absence(tmp_path: Path) -> None:
    tree = NvmeTree(tmp_path)
    tree.add_session(NQN)

    def exhausted(_: str) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    sysfs = watched(tree.host, exhausted)
    with pytest.raises(OSError, match="Too many open files"):
        sysfs.session(NQN)
    with pytest.raises(OSError, match="Too many open files"):
        sysfs.scan()


@contextlib.contextmanager
def spare_descriptors(count: int) -> Iterator[None]:
    """This process can open no more than ``count`` files at once (getrlimit(2), RLIMIT_NOFILE)."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = os.open(os.devnull, os.O_RDONLY)
    os.close(lowest)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest + count, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


# The class directory, the subsystem's, the controller's, and an attribute: each is opened inside the one before.
@pytest.mark.parametrize("spare", range(4))
def test_running_out_of_descriptors_at_any_depth_is_an_error(tmp_path: Path, spare: int) -> None:
    tree = NvmeTree(tmp_path)
    tree.add_namespace(tree.add_session(NQN))
    sysfs = NvmeSysfs(tree.host)
    for look in (sysfs.scan, lambda: sysfs.session(NQN)):
        with spare_descriptors(spare), pytest.raises(OSError, match="Too many open files"):
            look()
    assert sysfs.session(NQN) is not None


# In the order in which the kernel takes them away: drivers/base/core.c, drivers/nvme/host/sysfs.c.
NAMESPACE_ATTRIBUTES = ("dev", "uuid", "nguid", "nsid", "size")
CONTROLLER_ATTRIBUTES = (
    "transport",
    "subsysnqn",
    "address",
    "state",
    "hostnqn",
    "hostid",
    "ctrl_loss_tmo",
    "reconnect_delay",
    "fast_io_fail_tmo",
    "kato",
    "cntrltype",
)


def removal(tree: NvmeTree, number: int, *, multipath: bool) -> Iterator[None]:
    """The disconnect of a session with one controller and one namespace, one small step at each ``next``."""
    subsystem = tree.path(f"sys/devices/virtual/nvme-subsystem/nvme-subsys{number}")
    controller = tree.path(f"sys/devices/virtual/nvme-fabrics/ctl/nvme{number}")
    namespace = (subsystem if multipath else controller) / f"nvme{number}n1"
    for directory, attributes in ((namespace, NAMESPACE_ATTRIBUTES), (controller, CONTROLLER_ATTRIBUTES)):
        for attribute in attributes:
            (directory / attribute).unlink()
            yield
        shutil.rmtree(directory)
        yield
    (subsystem / f"nvme{number}").unlink()
    yield
    tree.path(f"sys/class/nvme-subsystem/nvme-subsys{number}").unlink()
    yield
    shutil.rmtree(subsystem)


@settings(max_examples=100, deadline=None)
@given(data=st.data(), multipath=st.booleans(), warm=st.booleans())
def test_sessions_that_vanish_during_a_look_are_whole_or_not_there(
    data: st.DataObject, multipath: bool, warm: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    tree = NvmeTree(tmp_path_factory.mktemp("tree"), multipath=multipath)
    for number in range(3):
        device = tree.add_namespace(tree.add_session(f"{NQN}{number}"), uuid=f"00000000-0000-4000-8000-{number:012}")
        (device / "nguid").write_text(f"00000000-0000-4000-8000-{number:012}\n")
    whole = NvmeSysfs(tree.host).scan()
    going = data.draw(st.lists(st.integers(0, 2), min_size=1, max_size=3, unique=True))
    steps = (step for number in going for step in removal(tree, number, multipath=multipath))
    # Between two looks the kernel takes no step, some or many.
    pace = iter(data.draw(st.lists(st.sampled_from((0, 0, 0, 0, 1, 2, 3, 20)), min_size=150, max_size=150)))
    started = False

    def meanwhile(_: str) -> None:
        for _step in range(next(pace, 0) if started else 0):
            next(steps, None)

    sysfs = watched(tree.host, meanwhile)
    if warm:
        sysfs.scan()
    started = True
    seen = [sysfs.session(f"{NQN}{data.draw(st.integers(0, 2))}"), *map(sysfs.scan().session, whole.by_nqn)]

    for session in filter(None, seen):
        before = whole.session(session.nqn)
        assert before is not None
        assert session.subsystem == before.subsystem
        assert set(session.controllers) <= set(before.controllers)
        assert set(session.namespaces) <= set(before.namespaces)
    for staying in {0, 1, 2} - set(going):
        assert seen[1 + staying] == whole.session(f"{NQN}{staying}")


@pytest.mark.parametrize("multipath", [True, False])
@pytest.mark.parametrize("attribute", [*NAMESPACE_ATTRIBUTES, *CONTROLLER_ATTRIBUTES, "nvme0n1", "nvme0", ""])
def test_a_session_that_goes_at_any_attribute_is_whole_or_not_there(
    tmp_path: Path, attribute: str, multipath: bool
) -> None:
    for taken in (1, 2, 3, 7, 13, 19):
        tree = NvmeTree(tmp_path / str(taken), multipath=multipath)
        device = tree.add_namespace(tree.add_session(NQN), uuid=f"{1:032x}")
        (device / "nguid").write_text(f"{1:032x}\n")
        whole = NvmeSysfs(tree.host).session(NQN)
        assert whole is not None
        steps = removal(tree, 0, multipath=multipath)

        def meanwhile(name: str, steps: Iterator[None] = steps, taken: int = taken) -> None:
            if name == attribute:
                for _ in range(taken):
                    next(steps, None)

        session = watched(tree.host, meanwhile).session(NQN)

        if session is not None:
            assert set(session.controllers) <= set(whole.controllers)
            assert set(session.namespaces) <= set(whole.namespaces)
