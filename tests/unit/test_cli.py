"""The command line: what a person sees, and the exit status."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from rds_csi.cli import main

COMMANDS = ("controller", "node", "all", "sweep", "doctor", "status", "demo")


def status_of(*argv: str) -> int:
    """The exit status, whether the command returns it or argparse leaves with it."""
    try:
        return main(argv)
    except SystemExit as left:
        return int(left.code or 0)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert status_of(command, "--help") == 0
    assert f"usage: rds-csi {command}" in capsys.readouterr().out


def test_help_answers_without_loading_a_server() -> None:
    script = """
import contextlib, sys
from rds_csi.cli import main
with contextlib.suppress(SystemExit):
    main(["node", "--help"])
print([name for name in ("grpclib", "betterproto", "rds_csi.app") if name in sys.modules])
"""
    shown = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    assert shown.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize(
    "argv", [(), ("serve",), ("node", "--bogus"), ("node", "--end", "x"), ("node", "--log-level", "loud")]
)
def test_a_wrong_command_or_flag_ends_with_two(argv: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert status_of(*argv) == 2
    assert "rds-csi" in capsys.readouterr().err


@pytest.mark.parametrize("role", ["controller", "node", "all"])
def test_a_wrong_value_is_one_sentence_without_a_traceback(role: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert status_of(role, "--endpoint", "tcp://127.0.0.1:1") == 2
    assert capsys.readouterr().err.strip().splitlines() == [
        "rds-csi: --endpoint (RDS_CSI_ENDPOINT): needs unix:///absolute/path of at most 107 bytes (unix(7))"
    ]


def test_status_without_volumes_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ("--state-dir", str(tmp_path), "--connector", "memory")
    assert status_of("status", *flags) == 0
    assert capsys.readouterr().out.startswith("No volume is staged on this machine.\n")
    assert status_of("status", *flags, "--output", "json") == 0
    expected = {"volumes": [], "sessions": [], "operations": [], "server": "not running"}
    assert json.loads(capsys.readouterr().out) == expected


def test_a_reader_that_has_seen_enough_is_no_error(tmp_path: Path) -> None:
    command = f"{sys.executable} -m rds_csi status --state-dir {tmp_path} --connector memory; echo $? >&2"
    shown = subprocess.run(
        ["bash", "-c", f"exec 3< <(:); wait; ({command}) | (exec 0<&-; sleep 0.1)"],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert "Traceback" not in shown.stderr
