"""``rds-csi doctor`` on this machine, whatever it has: what it finds is told, and nothing is changed."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support.missing import give_up
from tests.support.portals import HalfMutePortal, free_port

DOCTOR = (str(Path(sys.executable).with_name("rds-csi")), "doctor")
# Far above what the looks take on a loaded machine; a probe alone may take 5 s.
DOCTOR_SECONDS = 120.0
# From a signal to the end of the process.
END_SECONDS = 10.0


def run(*flags: str, wrapper: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*wrapper, *DOCTOR, *flags], capture_output=True, text=True, timeout=DOCTOR_SECONDS)


def found(ran: subprocess.CompletedProcess[str]) -> list[dict[str, Any]]:
    """The findings of ``--output json``."""
    assert ran.returncode in (0, 1), ran.stderr
    results: list[dict[str, Any]] = json.loads(ran.stdout)
    return results


@contextmanager
def nothing_changes(home: Path) -> Iterator[None]:
    """Neither a module is loaded nor a file made in the block."""

    def now() -> tuple[list[str], set[str], list[str]]:
        modules, nvme = Path("/sys/module"), Path("/etc/nvme")
        return (
            sorted(str(path) for path in home.rglob("*")),
            {path.name for path in modules.iterdir()},
            sorted(path.name for path in nvme.iterdir()) if nvme.exists() else [],
        )

    before = now()
    yield
    assert now() == before


def test_a_machine_for_image_files_is_well_and_nothing_is_changed(home: Path) -> None:
    with nothing_changes(home):
        ran = run("--connector", "loop", "--state-dir", f"{home}/state", "--output", "json")
    results = found(ran)
    assert [item for item in results if item["state"] == "missing"] == []
    assert ran.returncode == 0
    versions = {item["subject"]: item["message"] for item in results}
    assert "mke2fs 1." in versions["mkfs.ext4"]
    assert "util-linux 2." in versions["blkid"]


def test_what_is_missing_has_a_remedy_and_makes_the_exit_status_one(home: Path) -> None:
    with nothing_changes(home):
        # No kernel has a module of a machine that is not there.
        ran = run(
            "--connector", "nvme-cli", "--state-dir", f"{home}/state", "--host-root", str(home), "--output", "json"
        )
    results = found(ran)
    assert ran.returncode == 1
    assert "kernel" in {item["subject"] for item in results if item["state"] == "missing"}
    assert [item for item in results if item["state"] != "ok" and not item["remedy"]] == []


async def test_portals_are_asked_over_the_network(home: Path) -> None:
    refused = free_port()
    async with HalfMutePortal() as portal:
        flags = ("--connector", "loop", "--state-dir", f"{home}/state", "--output", "json")
        ran = await asyncio.to_thread(run, *flags, "--portal", portal.portal, "--portal", f"127.0.0.1:{refused}")
    portals = {item["message"].split(" ")[0]: item for item in found(ran) if item["subject"] == "portal"}
    assert portals[portal.portal]["state"] == "ok"
    assert "refused" in portals[f"127.0.0.1:{refused}"]["message"]
    assert ran.returncode == 1


def test_it_runs_without_any_capability(home: Path) -> None:
    ran = run("--connector", "nvme-cli", "--state-dir", f"{home}/state", "--output", "json", wrapper=_powerless())
    assert {"kernel", "host identity", "state directory", "sessions"} <= {item["subject"] for item in found(ran)}
    assert ran.stderr == ""


def _powerless() -> tuple[str, ...]:
    if not os.path.exists("/usr/bin/setpriv"):
        give_up("setpriv of util-linux is missing")
    return ("setpriv", "--bounding-set=-all", "--inh-caps=-all", "--")


def test_the_text_ends_with_a_summary_in_one_line(home: Path) -> None:
    ran = run("--connector", "loop", "--state-dir", f"{home}/state")
    assert ran.stdout.splitlines()[-1].endswith(" 0 missing.")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_a_portal_stays_mute_ends_it_at_once(home: Path, number: signal.Signals) -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        mute.settimeout(DOCTOR_SECONDS)
        portal = f"127.0.0.1:{mute.getsockname()[1]}"
        with subprocess.Popen(
            # A shell starts what runs in the background with SIGINT ignored, and that is inherited.
            [
                *("env", "--default-signal=INT", *DOCTOR, "--connector", "nvme-cli"),
                *("--state-dir", f"{home}/state", "--portal", portal),
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as doctor:
            asked, _ = mute.accept()
            with asked:
                doctor.send_signal(number)
                _, stderr = doctor.communicate(timeout=END_SECONDS)
    assert doctor.returncode in (128 + number, -number)
    assert "Traceback" not in stderr


def test_the_json_is_the_same_findings_as_the_text(home: Path) -> None:
    flags = ("--connector", "loop", "--state-dir", f"{home}/state")
    text = run(*flags).stdout
    assert [item["message"] for item in found(run(*flags, "--output", "json")) if item["message"] not in text] == []
