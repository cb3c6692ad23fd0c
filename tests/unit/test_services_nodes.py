"""Node ids, and which nodes a controller knows."""

import pytest

from rds_csi.errors import ConfigurationError, NotFound
from rds_csi.model.volumes import Node
from rds_csi.services.nodes import LocalNodes, NamedNodes, encode_node_id

NQN = "nqn.2014-08.org.nvmexpress:uuid:7f1a7cbe-9a6b-4e0f-a2b9-6a4f9a8b7c6d"


def test_the_host_nqn_travels_in_the_node_id() -> None:
    node_id = encode_node_id("worker-1", NQN)
    assert NamedNodes(needs_host_nqn=True).lookup(node_id) == Node(node_id, NQN)


def test_a_node_without_nvme_is_its_name() -> None:
    assert encode_node_id("worker-1", "") == "worker-1"
    assert NamedNodes(needs_host_nqn=False).lookup("worker-1") == Node("worker-1", "")


def test_an_array_that_lets_in_known_hosts_only_needs_the_host_nqn() -> None:
    with pytest.raises(NotFound, match="--connector nvme-cli"):
        NamedNodes(needs_host_nqn=True).lookup("worker-1")


@pytest.mark.parametrize("node_id", ["#" + NQN, "worker-1#not-an-nqn"])
def test_a_malformed_node_id_is_no_node(node_id: str) -> None:
    with pytest.raises(NotFound):
        NamedNodes(needs_host_nqn=False).lookup(node_id)


@pytest.mark.parametrize("name", ["a" * 257, "a b", "a#b", ""])
def test_a_name_that_makes_no_node_id_is_a_wrong_flag(name: str) -> None:
    with pytest.raises(ConfigurationError):
        encode_node_id(name, "")


def test_the_only_node_is_found_by_its_exact_id() -> None:
    nodes = LocalNodes(Node("here", NQN))
    assert nodes.lookup("here").host_nqn == NQN
    with pytest.raises(NotFound):
        nodes.lookup("there")
