"""``rds-csi`` and ``python -m rds_csi``."""

import sys

from rds_csi.pid1 import run_below_init


def main() -> int:
    """Run the command line; the exit status."""
    return run_below_init(_run)


def _run() -> int:
    # Imported here: it takes a while, in which signals must not be lost.
    from rds_csi.cli import main as run  # noqa: PLC0415

    return run()


if __name__ == "__main__":
    sys.exit(main())
