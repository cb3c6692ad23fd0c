"""``python -m tests.cluster``: a cluster to play with, until Ctrl-C or SIGTERM (root; built by tests.cluster.build)."""

import argparse
import signal
from pathlib import Path

from tests.cluster import programs
from tests.cluster.cluster import Cluster


def main() -> None:
    """Start it, say how to reach it, wait, and remove everything again."""
    parser = argparse.ArgumentParser(prog="python -m tests.cluster", description="A Kubernetes on this machine.")
    parser.add_argument("--nodes", type=int, default=1, choices=[1, 2], help="how many nodes (default: 1)")
    parser.add_argument("--images", type=Path, action="append", default=[], help="an OCI archive for the nodes")
    flags = parser.parse_args()
    cluster = Cluster(*(f"node-{letter}" for letter in "ab"[: flags.nodes]))
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        cluster.start()
        for node in cluster.nodes:
            for archive in flags.images:
                node.import_images(archive)
        print(f"export KUBECONFIG={cluster.kubeconfig} PATH={programs.home()}/bin:$PATH", flush=True)
        signal.pause()
    except KeyboardInterrupt:
        pass
    finally:
        cluster.stop()


if __name__ == "__main__":
    main()
