"""docs/troubleshooting.md and docs/kubernetes.md quote the driver's own words, and have every reason and code."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from rds_csi.kubernetes.draining import _LEAVING
from rds_csi.kubernetes.taints import startup_taint
from rds_csi.model.names import DEFAULT_DRIVER_NAME
from rds_csi.model.notices import Reason
from rds_csi.rpc.status import _CODES

ROOT = Path(__file__).parents[2]
TROUBLESHOOTING = (ROOT / "docs/troubleshooting.md").read_text(encoding="utf-8")
KUBERNETES = (ROOT / "docs/kubernetes.md").read_text(encoding="utf-8")

# Words of Kubernetes, Helm and the sidecars, by how they begin.
OTHERS = (
    *("additional properties", "violates PodSecurity", "hostPath type check failed", "Liveness probe failed"),
    *("waiting for first consumer", "waiting for a volume to be created", "node(s) did not have enough free storage"),
    *("FailedAttachVolume", "FailedMount", "only dynamically provisioned pvc", "VolumeResizeFailed"),
    *("Lost connection to CSI driver", "leader election lost", "readyToUse: false"),
)


def messages() -> Iterator[str]:
    """Every text in the driver and its chart, with "…" for what is put in."""
    for path in sorted((ROOT / "rds_csi").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                yield "".join(str(part.value) if isinstance(part, ast.Constant) else "…" for part in node.values)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield node.value
    for path in sorted((ROOT / "charts").rglob("*.tpl")):
        yield path.read_text(encoding="utf-8")


SAID = list(messages())


def quoted() -> list[str]:
    """What stands in the first cells of the tables as somebody's words: three of them or more."""
    cells = re.findall(r"^\| ([^|]*) \|", TROUBLESHOOTING, re.MULTILINE)
    spans = [span for cell in cells for span in re.findall(r"`([^`]+)`", cell)]
    return [span for span in spans if len(span.split()) >= 3]


def is_said(quote: str) -> bool:
    pattern = ".*".join(re.escape(part.strip()) for part in quote.split("…"))
    return any(re.search(pattern, text, re.DOTALL) for text in SAID)


@pytest.mark.parametrize("quote", [quote for quote in quoted() if not quote.startswith(OTHERS)])
def test_what_the_page_quotes_is_said_by_the_driver(quote: str) -> None:
    assert is_said(quote)


def test_there_are_quotes_and_others_are_not_the_drivers() -> None:
    assert len(quoted()) > 20
    assert [quote for quote in quoted() if quote.startswith(OTHERS) and is_said(quote)] == []


def test_the_page_has_every_code() -> None:
    told = set(re.findall(r"^\| ([A-Z][A-Za-z]+) \|", TROUBLESHOOTING, re.MULTILINE))
    assert {status.name.replace("_", "").lower() for status in _CODES.values()} == {code.lower() for code in told}


@pytest.mark.parametrize("reason", Reason)
def test_the_page_has_every_reason_of_an_event_with_its_object(reason: Reason) -> None:
    of = "node" if reason.is_of_node else "volume"
    assert f"\n| `{reason.value}` | {of} | " in KUBERNETES


def test_the_page_has_the_startup_taint_and_the_taints_of_a_drain() -> None:
    assert f"`{startup_taint(DEFAULT_DRIVER_NAME)}`" in KUBERNETES
    for taint in _LEAVING:
        assert f"`{taint}`" in KUBERNETES
