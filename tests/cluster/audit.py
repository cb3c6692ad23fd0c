"""What was asked of the API server, by its audit log, and which of the rights that were granted it needed.

Source: Kubernetes docs, "Auditing" (audit.k8s.io/v1).
"""

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.cluster.api import Api, Object, field, name_of

_USER = "system:serviceaccount:"
# A watch begins long before it ends.
_ANSWERED = ("ResponseStarted", "ResponseComplete")


@dataclass(frozen=True, slots=True, order=True)
class Right:
    """What a ServiceAccount may do. ``namespace`` is "" where it may do it everywhere."""

    account: str
    group: str
    resource: str
    verb: str
    namespace: str = ""

    def __str__(self) -> str:
        what = f"{self.resource}.{self.group}" if self.group else self.resource
        return f"{self.account}: {self.verb} {what}" + (f" in {self.namespace}" if self.namespace else "")


@dataclass(frozen=True, slots=True)
class Request:
    """What a ServiceAccount asked for: the right that it takes, in the namespace of the object, and whether any role
    allowed it. ``home`` is the account's own namespace."""

    right: Right
    home: str
    allowed: bool


@dataclass(frozen=True, slots=True)
class Attachment:
    """A VolumeAttachment as it was after a write."""

    name: str
    volume: str
    node: str
    attached: bool


def read_log(path: Path) -> Iterator[Object]:
    """The entries of an audit log; not the one that is just being written."""
    with path.open(encoding="utf-8") as stream:
        for line in stream:
            if line.endswith("\n"):
                yield json.loads(line)


def requests_in(entries: Iterable[Mapping[str, Any]]) -> Iterator[Request]:
    """What ServiceAccounts asked for. Paths that are no objects (/version) are for everybody."""
    for entry in entries:
        user, about = str(field(entry, "user.username")), entry.get("objectRef")
        if not user.startswith(_USER) or about is None or entry["stage"] not in _ANSWERED:
            continue
        home, _, account = user.removeprefix(_USER).partition(":")
        resource = "/".join(filter(None, (about["resource"], about.get("subresource", ""))))
        right = Right(account, about.get("apiGroup", ""), resource, entry["verb"], about.get("namespace", ""))
        # A namespace that is being deleted answers 403 too: whether a right was lacking, only this tells.
        decision = entry.get("annotations", {}).get("authorization.k8s.io/decision")
        yield Request(right, home, decision == "allow")


def granted(api: Api, namespace: str) -> set[Right]:
    """The rights that bindings give to the ServiceAccounts of a namespace."""
    found: set[Right] = set()
    for kind in ("ClusterRoleBinding", "RoleBinding"):
        for binding in api.list(kind):
            where = binding["metadata"].get("namespace", "")
            role = api.get(binding["roleRef"]["kind"], binding["roleRef"]["name"], where)
            for account in _accounts(binding, namespace):
                assert role is not None, f"{kind} {name_of(binding)} is of a role that is not there"
                found |= set(_rights(role, account, where))
    return found


def unused(rights: Iterable[Right], requests: Iterable[Request]) -> set[Right]:
    """The rights that no request took."""
    asked: dict[Right, set[str]] = defaultdict(set)
    for request in requests:
        right = request.right
        asked[Right(right.account, right.group, right.resource, right.verb)].add(right.namespace)
    return {right for right in rights if not _takes(right, asked)}


def refused(requests: Iterable[Request], namespace: str) -> set[Right]:
    """What ServiceAccounts of a namespace asked for and no role allowed."""
    return {request.right for request in requests if request.home == namespace and not request.allowed}


def attachments_in(entries: Iterable[Mapping[str, Any]]) -> Iterator[Attachment]:
    """Every state of every VolumeAttachment, in the order of the writes."""
    written: dict[int, Attachment] = {}
    for entry in entries:
        found = entry.get("responseObject") or {}
        if field(entry, "objectRef.resource") != "volumeattachments" or found.get("kind") != "VolumeAttachment":
            continue
        # The log is in the order of the answers; etcd's counter is in that of the writes.
        written[int(field(found, "metadata.resourceVersion"))] = Attachment(
            name_of(found),
            str(field(found, "spec.source.persistentVolumeName")),
            str(field(found, "spec.nodeName")),
            field(found, "status.attached") is True and not _is_gone(found),
        )
    for version in sorted(written):
        yield written[version]


def attached_twice(history: Iterable[Attachment]) -> list[str]:
    """Each moment at which a volume was attached to more than one node, as a line for a person."""
    nodes: dict[str, dict[str, str]] = defaultdict(dict)
    found = []
    for state in history:
        if not state.attached:
            nodes[state.volume].pop(state.name, None)
            continue
        nodes[state.volume][state.name] = state.node
        if len(where := set(nodes[state.volume].values())) > 1:
            found.append(f"{state.volume} is attached to {' and '.join(sorted(where))}")
    return found


def _is_gone(attachment: Mapping[str, Any]) -> bool:
    """Whether the write let an object go whose deletion waited for it: nobody holds it any more."""
    metadata = attachment["metadata"]
    return bool(metadata.get("deletionTimestamp")) and not metadata.get("finalizers")


def _takes(right: Right, asked: Mapping[Right, set[str]]) -> bool:
    where = asked.get(Right(right.account, right.group, right.resource, right.verb), set())
    return right.namespace in where if right.namespace else bool(where)


def _accounts(binding: Object, namespace: str) -> list[str]:
    subjects = binding.get("subjects") or []
    return [
        subject["name"]
        for subject in subjects
        if subject["kind"] == "ServiceAccount" and subject.get("namespace") == namespace
    ]


def _rights(role: Object, account: str, namespace: str) -> Iterator[Right]:
    for rule in role.get("rules") or []:
        for group in rule.get("apiGroups", []):
            for resource in rule["resources"]:
                for verb in rule["verbs"]:
                    yield Right(account, group, resource, verb, namespace)
