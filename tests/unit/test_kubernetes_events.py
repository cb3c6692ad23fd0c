"""Notices become Events on the right objects, counted, within limits, and never in anybody's way."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest

from rds_csi.errors import Unavailable
from rds_csi.kubernetes.api import Api
from rds_csi.kubernetes.errors import ApiAway
from rds_csi.kubernetes.events import QUEUED, EventRecorder
from rds_csi.kubernetes.objects import Objects
from rds_csi.kubernetes.resources import Reference
from rds_csi.kubernetes.series import (
    BURST,
    MESSAGE_BYTES,
    REFILL_SECONDS,
    REPEAT_SECONDS,
    clean,
    event_name,
)
from rds_csi.model.notices import ClaimName, Notice, Reason
from tests.support.clock import FakeClock
from tests.support.kube_api import Fault, KubeApi, Status
from tests.support.kube_rules import Object, Refused
from tests.support.rpc import eventually

DRIVER, NODE = "rds.example.io", "node-a"
# 2026-11-21 10:00:00 UTC.
WALL = 1_795_255_200.0
# kubectl describe shows no host.
TOLD = f"node {NODE}: it holds data"
REFUSED = Notice(Reason.FORMAT_REFUSED, "it holds data", warning=True, volume_id="pvc-1")
ORPHAN = Notice(Reason.ORPHAN_DISCONNECTED, "it was left over", warning=True, nqn="nqn.2026-01.io.example:x")


class Bench:
    """A recorder on an API server that has one bound volume."""

    def __init__(self, server: KubeApi, api: Api, clock: FakeClock) -> None:
        self.server = server
        self.clock = clock
        self.recorder = EventRecorder(
            api,
            Objects(api, driver_name=DRIVER, node_name=NODE, clock=clock.clock),
            component=DRIVER,
            host=NODE,
            clock=clock.clock,
            wall_clock=lambda: WALL + clock.seconds,
            random=Random(1),
        )

    async def tell(self, notice: Notice = REFUSED, *, after: float = 0.0) -> None:
        self.clock.seconds += after
        self.recorder.announce(notice)
        await self.recorder.deliver()

    def event(self, kind: str) -> Object:
        (event,) = [item for item in self.server.events if item["involvedObject"]["kind"] == kind]
        return event


@asynccontextmanager
async def running(recorder: EventRecorder) -> AsyncIterator[None]:
    task = asyncio.create_task(recorder.run())
    try:
        yield
        assert not task.done()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    server, clock = KubeApi(tmp_path), FakeClock()
    server.add_volume("pvc-1", "pvc-1", driver=DRIVER, claim=("team", "data"))
    async with server.serve():
        api = server.client(clock.clock)
        yield Bench(server, api, clock)
        await api.close()


# What is written


async def test_a_notice_of_a_volume_is_an_event_of_its_claim_and_its_volume(bench: Bench) -> None:
    await bench.tell()
    claim, volume = bench.event("PersistentVolumeClaim"), bench.event("PersistentVolume")
    assert len(bench.server.events) == 2
    assert claim["involvedObject"] == {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "namespace": "team",
        "name": "data",
        "uid": "uid-of-data",
    }
    assert claim["metadata"]["namespace"] == "team"
    assert volume["involvedObject"] == {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "name": "pvc-1",
        "uid": "uid-of-pvc-1",
    }
    assert volume["metadata"]["namespace"] == "default"
    for event in (claim, volume):
        assert (event["type"], event["reason"], event["message"]) == ("Warning", "FormatRefused", TOLD)
        assert event["source"] == {"component": DRIVER, "host": NODE}
        assert (event["reportingComponent"], event["reportingInstance"]) == (DRIVER, NODE)
        assert (event["firstTimestamp"], event["lastTimestamp"]) == ("2026-11-21T10:00:00Z",) * 2
        assert event["count"] == 1
        assert "eventTime" not in event


async def test_a_notice_of_a_node_is_an_event_in_the_default_namespace(bench: Bench) -> None:
    await bench.tell(ORPHAN)
    event = bench.event("Node")
    assert event["involvedObject"] == {"apiVersion": "v1", "kind": "Node", "name": NODE, "uid": NODE}
    assert event["metadata"]["namespace"] == "default"
    assert bench.server.used == {("create", "events")}


async def test_good_news_is_a_normal_event(bench: Bench) -> None:
    await bench.tell(Notice(Reason.SESSION_RECOVERED, "it is back", warning=False, volume_id="pvc-1"))
    assert {event["type"] for event in bench.server.events} == {"Normal"}


async def test_a_volume_that_the_cluster_does_not_know_is_told_nowhere(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    await bench.tell(Notice(Reason.FORMAT_REFUSED, "it holds data", warning=True, volume_id="pvc-2"))
    assert bench.server.events == []
    assert caplog.text == ""


@pytest.mark.parametrize(
    ("message", "cleaned"),
    [
        ("short", "short"),
        ("two\nlines\x1b[0m", r"two\nlines\x1b[0m"),
        ("x" * MESSAGE_BYTES, "x" * MESSAGE_BYTES),
        ("x" * (MESSAGE_BYTES + 1), "x" * (MESSAGE_BYTES - 3) + "..."),
        ("ä" * MESSAGE_BYTES, "ä" * ((MESSAGE_BYTES - 3) // 2) + "..."),
        ("\udcff", "?"),
    ],
)
def test_a_message_is_one_line_cut_between_two_characters(message: str, cleaned: str) -> None:
    assert clean(message) == cleaned
    assert len(cleaned.encode()) <= MESSAGE_BYTES


@pytest.mark.parametrize("name", ["data", "x" * 253, "x" * 235 + ".-" + "y" * 16])
def test_the_name_of_an_event_is_always_a_name(bench: Bench, name: str) -> None:
    made = event_name(Reference("PersistentVolumeClaim", name), 255)
    assert made.endswith("00000000000000ff")
    assert len(made) <= 253
    assert "-." not in made
    assert ".." not in made


async def test_the_longest_names_and_messages_are_taken(bench: Bench) -> None:
    name = "n" * 253
    bench.server.add_volume("pvc-1", "pvc-1", driver=DRIVER, claim=("team", name))
    await bench.tell(Notice(Reason.FORMAT_REFUSED, "ü" * 5000, warning=True, volume_id="pvc-1"))
    assert len(bench.server.events) == 2


# Repeats


async def test_the_same_again_is_counted_on_the_same_event(bench: Bench) -> None:
    await bench.tell(ORPHAN)
    await bench.tell(ORPHAN, after=REPEAT_SECONDS)
    event = bench.event("Node")
    assert event["count"] == 2
    assert (event["firstTimestamp"], event["lastTimestamp"]) == ("2026-11-21T10:00:00Z", "2026-11-21T10:01:00Z")


async def test_a_storm_of_the_same_is_one_request_a_minute(bench: Bench) -> None:
    for _ in range(100):
        await bench.tell(ORPHAN, after=0.5)
    assert len(bench.server.asked) == 1
    await bench.tell(ORPHAN, after=REPEAT_SECONDS)
    assert bench.event("Node")["count"] == 101
    assert bench.server.count("patch", "events") == 1


async def test_what_came_several_times_before_it_was_told_is_counted(bench: Bench) -> None:
    for _ in range(5):
        bench.recorder.announce(ORPHAN)
    await bench.recorder.deliver()
    assert bench.event("Node")["count"] == 5
    assert len(bench.server.asked) == 1


async def test_another_session_of_the_node_is_another_event(bench: Bench) -> None:
    await bench.tell(ORPHAN)
    await bench.tell(replace(ORPHAN, nqn="nqn.2026-01.io.example:y"))
    assert [event["count"] for event in bench.server.events] == [1, 1]


async def test_figures_that_change_are_told_on_the_same_event(bench: Bench) -> None:
    bench.server.add_claim("team", "new")
    full = Notice(Reason.ARRAY_FULL, "4096 bytes are free", warning=True, claim=ClaimName("team", "new"))
    await bench.tell(full)
    for free in (3000, 2000, 1000):
        await bench.tell(replace(full, message=f"{free} bytes are free"), after=1)
    assert bench.event("PersistentVolumeClaim")["message"] == "4096 bytes are free"
    bench.clock.seconds += REPEAT_SECONDS
    await bench.recorder.deliver()
    event = bench.event("PersistentVolumeClaim")
    assert (event["count"], event["message"]) == (4, "1000 bytes are free")


async def test_a_refusal_that_names_another_device_each_time_is_one_event(bench: Bench) -> None:
    for number in range(3):
        told = f"/dev/nvme{number}n1 has 4096 bytes, but volume pvc-1 has 8192"
        notice = Notice(Reason.VOLUME_REFUSED, told, warning=True, volume_id="pvc-1")
        await bench.tell(notice, after=REPEAT_SECONDS)
    for kind in ("PersistentVolumeClaim", "PersistentVolume"):
        event = bench.event(kind)
        assert event["count"] == 3
        assert event["message"].startswith(f"node {NODE}: /dev/nvme2n1 has")


async def test_what_waits_is_told_in_the_last_words(bench: Bench) -> None:
    for number in range(QUEUED + 10):
        bench.recorder.announce(replace(ORPHAN, message=f"number {number}"))
    await bench.recorder.deliver()
    event = bench.event("Node")
    assert (event["count"], event["message"]) == (QUEUED + 10, f"number {QUEUED + 9}")


async def test_an_event_that_was_deleted_meanwhile_begins_anew(bench: Bench) -> None:
    await bench.tell(ORPHAN)
    for path in [path for path in bench.server.objects if "/events/" in path]:
        del bench.server.objects[path]
    await bench.tell(ORPHAN, after=4000)
    event = bench.event("Node")
    assert (event["count"], event["firstTimestamp"]) == (1, "2026-11-21T11:06:40Z")
    await bench.tell(ORPHAN, after=REPEAT_SECONDS)
    assert bench.event("Node")["count"] == 2


async def test_many_different_events_of_one_object_are_held_back(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(BURST + 5):
        await bench.tell(replace(ORPHAN, nqn=f"number {number}"))
    assert len(bench.server.events) == BURST
    assert caplog.text.count("has many events already") == 1
    await bench.tell(replace(ORPHAN, nqn="later"), after=REFILL_SECONDS)
    assert len(bench.server.events) == BURST + 1


# An API server in trouble


async def test_a_lost_reply_makes_no_second_event(bench: Bench) -> None:
    bench.server.faults = [Fault.LOST_REPLY]
    with pytest.raises(ApiAway):
        await bench.tell(ORPHAN)
    await bench.tell(ORPHAN)
    assert bench.event("Node")["count"] == 2
    await bench.tell(ORPHAN, after=REPEAT_SECONDS)
    assert bench.event("Node")["count"] == 3


async def test_what_is_announced_while_it_is_written_is_not_lost(bench: Bench) -> None:
    def once_more(verb: str, resource: str) -> None:
        if len(bench.server.asked) == 1:
            bench.recorder.announce(ORPHAN)

    bench.server.meanwhile = once_more
    await bench.tell(ORPHAN)
    await bench.recorder.deliver()
    bench.clock.seconds += REPEAT_SECONDS
    await bench.recorder.deliver()
    assert bench.event("Node")["count"] == 2


async def test_one_event_that_is_not_taken_now_does_not_keep_the_others(bench: Bench) -> None:
    other = replace(ORPHAN, message="other", nqn="nqn.2026-01.io.example:y")
    bench.server.faults = [Status(500, "failed calling webhook")]
    bench.recorder.announce(ORPHAN)
    with pytest.raises(Unavailable):
        await bench.tell(other)
    bench.server.faults = [None, Status(500, "failed calling webhook")]
    with pytest.raises(Unavailable):
        await bench.recorder.deliver()
    assert bench.event("Node")["message"] == "other"


async def test_a_volume_that_cannot_be_looked_up_now_does_not_keep_the_others(bench: Bench) -> None:
    def away(verb: str, resource: str) -> None:
        if resource == "persistentvolumes":
            raise Refused(500, "etcd has no leader")

    bench.server.meanwhile = away
    bench.recorder.announce(REFUSED)
    bench.recorder.announce(ORPHAN)
    for _ in range(3):
        with pytest.raises(Unavailable):
            await bench.recorder.deliver()
    assert bench.event("Node")["message"] == ORPHAN.message
    bench.server.meanwhile = lambda verb, resource: None
    await bench.recorder.deliver()
    assert len(bench.server.events) == 3


@pytest.mark.parametrize("verb_and_resource", [("create", "events"), ("get", "persistentvolumes")])
async def test_what_the_role_forbids_is_dropped_and_told_once(
    bench: Bench, caplog: pytest.LogCaptureFixture, verb_and_resource: tuple[str, str]
) -> None:
    bench.server.forbidden = {verb_and_resource}
    for number in range(3):
        await bench.tell(replace(REFUSED, message=f"number {number}"))
    verb, resource = verb_and_resource
    assert caplog.text.count(f'cannot {verb} resource "{resource}"') == 1
    asked = len(bench.server.asked)
    await bench.recorder.deliver()
    assert len(bench.server.asked) == asked


async def test_the_queue_is_bounded_and_says_so_once(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    for number in range(QUEUED + 10):
        bench.recorder.announce(Notice(ORPHAN.reason, f"number {number}", warning=True, node=f"node-{number}"))
    assert len(caplog.records) == 1
    await bench.recorder.deliver()
    assert len(bench.server.events) == QUEUED


async def test_while_the_api_is_away_it_is_tried_less_and_less_and_then_dropped(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    bench.server.faults = [Status(503)] * 1000
    bench.recorder.announce(ORPHAN)
    bench.recorder.announce(REFUSED)
    async with running(bench.recorder):
        await eventually(lambda: "was away for 300 s" in caplog.text, "it is given up")
        assert bench.clock.pauses[:6] == sorted(bench.clock.pauses[:6])
        assert len(bench.clock.pauses) < 12
        bench.server.faults = []
        bench.recorder.announce(Notice(ORPHAN.reason, "the API is back", warning=True))
        await eventually(lambda: bool(bench.server.events), "the next one is told")
    assert len(caplog.records) == 1
    assert bench.event("Node")["message"] == "the API is back"


async def test_a_server_that_asks_for_time_gets_it(bench: Bench) -> None:
    bench.server.faults = [Status(429, retry_after=42)]
    bench.recorder.announce(ORPHAN)
    async with running(bench.recorder):
        await eventually(lambda: bool(bench.server.events), "it is told")
    assert bench.clock.pauses[0] >= 42


async def test_the_recorder_waits_without_looking_when_there_is_nothing_to_tell(bench: Bench) -> None:
    async with running(bench.recorder):
        bench.recorder.announce(ORPHAN)
        await eventually(lambda: bool(bench.server.events), "it is told")
        bench.recorder.announce(ORPHAN)
        await eventually(lambda: bench.event("Node")["count"] == 2, "the repeat is told when a minute is over")
    assert REPEAT_SECONDS <= bench.clock.seconds <= REPEAT_SECONDS + 1


async def test_an_error_of_its_own_does_not_end_the_recorder(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    # What no code of this project makes: a volume id that is no text cannot be looked up.
    bench.recorder.announce(Notice(REFUSED.reason, "broken", warning=True, volume_id=7))  # type: ignore[arg-type]
    async with running(bench.recorder):
        await eventually(lambda: "was away for" in caplog.text, "it is given up")
        bench.recorder.announce(ORPHAN)
        await eventually(lambda: bool(bench.server.events), "the next one is told")
    assert "events could not be written" in caplog.text
