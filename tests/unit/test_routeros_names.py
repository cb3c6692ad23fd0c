"""Names on the array: short enough, never twice the same, and a file of ours is told from any other."""

import random
import re
import uuid
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rds_csi.arrays.routeros.names import SLOT_LENGTH, Names, proof_for, slot_for, snapshot_slot_for
from rds_csi.arrays.routeros.values import check_value, normal_path
from rds_csi.errors import ConfigurationError, InvalidArgument
from rds_csi.model.names import check_nqn, is_id

IDS = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", fullmatch=True).filter(is_id)
SLOT = re.compile(r"[a-z0-9-]{1,32}")
PREFIX = "nqn.2026-11.io.example:cluster-a."


NAMES = Names("rds.csi.example", "cluster-a", PREFIX, "raid10", "rds-csi")


def names(**changes: str) -> Names:
    return replace(NAMES, **changes)  # type: ignore[arg-type]  # none of the changes is of the one field that is no text


@given(IDS)
def test_slots_are_short_and_plain(object_id: str) -> None:
    for slot in (slot_for(object_id), snapshot_slot_for(object_id)):
        assert SLOT.fullmatch(slot)
        assert not slot.startswith("-")


def test_a_short_id_is_its_own_slot_and_kubernetes_names_fit() -> None:
    assert slot_for("db-1") == "db-1"
    assert snapshot_slot_for("db-1") == "s-db-1"
    assert slot_for("a" * 31) == "a" * 31
    slot = slot_for("pvc-0f8fad5b-d9cb-469f-a165-70867728950e")
    assert len(slot) == SLOT_LENGTH
    assert slot.startswith("pvc-0f8fad5b-")


def test_the_rule_of_slots_never_changes() -> None:
    """Volumes on arrays are found by these: another rule would lose them."""
    assert slot_for("pvc-0f8fad5b-d9cb-469f-a165-70867728950e") == "pvc-0f8fad5b-f2xrjostz4cqwksmlra"
    assert slot_for("s-x") == "s-x-trn6ux6w7faxdom5wiwyycoln2bn"
    assert snapshot_slot_for("snapshot-0f8fad5b-d9cb-469f-a165-70867728950e") == "s-snapshot-0-y2fcai6huci34id2q5p"
    assert proof_for("rds.csi.example", "cluster-a", "pvc-1") == "6740ce6cd487"


def test_a_hundred_thousand_ids_have_as_many_slots() -> None:
    chance = random.Random(5)
    ids = {f"pvc-{uuid.UUID(int=chance.getrandbits(128))}" for _ in range(40_000)}
    ids |= {f"{'x' * (index % 40)}a{index}" for index in range(40_000)}
    ids |= {f"s-{index}" for index in range(10_000)}
    ids |= {f"pvc-{'0' * 40}-{index}" for index in range(10_000)}
    slots = [slot_for(one) for one in ids] + [snapshot_slot_for(one) for one in ids]
    assert len(ids) == 100_000
    assert len(set(slots)) == len(slots)
    assert all(SLOT.fullmatch(slot) for slot in slots)


@given(IDS)
def test_a_volume_never_has_the_slot_of_a_snapshot(object_id: str) -> None:
    assert slot_for(object_id) != snapshot_slot_for(object_id)
    if object_id.startswith("s-") and is_id(object_id[2:]):
        assert slot_for(object_id) != snapshot_slot_for(object_id[2:])


@pytest.mark.parametrize("text", ["", "A", "a_b", "-a", "a-", "a" * 64, "a\n", "a.b", "../x"])
def test_what_is_no_id_has_no_slot(text: str) -> None:
    with pytest.raises(InvalidArgument):
        slot_for(text)
    with pytest.raises(InvalidArgument):
        snapshot_slot_for(text)


@given(st.text(max_size=5), st.text(max_size=5), st.text(max_size=5))
def test_proofs_depend_on_where_one_part_ends(driver: str, cluster: str, object_id: str) -> None:
    proof = proof_for(driver, cluster, object_id)
    assert re.fullmatch(r"[0-9a-f]{12}", proof)
    assert proof != proof_for(driver + "x", cluster, object_id)
    if cluster:
        assert proof != proof_for(driver + cluster[0], cluster[1:], object_id)


@given(IDS, st.booleans())
def test_every_name_may_be_in_a_command(object_id: str, subvolumes: bool) -> None:
    ours = Names("rds.csi.example", "cluster-a", PREFIX, "raid10", "rds-csi", subvolumes=subvolumes)
    for path in (ours.volume_path(object_id), ours.snapshot_path(object_id)):
        assert normal_path(path) == path
        assert path.startswith("raid10/rds-csi/")
        assert ours.is_ours(path, object_id)
        slot, proof = ours.object_in(path) or ("", "")
        assert slot in (ours.slot(object_id), ours.snapshot_slot(object_id))
        assert proof == proof_for("rds.csi.example", "cluster-a", object_id)
    check_nqn(check_value(ours.nqn(object_id), "nqn"))
    assert ours.volume_path(object_id) != ours.snapshot_path(object_id)
    assert f"raid10/{ours.volume_subvolume(object_id)}" in ours.volume_path(object_id)
    assert f"raid10/{ours.snapshot_subvolume(object_id)}" in ours.snapshot_path(object_id)


def test_the_layouts_read_as_documented() -> None:
    plain = names()
    proof = proof_for("rds.csi.example", "cluster-a", "db-1")
    assert plain.volume_path("db-1") == f"raid10/rds-csi/db-1.{proof}.img"
    nested = Names("rds.csi.example", "cluster-a", PREFIX, "raid10", "rds-csi", subvolumes=True)
    assert nested.volume_path("db-1") == f"raid10/rds-csi/db-1.{proof}/volume.img"
    assert nested.snapshot_subvolume("db-1") == f"rds-csi/s-db-1.{proof}"
    assert plain.nqn("db-1") == f"{PREFIX}db-1"


@pytest.mark.parametrize("field", ["driver", "cluster", "pool_directory", "base"])
def test_a_file_of_another_driver_cluster_or_place_is_not_ours(field: str) -> None:
    path = names(**{field: "other"}).volume_path("db-1")
    assert not names().is_ours(path, "db-1")


@given(IDS, st.text(max_size=80))
def test_whatever_is_not_exactly_such_a_name_is_not_ours(object_id: str, text: str) -> None:
    ours = names()
    for path in (text, f"raid10/rds-csi/{text}", f"raid10/rds-csi/{object_id}.img", f"/{ours.volume_path(object_id)}"):
        assert not ours.is_ours(path, object_id)
    assert not ours.is_ours(ours.volume_path("db-1"), "db-2")
    assert not ours.is_ours(ours.volume_path("db-1"), "../db-1")


@pytest.mark.parametrize(
    "path",
    [
        "raid10/rds-csi",
        "raid10/other/db-1.0123456789ab.img",
        "raid10/rds-csi/db-1.img",
        "raid10/rds-csi/db-1.0123456789AB.img",
        "raid10/rds-csi/db-1.0123456789ab.img/x",
        "raid10/rds-csi/" + "a" * 33 + ".0123456789ab.img",
    ],
)
def test_a_file_that_is_called_otherwise_is_no_object(path: str) -> None:
    assert names().object_in(path) is None


def test_a_subvolume_and_its_image_are_the_same_object() -> None:
    found = ("db-1", "0123456789ab")
    for tail in ("", ".img", "/volume.img"):
        assert names().object_in(f"raid10/rds-csi/db-1.0123456789ab{tail}") == found


@pytest.mark.parametrize(
    "changes",
    [
        {"nqn_prefix": ""},
        {"nqn_prefix": "nqn.2026-11.io.example:" + "x" * 180},
        {"nqn_prefix": "nqn.2026-11.io.example:a$b"},
        {"pool_directory": ""},
        {"pool_directory": "/raid10"},
        {"pool_directory": "raid10/.."},
        {"base": ""},
        {"base": "rds csi"},
        {"base": "rds-csi/"},
    ],
)
def test_a_configuration_without_good_names_is_refused(changes: dict[str, str]) -> None:
    with pytest.raises(ConfigurationError):
        names(**changes)
