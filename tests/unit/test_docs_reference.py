"""docs/reference/ is what the code says, and no other page says it again."""

import re
from pathlib import Path

import pytest

from docs.generate import Parameter, commands, differences, flags_page, main, pages, parameters, read
from rds_csi.model.connection import ConnectionConfig
from rds_csi.model.parameters import MUTABLE_KEYS, VolumeParameters, parse_mutable
from rds_csi.settings import Settings, flag_of

ROOT = Path(__file__).parents[2]
# Pages about one array or command tell its own flags; the settings are told once.
TELLERS = [path for path in (ROOT / "docs").rglob("*.md") if path.parent.name != "reference"]


def test_the_pages_are_what_the_code_says() -> None:
    assert differences(read) == "", "run: nox -s docs -- --write"


def test_a_page_that_was_edited_by_hand_is_found() -> None:
    assert "-| `--endpoint` |" in differences(lambda name: read(name).replace("/csi/csi.sock", "/csi/other.sock"))


def test_a_page_that_is_missing_is_found() -> None:
    assert set(re.findall(r"^--- docs/reference/(.*)$", differences(lambda name: ""), re.MULTILINE)) == set(pages())


def test_no_other_page_has_a_table_of_settings() -> None:
    rows = [line for path in TELLERS for line in path.read_text(encoding="utf-8").splitlines() if "`RDS_CSI_" in line]
    assert [line for line in rows if line.startswith("| `--")] == []


def test_every_setting_that_a_command_takes_has_a_row() -> None:
    taken = {flag for parser in commands().values() for flag in parser._option_string_actions}
    told = set(re.findall(r"^\| `(--[a-z-]+)` \|", flags_page(), re.MULTILINE))
    assert told == {flag_of(name) for name in Settings.model_fields} & taken


def test_every_flag_of_every_command_has_a_row() -> None:
    text = flags_page()
    for name, parser in commands().items():
        for flag in parser._option_string_actions:
            if flag.startswith("--") and flag != "--help":
                assert f"| `{flag}` |" in text, f"{name} {flag}"


@pytest.mark.parametrize("parameter", parameters(), ids=lambda parameter: parameter.key)
def test_a_default_that_is_told_can_be_given(parameter: Parameter) -> None:
    default = parameter.default.strip("`")
    given = {} if default == "–" else {parameter.key: default}
    assert VolumeParameters.parse(given).connection == ConnectionConfig()


def test_a_parameter_is_mutable_when_a_volume_attributes_class_may_have_it() -> None:
    for parameter in parameters():
        default = parameter.default.strip("`")
        if parameter.key in MUTABLE_KEYS and default != "–":
            assert parse_mutable({parameter.key: default}) == {parameter.key: default}


def test_the_command_tells_whether_pages_differ() -> None:
    assert main([]) == 0
