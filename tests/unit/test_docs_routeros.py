"""docs/routeros.md and docs/several-arrays.md say what the code does."""

import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

from rds_csi.arrays.routeros import options as module
from rds_csi.arrays.routeros.checks import OLDEST_FOR
from rds_csi.arrays.routeros.least_privilege import setup_lines
from rds_csi.arrays.routeros.mark import Kind, Mark
from rds_csi.arrays.routeros.names import Names
from rds_csi.arrays.routeros.options import Fencing, RestOptions, RouterosOptions, SnapshotMeans, SshOptions, parse
from rds_csi.arrays.routeros.pool import OLDEST
from rds_csi.arrays.routeros.probe import Probe
from rds_csi.arrays.routeros.recording import Recorder
from rds_csi.arrays.several_config import parse_config
from rds_csi.commands.orphan_decision import InUse, Verdict
from rds_csi.commands.orphan_lists import parse_in_use
from rds_csi.commands.orphans import DEFAULT_APART
from rds_csi.model.names import DEFAULT_DRIVER_NAME
from rds_csi.model.targets import DEFAULT_NVME_PORT
from rds_csi.settings import load_settings
from tests.support.routeros_memory import MemoryClient, MemoryDevice

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "routeros.md").read_text(encoding="utf-8")
SEVERAL = (DOCS / "several-arrays.md").read_text(encoding="utf-8")
VOLUME = "pvc-5d0c2f8e-1b7a-4c11-9b1e-2f6f4a1c9d20"
NAMES = Names(DEFAULT_DRIVER_NAME, "prod", "nqn.2026-01.io.rds-csi:prod:", "raid10", "rds-csi")


def section(title: str) -> str:
    level = re.search(rf"^(#+) {re.escape(title)}$", PAGE, re.MULTILINE)
    assert level is not None, title
    after = PAGE[level.end() :]
    return re.split(rf"^#{{1,{len(level[1])}}} ", after, maxsplit=1, flags=re.MULTILINE)[0]


def rows(title: str) -> dict[str, list[str]]:
    """The rows of the section's table by their first cell."""
    cells = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in section(title).splitlines() if "|" in line
    ]
    return {row[0].strip("`"): row[1:] for row in cells}


def keys() -> dict[str, str]:
    """Every key of the URLs with the transport that knows it."""
    ssh, https = set(module._SSH_KEYS), set(module._HTTPS_KEYS)
    return {key: "both" if key in ssh & https else "ssh" if key in ssh else "https" for key in ssh | https}


@pytest.mark.parametrize("key", sorted(keys()))
def test_the_page_has_every_key_of_the_url_with_its_transport_default_and_meaning(key: str) -> None:
    transport, values, default, meaning = rows("The array's URL")[key]
    assert transport == keys()[key]
    assert values
    assert meaning
    known = {field.name: field.default for kind in (RouterosOptions, SshOptions) for field in fields(kind)}
    told = {
        "base": f"`{module.DEFAULT_BASE}`",
        "nvme-port": str(DEFAULT_NVME_PORT),
        "fencing": f"`{known['fencing'].value}`",
        "snapshots": f"`{known['snapshots'].value}`",
        "channels": str(module.DEFAULT_CHANNELS),
        "accept-first-host-key": "`no`",
    }
    assert default == told.get(key, default)


def test_the_page_has_no_key_that_is_not_there() -> None:
    assert set(rows("The array's URL")) - {"key", "---"} == set(keys())


def test_the_page_has_the_values_of_every_choice_and_the_limit_of_channels() -> None:
    table = rows("The array's URL")
    assert table["fencing"][1] == ", ".join(f"`{value.value}`" for value in Fencing)
    assert table["snapshots"][1] == ", ".join(f"`{value.value}`" for value in SnapshotMeans)
    assert table["channels"][1] == f"1 to {module.MAX_CHANNELS}"
    assert set(rows("Fencing")) >= {value.value for value in Fencing}
    assert set(rows("Snapshots and clones")) >= {value.value for value in SnapshotMeans}


def test_the_urls_of_the_pages_can_be_read() -> None:
    urls = re.findall(r"routeros\+\w+://csi@\S+pool=[^\s'\"]+", PAGE + SEVERAL)
    assert len(urls) >= 5
    for url in urls:
        assert parse(url, load_settings({})).transport.host.startswith("192.0.2.")


@pytest.mark.parametrize(
    ("title", "transport"),
    [
        ("SSH", SshOptions("192.0.2.1", "csi", "/key", "/known-hosts")),
        ("REST", RestOptions("192.0.2.1", "csi", password_file="/password", tls_ca="/ca")),
    ],
)
def test_the_page_has_the_lines_that_make_the_user(title: str, transport: SshOptions | RestOptions) -> None:
    lines = section(title).splitlines()
    assert [line for line in setup_lines(transport) if line not in lines] == []


def test_the_page_shows_how_a_volume_lies_on_the_array() -> None:
    told = section("How volumes lie on the array")
    mark = Mark(Kind.VOLUME, DEFAULT_DRIVER_NAME, "prod", VOLUME, VOLUME)
    for name in (NAMES.slot(VOLUME), NAMES.nqn(VOLUME), NAMES.volume_path(VOLUME), mark.encode()):
        assert f"`{name}`" in told


def test_the_page_tells_the_releases_that_are_needed() -> None:
    assert f"RouterOS {'.'.join(map(str, OLDEST))} or later" in PAGE
    for means, version in OLDEST_FOR.items():
        assert rows("Snapshots and clones")[means.value][0].startswith(".".join(map(str, version)))


def test_the_page_has_every_verdict_and_the_seconds_between_two_reports() -> None:
    assert set(rows("The orphan report")) - {"verdict", "---"} == set(Verdict)
    assert f"({DEFAULT_APART:.0f})" in section("The orphan report")


async def test_the_page_has_every_question_of_the_probe() -> None:
    asked = {"nothing left"}
    for means in SnapshotMeans:
        options = RouterosOptions(
            RestOptions("192.0.2.1"), "raid10", "d", "nqn.2026-01.io.x:", ("192.0.2.1",), snapshots=means
        )
        probe = Probe(MemoryClient(MemoryDevice()), options, Recorder(), "0123abcd")
        await probe.contact()
        asked |= set(probe._questions())
    told = {name for cell in rows("The probe") for name in re.findall(r"[^`,]+", cell) if name.strip()}
    assert {name.strip() for name in told} - {"question", "---"} == asked


def test_the_file_of_arrays_that_the_page_shows_can_be_read() -> None:
    (shown,) = re.findall(r"^```toml\n(.*?)^```$", SEVERAL, re.MULTILINE | re.DOTALL)
    assert parse_config(shown, "arrays.toml").default == "fast"


@pytest.mark.parametrize(("refused", "made"), [("", True), ("pv", False), ("volumesnapshotcontents", False)])
def test_the_script_that_makes_the_list_of_handles_makes_a_whole_one_or_none(
    tmp_path: Path, refused: str, made: bool
) -> None:
    scripts = re.findall(r"^```sh\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    (script,) = [text for text in scripts if "kubectl" in text]
    kubectl = tmp_path / "kubectl"
    kubectl.write_text(
        f"#!{sys.executable}\nimport sys\n"
        f"if sys.argv[2] == {refused!r}: sys.exit(1)\n"
        f"if '{DEFAULT_DRIVER_NAME}' in sys.argv[4]: print('s:snap' if 'snap' in sys.argv[2] else 'pvc-1')\n"
    )
    kubectl.chmod(0o700)
    path = f"{tmp_path}:/usr/bin:/bin"
    done = subprocess.run(["sh", "-c", script], cwd=tmp_path, env={"PATH": path}, timeout=60, check=False)
    listed = tmp_path / "in-use.txt"
    assert (done.returncode == 0, listed.exists()) == (made, made)
    if made:
        assert parse_in_use(listed.read_text()) == InUse(frozenset({"pvc-1"}), frozenset({"snap"}))
