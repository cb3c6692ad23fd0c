"""What nvme-cli 2.3 and 2.13 print, captured, and what dd prints, becomes one reason each."""

import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest

from rds_csi.connectors.nvme_failures import Reason, classify, failure, settle
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
    assert set(Reason) - transient == {
        *(Reason.REJECTED, Reason.INVALID, Reason.NO_MODULE, Reason.FORBIDDEN, Reason.NO_NVME, Reason.NO_INTERFACE),
    }
    assert isinstance(failure(Reason.REJECTED, "p", NQN, "d"), FailedPrecondition)
    assert isinstance(failure(Reason.INVALID, "p", NQN, "d"), InvalidArgument)


@pytest.mark.parametrize(
    "phrase",
    [
        *("connection refused", "connection reset", "connection timeout", "connection timed out", "no route to host"),
        *("network unreachable", "network is unreachable", "host is unreachable", "device did not appear"),
        *("i/o timeout", "io timeout", "temporary failure", "resource temporarily unavailable", "try again"),
    ],
)
@pytest.mark.parametrize("form", ["{}", "Failed to write to /dev/nvme-fabrics: {}", "could not add new controller: {}"])
def test_every_phrase_of_a_passing_trouble_is_worth_another_attempt(phrase: str, form: str) -> None:
    reason, line = classify(form.format(phrase.capitalize()))
    assert isinstance(failure(reason, "192.0.2.1:4420", NQN, line), Transient)
    assert reason is not Reason.UNTOLD


@pytest.mark.parametrize(
    ("number", "reason"),
    [
        (errno.EALREADY, Reason.ALREADY),
        (errno.ECONNREFUSED, Reason.REFUSED),
        (errno.ECONNRESET, Reason.RESET),
        (errno.EPIPE, Reason.RESET),
        (errno.ECONNABORTED, Reason.RESET),
        (errno.ETIMEDOUT, Reason.TIMED_OUT),
        (errno.EHOSTUNREACH, Reason.UNREACHABLE),
        (errno.ENETUNREACH, Reason.UNREACHABLE),
        (errno.EHOSTDOWN, Reason.UNREACHABLE),
        (errno.EAGAIN, Reason.BUSY),
        (errno.EINTR, Reason.BUSY),
        (errno.ENOMEM, Reason.BUSY),
        (errno.EIO, Reason.REJECTED),
        (errno.EINVAL, Reason.INVALID),
        (errno.ENODEV, Reason.NO_INTERFACE),
        (errno.EPERM, Reason.FORBIDDEN),
        (errno.EACCES, Reason.FORBIDDEN),
        (errno.ENOSPC, Reason.UNTOLD),
    ],
)
def test_dd_tells_the_errno_of_the_write(number: int, reason: Reason) -> None:
    line = f"dd: error writing '/dev/nvme-fabrics': {os.strerror(number)}"
    assert classify(line + "\n") == (reason, line if reason is not Reason.UNTOLD else "")


def test_dd_tells_that_the_device_is_missing_or_forbidden() -> None:
    said = "dd: failed to open '/host/dev/nvme-fabrics': "
    assert classify(said + os.strerror(errno.ENOENT))[0] is Reason.NO_MODULE
    assert classify(said + os.strerror(errno.EACCES))[0] is Reason.FORBIDDEN


@pytest.mark.parametrize(
    "warning",
    [
        "Failed to open /etc/nvme/config.json: No such file or directory",
        "warning: /etc/nvme/hostid: Permission denied",
        "warning: use --keep-alive-tmo instead of timeout",
        "nvme: invalid argument in config",
    ],
)
def test_a_warning_before_the_answer_does_not_decide(warning: str) -> None:
    assert classify(f"{warning}\ncould not add new controller: connection refused\n")[0] is Reason.REFUSED
    general = "could not add new controller: failed to write to nvme-fabrics device"
    assert classify(f"{warning}\n{general}\n") == (Reason.UNTOLD, "")


async def says(reason: Reason | None) -> Reason | None:
    return reason


@pytest.mark.parametrize(
    ("told", "line", "answer", "settled"),
    [
        # The errno was lost: the portal decides.
        (Reason.UNTOLD, "", None, Reason.REJECTED),
        (Reason.UNTOLD, "", Reason.UNTOLD, Reason.UNTOLD),
        (Reason.UNTOLD, "", Reason.UNREACHABLE, Reason.UNREACHABLE),
        # EIO and EINVAL are also what the kernel says of an array that went away in the middle of the connect.
        (Reason.REJECTED, "Input/output error", None, Reason.REJECTED),
        (Reason.REJECTED, "Input/output error", Reason.REFUSED, Reason.REFUSED),
        (Reason.INVALID, "Invalid argument", None, Reason.INVALID),
        (Reason.INVALID, "Invalid argument", Reason.RESET, Reason.RESET),
        # EACCES and EPERM of the write are also what a prohibit route and a filter give; of the open they are not.
        (Reason.FORBIDDEN, "dd: error writing 'x': Permission denied", Reason.UNREACHABLE, Reason.UNREACHABLE),
        (Reason.FORBIDDEN, "Failed to write to x: Operation not permitted", Reason.UNREACHABLE, Reason.UNREACHABLE),
        (Reason.FORBIDDEN, "dd: error writing 'x': Permission denied", None, Reason.FORBIDDEN),
        (Reason.FORBIDDEN, "dd: failed to open 'x': Permission denied", Reason.UNREACHABLE, Reason.FORBIDDEN),
        # The tool's own complaint needs nobody's word.
        (Reason.INVALID, "unrecognized option", Reason.REFUSED, Reason.INVALID),
        (Reason.REFUSED, "Connection refused", None, Reason.REFUSED),
    ],
)
async def test_the_portal_settles_what_the_text_leaves_open(
    told: Reason, line: str, answer: Reason | None, settled: Reason
) -> None:
    assert await settle(told, line, lambda: says(answer)) is settled
