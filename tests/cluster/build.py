"""``python -m tests.cluster.build``: everything that the cluster lane needs and that is not in the cache yet.

$GO is the Go toolchain (default: go), $JOBS how many compilers may run at once (default: one for every CPU).
"""

import os

from tests.cluster import debian, images, programs


def main() -> None:
    """Build, unpack, and write the images; what is there is left as it is."""
    programs.build(os.environ.get("GO", "go"), int(os.environ.get("JOBS") or os.cpu_count() or 1))
    debian.unpack()
    images.write_lane_images()
    images.driver_image()


if __name__ == "__main__":
    main()
