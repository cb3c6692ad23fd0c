"""The client of the API server, against a real TLS server on loopback."""

import logging
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from rds_csi.deadline import set_deadline
from rds_csi.errors import DriverError
from rds_csi.kubernetes.access import Access, Credentials, find_access
from rds_csi.kubernetes.api import FRESH_SECONDS, JSON_PATCH, MERGE_PATCH, Api
from rds_csi.kubernetes.errors import ApiAway, Conflict, Forbidden, Invalid, NoSuchObject, Unauthorized
from rds_csi.kubernetes.resources import NODES, VOLUMES, node_path
from rds_csi.kubernetes.values import Object, text
from tests.support.clock import FakeClock
from tests.support.kube_api import TOKEN, Fault, KubeApi, Status
from tests.support.rpc import eventually

NODE = node_path("n1")


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[KubeApi]:
    server = KubeApi(tmp_path)
    server.add_node("n1")
    async with server.serve():
        yield server


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
async def api(server: KubeApi, clock: FakeClock) -> AsyncIterator[Api]:
    api = server.client(clock.clock)
    yield api
    await api.close()


@pytest.fixture
def short_patience() -> Iterator[None]:
    set_deadline(time.monotonic() + 0.3)
    yield
    set_deadline(None)


def name_of(value: Object) -> str:
    return text(value, "metadata", "name")


# Where the API server is


def test_outside_of_a_cluster_there_is_no_access(tmp_path: Path) -> None:
    assert find_access({}, str(tmp_path)) is None
    assert find_access({"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, str(tmp_path)) is None


def test_without_a_token_there_is_no_access(tmp_path: Path) -> None:
    server = KubeApi(tmp_path)
    assert find_access(server.environment, str(tmp_path)) is not None
    (tmp_path / "var/run/secrets/kubernetes.io/serviceaccount/token").unlink()
    assert find_access(server.environment, str(tmp_path)) is None


def test_an_ipv6_address_stands_in_brackets() -> None:
    assert Access("fd00::1", 443, "/").label == "[fd00::1]:443"
    assert Access("10.0.0.1", 6443, "/").label == "10.0.0.1:6443"


def test_credentials_do_not_show_the_token() -> None:
    assert TOKEN not in f"{Credentials(TOKEN, 'ca')!r} {Credentials(TOKEN, 'ca')}"


def test_outside_of_a_cluster_nobody_loads_httpx() -> None:
    program = (
        "import sys\n"
        "from rds_csi.kubernetes.cluster import open_cluster\n"
        "from rds_csi.settings import load_settings\n"
        "assert open_cluster(load_settings({}), environment={}) is None\n"
        "sys.exit('httpx' in sys.modules)\n"
    )
    assert subprocess.run([sys.executable, "-c", program], timeout=60, check=False).returncode == 0


# Verbs


async def test_an_object_is_read_created_and_changed(server: KubeApi, api: Api) -> None:
    assert name_of(await api.get(NODE)) == "n1"
    await api.create(NODES, {"metadata": {"name": "n2"}, "spec": {}})
    await api.patch(node_path("n2"), {"spec": {"unschedulable": True}}, MERGE_PATCH)
    await api.patch(node_path("n2"), [{"op": "replace", "path": "/spec/unschedulable", "value": False}], JSON_PATCH)
    assert server.objects[node_path("n2")]["spec"] == {"unschedulable": False}
    assert server.asked[0].token == TOKEN


async def test_connections_are_used_again(server: KubeApi, api: Api) -> None:
    for _ in range(3):
        await api.get(NODE)
    assert server.connections == 1


async def test_a_name_cannot_leave_its_place_in_the_path(server: KubeApi, api: Api) -> None:
    with pytest.raises(NoSuchObject):
        await api.get(node_path("../persistentvolumes?limit=1"))
    assert server.asked[0].path == f"{NODES}/../persistentvolumes?limit=1"
    assert server.asked[0].verb == "get"


# Lists


async def test_a_list_is_read_page_by_page(server: KubeApi, api: Api) -> None:
    for number in range(7):
        server.add_volume(f"pv-{number}", f"v{number}", driver="d")
    server.page = 3
    assert await api.collect(VOLUMES, name_of) == [f"pv-{number}" for number in range(7)]
    assert server.count("list", "persistentvolumes") == 3
    assert server.asked[0].query == {"limit": "500"}


async def test_what_is_not_wanted_is_left_out(server: KubeApi, api: Api) -> None:
    for number in range(3):
        server.add_volume(f"pv-{number}", f"v{number}", driver="d")
    assert await api.collect(VOLUMES, lambda value: name_of(value) if name_of(value) != "pv-1" else None) == [
        "pv-0",
        "pv-2",
    ]


async def test_an_empty_list_is_empty(api: Api) -> None:
    assert await api.collect(VOLUMES, name_of) == []
    assert await api.find(VOLUMES, name_of) is None


async def test_a_search_ends_with_the_page_that_has_it(server: KubeApi, api: Api) -> None:
    for number in range(7):
        server.add_volume(f"pv-{number}", f"v{number}", driver="d")
    server.page = 3
    assert await api.find(VOLUMES, lambda value: name_of(value) if name_of(value) >= "pv-1" else None) == "pv-1"
    assert server.count("list", "persistentvolumes") == 1


async def test_an_answer_that_is_no_list_is_an_api_that_is_away(server: KubeApi, api: Api) -> None:
    server.faults = [Fault.EMPTY_OBJECT]
    with pytest.raises(ApiAway, match="no list"):
        await api.collect(VOLUMES, name_of)


async def test_a_list_that_grew_too_old_is_read_from_its_begin(server: KubeApi, api: Api) -> None:
    for number in range(4):
        server.add_volume(f"pv-{number}", f"v{number}", driver="d")
    server.page = 3

    def grow_old(verb: str, resource: str) -> None:
        if len(server.asked) == 2:
            server.forget_lists()
            del server.objects[f"{VOLUMES}/pv-0"]

    server.meanwhile = grow_old
    # Of one moment: nothing of the first attempt is in it.
    assert await api.collect(VOLUMES, name_of) == ["pv-1", "pv-2", "pv-3"]


async def test_a_list_that_always_grows_too_old_is_given_up(server: KubeApi, api: Api) -> None:
    for number in range(4):
        server.add_volume(f"pv-{number}", f"v{number}", driver="d")
    server.page = 3
    server.meanwhile = lambda verb, resource: server.forget_lists() if "continue" in server.asked[-1].query else None
    with pytest.raises(ApiAway, match="forgets its list"):
        await api.collect(VOLUMES, name_of)


# Refusals


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (400, Invalid),
        (403, Forbidden),
        (404, NoSuchObject),
        (409, Conflict),
        (422, Invalid),
        (429, ApiAway),
        (500, ApiAway),
        (503, ApiAway),
        (302, ApiAway),
    ],
)
async def test_every_status_has_its_error(server: KubeApi, api: Api, status: int, error: type[DriverError]) -> None:
    server.faults = [Status(status, "the reason is\ntold", retry_after=7)]
    with pytest.raises(error, match=r"answers GET /api/v1/nodes/n1: the reason is\\ntold") as caught:
        await api.get(NODE)
    assert type(caught.value) is error
    if isinstance(caught.value, ApiAway):
        assert caught.value.retry_after == 7


async def test_an_answer_that_is_no_json_is_an_api_that_is_away(server: KubeApi, api: Api) -> None:
    server.faults = [Fault.GARBAGE]
    with pytest.raises(ApiAway, match="no object"):
        await api.get(NODE)


async def test_a_server_that_hangs_is_given_up_in_time(server: KubeApi, api: Api, short_patience: None) -> None:
    await api.get(NODE)
    server.faults = [Fault.HANG]
    with pytest.raises(ApiAway, match="did not answer within"):
        await api.get(NODE)


@pytest.mark.parametrize("fault", [Fault.CUT, Fault.LOST_REPLY])
async def test_a_connection_that_breaks_is_an_api_that_is_away(server: KubeApi, api: Api, fault: Fault) -> None:
    server.faults = [fault]
    with pytest.raises(ApiAway, match="cannot be asked"):
        await api.get(NODE)
    await api.get(NODE)


async def test_nobody_listening_is_an_api_that_is_away(tmp_path: Path) -> None:
    server = KubeApi(tmp_path)
    async with server.serve():
        api = server.client()
    with pytest.raises(ApiAway, match="cannot be asked"):
        await api.get(NODE)
    async with server.serve():
        server.add_node("n1")
        await api.get(NODE)
    await api.close()


# Credentials


async def test_a_renewed_token_is_used_within_half_a_minute(server: KubeApi, api: Api, clock: FakeClock) -> None:
    await api.get(NODE)
    server.write_token("renewed\n")
    server.tokens = {"renewed", TOKEN}
    await api.get(NODE)
    clock.seconds += FRESH_SECONDS
    await api.get(NODE)
    assert [item.token for item in server.asked] == [TOKEN, TOKEN, "renewed"]


async def test_a_refused_token_is_read_again_at_once(server: KubeApi, api: Api) -> None:
    await api.get(NODE)
    server.write_token("renewed")
    server.tokens = {"renewed"}
    await api.get(NODE)
    assert [item.token for item in server.asked] == [TOKEN, TOKEN, "renewed"]


async def test_a_token_that_stays_refused_is_told_after_one_request(server: KubeApi, api: Api) -> None:
    server.tokens = set()
    with pytest.raises(Unauthorized):
        await api.get(NODE)
    assert len(server.asked) == 1


async def test_a_new_ca_is_taken_over(server: KubeApi, api: Api, clock: FakeClock) -> None:
    await api.get(NODE)
    server.new_certificate()
    clock.seconds += FRESH_SECONDS
    await api.get(NODE)
    assert server.connections == 2


async def test_connections_that_were_replaced_are_closed_in_the_end(
    server: KubeApi, api: Api, clock: FakeClock
) -> None:
    for _ in range(3):
        server.new_certificate()
        clock.seconds += FRESH_SECONDS
        await api.get(NODE)
    await eventually(lambda: len(server.open_connections) == 2, "the last two are there")
    await api.close()
    await eventually(lambda: not server.open_connections, "none is left")


async def test_a_server_of_another_ca_is_not_spoken_to(server: KubeApi, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    other = KubeApi(tmp_path / "other")
    server.write_ca((other.root / "api.crt").read_text())
    api = server.client()
    with pytest.raises(ApiAway, match="certificate"):
        await api.get(NODE)
    assert server.asked == []
    await api.close()


@pytest.mark.parametrize(
    ("token", "ca", "told"),
    [
        ("two words", None, "token holds no token"),
        ("", None, "token holds no token"),
        ("géheim", None, "something else than ASCII"),
        (None, "no PEM", "holds no certificate"),
    ],
)
async def test_files_that_cannot_be_used_are_told_without_their_content(
    server: KubeApi, token: str | None, ca: str | None, told: str
) -> None:
    if token is not None:
        server.write_token(token)
    if ca is not None:
        server.write_ca(ca)
    api = server.client()
    with pytest.raises(ApiAway, match=told) as caught:
        await api.get(NODE)
    assert "two words" not in str(caught.value)
    assert "heim" not in str(caught.value)
    await api.close()


async def test_a_ca_bundle_may_have_words_of_any_language(server: KubeApi) -> None:
    path = server.root / "api.crt"
    server.write_ca(f"# Autorität für Testzwecke\n{path.read_text()}")
    api = server.client()
    assert name_of(await api.get(NODE)) == "n1"
    await api.close()


async def test_files_that_are_gone_are_told(server: KubeApi, tmp_path: Path) -> None:
    api = server.client()
    (tmp_path / "var/run/secrets/kubernetes.io/serviceaccount/ca.crt").unlink()
    with pytest.raises(ApiAway, match=r"cannot read .*ca\.crt: No such file"):
        await api.get(NODE)
    await api.close()


async def test_the_token_is_in_no_log_line_and_no_error(
    server: KubeApi, api: Api, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    server.faults = [None, Status(403), Fault.CUT, Fault.GARBAGE]
    errors = []
    await api.get(NODE)
    for _ in range(3):
        with pytest.raises(DriverError) as caught:
            await api.get(NODE)
        errors.append(str(caught.value))
    assert TOKEN not in caplog.text
    assert TOKEN not in "".join(errors)


async def test_the_environment_of_proxies_does_not_count(
    server: KubeApi, api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    await api.get(NODE)
