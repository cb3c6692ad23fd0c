"""Roles grant what tests/chart/rbac.py explains, and nothing else; and only what is switched on."""

from collections.abc import Iterator

import pytest

from tests.chart.conftest import Rendered
from tests.chart.helm import Object
from tests.chart.look import at, items, name_of, of_kind, one, pod_of, texts, workloads
from tests.chart.rbac import GRANTS, Grant, When

# What is switched on in each of these value files.
SWITCHED_ON = {
    "routeros-https": {When.DRIVER, When.TAINT, When.CAPACITY, When.SNAPSHOTS, When.GROUPS},
    "local": {When.DRIVER, When.TAINT, When.CAPACITY, When.SNAPSHOTS},
    "routeros-ssh": {When.DRIVER, When.TAINT, When.CAPACITY},
    "sidecar-registration": {When.CAPACITY},
    "hardened": {When.DRIVER},
}


def _granted(objects: list[Object]) -> Iterator[Grant]:
    for kind, suffix in (("ClusterRole", ""), ("Role", " (namespace)")):
        for role in of_kind(objects, kind):
            name = name_of(role).removeprefix("rds-csi-") + suffix
            for rule in items(role, "rules"):
                for group in texts(rule, "apiGroups"):
                    for resource in texts(rule, "resources"):
                        for verb in texts(rule, "verbs"):
                            yield Grant(name, group, resource, verb)


@pytest.mark.parametrize("values", SWITCHED_ON)
def test_roles_grant_what_is_explained_and_switched_on(values: str, rendered: Rendered) -> None:
    granted = list(_granted(rendered(values)))
    assert len(granted) == len(set(granted))
    on = {When.ALWAYS, *SWITCHED_ON[values]}
    assert set(granted) == {grant for grant, why in GRANTS.items() if why.when in on}


def test_every_switch_is_tried() -> None:
    assert set(When) - {When.ALWAYS} == set().union(*SWITCHED_ON.values())


def test_nothing_is_granted_by_a_star_and_no_secret_can_be_read() -> None:
    for grant in GRANTS:
        assert "*" not in (grant.group, grant.resource, grant.verb)
        assert grant.resource != "secrets"


@pytest.mark.parametrize("values", ["routeros-https", "hardened"])
def test_bindings_give_each_role_to_its_pods(values: str, rendered: Rendered) -> None:
    there = rendered(values)
    accounts = {name_of(item).removeprefix("rds-csi-"): pod_of(item)["serviceAccountName"] for item in workloads(there)}
    for kind in ("ClusterRole", "Role"):
        for role in of_kind(there, kind):
            binding = one(there, f"{kind}Binding", name_of(role))
            assert at(binding, "roleRef", "kind") == kind
            assert at(binding, "roleRef", "name") == name_of(role)
            account = accounts[name_of(role).removeprefix("rds-csi-")]
            assert items(binding, "subjects") == [{"kind": "ServiceAccount", "name": account, "namespace": "storage"}]


def test_accounts_are_made_unless_others_make_them(rendered: Rendered) -> None:
    made = {name_of(item) for item in of_kind(rendered("routeros-https"), "ServiceAccount")}
    assert made == {"rds-csi-controller", "rds-csi-node"}
    assert of_kind(rendered("hardened"), "ServiceAccount") == []


def test_roles_can_be_left_to_others(rendered: Rendered) -> None:
    there = rendered("host-network")
    assert [item for item in there if "Role" in str(item["kind"])] == []
