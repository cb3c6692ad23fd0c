"""What nvme-cli 2.3 and 2.13 print, captured, becomes one reason each."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from rds_csi.connectors.nvme_failures import Reason, ask_portal, classify, failure
from rds_csi.errors import FailedPrecondition, InvalidArgument
from rds_csi.retry import Transient

DATA = Path(__file__).parent / "data" / "nvme"
NQN = "nqn.2026-01.io.example:s0"

OLD = "k6.1-cli2.3-mp"
NEW = "k6.12-cli2.13-mp"
# The captured connects that failed: what 2.3 and what 2.13 tell.
TOLD = {
    "01-connect-nomodules": (Reason.NO_MODULE, Reason.NO_MODULE),
    "15-connect-already": (Reason.ALREADY, Reason.ALREADY),
    "15-connect-already-json": (Reason.ALREADY, Reason.ALREADY),
    "15-connect-already-D": (Reason.ALREADY, None),
    "16-connect-refused": (Reason.REFUSED, Reason.REFUSED),
    "16-connect-refused-json": (Reason.REFUSED, Reason.REFUSED),
    "17-connect-unknown-nqn": (Reason.REJECTED, Reason.UNTOLD),
    "17-connect-unknown-nqn-json": (Reason.REJECTED, Reason.UNTOLD),
    "17-connect-wrongport-nqn": (Reason.REJECTED, Reason.UNTOLD),
    "18-connect-badaddr": (Reason.UNRESOLVED, Reason.UNRESOLVED),
    "18-connect-badhost": (Reason.UNRESOLVED, Reason.UNRESOLVED),
    "18-connect-badopt": (Reason.INVALID, Reason.INVALID),
    "18-connect-blackhole": (Reason.TIMED_OUT, Reason.UNTOLD),
    "18-connect-host-not-allowed": (Reason.REJECTED, Reason.UNTOLD),
    "18-connect-missing-a": (Reason.INVALID, Reason.INVALID),
    "18-connect-missing-n": (Reason.INVALID, Reason.INVALID),
    "18-connect-noroute": (Reason.UNREACHABLE, Reason.UNTOLD),
    "18-connect-notransport": (Reason.INVALID, Reason.INVALID),
    "18-connect-unreachable": (Reason.UNREACHABLE, Reason.UNTOLD),
    "40-connecting-connect-again": (Reason.ALREADY, Reason.ALREADY),
    "45-connect-again": (Reason.ALREADY, None),
}


def captured(setting: str) -> dict[str, dict[str, Any]]:
    programs = json.loads((DATA / setting / "programs.json").read_text())
    return {program["name"]: program for program in programs}


@pytest.mark.parametrize(("column", "setting"), [(0, OLD), (1, NEW)])
def test_every_captured_failure_is_told_apart(column: int, setting: str) -> None:
    failed = {
        name: classify(program["stderr"] or program["stdout"])[0]
        for name, program in captured(setting).items()
        if program["returncode"] != 0 and program["cmd"].startswith("nvme connect")
    }
    assert failed == {name: reasons[column] for name, reasons in TOLD.items() if name in failed}
    assert set(failed) == {name for name, reasons in TOLD.items() if reasons[column] is not None}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("Failed to write to /dev/nvme-fabrics: Operation already in progress", Reason.ALREADY),
        ("could not add new controller: already connected", Reason.ALREADY),
        ("Connection reset by peer", Reason.RESET),
        ("Resource temporarily unavailable", Reason.BUSY),
        ("Temporary failure in name resolution", Reason.BUSY),
        ("i/o timeout", Reason.TIMED_OUT),
        ("Host is unreachable", Reason.UNREACHABLE),
        ("Failed to open /dev/nvme-fabrics: No such file or directory", Reason.NO_MODULE),
        ("Failed to open /dev/nvme-fabrics: Permission denied", Reason.FORBIDDEN),
        ("", Reason.UNTOLD),
        ("something new", Reason.UNTOLD),
    ],
)
def test_a_text_tells_its_reason(text: str, reason: Reason) -> None:
    assert classify(text) == (reason, text if reason is not Reason.UNTOLD else "")


@pytest.mark.parametrize("reason", list(Reason))
def test_every_failure_names_portal_nqn_detail_and_remedy(reason: Reason) -> None:
    error = failure(reason, "192.0.2.1:4420", NQN, "the tool's last line")
    for part in ("192.0.2.1:4420", NQN, "the tool's last line"):
        assert part in str(error)
    assert error.remedy


def test_only_what_may_pass_is_transient() -> None:
    transient = {reason for reason in Reason if isinstance(failure(reason, "p", NQN, "d"), Transient)}
    assert set(Reason) - transient == {Reason.REJECTED, Reason.INVALID, Reason.NO_MODULE, Reason.FORBIDDEN}
    assert isinstance(failure(Reason.REJECTED, "p", NQN, "d"), FailedPrecondition)
    assert isinstance(failure(Reason.INVALID, "p", NQN, "d"), InvalidArgument)


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
async def test_a_portal_that_accepts_has_rejected_the_host(address: str) -> None:
    server = await asyncio.start_server(lambda _reader, writer: writer.close(), address, 0)
    port = server.sockets[0].getsockname()[1]
    assert await ask_portal(address, port) is Reason.REJECTED
    server.close()
    await server.wait_closed()
    assert await ask_portal(address, port) is Reason.REFUSED
