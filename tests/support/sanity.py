"""csi-sanity, the conformance test of the Kubernetes project: run it against a socket and read its JUnit report."""

import os
import signal
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

# About a minute on an idle machine; many times that in a virtual one.
SANITY_SECONDS = 900.0

MIB = 1 << 20
VOLUME_SIZE = 256 * MIB
EXPANDED_SIZE = 512 * MIB

# csi-sanity v5.6.0 has 103 specs. One is switched off in the tool itself (XIt); the flags below unlock all others,
# for mount and for block alike: nothing in its source is left out by access type.
RUNNABLE_SPECS = 102
PENDING_SPEC = (
    "ListVolumes pagination should detect volumes added between pages and accept tokens "
    "when the last volume from a page is deleted"
)


@dataclass(frozen=True)
class SanityReport:
    """The names of the specs by their outcome, and what the tool printed."""

    passed: tuple[str, ...]
    failed: tuple[str, ...]
    skipped: tuple[str, ...]
    pending: tuple[str, ...]
    output: str


def run_sanity(
    program: str,
    socket: Path,
    scratch: Path,
    *,
    access_type: str,
    seconds: float = SANITY_SECONDS,
    flags: Sequence[str] = (),
) -> SanityReport:
    """Run every spec that the tool can run against the server at ``socket``.

    ``access_type`` is ``mount`` or ``block``; the server must have a small --max-volumes-per-node. ``scratch`` gets
    the tool's report and target paths, and is empty of both afterwards. ``flags`` are more of the tool's.
    """
    report, mutable = scratch / "sanity.xml", scratch / "mutable.yaml"
    mutable.write_text('ctrlLossTmo: "600"\n')
    argv = [
        program,
        f"-csi.endpoint=unix://{socket}",
        f"-csi.mountdir={scratch / 'target'}",
        f"-csi.stagingdir={scratch / 'staging'}",
        f"-csi.testvolumesize={VOLUME_SIZE}",
        f"-csi.testvolumeexpandsize={EXPANDED_SIZE}",
        f"-csi.testvolumeaccesstype={access_type}",
        f"-csi.testvolumemutableparameters={mutable}",
        "-csi.testnodevolumeattachlimit",
        f"-ginkgo.junit-report={report}",
        f"-ginkgo.timeout={seconds:.0f}s",
        "-ginkgo.no-color",
        *flags,
    ]
    with subprocess.Popen(
        argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, process_group=0, text=True
    ) as process:
        try:
            text, _ = process.communicate(timeout=seconds + 30)
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            raise
    assert report.exists(), f"csi-sanity wrote no report:\n{text}"
    outcome = read_report(report, text)
    report.unlink()
    mutable.unlink()
    return outcome


def read_report(report: Path, output: str) -> SanityReport:
    """The outcome in ginkgo's JUnit file. Whatever is not passed, skipped or pending counts as failed."""
    names: dict[str, list[str]] = {"passed": [], "failed": [], "skipped": [], "pending": []}
    for case in ElementTree.parse(report).getroot().iter("testcase"):
        name, status = case.get("name", ""), case.get("status", "")
        if name.startswith("[It] "):
            names[status if status in names else "failed"].append(name.removeprefix("[It] "))
        elif status != "passed":
            # The suite's own set-up and reporting nodes count only when they went wrong.
            names["failed"].append(name)
    passed, failed, skipped, pending = (tuple(sorted(found)) for found in names.values())
    return SanityReport(passed, failed, skipped, pending, output)
