import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from rds_csi.simulator.device_options import GroupOptions, UserOptions
from rds_csi.simulator.faults import Fault, FaultKind
from rds_csi.simulator.options import DRIVER_GROUP
from rds_csi.simulator.server import Simulator, SimulatorOptions
from tests.support.simulators import HOST, ManualClock, rest, run, ssh, until, until_listed

USERS = (
    UserOptions("csi", DRIVER_GROUP.name),
    UserOptions("second", DRIVER_GROUP.name),
    UserOptions("reader", "reader"),
    UserOptions("no-api", "no-api"),
    UserOptions("no-rest", "no-rest"),
)
GROUPS = (
    DRIVER_GROUP,
    GroupOptions("reader", frozenset({"read", "api", "rest-api"})),
    GroupOptions("no-api", frozenset({"read", "rest-api"})),
    GroupOptions("no-rest", frozenset({"read", "api"})),
)
NEW = {"type": "file", "slot": "a", "file-path": "raid10/a.img", "file-size": 1048576, "mount-filesystem": False}


def options(directory: Path, **more: object) -> SimulatorOptions:
    given = {"directory": directory, "ssh_port": None, "seed_tenants": False, "users": USERS, "groups": GROUPS, **more}
    return SimulatorOptions(**given)  # type: ignore[arg-type]  # as given


@pytest.fixture
async def simulator(tmp_path: Path) -> AsyncIterator[Simulator]:
    async with Simulator(options(tmp_path)) as simulator:
        yield simulator


@pytest.fixture
async def client(simulator: Simulator) -> AsyncIterator[httpx.AsyncClient]:
    async with rest(simulator) as client:
        yield client


def refusal(reply: httpx.Response) -> tuple[int, str]:
    body = reply.json()
    assert body["error"] == reply.status_code
    return reply.status_code, body.get("detail", body["message"])


async def test_put_adds_and_shows_the_object(client: httpx.AsyncClient) -> None:
    reply = await client.put("/disk", json=NEW)
    assert reply.status_code == 201
    shown = reply.json()
    assert reply.headers["location"] == f"/rest/disk/{shown['.id']}"
    assert (shown["slot"], shown["size"], shown["mount-filesystem"]) == ("a", "1048576", "false")
    assert all(isinstance(value, str) for value in shown.values())


async def test_one_item_is_found_by_id_and_by_name(client: httpx.AsyncClient) -> None:
    item_id = (await client.put("/disk", json=NEW)).json()[".id"]
    for name in (item_id, item_id.lower(), "a"):
        assert (await client.get(f"/disk/{name}")).json()["slot"] == "a"
    assert (await client.get("/file/raid10%2Fa.img")).json()["size"] == "1048576"
    assert refusal(await client.get("/disk/*FFFF")) == (404, "Not Found")
    assert refusal(await client.get("/disk/nothing")) == (404, "Not Found")


async def test_an_encoded_star_is_refused(simulator: Simulator) -> None:
    # httpx would decide by itself how to write the star.
    async with rest(simulator) as client:
        url = httpx.URL(f"https://{HOST}:{simulator.https_port}").copy_with(raw_path=b"/rest/disk/%2A21")
        assert refusal(await client.get(url)) == (400, "no such command prefix")


async def test_a_list_can_be_filtered_and_narrowed(client: httpx.AsyncClient) -> None:
    await client.put("/disk", json=NEW)
    reply = await client.get("/disk", params={"slot": "a", "type": "file", ".proplist": "slot,nothing"})
    assert [set(each) for each in reply.json()] == [{".id", "slot"}]
    assert (await client.get("/disk", params={"slot": "a", "type": "raid"})).json() == []
    assert (await client.get("/disk", params={"slot": "b"})).json() == []


async def test_a_singleton_is_an_object(client: httpx.AsyncClient) -> None:
    assert (await client.get("/system/resource")).json()["version"].startswith("7.21")


async def test_patch_sets_and_shows_the_object(client: httpx.AsyncClient) -> None:
    await client.put("/disk", json=NEW)
    reply = await client.patch("/disk/a", json={"nvme-tcp-export": True, "file-size": "2097152", "comment": "x"})
    assert reply.status_code == 200
    shown = reply.json()
    assert (shown["nvme-tcp-export"], shown["size"], shown["comment"]) == ("true", "2097152", "x")


async def test_a_refused_patch_or_delete_does_not_say_why(simulator: Simulator, client: httpx.AsyncClient) -> None:
    await client.put("/disk", json=NEW)
    vague = (400, "missing or invalid resource identifier")
    assert refusal(await client.patch("/disk/*FFFF", json={"comment": "x"})) == vague
    assert refusal(await client.patch("/disk/a", json={"file-size": "many"})) == vague
    assert refusal(await client.delete("/disk/*FFFF")) == vague
    assert refusal(await client.delete("/disk/raid10")) == vague
    async with rest(simulator, "reader") as reader:
        assert refusal(await reader.patch("/disk/a", json={"comment": "x"})) == vague
        assert refusal(await reader.delete("/disk/a")) == vague
    assert refusal(await client.patch("/disk/a", json={"colour": "red"})) == (400, "unknown parameter colour")


async def test_delete_has_no_body(client: httpx.AsyncClient) -> None:
    await client.put("/disk", json=NEW)
    reply = await client.delete("/disk/a")
    assert (reply.status_code, reply.content) == (204, b"")
    assert "content-length" not in reply.headers
    assert (await client.get("/disk/a")).status_code == 404


async def test_post_runs_commands(client: httpx.AsyncClient) -> None:
    added = (await client.post("/disk/add", json=NEW)).json()
    assert set(added) == {"ret"}
    second = (await client.post("/disk/add", json={**NEW, "slot": "b", "file-path": "raid10/b.img"})).json()["ret"]
    both = f"{added['ret']},{second}"
    assert (await client.post("/disk/set", json={".id": both, "comment": "x"})).json() == []
    assert (await client.post("/disk/comment", json={"numbers": "a", "comment": "y"})).json() == []
    shown = (await client.get("/disk", params={"type": "file", ".proplist": "comment"})).json()
    assert [each["comment"] for each in shown] == ["y", "x"]
    assert (await client.post("/disk/remove", json={".id": both})).json() == []
    assert refusal(await client.post("/disk/remove", json={".id": both})) == (400, "no such item")
    assert refusal(await client.post("/disk/remove", json={})) == (400, "missing =.id=")
    assert (await client.get("/disk", params={"type": "file"})).json() == []


@pytest.mark.parametrize(
    ("query", "slots"),
    [
        (["type=file", "slot=a", "#&"], ["a"]),
        (["type=file", "slot=a"], ["a"]),
        (["slot=a", "slot=b", "#|"], ["a", "b"]),
        (["slot=a", "#!", "type=file", "#&"], ["b"]),
        (["type=file", ">size=1048576", "#&"], ["b"]),
        (["<size=2000000", "type=file", "#&"], ["a"]),
        (["comment"], ["b"]),
        (["-comment", "type=file", "#&"], ["a"]),
        (["slot=a", "slot=b", "#0"], ["b"]),
        (["slot=a", "slot=b", "#1."], []),
        (["?slot=a"], ["a"]),
    ],
)
async def test_a_query_works_on_a_stack(client: httpx.AsyncClient, query: list[str], slots: list[str]) -> None:
    await client.put("/disk", json=NEW)
    more = {"slot": "b", "file-path": "raid10/b.img", "file-size": 2097152, "comment": "x"}
    await client.put("/disk", json={**NEW, **more})
    reply = await client.post("/disk/print", json={".query": query, ".proplist": ["slot"]})
    assert reply.json() == [{"slot": slot} for slot in slots]


async def test_print_counts_and_refuses_bad_queries(client: httpx.AsyncClient) -> None:
    counted = await client.post("/disk/print", json={".query": ["type=raid"], "count-only": ""})
    assert counted.json() == {"ret": "1"}
    assert refusal(await client.post("/disk/print", json={".query": ["#&"]})) == (400, "invalid query")
    assert refusal(await client.post("/disk/print", json={".query": [1]}))[0] == 400
    assert refusal(await client.post("/disk/print", json={"colour": ""})) == (400, "unknown parameter colour")


async def test_execute_gives_text_or_a_job(client: httpx.AsyncClient) -> None:
    reply = await client.post("/execute", json={"script": ":put 1", "as-string": True})
    assert (reply.status_code, reply.json()) == (200, {"ret": "1"})
    reply = await client.post("/execute", json={"script": "/disk remove *FFFF", "as-string": ""})
    assert reply.status_code == 200
    assert reply.json()["ret"].startswith("no such item")
    job = (await client.post("/execute", json={"script": ":delay 1h"})).json()["ret"]
    assert [each[".id"] for each in (await client.get("/system/script/job")).json()] == [job]
    assert refusal(await client.post("/execute", json={})) == (400, "missing =script=")


async def test_wrong_requests_are_refused_in_routeros_words(client: httpx.AsyncClient) -> None:
    assert refusal(await client.put("/disk", json={"slot": "a"})) == (400, "missing =type=")
    assert refusal(await client.put("/disk", json={**NEW, "colour": 1})) == (400, "unknown parameter colour")
    assert (
        refusal(await client.put("/disk", json={**NEW, "type": "tape"}))[1] == "input does not match any value of type"
    )
    assert refusal(await client.put("/disk", json={**NEW, "slot": {}})) == (400, "invalid value for argument slot")
    assert refusal(await client.post("/disk/polish", json={})) == (400, "no such command or directory (polish)")
    assert refusal(await client.get("/nothing/here")) == (400, "no such command or directory (nothing)")
    await client.put("/disk", json=NEW)
    assert refusal(await client.put("/disk", json=NEW))[0] == 400


async def test_bodies_must_be_json_and_say_so(client: httpx.AsyncClient) -> None:
    headers = {"Content-Type": "application/json"}
    for content in ("{", "[]", "1"):
        reply = await client.put("/disk", content=content, headers=headers)
        assert refusal(reply) == (400, "Failed to parse json")
    assert refusal(await client.put("/disk", content=json.dumps(NEW))) == (415, "Unsupported Media Type")


JSON = {"Content-Type": "application/json"}


@pytest.mark.parametrize(
    "body",
    [
        '{"comment": "half \\ud800 of a pair"}',
        f'{{"comment": {"[" * 900}{"]" * 900}}}',
        f'{{"comment": {"[" * 200_000}{"]" * 200_000}}}',
        f'{{"file-offset": "{"9" * 5000}"}}',
        f'{{"file-size": "{"9" * 5000}"}}',
        '{"file-size": "9999999999999999T"}',
        f'{{"file-offset": {"9" * 5000}}}',
    ],
)
async def test_an_odd_value_is_refused_and_breaks_no_listing(client: httpx.AsyncClient, body: str) -> None:
    await client.put("/disk", json=NEW)
    reply = await client.post("/disk/set", content=f'{{".id": "a",{body[1:]}', headers=JSON)
    assert reply.status_code == 400
    assert [each["slot"] for each in (await client.get("/disk?type=file")).json()] == ["a"]


async def test_odd_names_scripts_and_queries_are_refused(client: httpx.AsyncClient) -> None:
    await client.put("/disk", json=NEW)
    for path, body in (
        ("/disk/set", '{".id": "a", "\\ud800": "x"}'),
        ("/execute", '{"script": ":put \\ud800", "as-string": ""}'),
        ("/disk/print", f'{{".query": ["#{"9" * 5000}"]}}'),
    ):
        assert (await client.post(path, content=body, headers=JSON)).status_code == 400
    long = f'{{".query": ["<size={"9" * 5000}"]}}'
    assert (await client.post("/disk/print", content=long, headers=JSON)).status_code == 200


async def test_a_value_that_cannot_be_written_breaks_no_listing_of_either_server(tmp_path: Path) -> None:
    async with Simulator(options(tmp_path, ssh_port=0)) as simulator:
        item_id = await simulator.device.disks.add({**{k: str(v) for k, v in NEW.items()}, "mount-filesystem": "no"})
        await simulator.device.disks.set(item_id, {"comment": "\ud800"})
        async with rest(simulator) as client, ssh(simulator) as connection:
            assert (await client.get("/disk?slot=a")).json()[0]["comment"] == "?"
            assert "?" in await run(connection, "/disk print detail")


async def test_a_wrong_policy_is_told_as_a_device_tells_it(simulator: Simulator, client: httpx.AsyncClient) -> None:
    await client.put("/disk", json=NEW)
    simulator.faults.add(Fault(FaultKind.WRONG_POLICY, times=0))
    vague, clear = (400, "missing or invalid resource identifier"), (500, "not enough permissions (9)")
    assert refusal(await client.patch("/disk/a", json={"comment": "x"})) == vague
    assert refusal(await client.delete("/disk/a")) == vague
    assert refusal(await client.get("/disk")) == clear
    assert refusal(await client.put("/disk", json=NEW)) == clear
    assert refusal(await client.post("/disk/remove", json={".id": "a"})) == clear


async def test_users_come_in_by_password_and_policies(simulator: Simulator) -> None:
    async with rest(simulator, "csi", "wrong") as client:
        assert refusal(await client.get("/disk")) == (401, "Unauthorized")
    async with rest(simulator, "no-rest") as client:
        assert refusal(await client.get("/disk")) == (401, "Unauthorized")
    async with rest(simulator, "no-api") as client:
        assert refusal(await client.get("/disk")) == (500, "std failure: not allowed (9)")
    async with rest(simulator, "reader") as client:
        assert (await client.get("/disk")).status_code == 200
        assert refusal(await client.put("/disk", json=NEW)) == (500, "not enough permissions (9)")
    async with rest(simulator) as client:
        assert refusal(await client.get("/disk", auth=httpx.Auth())) == (401, "Unauthorized")


async def test_one_connection_serves_many_requests(simulator: Simulator, client: httpx.AsyncClient) -> None:
    for _ in range(3):
        await client.get("/disk")
    assert (simulator.counters.https_connections, simulator.counters.requests) == (1, 3)


async def test_requests_of_a_user_run_one_at_a_time_and_other_users_beside(tmp_path: Path) -> None:
    clock = ManualClock()
    async with Simulator(options(tmp_path), sleep=clock.sleep) as simulator:
        simulator.faults.add(Fault(FaultKind.SLOW, "slow=1", seconds=5))
        async with rest(simulator) as client, rest(simulator, "second") as other:
            slow = asyncio.create_task(client.get("/disk?slow=1"))
            await clock.somebody_sleeps(5)
            queued = asyncio.create_task(client.get("/disk"))
            await until(lambda: simulator.counters.requests >= 2)
            assert (await other.get("/disk")).status_code == 200
            assert not queued.done()
            clock.advance(5)
            assert (await slow).status_code == (await queued).status_code == 200


async def test_a_request_beyond_the_cap_is_given_up_with_those_behind_it_and_goes_on(tmp_path: Path) -> None:
    clock = ManualClock()
    async with Simulator(options(tmp_path, request_seconds=60), sleep=clock.sleep) as simulator:
        simulator.faults.add(Fault(FaultKind.SLOW, "raid10/a.img", seconds=90))
        async with rest(simulator) as client:
            slow = asyncio.create_task(client.put("/disk", json=NEW))
            await clock.somebody_sleeps(60)
            queued = asyncio.create_task(client.get("/disk"))
            await until(lambda: simulator.counters.requests >= 2)
            clock.advance(60)
            assert refusal(await slow) == refusal(await queued) == (400, "Session closed")
            assert (await client.get("/disk", params={"slot": "a"})).json() == []
            clock.advance(30)
            await until_listed(client, "a")


async def test_an_abandoned_request_keeps_running(tmp_path: Path) -> None:
    clock = ManualClock()
    async with Simulator(options(tmp_path), sleep=clock.sleep) as simulator:
        simulator.faults.add(Fault(FaultKind.SLOW, "raid10/a.img", seconds=5))
        async with rest(simulator) as client:
            slow = asyncio.create_task(client.put("/disk", json=NEW))
            await clock.somebody_sleeps(5)
            slow.cancel()
            await asyncio.wait({slow})
        clock.advance(5)
        async with rest(simulator) as client:
            assert [each["slot"] for each in (await client.get("/disk?type=file")).json()] == ["a"]


async def test_what_is_not_http_is_answered_and_closed(simulator: Simulator) -> None:
    async with rest(simulator) as client:
        reply = await client.put("/disk", content=b"x" * (5 << 20), headers={"Content-Type": "application/json"})
        assert reply.status_code == 413


async def test_a_client_that_wants_the_connection_closed_gets_its_reply_first(simulator: Simulator) -> None:
    async with rest(simulator) as client:
        for _ in range(2):
            reply = await client.get("/disk", headers={"Connection": "close"})
            assert reply.json()
    assert simulator.counters.https_connections == 2
