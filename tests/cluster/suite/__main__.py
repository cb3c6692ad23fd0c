"""``python -m tests.cluster.suite``: a cluster of two nodes with the driver, and Kubernetes' suite for storage drivers
against it (root; made ready by tests.cluster.build and tests.cluster.suite.build).

Exit status 0 only when no test failed, none was left out without a reason, enough of them ran, and nothing is left of
their volumes. Without --results the report goes to standard output only.
"""

import argparse
import os
import shutil
import signal
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from tests.cluster import programs as cluster_programs
from tests.cluster.cluster import Cluster
from tests.cluster.leftovers import leftovers
from tests.cluster.suite import images, programs
from tests.cluster.suite.driver import install_driver, left_behind
from tests.cluster.suite.ginkgo import FOCUS, PROCESSES, run_suite
from tests.cluster.suite.left_out import left_out
from tests.cluster.suite.report import Verdict, summary, to_text, write_junit
from tests.cluster.suite.rights import has_sys_resource

NODES = ("node-a", "node-b")
# Of each container, after a failure.
_LOG_CHARACTERS = 5_000_000


def main() -> int:
    """Run it all; 0 when all is well."""
    parser = argparse.ArgumentParser(prog="python -m tests.cluster.suite", description="The external storage suite.")
    parser.add_argument("--results", type=Path, help="a directory for suite.xml, .txt, and more about failures")
    parser.add_argument(
        "--processes", type=int, default=PROCESSES, help="how many tests at once (default: %(default)s)"
    )
    parser.add_argument("--focus", default=FOCUS, help="only the tests that this regular expression finds")
    flags = parser.parse_args()
    # Also when somebody ends it, the cluster is taken down.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    if absent := _missing():
        print(absent, file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory(prefix="rds-csi-suite-") as scratch:
        kept = flags.results / "suite" if flags.results else Path(scratch)
        kept.mkdir(parents=True, exist_ok=True)
        verdict = _run_all(kept, flags.processes, flags.focus)
    print(to_text(verdict))
    if flags.results:
        (flags.results / "suite.txt").write_text(to_text(verdict))
        write_junit(flags.results / "suite.xml", verdict)
    print(summary(verdict))
    return 0 if verdict.is_good else 1


def _missing() -> str:
    """What the machine lacks, for a person; empty when it has all."""
    if os.geteuid() != 0:
        return "root is needed for containers, mounts and loop devices"
    if absent := [*cluster_programs.missing(), *programs.missing()]:
        return (
            f"not built yet: {', '.join(absent)} (python -m tests.cluster.build, python -m tests.cluster.suite.build)"
        )
    return ""


def _run_all(kept: Path, processes: int, focus: str) -> Verdict:
    begun = time.monotonic()
    cluster = Cluster(*NODES)
    try:
        cluster.start()
        for node in cluster.nodes:
            node.import_images(images.archive())
        release = install_driver(cluster)
        print(f"cluster and driver ready: {time.monotonic() - begun:.0f} s", flush=True)
        rules = left_out(sys_resource=has_sys_resource())
        verdict = run_suite(rules, cluster.kubeconfig, kept, processes=processes, focus=focus)
        verdict = _and(verdict, left_behind(release))
        if not verdict.is_good:
            (kept / "driver.log").write_text(release.logs(characters=_LOG_CHARACTERS))
            shutil.copytree(cluster.directory / "logs", kept / "logs", dirs_exist_ok=True)
    finally:
        cluster.stop()
    return _and(verdict, leftovers(cluster.directory))


def _and(verdict: Verdict, traces: list[str]) -> Verdict:
    """The verdict with what is left afterwards as more problems."""
    return replace(verdict, problems=[*verdict.problems, *(f"left afterwards: {trace}" for trace in traces)])


if __name__ == "__main__":
    sys.exit(main())
