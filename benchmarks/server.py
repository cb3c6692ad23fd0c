"""Start, memory and the trivial call."""

import json
import statistics
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from benchmarks.report import Figure
from tests.support.driver import Driver

STARTS = 5


def resident_mib(pid: int) -> float:
    """VmRSS (proc_pid_status(5)) in MiB."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS:")) / 1024


def array_in(directory: Path) -> str:
    """The URL of a local array in a new directory."""
    (directory / "array").mkdir(exist_ok=True)
    return f"local://{directory}/array"


def start_and_memory() -> Iterator[Figure]:
    """Process start to the first good Probe, and resident memory idle."""
    for role in ("node", "all"):
        seconds, memory = [], []
        for _ in range(STARTS):
            with tempfile.TemporaryDirectory() as scratch:
                directory = Path(scratch)
                flags = ["--connector", "loop", "--node-id", "bench"]
                flags += ["--array", array_in(directory)] if role == "all" else []
                driver = Driver(directory, *flags, role=role)
                seconds.append(driver.start())
                memory.append(resident_mib(driver.pid))
                driver.terminate()
        spread = f"median {statistics.median(seconds):.2f} s, worst {max(seconds):.2f} s of {STARTS}"
        yield Figure(f"start to first good Probe, {role}", spread, "≤ 1.0 s")
        yield Figure(f"resident memory idle, {role}", f"{statistics.median(memory):.1f} MiB", "≤ 50 MiB")


def trivial_calls(load: Path) -> Iterator[Figure]:
    """Probe by a Go client, as the sidecars are; ``load`` is the built program of benchmarks/load."""
    with tempfile.TemporaryDirectory() as scratch:
        directory = Path(scratch)
        flags = ("--array", array_in(directory), "--connector", "loop", "--node-id", "bench")
        with Driver(directory, *flags) as driver:
            completed = subprocess.run([load, driver.socket], check=True, capture_output=True, text=True, timeout=300)
    figures = json.loads(completed.stdout)
    yield Figure("Probe, one client, p50", f"{figures['p50_ms']:.2f} ms (p99 {figures['p99_ms']:.2f} ms)", "≤ 0.6 ms")
    yield Figure("Probe, eight clients", f"{figures['per_second']:.0f}/s", "≥ 2500/s")
