"""The sum of all lanes never looks good when something went wrong."""

import json
from pathlib import Path

import pytest

from tests.support.count import main

PASSED = '<testcase name="a"/>'
FAILED = '<testcase name="b"><failure/></testcase>'
BROKEN = '<testcase name="c"><error/></testcase>'
SKIPPED = '<testcase name="d"><skipped/></testcase>'


def write(directory: Path, lanes: dict[str, str], **reports: str) -> None:
    sessions = [{"name": name, "result": result} for name, result in lanes.items()]
    (directory / "lanes.json").write_text(json.dumps({"result": 1, "sessions": sessions}))
    for name, cases in reports.items():
        (directory / f"{name.replace('__', '-')}.xml").write_text(
            f"<testsuites><testsuite>{cases}</testsuite></testsuites>"
        )


def last_line(capsys: pytest.CaptureFixture[str]) -> str:
    return capsys.readouterr().out.splitlines()[-1]


def test_tests_of_all_lanes_are_added_up(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lanes = {"lint": "success", "unit": "success", "kernel": "success"}
    write(tmp_path, lanes, unit=PASSED * 2 + SKIPPED, kernel__6_1=PASSED, kernel__6_12=PASSED)
    assert main(str(tmp_path), "0") == 0
    assert last_line(capsys) == "4 passed, 0 failed"


def test_an_error_in_a_fixture_is_a_failure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path, {"unit": "failed"}, unit=PASSED + FAILED + BROKEN)
    assert main(str(tmp_path), "1") == 1
    assert last_line(capsys) == "1 passed, 2 failed"


def test_a_lane_without_tests_that_failed_is_one_failure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path, {"lint": "failed", "unit": "success"}, unit=PASSED)
    assert main(str(tmp_path), "1") == 1
    assert last_line(capsys) == "1 passed, 1 failed"


def test_a_lane_that_crashed_after_its_tests_is_one_failure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path, {"unit": "failed"}, unit=PASSED)
    assert main(str(tmp_path), "1") == 1
    assert last_line(capsys) == "1 passed, 1 failed"


def test_a_torn_report_is_a_failure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path, {"unit": "success"}, unit=PASSED)
    (tmp_path / "kernel.xml").write_text("<testsuites><testsu")
    assert main(str(tmp_path), "0") == 1
    assert last_line(capsys) == "1 passed, 1 failed"


def test_nox_that_failed_without_a_report_is_a_failure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(str(tmp_path), "127") == 1
    assert last_line(capsys) == "0 passed, 1 failed"


def test_no_tests_at_all_are_no_success(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path, {"lint": "success"})
    assert main(str(tmp_path), "0") == 1
    assert last_line(capsys) == "0 passed, 0 failed"
