"""What a claim can ask for: access modes, attributes, ephemeral volumes, a place chosen by the scheduler."""

import pytest

from tests.cluster.api import field
from tests.cluster.conftest import NODE
from tests.cluster.release import DRIVER_NAME, NAMESPACE
from tests.cluster.workspace import CLAIM_SECONDS, EVENT_SECONDS, Workspace

pytestmark = pytest.mark.timeout(300)


def test_a_read_write_once_pod_volume_is_for_one_pod(work: Workspace) -> None:
    work.claim("data", access="ReadWriteOncePod")
    work.pod("first", {"/data": "data"})
    work.await_ready("first")
    work.pod("second", {"/data": "data"})
    work.await_message("second", "ReadWriteOncePod")
    assert field(work.get("Pod", "second"), "status.phase") == "Pending"
    work.delete("Pod", "first")
    work.await_ready("second")


def test_a_volume_attributes_class_changes_a_volume(work: Workspace) -> None:
    work.claim("data")
    work.await_bound("data")
    change = {"spec": {"volumeAttributesClassName": "patient"}}
    work.api.merge("PersistentVolumeClaim", "data", change, work.namespace)
    work.wait_until(
        lambda: (
            field(work.get("PersistentVolumeClaim", "data"), "status.currentVolumeAttributesClassName") == "patient"
        ),
        "the claim has its attributes",
        CLAIM_SECONDS,
    )
    assert field(work.volume("data"), "spec.volumeAttributesClassName") == "patient"
    work.pod("user", {"/data": "data"})
    work.await_ready("user")


def test_a_claim_is_made_with_its_volume_attributes_class(work: Workspace) -> None:
    work.claim("data", attributes_class="patient")
    work.await_bound("data")
    assert field(work.volume("data"), "spec.volumeAttributesClassName") == "patient"


def test_a_generic_ephemeral_volume_lives_as_long_as_its_pod(work: Workspace) -> None:
    spec = {
        "storageClassName": "fast",
        "accessModes": ["ReadWriteOnce"],
        "resources": {"requests": {"storage": "64Mi"}},
    }
    volume = {"name": "scratch", "ephemeral": {"volumeClaimTemplate": {"spec": spec}}}
    work.pod_with("user", {"/scratch": volume})
    work.await_ready("user")
    work.run("user", "touch", "/scratch/file")
    work.delete("Pod", "user")
    work.await_gone("PersistentVolumeClaim", "user-scratch")


def test_a_claim_waits_for_its_first_consumer_and_lands_where_there_is_room(work: Workspace) -> None:
    work.claim("data", storage_class="waiting")
    work.wait_until(lambda: bool(capacities(work)), "the array's room is told to the scheduler", EVENT_SECONDS)
    assert field(work.get("PersistentVolumeClaim", "data"), "status.phase") == "Pending"
    work.pod("user", {"/data": "data"})
    work.await_ready("user")
    terms = field(work.volume("data"), "spec.nodeAffinity.required.nodeSelectorTerms")
    assert [term["matchExpressions"][0]["values"] for term in terms] == [[NODE]]


def test_a_pod_whose_claim_is_larger_than_any_array_is_not_scheduled(work: Workspace) -> None:
    work.wait_until(lambda: bool(capacities(work)), "the array's room is told to the scheduler", EVENT_SECONDS)
    work.claim("data", storage_class="waiting", size="900Ti")
    work.pod("user", {"/data": "data"})
    work.await_message("user", "did not have enough free storage")


def capacities(work: Workspace) -> list[str]:
    """What the provisioner has published of the class ``waiting``."""
    found = work.api.list("CSIStorageCapacity", NAMESPACE)
    return [str(item["capacity"]) for item in found if item["storageClassName"] == "waiting" and item.get("capacity")]


def test_the_driver_is_known_with_its_topology(work: Workspace) -> None:
    found = work.api.get("CSINode", NODE)
    assert found is not None
    (driver,) = field(found, "spec.drivers")
    assert (driver["name"], driver["nodeID"]) == (DRIVER_NAME, NODE)
    assert driver["topologyKeys"] == [f"topology.{DRIVER_NAME}/node"]
