"""After all other cases: the chart grants its ServiceAccounts what they needed, and nothing that nobody used."""

import ssl

import httpx
import pytest

from tests.cluster.audit import attached_twice, attachments_in, granted, read_log, refused, requests_in, unused
from tests.cluster.cluster import Cluster
from tests.cluster.conftest import MODULES
from tests.cluster.control_plane import SERVER
from tests.cluster.release import NAMESPACE, Release
from tests.support.missing import give_up
from tests.support.waiting import wait_until

pytestmark = pytest.mark.timeout(120)

LOG_SECONDS = 10.0

# What this lane does not come to each time, as ``Right`` is written ("rds-csi-node: patch nodes"), with when it is
# needed: a right that is neither used nor in here is one too many.
RARE: dict[str, str] = {}


@pytest.fixture
def whole(request: pytest.FixtureRequest) -> None:
    """All modules of the lane are run: of a part of it nothing can be told."""
    collected = {item.path.stem for item in request.session.items}
    if absent := [name for name in MODULES if name not in collected]:
        give_up(f"only the whole lane shows which rights are used: {', '.join(absent)} are not run")


def test_no_right_was_lacking(cluster: Cluster, release: Release) -> None:
    lacking = refused(requests_in(read_log(cluster.audit_log)), release.namespace)
    assert sorted(map(str, lacking)) == []


def test_every_right_is_used_or_explained(whole: None, cluster: Cluster, release: Release) -> None:
    rights = granted(cluster.api, release.namespace)
    assert {right.account for right in rights} == {"rds-csi-controller", "rds-csi-node"}
    idle = sorted(map(str, unused(rights, requests_in(read_log(cluster.audit_log)))))
    assert [right for right in idle if right not in RARE] == []
    assert sorted(RARE.keys() - set(map(str, rights))) == []


def test_no_volume_was_ever_attached_to_two_nodes(cluster: Cluster, report: list[str]) -> None:
    history = list(attachments_in(read_log(cluster.audit_log)))
    # A log without them would prove nothing.
    assert [state for state in history if state.attached] != []
    assert attached_twice(history) == []
    report.append(f"{len(history)} writes of VolumeAttachments: no volume was attached to two nodes")


def test_a_request_without_its_right_is_seen(cluster: Cluster, release: Release) -> None:
    token = cluster.kubectl("create", "token", "rds-csi-node", f"--namespace={NAMESPACE}").strip()
    before = sum(1 for _ in read_log(cluster.audit_log))
    context = ssl.create_default_context(cafile=str(cluster.kubeconfig.parent / "ca.crt"))
    path = f"{SERVER}/api/v1/namespaces/{NAMESPACE}/secrets"
    with httpx.Client(verify=context, trust_env=False) as client:
        answer = client.get(path, headers={"Authorization": f"Bearer {token}"}, timeout=LOG_SECONDS)
    assert answer.status_code == httpx.codes.FORBIDDEN, answer.text

    def seen() -> list[str]:
        entries = list(read_log(cluster.audit_log))[before:]
        return sorted(map(str, refused(requests_in(entries), release.namespace)))

    wait_until(lambda: bool(seen()), "the log has the request", seconds=LOG_SECONDS)
    assert seen() == [f"rds-csi-node: list secrets in {NAMESPACE}"]
