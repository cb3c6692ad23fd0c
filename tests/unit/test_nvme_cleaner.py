"""The sweep at work on made-up hosts: two sightings, the last look, locks, failures, hangs."""

import asyncio
import contextlib
import logging
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from rds_csi.errors import DeadlineExceeded, Unavailable
from rds_csi.locks import LockFile, OperationLocks
from rds_csi.nvme.decision import HANG_SECONDS
from rds_csi.nvme.orphans import Decision, Result
from rds_csi.nvme.sessions import Session
from tests.support.sweep_host import GRACE, PREFIX, SweepHost, record_of


@pytest.fixture
def host(tmp_path: Path) -> SweepHost:
    return SweepHost(tmp_path)


def count(host: SweepHost, name: str, **labels: str) -> float:
    return host.metrics.registry.get_sample_value(name, labels) or 0.0


async def until(condition: Callable[[], bool]) -> None:
    for _ in range(30_000):
        if condition():
            return
        await asyncio.sleep(0.001)
    raise AssertionError("it did not come to that")


# Two sightings


async def test_an_orphan_goes_at_its_second_sighting_after_the_grace_period(host: SweepHost) -> None:
    host.session("v0", state="connecting")
    host.session("v1")
    cleaner = host.cleaner(grace=GRACE)

    first = await host.sweep(cleaner)
    assert (first["v0"].verdict.decision, first["v0"].result) == (Decision.KEEP, None)
    host.clock.seconds += GRACE - 1
    await host.sweep(cleaner)
    assert host.disconnected == []
    host.clock.seconds += 1
    third = await host.sweep(cleaner)

    assert host.disconnected == ["v0"]
    assert third["v0"].result is Result.DISCONNECTED
    assert third["v1"].verdict.decision is Decision.KEEP
    assert count(host, "rds_csi_sweep_disconnects_total", result="ok") == 1
    assert count(host, "rds_csi_sweep_decisions_total", decision="keep") == 5


async def test_a_session_that_comes_back_in_between_starts_anew(host: SweepHost) -> None:
    number = host.session("v0", state="connecting")
    cleaner = host.cleaner(grace=GRACE)
    await host.sweep(cleaner)
    host.tree.set_state(number, "live")
    host.clock.seconds += GRACE
    await host.sweep(cleaner)
    host.tree.set_state(number, "connecting")
    host.clock.seconds += GRACE
    await host.sweep(cleaner)
    assert host.disconnected == []
    host.clock.seconds += GRACE
    await host.sweep(cleaner)
    assert host.disconnected == ["v0"]


async def test_a_process_that_was_restarted_goes_on_where_the_last_one_was_ended(host: SweepHost) -> None:
    host.session("v0", state="connecting")
    await host.sweep(host.cleaner(grace=GRACE))
    host.clock.seconds += GRACE

    host.sightings = host.new_sightings()
    await host.sweep(host.cleaner(grace=GRACE))

    assert host.disconnected == ["v0"]


async def test_the_sightings_of_another_boot_do_not_count(host: SweepHost) -> None:
    host.session("v0", state="connecting")
    await host.sweep(host.cleaner(grace=GRACE))
    host.clock.seconds += GRACE
    host.sightings = host.new_sightings(boot_id="another")
    await host.sweep(host.cleaner(grace=GRACE))
    assert host.disconnected == []


async def test_a_use_that_only_the_closer_look_finds_starts_the_grace_anew(host: SweepHost) -> None:
    number = host.session("v0", state="connecting")
    cleaner = host.cleaner(grace=GRACE)
    await host.sweep(cleaner)
    host.claim(number)
    host.clock.seconds += GRACE
    outcome = (await host.sweep(cleaner))["v0"]
    assert "claimed" in outcome.verdict.reason
    host.tree.nodes.claimed.clear()
    await host.sweep(cleaner)
    assert host.disconnected == []


async def test_what_cannot_be_looked_at_costs_no_grace(host: SweepHost) -> None:
    host.session("v0", state="connecting")
    cleaner = host.cleaner(grace=GRACE)
    await host.sweep(cleaner)
    host.records_error = Unavailable("the records cannot be read")
    host.clock.seconds += GRACE
    outcome = (await host.sweep(cleaner))["v0"]
    assert (outcome.verdict.decision, outcome.verdict.unsure) == (Decision.KEEP, True)
    host.records_error = None
    await host.sweep(cleaner)
    assert host.disconnected == ["v0"]


async def test_a_dry_run_changes_nothing(host: SweepHost) -> None:
    host.session("v0", state="dead")
    outcome = (await host.sweep(host.cleaner(dry_run=True)))["v0"]
    assert (outcome.verdict.decision, outcome.result) == (Decision.DISCONNECT, Result.DRY_RUN)
    assert host.disconnected == []
    assert not host.tree.path("state").exists()


# What cannot be seen


async def test_without_any_mountinfo_nothing_is_free(host: SweepHost) -> None:
    host.session("v0", state="dead")
    for process in ("self", "1"):
        host.table(process).unlink()
    outcome = (await host.sweep())["v0"]
    assert (outcome.verdict.decision, outcome.verdict.unsure) == (Decision.KEEP, True)


@pytest.mark.parametrize("process", ["self", "1"])
async def test_one_mountinfo_is_enough(host: SweepHost, process: str) -> None:
    host.session("v0", state="dead")
    host.table(process).unlink()
    await host.sweep()
    assert host.disconnected == ["v0"]


async def test_a_kernel_without_swap_is_fine(host: SweepHost) -> None:
    host.session("v0", state="dead")
    host.tree.path("proc/swaps").unlink()
    await host.sweep()
    assert host.disconnected == ["v0"]


async def test_a_lost_mount_that_may_be_anybodys_keeps_all(host: SweepHost) -> None:
    host.session("v0", state="dead")
    host.mount("/somewhere", "259:999", "/dev/disk/by-id/nvme-uuid.1234")
    outcome = (await host.sweep())["v0"]
    assert "/somewhere" in outcome.verdict.reason
    assert host.disconnected == []


async def test_a_lost_mount_whose_number_is_recorded_keeps_its_own_session(host: SweepHost) -> None:
    host.session("v0", state="dead")
    host.session("v1", state="dead")
    host.records.append(record_of(f"{PREFIX}v0", "v0", device_number="259:999"))
    host.mount("/somewhere", "259:999", "/dev/disk/by-id/nvme-uuid.1234")
    await host.sweep()
    assert host.disconnected == ["v1"]


async def test_a_node_of_another_device_is_no_proof(host: SweepHost) -> None:
    number = host.session("v0", state="dead")
    host.tree.nodes.numbers[f"{host.tree.host.dev}/nvme{number}n1"] = host.number(7)
    outcome = (await host.sweep())["v0"]
    assert outcome.verdict.unsure


async def test_a_missing_node_is_no_proof_on_a_real_host(host: SweepHost) -> None:
    host.session("v0", state="dead")
    host.tree.nodes.numbers.clear()
    host.real_proc()
    assert (await host.sweep())["v0"].verdict.unsure
    assert not host.disconnected


@pytest.mark.parametrize("missing", ["nsid", "dev", "size"])
async def test_a_mounted_device_that_is_going_keeps_its_session(host: SweepHost, missing: str) -> None:
    number = host.session("v0")
    host.mount_disk(number, "/mnt")
    host.tree.path(f"sys/block/nvme{number}n1", missing).unlink()
    outcome = (await host.sweep())["v0"]
    assert (outcome.verdict.decision, outcome.verdict.unsure) == (Decision.KEEP, True)
    assert not host.disconnected


async def test_a_disconnect_that_was_killed_is_tried_again_after_a_while(host: SweepHost) -> None:
    host.session("v0", state="dead")

    async def slow(session: Session) -> None:
        raise DeadlineExceeded("nvme did not end within 30 s and was killed")

    assert (await host.sweep(host.cleaner(disconnect=slow)))["v0"].result is Result.HANGING
    host.clock.seconds += HANG_SECONDS - 1
    await host.sweep()
    assert host.disconnected == []
    host.clock.seconds += 1
    await host.sweep()
    assert host.disconnected == ["v0"]


# Operations


async def test_a_running_operation_keeps_a_session(host: SweepHost) -> None:
    host.session("v0", state="dead")
    host.session("v1", state="dead")
    host.records.append(record_of(f"{PREFIX}v1", "pvc-1"))
    with host.locks.hold("NodeStageVolume", f"{PREFIX}v0"), host.locks.hold("NodeUnstageVolume", "pvc-1"):
        outcomes = await host.sweep()
    assert host.disconnected == []
    assert "NodeStageVolume is running" in outcomes["v0"].verdict.reason
    assert "NodeUnstageVolume is running" in outcomes["v1"].verdict.reason


@pytest.mark.parametrize("key", [f"{PREFIX}v0", "pvc-0"])
async def test_the_grace_begins_after_an_operation(host: SweepHost, key: str) -> None:
    host.session("v0", state="connecting")
    host.records.append(record_of(f"{PREFIX}v0", "pvc-0"))
    cleaner = host.cleaner(grace=GRACE)
    with host.locks.hold("NodeStageVolume", key):
        await host.sweep(cleaner)
    for disconnected in ([], ["v0"]):
        host.clock.seconds += GRACE
        await host.sweep(cleaner)
        assert host.disconnected == disconnected


async def test_an_operation_that_begins_during_the_sweep_spares_the_session(host: SweepHost) -> None:
    host.session("v0", state="dead")
    operation = contextlib.ExitStack()
    entered = host.locks.hold("NodeStageVolume", f"{PREFIX}v0")
    cleaner = host.cleaner()
    host.at_closer_look = lambda: operation.enter_context(entered)

    outcome = (await host.sweep(cleaner))["v0"]

    assert (outcome.result, host.disconnected) == (Result.SPARED, [])
    assert "NodeStageVolume is running" in outcome.verdict.reason
    operation.close()


HOLDER = """
import sys, rds_csi.locks
locks = rds_csi.locks.LockFile(sys.argv[1])
assert locks.take(sys.argv[2])
print("taken", flush=True)
sys.stdin.read()
"""


async def test_an_operation_of_another_process_spares_the_session(host: SweepHost) -> None:
    host.session("v0", state="dead")
    host.session("v1", state="dead")
    path = str(host.tree.path("locks"))
    holder = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", HOLDER, path, f"{PREFIX}v0"), stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert holder.stdin is not None
    assert holder.stdout is not None
    assert await holder.stdout.readline() == b"taken\n"
    shared = LockFile(path)
    host.locks = OperationLocks(shared)

    outcomes = await host.sweep()
    holder.stdin.close()
    await holder.wait()
    shared.close()

    assert host.disconnected == ["v1"]
    assert outcomes["v0"].result is Result.SPARED
    assert "another rds-csi process" in outcomes["v0"].verdict.reason
    assert count(host, "rds_csi_sweep_disconnects_total", result="spared") == 1


async def test_the_volume_is_locked_while_its_session_is_disconnected(host: SweepHost) -> None:
    host.session("v0", state="dead")
    host.records.append(record_of(f"{PREFIX}v0", "pvc-1"))
    held: list[bool] = []

    async def disconnect(session: Session) -> None:
        held.extend([host.locks.is_held(session.nqn), host.locks.is_held("pvc-1")])

    await host.sweep(host.cleaner(disconnect=disconnect))

    assert held == [True, True]
    assert not host.locks.running()


# The last look


async def test_a_session_that_is_used_by_the_last_look_is_spared(host: SweepHost) -> None:
    number = host.session("v0", state="dead")

    def mounted_before_the_last_look() -> None:
        host.at_first_staged = lambda: host.mount_disk(number, "/mnt/late")

    host.at_first_staged = mounted_before_the_last_look
    outcome = (await host.sweep())["v0"]
    assert (outcome.result, outcome.verdict.decision) == (Result.SPARED, Decision.KEEP)
    assert "/mnt/late" in outcome.verdict.reason
    assert host.disconnected == []


async def test_a_program_that_opens_the_device_by_the_last_look_spares_it(host: SweepHost) -> None:
    number = host.session("v0", state="dead")
    host.at_closer_look = lambda: host.program(300, f"/dev/nvme{number}n1")
    outcome = (await host.sweep())["v0"]
    assert outcome.result is Result.SPARED
    assert "is open in pid 300 (postgres)" in outcome.verdict.reason


async def test_a_session_that_vanishes_between_the_looks_is_spared(host: SweepHost) -> None:
    number = host.session("v0", state="dead")
    host.session("v1", state="dead")
    host.at_first_staged = lambda: host.tree.remove_session(number)
    outcomes = await host.sweep()
    assert outcomes["v0"].result is Result.SPARED
    assert host.disconnected == ["v1"]


async def test_another_session_of_the_same_name_by_the_last_look_is_spared(host: SweepHost) -> None:
    number = host.session("v0", state="dead")

    def replace() -> None:
        host.session("v0", state="connecting")
        host.tree.remove_session(number)

    host.at_closer_look = replace
    outcome = (await host.sweep())["v0"]
    assert outcome.result is Result.SPARED
    assert "another session" in outcome.verdict.reason
    assert host.disconnected == []


async def test_a_session_that_came_back_by_the_last_look_is_spared(host: SweepHost) -> None:
    number = host.session("v0", state="connecting")
    host.at_first_staged = lambda: host.tree.set_state(number, "live")
    outcome = (await host.sweep())["v0"]
    assert (outcome.result, host.disconnected) == (Result.SPARED, [])


# Failures


async def test_a_disconnect_that_fails_holds_up_no_other(host: SweepHost) -> None:
    for number in range(10):
        host.session(f"v{number}", state="dead")

    async def disconnect(session: Session) -> None:
        if session.nqn.endswith("3"):
            raise Unavailable("it does not go")
        if session.nqn.endswith("5"):
            raise RuntimeError("broken")
        await host.disconnect(session)

    outcomes = await host.sweep(host.cleaner(disconnect=disconnect))

    assert len(host.disconnected) == 8
    assert {name for name, outcome in outcomes.items() if outcome.failed} == {"v3", "v5"}
    assert "does not go" in outcomes["v3"].error
    assert count(host, "rds_csi_sweep_disconnects_total", result="failed") == 2


@pytest.mark.parametrize("how", ["never", "deadline"])
async def test_a_disconnect_that_hangs_is_left_alone_from_then_on(host: SweepHost, how: str) -> None:
    for number in range(6):
        host.session(f"v{number}", state="dead")
    asked: list[str] = []

    async def disconnect(session: Session) -> None:
        name = session.nqn.removeprefix(PREFIX)
        asked.append(name)
        if name in ("v0", "v1", "v2", "v3", "v4"):
            if how == "deadline":
                raise DeadlineExceeded("nvme did not end within 30 s and was killed")
            await asyncio.get_running_loop().create_future()
        await host.disconnect(session)

    cleaner = host.cleaner(disconnect=disconnect, deadline=0.5)
    outcomes = await host.sweep(cleaner)

    assert host.disconnected == ["v5"]
    assert {outcomes[f"v{number}"].result for number in range(5)} == {Result.HANGING}
    again = await host.sweep(cleaner)
    assert len(asked) == 6
    assert again["v0"].verdict.urgent
    assert "hangs" in again["v0"].verdict.reason
    # Also for the next process, until the kernel has made something of it.
    host.sightings = host.new_sightings()
    host.tree.remove_session(0)
    host.session("v0", state="dead")
    await host.sweep()
    assert sorted(host.disconnected) == ["v0", "v5"]


async def test_a_hanging_disconnect_keeps_its_locks_until_it_has_really_ended(host: SweepHost) -> None:
    host.session("v0", state="dead")
    ended = asyncio.Event()

    async def disconnect(session: Session) -> None:
        while not ended.is_set():
            try:
                await ended.wait()
            except asyncio.CancelledError:
                # As a child in state D: it does not end because somebody wants it.
                continue

    outcome = (await host.sweep(host.cleaner(disconnect=disconnect, deadline=0.5)))["v0"]

    assert outcome.result is Result.HANGING
    assert host.locks.is_held(f"{PREFIX}v0")
    ended.set()
    for _ in range(5):
        await asyncio.sleep(0)
    assert not host.locks.is_held(f"{PREFIX}v0")


async def test_a_sweep_that_is_cancelled_leaves_no_lock(host: SweepHost) -> None:
    for number in range(6):
        host.session(f"v{number}", state="dead")
    begun = asyncio.Event()

    async def disconnect(session: Session) -> None:
        begun.set()
        await asyncio.get_running_loop().create_future()

    sweep = asyncio.create_task(host.sweep(host.cleaner(disconnect=disconnect)))
    await begun.wait()
    sweep.cancel()
    with pytest.raises(asyncio.CancelledError):
        await sweep
    for _ in range(5):
        await asyncio.sleep(0)
    assert not host.locks.running()


# Volumes that are attached elsewhere


async def test_a_moved_volume_is_cut_at_once_and_without_a_closer_look(host: SweepHost) -> None:
    number = host.session("v0", state="connecting")
    host.mount_disk(number, "/mnt/v0")
    host.claim(number)
    host.moved.add("v0")
    await host.sweep(host.cleaner(grace=GRACE))
    assert host.disconnected == ["v0"]


async def test_a_moved_volume_that_has_come_back_by_the_last_look_is_spared(host: SweepHost) -> None:
    number = host.session("v0", state="connecting")
    host.mount_disk(number, "/mnt/v0")
    host.moved.add("v0")
    host.at_first_staged = host.moved.clear
    outcome = (await host.sweep())["v0"]
    assert (outcome.result, host.disconnected) == (Result.SPARED, [])


async def test_a_moved_volume_that_is_live_and_used_is_an_error_in_the_log(
    host: SweepHost, caplog: pytest.LogCaptureFixture
) -> None:
    host.mount_disk(host.session("v0"), "/mnt/v0")
    host.moved.add("v0")
    with caplog.at_level(logging.ERROR):
        await host.sweep()
    assert host.disconnected == []
    assert "end that use now" in caplog.text


async def test_who_does_not_know_what_moved_is_no_obstacle(host: SweepHost) -> None:
    host.session("v0", state="dead")
    host.moved_error = Unavailable("the array is away")
    await host.sweep()
    assert host.disconnected == ["v0"]


# Log and loop


async def test_each_disconnect_is_logged_with_its_reason_and_each_change_once(
    host: SweepHost, caplog: pytest.LogCaptureFixture
) -> None:
    host.session("v0", state="connecting")
    host.session("v1")
    cleaner = host.cleaner(grace=GRACE)
    with caplog.at_level(logging.INFO):
        for _ in range(3):
            await host.sweep(cleaner)
            host.clock.seconds += GRACE / 2
    levels = [record.levelname for record in caplog.records if f"{PREFIX}v0" in record.getMessage()]
    assert levels == ["INFO", "INFO", "WARNING", "INFO"]
    assert "no path of it is live, and nothing uses it; seen so for 60 s." in caplog.text
    assert f"{PREFIX}v1" not in caplog.text


async def test_the_loop_survives_every_failure_and_tells_each_sweep(
    host: SweepHost, caplog: pytest.LogCaptureFixture
) -> None:
    host.session("v0", state="dead")
    sysfs = host.tree.path("sys/class/nvme-subsystem")
    told: list[int] = []

    def pause() -> None:
        # A link to itself is neither there nor gone: ELOOP.
        sysfs.rename(sysfs.with_name("hidden"))
        sysfs.symlink_to(sysfs)

    host.clock.at_first_pause = pause
    cleaner = host.cleaner()
    loop = asyncio.create_task(cleaner.run(100.0, lambda outcomes: told.append(len(outcomes))))
    await until(lambda: len(host.clock.pauses) >= 3)
    assert told == []
    sysfs.unlink()
    sysfs.with_name("hidden").rename(sysfs)
    await until(lambda: 1 in told)
    loop.cancel()
    with pytest.raises(asyncio.CancelledError):
        await loop

    assert host.disconnected == ["v0"]
    assert "the sweep failed" in caplog.text
    assert count(host, "rds_csi_sweep_runs_total", result="failed") >= 2
    assert count(host, "rds_csi_sweep_runs_total", result="ok") >= 1
    assert count(host, "rds_csi_sweep_last_success_timestamp_seconds") > 0


async def test_sweeps_are_an_interval_apart_with_jitter(host: SweepHost) -> None:
    loop = asyncio.create_task(host.cleaner().run(100.0))
    await until(lambda: len(host.clock.pauses) >= 20)
    loop.cancel()
    assert all(90.0 <= pause <= 110.0 for pause in host.clock.pauses)
    assert len(set(host.clock.pauses)) > 10


async def test_many_orphans_go_a_few_at_a_time(host: SweepHost) -> None:
    for number in range(20):
        host.session(f"v{number}", state="dead")
    running = most = 0

    async def disconnect(session: Session) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.002)
        running -= 1
        await host.disconnect(session)

    await host.sweep(host.cleaner(disconnect=disconnect))
    assert len(host.disconnected) == 20
    assert 1 < most <= 4
