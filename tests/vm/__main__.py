"""``python -m tests.vm --kernel 6.1 -- COMMAND``: run one command in a throw-away virtual machine."""

import argparse
import sys
from pathlib import Path

from tests.vm.apt import AptError
from tests.vm.kernels import VERSIONS, ready_kernel
from tests.vm.machine import BROKEN, DEFAULT_MEMORY, DEFAULT_SECONDS, TIMED_OUT, Machine

NO_MULTIPATH = "nvme_core.multipath=N"


def main() -> int:
    """Read the flags, run, and pass the command's exit status on."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.vm",
        description="Run a command as root in a throw-away virtual machine with a stock Debian kernel. It sees "
        "this machine's files; what it writes is lost.",
        epilog=f"The exit status is the command's own, {TIMED_OUT} after the time, {BROKEN} when the machine died.",
    )
    parser.add_argument("--kernel", choices=list(VERSIONS), default=next(iter(VERSIONS)), help="default: %(default)s")
    parser.add_argument("--no-multipath", action="store_true", help="without native NVMe multipath")
    parser.add_argument("--memory", default=DEFAULT_MEMORY, help="the guest's memory (default: %(default)s)")
    parser.add_argument(
        "--timeout", type=float, default=DEFAULT_SECONDS, metavar="SECONDS", help="default: %(default)g"
    )
    parser.add_argument("command", nargs="+", help="the program and its arguments, behind --")
    flags = parser.parse_args()
    try:
        kernel = ready_kernel(flags.kernel)
    except AptError as error:
        print(error, file=sys.stderr)
        return BROKEN
    machine = Machine(kernel, (NO_MULTIPATH,) if flags.no_multipath else (), flags.memory)
    return machine.run(flags.command, directory=Path.cwd(), timeout=flags.timeout, output=sys.stdout.buffer)


if __name__ == "__main__":
    sys.exit(main())
