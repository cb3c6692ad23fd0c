"""What cannot be done is told where a user looks: in the events of the claim."""

import pytest

from tests.cluster.api import field
from tests.cluster.workspace import Workspace

pytestmark = pytest.mark.timeout(300)


def test_a_claim_that_is_too_large_says_how_much_there_is(work: Workspace) -> None:
    work.claim("huge", size="900Ti")
    work.await_message("huge", "ProvisioningFailed", "more than the largest volume of")
    assert field(work.get("PersistentVolumeClaim", "huge"), "status.phase") == "Pending"


def test_a_wrong_parameter_is_named_with_what_it_may_be(work: Workspace) -> None:
    work.claim("data", storage_class="wrong")
    work.await_message("data", "ProvisioningFailed", "queueSize", "16 to 1024")


def test_a_volume_is_not_made_smaller(work: Workspace) -> None:
    work.claim("data", size="128Mi")
    work.await_bound("data")
    work.snapshot("moment", "data")
    source = {"apiGroup": "snapshot.storage.k8s.io", "kind": "VolumeSnapshot", "name": "moment"}
    work.claim("smaller", size="64Mi", source=source)
    work.await_message("smaller", "ProvisioningFailed", "less than the size")
