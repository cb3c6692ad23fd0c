"""What the cluster lane reads from the API server's audit log: rights that were lacking, rights that nobody used, and
where volumes were attached."""

import json
from pathlib import Path

from tests.cluster.audit import (
    Right,
    attached_twice,
    attachments_in,
    read_log,
    refused,
    requests_in,
    unused,
)

DRIVER = "system:serviceaccount:rds-csi:rds-csi-controller"


def entry(
    verb: str, resource: str, *, namespace: str = "", decision: str = "allow", **other: object
) -> dict[str, object]:
    """A line of the log as the API server writes it, at the level Metadata."""
    name, _, subresource = resource.partition("/")
    about = {"resource": name, "apiGroup": other.pop("group", ""), "namespace": namespace}
    about |= {"subresource": subresource} if subresource else {}
    return {
        "stage": "ResponseComplete",
        "verb": verb,
        "user": {"username": DRIVER},
        "objectRef": {key: value for key, value in about.items() if value},
        "annotations": {"authorization.k8s.io/decision": decision},
        **other,
    }


def right(verb: str, resource: str, *, namespace: str = "", group: str = "") -> Right:
    return Right("rds-csi-controller", group, resource, verb, namespace)


def test_a_right_that_a_request_took_is_used() -> None:
    rights = {right("patch", "volumeattachments/status", group="storage.k8s.io"), right("list", "nodes")}
    log = [entry("patch", "volumeattachments/status", group="storage.k8s.io"), entry("list", "nodes")]
    assert unused(rights, requests_in(log)) == set()


def test_a_right_is_not_used_by_another_verb_resource_group_or_account() -> None:
    wanted = right("patch", "volumeattachments", group="storage.k8s.io")
    log = [
        entry("update", "volumeattachments", group="storage.k8s.io"),
        entry("patch", "volumeattachments/status", group="storage.k8s.io"),
        entry("patch", "volumeattachments"),
        entry("patch", "volumeattachments", group="storage.k8s.io", user={"username": f"{DRIVER}-other"}),
        entry("patch", "volumeattachments", group="storage.k8s.io", user={"username": "admin"}),
    ]
    assert unused({wanted}, requests_in(log)) == {wanted}


def test_a_right_of_a_namespace_is_used_there_only_and_one_for_all_anywhere() -> None:
    log = [entry("get", "leases", namespace="rds-csi", group="coordination.k8s.io")]
    here = right("get", "leases", namespace="rds-csi", group="coordination.k8s.io")
    there = right("get", "leases", namespace="elsewhere", group="coordination.k8s.io")
    everywhere = right("get", "leases", group="coordination.k8s.io")
    assert unused({here, there, everywhere}, requests_in(log)) == {there}


def test_a_watch_counts_from_its_beginning() -> None:
    assert unused({right("watch", "nodes")}, requests_in([entry("watch", "nodes", stage="ResponseStarted")])) == set()


def test_a_request_that_no_role_allowed_is_lacking_its_right() -> None:
    log = [entry("delete", "secrets", namespace="default", decision="forbid"), entry("get", "pods")]
    assert refused(requests_in(log), "rds-csi") == {right("delete", "secrets", namespace="default")}
    assert refused(requests_in(log), "another") == set()


def test_a_403_for_another_reason_lacks_no_right() -> None:
    log = [entry("create", "events", namespace="ending", responseStatus={"code": 403})]
    assert refused(requests_in(log), "rds-csi") == set()


def test_a_refused_request_that_needs_the_right_is_no_reason_to_take_it_away() -> None:
    log = [entry("patch", "events", decision="forbid")]
    assert unused({right("patch", "events")}, requests_in(log)) == set()


def test_paths_that_are_no_objects_need_no_right() -> None:
    log = [entry("get", "nodes") | {"objectRef": None}]
    assert list(requests_in(log)) == []


def test_a_line_that_is_being_written_is_left_for_later(tmp_path: Path) -> None:
    path = tmp_path / "audit.log"
    path.write_text(json.dumps(entry("list", "nodes")) + "\n" + '{"stage": "Resp')
    assert [line["verb"] for line in read_log(path)] == ["list"]


def write(version: int, name: str, node: str, *, attached: bool = True, gone: bool = False) -> dict[str, object]:
    """A write of the VolumeAttachment ``name`` of one volume."""
    metadata: dict[str, object] = {"name": name, "resourceVersion": str(version), "finalizers": ["attacher"]}
    metadata |= {"deletionTimestamp": "2026-01-01T00:00:00Z", "finalizers": []} if gone else {}
    found = {
        "kind": "VolumeAttachment",
        "metadata": metadata,
        "spec": {"source": {"persistentVolumeName": "pvc-1"}, "nodeName": node},
        "status": {"attached": attached},
    }
    return entry("patch", "volumeattachments/status", responseObject=found)


def test_a_volume_that_moves_is_attached_to_one_node_at_a_time() -> None:
    log = [write(1, "a", "node-a"), write(2, "a", "node-a", attached=False), write(3, "b", "node-b")]
    assert attached_twice(attachments_in(log)) == []


def test_a_volume_that_is_attached_to_a_second_node_too_early_is_told() -> None:
    log = [write(1, "a", "node-a"), write(2, "b", "node-b"), write(3, "a", "node-a", attached=False)]
    assert attached_twice(attachments_in(log)) == ["pvc-1 is attached to node-a and node-b"]


def test_writes_count_in_the_order_in_which_they_were_made() -> None:
    log = [write(3, "b", "node-b"), write(2, "a", "node-a", attached=False), write(1, "a", "node-a")]
    assert attached_twice(attachments_in(log)) == []


def test_an_attachment_ends_with_its_last_holder() -> None:
    log = [write(1, "a", "node-a"), write(2, "a", "node-a", gone=True), write(3, "b", "node-b")]
    assert attached_twice(attachments_in(log)) == []
