"""From where a node's volumes can be reached."""

import pytest

from rds_csi.errors import ConfigurationError
from rds_csi.parts import topology_of
from rds_csi.settings import load_settings

DIRECTORY = "local:///volumes"


def topology(array: str, **flags: str) -> dict[str, str]:
    return topology_of(load_settings({"array": array, "node_id": "node-1", "driver_name": "x.io", **flags}))


def test_a_local_file_is_reached_on_its_own_machine_only() -> None:
    assert topology(DIRECTORY) == topology(f"{DIRECTORY}?shared=no") == {"topology.x.io/node": "node-1"}


def test_a_shared_directory_is_reached_from_every_node_that_has_it() -> None:
    assert topology(f"{DIRECTORY}?shared=yes") == {"topology.x.io/directory": "shared"}


def test_a_subsystem_is_reached_from_every_node_that_speaks_nvme_tcp() -> None:
    assert topology("nvmet://192.0.2.1?backing=/b") == {"topology.x.io/transport": "nvme-tcp"}


@pytest.mark.parametrize("query", ["shared=maybe", "shared=", "share=yes", "shared=yes&shared=no"])
def test_another_word_is_refused(query: str) -> None:
    with pytest.raises(ConfigurationError, match="share"):
        topology(f"{DIRECTORY}?{query}")
