"""The host's identity: given, derived, kept, never changing by itself."""

import json
import uuid
from pathlib import Path

import pytest

from rds_csi.errors import ConfigurationError
from rds_csi.model.host import HostPaths
from rds_csi.nvme.identity import FILE_NAME, BrokenPair, find_broken_pairs, find_identity, load_identity

GIVEN_NQN = "nqn.2014-08.org.nvmexpress:uuid:11111111-2222-3333-4444-555555555555"
GIVEN_ID = "11111111-2222-3333-4444-555555555555"
MACHINE_ID = "0123456789abcdef0123456789abcdef"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "host/etc/nvme").mkdir(parents=True)
    (tmp_path / "host/etc/machine-id").write_text(MACHINE_ID + "\n")
    return tmp_path / "host"


def write_pair(root: Path, hostnqn: str, hostid: str) -> None:
    (root / "etc/nvme/hostnqn").write_text(hostnqn)
    (root / "etc/nvme/hostid").write_text(hostid)


def test_the_pair_of_the_host_is_taken_and_nothing_is_written(root: Path, tmp_path: Path) -> None:
    write_pair(root, GIVEN_NQN + "\n", GIVEN_ID.upper() + "\n")
    identity = load_identity(HostPaths(str(root)), str(tmp_path / "state"))
    assert (identity.hostnqn, identity.hostid) == (GIVEN_NQN, GIVEN_ID)
    assert not (tmp_path / "state").exists()


@pytest.mark.parametrize(
    ("hostnqn", "hostid"),
    [
        ("", GIVEN_ID),
        (GIVEN_NQN, ""),
        ("no name", GIVEN_ID),
        (GIVEN_NQN, "no id"),
        (GIVEN_NQN, "00000000-0000-0000-0000-000000000000"),
        ("nqn.2014-08.org.nvmexpress:" + "x" * 250, GIVEN_ID),
    ],
)
def test_half_a_pair_is_no_identity(root: Path, tmp_path: Path, hostnqn: str, hostid: str) -> None:
    write_pair(root, hostnqn, hostid)
    identity = load_identity(HostPaths(str(root)), str(tmp_path / "state"))
    assert identity.hostnqn == f"nqn.2014-08.org.nvmexpress:uuid:{identity.hostid}"
    assert GIVEN_ID not in identity.hostnqn


def test_a_derived_pair_is_the_same_after_the_state_is_lost(root: Path, tmp_path: Path) -> None:
    first = load_identity(HostPaths(str(root)), str(tmp_path / "one"))
    second = load_identity(HostPaths(str(root)), str(tmp_path / "two"))
    assert (first.hostnqn, first.hostid) == (second.hostnqn, second.hostid)
    assert uuid.UUID(first.hostid).version == 5
    assert MACHINE_ID not in first.hostid.replace("-", "")


def test_a_kept_pair_outlives_a_new_machine_id(root: Path, tmp_path: Path) -> None:
    first = load_identity(HostPaths(str(root)), str(tmp_path))
    (root / "etc/machine-id").write_text("f" * 32)
    assert load_identity(HostPaths(str(root)), str(tmp_path)) == first


@pytest.mark.parametrize("machine_id", [None, "", "uninitialized"])
def test_without_a_machine_id_a_random_pair_is_kept(root: Path, tmp_path: Path, machine_id: str | None) -> None:
    (root / "etc/machine-id").unlink()
    if machine_id is not None:
        (root / "etc/machine-id").write_text(machine_id)
    first = load_identity(HostPaths(str(root)), str(tmp_path))
    assert uuid.UUID(first.hostid).version == 4
    assert load_identity(HostPaths(str(root)), str(tmp_path)) == first
    assert load_identity(HostPaths(str(root)), str(tmp_path / "elsewhere")) != first


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"hostnqn": 1}', json.dumps({"hostnqn": GIVEN_NQN})])
def test_a_damaged_file_is_made_anew(root: Path, tmp_path: Path, damage: str) -> None:
    (tmp_path / FILE_NAME).write_text(damage)
    identity = load_identity(HostPaths(str(root)), str(tmp_path))
    assert json.loads((tmp_path / FILE_NAME).read_text())["hostid"] == identity.hostid


def test_a_pair_that_cannot_be_kept_is_refused_with_its_remedy(root: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigurationError, match="writable"):
        load_identity(HostPaths(str(root)), str(tmp_path / "file"))


def test_a_look_finds_what_a_start_would_take_and_makes_nothing(root: Path, tmp_path: Path) -> None:
    host, state = HostPaths(str(root)), str(tmp_path / "state")
    assert find_identity(host, state) is None
    assert not (tmp_path / "state").exists()
    kept = load_identity(host, state)
    assert find_identity(host, state) == kept
    write_pair(root, GIVEN_NQN, GIVEN_ID)
    given = find_identity(host, state)
    assert given is not None
    assert (given.hostnqn, given.source) == (GIVEN_NQN, f"{root}/etc/nvme")
    assert load_identity(host, state) == given


def test_what_is_passed_over_is_told_with_its_reason(root: Path, tmp_path: Path) -> None:
    host = HostPaths(str(root))
    assert list(find_broken_pairs(host, str(tmp_path))) == []
    (root / "etc/nvme/hostnqn").write_text(GIVEN_NQN)
    (tmp_path / FILE_NAME).write_text(json.dumps({"hostnqn": GIVEN_NQN, "hostid": "x"}))
    broken = [
        BrokenPair(f"{root}/etc/nvme", "there is no hostid"),
        BrokenPair(f"{tmp_path}/{FILE_NAME}", "the hostid is not a UUID: 'x'"),
    ]
    assert list(find_broken_pairs(host, str(tmp_path))) == broken
    load_identity(host, str(tmp_path))
    assert list(find_broken_pairs(host, str(tmp_path))) == broken[:1]
    write_pair(root, GIVEN_NQN, GIVEN_ID)
    assert list(find_broken_pairs(host, str(tmp_path))) == []


@pytest.mark.parametrize("place", ["host/etc/nvme/hostnqn", f"state/{FILE_NAME}"])
def test_a_pair_that_cannot_be_read_is_not_replaced_by_another(root: Path, tmp_path: Path, place: str) -> None:
    (tmp_path / place).parent.mkdir(exist_ok=True)
    # Its first page is nobody's: EIO, as of a failing disk.
    (tmp_path / place).symlink_to("/proc/self/mem")
    with pytest.raises(OSError, match="Input/output error"):
        find_identity(HostPaths(str(root)), str(tmp_path / "state"))
    with pytest.raises(ConfigurationError, match=f"{tmp_path}/{place} cannot be read"):
        load_identity(HostPaths(str(root)), str(tmp_path / "state"))
    assert [path.name for path in tmp_path.rglob(FILE_NAME)] == ([FILE_NAME] if place.startswith("state") else [])
