"""The README and the pages in docs/ say what the code does."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import fields
from itertools import takewhile
from pathlib import Path

import pytest

from docs.generate import commands, metrics_page
from rds_csi.cli import _parser
from rds_csi.commands import status
from rds_csi.commands.doctor.findings import Result, State
from rds_csi.commands.running_server import Activity
from rds_csi.connectors.nvme_failures import _MEANINGS, Reason
from rds_csi.errors import InvalidArgument
from rds_csi.model.connection import OPTIONS, ConnectionConfig, Option
from rds_csi.model.mounts import DEFAULT_FILESYSTEM, FILESYSTEMS
from rds_csi.model.parameters import CONNECTION_KEYS, FS_TYPE_KEY, VOLUME_KEYS, VolumeParameters
from rds_csi.retry import RetryPolicy, Transient

ROOT = Path(__file__).parents[2]
BELOW = ("docs", "examples", "charts")
PAGES = (
    *("README.md", "CONTRIBUTING.md"),
    *sorted(str(path.relative_to(ROOT)) for place in BELOW for path in (ROOT / place).rglob("*.md")),
)


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


README = read("README.md")
PARAMETERS = read("docs/parameters.md")
CONNECTIONS = read("docs/connections.md")
OPERATIONS = read("docs/operations.md")

DEFAULTS = {field.name: field.default for field in fields(ConnectionConfig)}


def anchors(text: str) -> set[str]:
    """What the headings of a page can be linked to by, as code hosts make it: lower case, no punctuation."""
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def told_commands(text: str) -> Iterator[str]:
    """Every ``rds-csi …`` that a page tells to run: in a block of commands, or in a line of code."""
    for block in re.findall(r"^ *```sh\n(.*?)^ *```$", text, re.MULTILINE | re.DOTALL):
        for line in block.splitlines():
            # In a container: kubectl exec … -- rds-csi …
            command = line.rpartition(" -- ")[2].strip()
            if command.startswith("rds-csi "):
                yield command
    # "\|" is how a table has a "|".
    for line in re.findall(r"`(rds-csi [^`\n]+)`", text):
        yield from (part.strip() for part in line.replace("\\|", "|").split(";") if part.strip().startswith("rds-csi "))


@pytest.mark.parametrize("option", OPTIONS, ids=lambda option: option.key)
def test_readme_tells_the_unit_range_default_and_meaning_of_every_connection_parameter(option: Option) -> None:
    allowed = f"{option.minimum} to {option.maximum}"
    row = f"| `{option.key}` | {option.unit} | {allowed} | {DEFAULTS[option.field]} | {option.meaning} |"
    assert row in README.splitlines()


@pytest.mark.parametrize("key", sorted(VOLUME_KEYS | CONNECTION_KEYS))
def test_readme_names_every_parameter(key: str) -> None:
    assert f"\n| `{key}` |" in README


def test_the_first_two_command_blocks_of_the_readme_run_the_demo_and_the_lanes() -> None:
    demo, lanes = re.findall(r"^```sh\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)[:2]
    assert demo.endswith("rds-csi demo\n")
    assert lanes.endswith("/nox\n")


@pytest.mark.parametrize("option", OPTIONS, ids=lambda option: option.key)
def test_the_parameters_page_tells_unit_range_default_option_and_when_to_change_of_every_parameter(
    option: Option,
) -> None:
    allowed = f"{option.minimum} to {option.maximum}"
    begin = f"| `{option.key}` | {option.unit} | {allowed} | {DEFAULTS[option.field]} | `{option.field}` | "
    row = next((line for line in PARAMETERS.splitlines() if line.startswith(begin)), "")
    assert len(row) > len(begin) + 2, f"a row is wanted that begins with: {begin}"


def test_the_parameters_page_has_every_field_of_the_connection_config() -> None:
    told = re.findall(r"^\|(?: [^|]+ \|){4} `(\w+)` \|", PARAMETERS, re.MULTILINE)
    assert sorted(told) == sorted(DEFAULTS)


@pytest.mark.parametrize("key", [FS_TYPE_KEY, *sorted(VOLUME_KEYS | CONNECTION_KEYS)])
def test_the_parameters_page_has_every_parameter(key: str) -> None:
    assert f"\n| `{key}` |" in PARAMETERS


def test_the_parameters_page_names_the_filesystems_and_the_default() -> None:
    names = ", ".join(f"`{name}`" for name in FILESYSTEMS)
    assert f"| `{FS_TYPE_KEY}` | {names} | `{DEFAULT_FILESYSTEM}` |" in PARAMETERS


@pytest.mark.parametrize("name", sorted(commands()))
def test_the_readme_and_the_operations_page_name_every_command(name: str) -> None:
    assert f"`rds-csi {name}`" in README
    assert re.search(rf"`(rds-csi )?{name}`", OPERATIONS)


def test_no_page_names_a_metric_that_is_not_there() -> None:
    real = set(re.findall(r"^\| `(\w+)` \|", metrics_page(), re.MULTILINE))
    for name in PAGES:
        told = set(re.findall(r"\brds_csi_(?:rpc|nvme|sweep|array|program|duplicate|build)_\w+", read(name)))
        assert told <= real, name


def told_of(command: str) -> str:
    """The section of docs/operations.md about a command."""
    after = OPERATIONS.partition(f"\n### rds-csi {command}\n")[2]
    return after.partition("\n##")[0]


def test_the_operations_page_has_every_key_of_the_json_of_status() -> None:
    assert [key for key in status._document([], [], Activity()) if f"`{key}`" not in told_of("status")] == []


def test_the_operations_page_has_every_state_and_every_key_of_the_json_of_doctor() -> None:
    words = [*State, *(field.name for field in fields(Result))]
    assert [word for word in words if f"`{word}`" not in told_of("doctor")] == []


def test_the_operations_page_has_every_reason_of_volume_health_with_its_status() -> None:
    real = set(re.findall(r'HealthStatus\.(\w+), "(\w+)"', read("rds_csi/services/observing.py")))
    told = re.findall(r"^\| `([A-Z]\w+)` \| ([A-Z_]+) \|", OPERATIONS, re.MULTILINE)
    assert {(level, reason) for reason, level in told} == real


@pytest.mark.parametrize("reason", Reason, ids=lambda reason: reason.name)
def test_the_connections_page_has_every_reason_with_the_words_of_its_error(reason: Reason) -> None:
    words = _MEANINGS[reason].text.split(":")[0]
    row = next((line for line in CONNECTIONS.splitlines() if f"| `{reason.value}` |" in line), "")
    assert words in row, f"a row is wanted with: {words} … | `{reason.value}` |"


def test_the_connections_page_tells_attempts_pauses_and_what_fails_at_once() -> None:
    policy = RetryPolicy()
    pauses = [f"{policy.first_delay * policy.factor**number:g}" for number in range(policy.attempts - 1)]
    told = f"tried {policy.attempts} times, {', '.join(pauses[:-1])} and {pauses[-1]} seconds apart"
    assert f"{told} ({policy.jitter:.0%} jitter)".replace("%", " %") in CONNECTIONS
    (listed,) = re.findall(r"These fail at once: (.*)\.$", CONNECTIONS, re.MULTILINE)
    final = {reason.value for reason, meaning in _MEANINGS.items() if meaning.error is not Transient}
    assert set(re.findall(r"`([a-z ]+)`", listed)) == final


@pytest.mark.parametrize("name", PAGES)
def test_every_command_of_ours_that_a_page_tells_to_run_is_understood(name: str) -> None:
    for command in told_commands(read(name)):
        words = list(takewhile(lambda word: word not in ("|", ">"), shlex.split(command, comments=True)))[1:]
        if words == ["COMMAND", "--help"] or (len(words) == 1 and words[0] in commands()):
            # The name of a command, which may want arguments.
            continue
        try:
            _parser().parse_args(words)
        except SystemExit as end:
            # --version ends it too, and well.
            if end.code:
                pytest.fail(f"rds-csi does not understand: {command}")


@pytest.mark.parametrize("parameters", [{"queueSize": "8"}, {"ctrlLossTmo": "3", "reconnectDelay": "5"}])
def test_the_parameters_page_has_what_an_invalid_value_is_answered(parameters: dict[str, str]) -> None:
    with pytest.raises(InvalidArgument) as refused:
        VolumeParameters.parse(parameters)
    assert str(refused.value) in PARAMETERS.splitlines()


@pytest.mark.parametrize("page", [name for name in PAGES if name.startswith("docs/")])
def test_the_index_links_to_every_page_and_the_readme_to_the_index(page: str) -> None:
    name = page.removeprefix("docs/")
    assert f"]({name})" in read("docs/README.md") or name == "README.md"
    assert "](docs/README.md)" in README


@pytest.mark.parametrize("name", PAGES)
def test_links_lead_somewhere(name: str) -> None:
    for link in re.findall(r"\]\((?!https?:)([^)]+)\)", read(name)):
        file, _, anchor = link.partition("#")
        document = (ROOT / name).parent / file if file else ROOT / name
        assert document.exists(), link
        if anchor:
            assert anchor in anchors(document.read_text(encoding="utf-8")), link
