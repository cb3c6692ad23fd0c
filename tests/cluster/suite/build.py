"""``python -m tests.cluster.suite.build``: what the suite needs beside the cluster and is not in the cache yet.

$GO is the Go toolchain (default: go), $JOBS how many compilers may run at once (default: one for every CPU).
"""

import os

from tests.cluster.suite import images, programs


def main() -> None:
    """Build the programs and write the images; what is there is left as it is."""
    programs.build(os.environ.get("GO", "go"), int(os.environ.get("JOBS") or os.cpu_count() or 1))
    images.write_images()


if __name__ == "__main__":
    main()
