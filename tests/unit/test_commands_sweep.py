"""``rds-csi sweep`` as a process on a made-up host: what it prints, its exit status, its end."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from rds_csi.cli import main
from tests.support.sweep_host import PREFIX, SweepHost

SECONDS = 60.0


@pytest.fixture
def host(tmp_path: Path) -> SweepHost:
    root = tmp_path / "host"
    root.mkdir()
    made = SweepHost(root)
    made.session("orphan", state="connecting")
    made.mount_disk(made.session("used", state="connecting"), "/mnt/used")
    made.session("var", state="live", prefix="nqn.2000-02.com.mikrotik:")
    return made


def flags(host: SweepHost, *more: str) -> list[str]:
    root = host.tree.path()
    own = ("--host-root", str(root), "--state-dir", str(root / "state"), "--nqn-prefix", PREFIX)
    return ["sweep", *own, *more]


def swept(capsys: pytest.CaptureFixture[str], host: SweepHost, *more: str) -> dict[str, Any]:
    assert main(flags(host, "--output", "json", *more)) == 0
    found = json.loads(capsys.readouterr().out)
    return {item["nqn"].removeprefix(PREFIX): item for item in found}


def files(host: SweepHost) -> dict[str, float]:
    return {str(path): path.lstat().st_mtime for path in host.tree.path().rglob("*")}


def test_a_dry_run_tells_what_would_be_done_and_changes_nothing(
    host: SweepHost, capsys: pytest.CaptureFixture[str]
) -> None:
    before = files(host)
    found = swept(capsys, host, "--dry-run", "--grace", "0")
    assert {name: item["decision"] for name, item in found.items()} == {
        "orphan": "disconnect",
        "used": "keep",
        "nqn.2000-02.com.mikrotik:var": "foreign",
    }
    assert found["orphan"]["controllers"] == [{"name": "nvme0", "state": "connecting"}]
    assert found["orphan"]["devices"] == ["/dev/nvme0n1"]
    assert found["used"]["reason"] == "nvme1n1 is mounted at /mnt/used."
    assert found["orphan"]["result"] == "dry run"
    assert files(host) == before


def test_sightings_are_kept_from_one_run_to_the_next(host: SweepHost, capsys: pytest.CaptureFixture[str]) -> None:
    first = swept(capsys, host, "--grace", "3600")
    assert "first time" in first["orphan"]["reason"]
    second = swept(capsys, host, "--grace", "3600")
    assert "first time" not in second["orphan"]["reason"]
    third = swept(capsys, host, "--grace", "3600", "--dry-run")
    assert "first time" not in third["orphan"]["reason"]


def test_the_text_has_one_line_for_each_subsystem(host: SweepHost, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(flags(host, "--dry-run")) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines[1:]] == [
        ["keep", f"{PREFIX}orphan"],
        ["keep", f"{PREFIX}used"],
        ["foreign", "nqn.2000-02.com.mikrotik:var"],
    ]


def test_a_host_without_nvme_has_nothing_to_tell(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = ("--host-root", str(tmp_path), "--state-dir", str(tmp_path / "state"))
    assert main(["sweep", *root, "--dry-run", "--output", "json"]) == 0
    assert json.loads(capsys.readouterr().out) == []
    assert main(["sweep", *root, "--dry-run"]) == 0
    assert "no NVMe subsystem" in capsys.readouterr().out
    assert os.listdir(tmp_path) == []


def test_a_state_directory_that_cannot_be_made_is_only_a_warning(
    host: SweepHost, capsys: pytest.CaptureFixture[str]
) -> None:
    blocked = host.tree.path("blocked")
    blocked.touch()
    found = swept(capsys, host, "--grace", "3600", "--state-dir", str(blocked / "state"))
    assert found["orphan"]["decision"] == "keep"


def test_a_failed_disconnect_is_the_exit_status(host: SweepHost, capsys: pytest.CaptureFixture[str]) -> None:
    # Nothing here disconnects a made-up session: whatever the tool says, its controllers stay.
    host.tree.set_state(0, "dead")
    environment = {**os.environ, "PATH": str(host.tree.path("nowhere"))}
    done = subprocess.run(
        [sys.executable, "-m", "rds_csi", *flags(host, "--grace", "0", "--output", "json", "--connector", "fabrics")],
        capture_output=True,
        text=True,
        timeout=SECONDS,
        env=environment,
    )
    assert done.returncode == 1, done.stderr
    (orphan,) = [item for item in json.loads(done.stdout) if item["decision"] == "disconnect"]
    assert orphan["result"] == "failed"
    assert orphan["error"]
    assert f"disconnecting {PREFIX}orphan" in done.stderr


@pytest.mark.parametrize(
    "more",
    [
        ("--nqn-prefix", ""),
        ("--nqn-prefix", "nqn.2000-02.com.mikrotik:"),
        ("--grace", "-1"),
        ("--connector", "loop"),
        ("--connector", "memory"),
        ("--connector", "nonsense"),
    ],
    ids=" ".join,
)
def test_wrong_settings_are_exit_status_2(host: SweepHost, more: tuple[str, ...]) -> None:
    assert main(flags(host, "--dry-run", *more)) == 2


def test_once_wins_over_the_interval(host: SweepHost, capsys: pytest.CaptureFixture[str]) -> None:
    assert swept(capsys, host, "--once", "--interval", "1000", "--dry-run")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_daemon_prints_one_array_a_line_and_ends_at_once_and_well(host: SweepHost, number: signal.Signals) -> None:
    command = flags(host, "--interval", "0.2", "--dry-run", "--output", "json", "--grace", "0.1")
    process = subprocess.Popen(
        [sys.executable, "-m", "rds_csi", *command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        looks = [json.loads(process.stdout.readline()) for _ in range(3)]
        process.send_signal(number)
        _, log = process.communicate(timeout=SECONDS)
    finally:
        process.kill()
        process.wait(SECONDS)
    assert process.returncode == 0, log
    assert [look[0]["decision"] for look in looks] == ["keep", "disconnect", "disconnect"]
    assert "Traceback" not in log
