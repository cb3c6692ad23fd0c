"""Looking into Kubernetes objects: paths, pods, containers, environment variables."""

import re
from collections.abc import Iterator, Mapping, Sequence

from tests.chart.helm import Object


def at(value: object, *path: str | int) -> object:
    """What stands at a path of keys and indices; None where nothing does."""
    for key in path:
        if isinstance(key, int):
            if not isinstance(value, list) or len(value) <= key:
                return None
            value = value[key]
        elif isinstance(value, dict):
            value = value.get(key)
        else:
            return None
    return value


def mapping(value: object, *path: str | int) -> dict[str, object]:
    """The mapping at a path; an empty one where nothing is."""
    found = at(value, *path)
    assert found is None or isinstance(found, dict), (path, found)
    return found or {}


def items(value: object, *path: str | int) -> list[object]:
    """The list at a path; an empty one where nothing is."""
    found = at(value, *path)
    assert found is None or isinstance(found, list), (path, found)
    return found or []


def texts(value: object, *path: str | int) -> list[str]:
    """The list of strings at a path."""
    return [str(item) for item in items(value, *path)]


def name_of(item: Object) -> str:
    """The object's name."""
    return str(at(item, "metadata", "name"))


def of_kind(objects: Sequence[Object], kind: str) -> list[Object]:
    """The objects of a kind."""
    return [item for item in objects if item["kind"] == kind]


def one(objects: Sequence[Object], kind: str, name: str) -> Object:
    """The one object of that kind and name."""
    found = [item for item in of_kind(objects, kind) if name_of(item) == name]
    assert len(found) == 1, f"{kind}/{name}: {len(found)} in {[(item['kind'], name_of(item)) for item in objects]}"
    return found[0]


def pod_of(workload: Object) -> dict[str, object]:
    """The pod's specification in a Deployment or DaemonSet."""
    return mapping(workload, "spec", "template", "spec")


def containers(workload: Object) -> dict[str, dict[str, object]]:
    """The containers of a workload, by name."""
    return {str(at(item, "name")): mapping(item) for item in items(pod_of(workload), "containers")}


def workloads(objects: Sequence[Object]) -> list[Object]:
    """The Deployments and DaemonSets."""
    return [item for item in objects if item["kind"] in ("Deployment", "DaemonSet")]


def environment(container: Mapping[str, object]) -> dict[str, str]:
    """The environment variables that a container gets on a node ``node-1`` with the address 192.0.2.9."""
    fields = {"spec.nodeName": "node-1", "status.podIP": "192.0.2.9"}
    found: dict[str, str] = {}
    for item in items(dict(container), "env"):
        field = at(item, "valueFrom", "fieldRef", "fieldPath")
        value = fields.get(str(field), "") if field else str(at(item, "value"))
        found[str(at(item, "name"))] = re.sub(r"\$\((\w+)\)", lambda match: found[match[1]], value)
    return found


def host_paths(workload: Object) -> Iterator[str]:
    """The host's directories that a workload sees."""
    for volume in items(pod_of(workload), "volumes"):
        path = at(volume, "hostPath", "path")
        if path is not None:
            yield str(path)
