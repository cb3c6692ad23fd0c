"""The README says what the code does."""

import re
from dataclasses import fields
from pathlib import Path

import pytest

from rds_csi.model.connection import OPTIONS, ConnectionConfig, Option
from rds_csi.model.parameters import VOLUME_KEYS

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
DEFAULTS = {field.name: field.default for field in fields(ConnectionConfig)}


@pytest.mark.parametrize("option", OPTIONS, ids=lambda option: option.key)
def test_readme_tells_the_unit_range_default_and_meaning_of_every_connection_parameter(option: Option) -> None:
    allowed = f"{option.minimum} to {option.maximum}"
    row = f"| `{option.key}` | {option.unit} | {allowed} | {DEFAULTS[option.field]} | {option.meaning} |"
    assert row in README.splitlines()


@pytest.mark.parametrize("key", sorted(VOLUME_KEYS))
def test_readme_names_every_volume_parameter(key: str) -> None:
    assert f"\n| `{key}` |" in README


def test_the_first_two_command_blocks_of_the_readme_run_the_demo_and_the_lanes() -> None:
    demo, lanes = re.findall(r"^```sh\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)[:2]
    assert demo.endswith("rds-csi demo\n")
    assert lanes.endswith("/nox\n")


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "docs/architecture.md"])
def test_links_to_files_lead_somewhere(name: str) -> None:
    document = ROOT / name
    for link in re.findall(r"\]\((?!https?:)([^)#]+)\)", document.read_text(encoding="utf-8")):
        assert (document.parent / link).exists(), link
