"""docs/sweep.md says what the sweep decides, in its own words."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from rds_csi.commands.sweep import _document
from rds_csi.model.connection import ConnectionConfig
from rds_csi.model.devices import DeviceNumber
from rds_csi.model.records import StageRecord
from rds_csi.model.sizes import GIB
from rds_csi.model.targets import NvmeTarget
from rds_csi.nvme.cleaner import Outcome, Result
from rds_csi.nvme.decision import Decision, Hang, Sighting, Snapshot, Verdict, decide, kind_of
from rds_csi.nvme.sessions import Controller, Namespace, Session, SessionIndex

SWEEP = (Path(__file__).parents[2] / "docs/sweep.md").read_text(encoding="utf-8")

PREFIX = "nqn.2026-01.io.rds-csi:"
NQN = f"{PREFIX}vol1"
NAMESPACE = Namespace("nvme3n1", 1, DeviceNumber(259, 3), GIB)
MOUNTED = "nvme3n1 is mounted at /mnt"
NOW = 1000.0


def session(state: str = "live", *, nqn: str = NQN, **fields: Any) -> Session:
    controller = Controller("nvme3", state, **{"transport": "tcp", **fields})
    return Session(nqn, "nvme-subsys3", (controller,), (NAMESPACE,))


EMPTY = Session(NQN, "nvme-subsys3", session().controllers)
GOING = Session(NQN, "nvme-subsys3", session().controllers, incomplete=("nvme3n1",))
LEFT_OVER = Session(NQN, "nvme-subsys3")


def record(*, block: bool = False) -> StageRecord:
    target = NvmeTarget(NQN, ("192.0.2.1",))
    return StageRecord("vol1", "/staging", target, ConnectionConfig(), GIB, "attachment", "boot", block=block)


def seen(what: Session, seconds: float) -> dict[Sighting, float]:
    return {Sighting(NQN, what.subsystem, ("nvme3",), kind_of(what)): NOW - seconds}


def verdict(what: Session, **facts: Any) -> Verdict:
    facts = {"grace": 60.0, **facts}
    (only,) = decide(Snapshot(SessionIndex({what.nqn: (what,)}), PREFIX, NOW, **facts))
    return only


# The rules in the order of the page.
CASES: tuple[tuple[Session, dict[str, Any]], ...] = (
    (session(nqn="nqn.2000-02.com.mikrotik:nixos-node1"), {}),
    (session(cntrltype="discovery"), {}),
    (session(transport="pcie"), {}),
    (session("deleting (no IO)"), {"hangs": {NQN: Hang(("nvme3",), NOW - 40)}}),
    (session(), {"hangs": {NQN: Hang(("nvme3",), NOW - 40)}}),
    (session(), {"running": {NQN: "NodeStageVolume"}}),
    (LEFT_OVER, {}),
    (session(transport=""), {}),
    (session("connecting"), {"moved": frozenset({NQN})}),
    (session(), {"moved": frozenset({NQN}), "uses": {NQN: (MOUNTED,)}}),
    (session(), {"moved": frozenset({NQN})}),
    (session("connecting"), {"uses": {NQN: (MOUNTED,)}}),
    (session(), {"records": {NQN: (record(block=True),)}}),
    (session(), {"unseen": {NQN: "/dev/nvme3n1 cannot be opened: Input/output error"}}),
    (GOING, {}),
    (session(), {"records": {NQN: (record(),)}}),
    (session(), {}),
    (session("connecting"), {}),
    (session("connecting"), {"first_seen": seen(session("connecting"), 61)}),
)


def told_rules() -> list[tuple[str, str]]:
    """Decision and reason of each row of the page's table of rules."""
    return re.findall(r"^\|[ 0-9]*\| .* \| (keep|disconnect|foreign) \| `(.*)` \|$", SWEEP, re.MULTILINE)


def test_the_page_has_the_rules_in_their_order_with_decision_and_reason() -> None:
    verdicts = [verdict(what, **facts) for what, facts in CASES]
    assert told_rules() == [(item.decision.value, item.reason) for item in verdicts]


def test_the_first_rule_of_the_page_that_fits_decides() -> None:
    """One session for which many rules fit: what decides is taken away again and again, and the next one decides."""
    facts: dict[str, Any] = {
        "hangs": {NQN: Hang(("nvme3",), NOW - 40)},
        "running": {NQN: "NodeStageVolume"},
        "moved": frozenset({NQN}),
        "uses": {NQN: (MOUNTED,)},
        "records": {NQN: (record(block=True),)},
    }
    decided = [verdict(session(), **facts).reason]
    for fact in tuple(facts):
        del facts[fact]
        decided.append(verdict(session(), **facts).reason)
    reasons = [reason for _, reason in told_rules()]
    rows = [reasons.index(reason) for reason in decided]
    assert rows == sorted(set(rows))


@pytest.mark.parametrize("decision", Decision)
def test_the_page_has_every_decision_word(decision: Decision) -> None:
    assert f"`{decision.value}`" in SWEEP


@pytest.mark.parametrize("what", [EMPTY, session("connecting"), session("dead"), session()])
def test_the_page_has_every_kind_of_orphan(what: Session) -> None:
    said = verdict(what, grace=0.0, sweep_unused=True)
    assert said.decision is Decision.DISCONNECT
    assert f"`{said.reason.partition(', and nothing')[0]}`" in SWEEP


@pytest.mark.parametrize("result", Result)
def test_the_page_has_every_result(result: Result) -> None:
    assert f"`{result.value}`" in SWEEP


def test_the_page_has_every_key_of_the_json_in_its_order() -> None:
    (section,) = re.findall(r"^## JSON$(.*?)^## ", SWEEP, re.MULTILINE | re.DOTALL)
    assert re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE) == list(_document(Outcome(verdict(session()))))


def test_the_example_of_the_json_is_what_is_printed() -> None:
    (line,) = re.findall(r"^```json\n(.*)\n```$", SWEEP, re.MULTILINE)
    (told,) = json.loads(line)
    gone = Session(f"{PREFIX}pvc-e19d6a55", "nvme-subsys2", (Controller("nvme2", "live", "tcp"),))
    assert told == _document(Outcome(verdict(gone, grace=0.0), Result.DRY_RUN))
