"""``python -m benchmarks.nvme``: measure in a virtual machine with Linux 6.1 and print; nothing else may run."""

import argparse
import compileall
import sys
import sysconfig
from pathlib import Path

from tests.vm.apt import AptError
from tests.vm.kernels import ready_kernel
from tests.vm.machine import BROKEN, Machine

ROOT = Path(__file__).parents[2]
KERNEL = "6.1"
# 500 sessions with their targets take 0.6 GiB, the images of 64 volumes as much.
MEMORY = "6G"
RUN_SECONDS = 1800.0


def main() -> int:
    """Run ``benchmarks.nvme.guest`` with the same arguments in the machine; its exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.nvme", description="Arguments: those of the guest.")
    _, arguments = parser.parse_known_args()
    for directory in (
        sysconfig.get_path("purelib"),
        *(str(ROOT / name) for name in ("rds_csi", "tests", "benchmarks")),
    ):
        # In the guest compiling is 20 times slower, and what it writes is lost.
        compileall.compile_dir(directory, quiet=2)
    try:
        kernel = ready_kernel(KERNEL)
    except AptError as error:
        print(error, file=sys.stderr)
        return BROKEN
    return Machine(kernel, memory=MEMORY).run(
        [sys.executable, "-m", "benchmarks.nvme.guest", *arguments],
        directory=ROOT,
        output=sys.stdout.buffer,
        timeout=RUN_SECONDS,
    )


if __name__ == "__main__":
    sys.exit(main())
