"""``rds-csi pre-stop``: the preStop hook of a node's container, which holds it while volumes leave a drained node."""

import time
from collections.abc import Callable

from rds_csi.deadline import set_deadline
from rds_csi.kubernetes.cluster import Cluster, open_cluster
from rds_csi.settings import Settings

# Seconds for the look that is made when the time is over: the API server must not stretch it.
_LAST_LOOK_SECONDS = 1.0


async def pre_stop(
    settings: Settings, timeout: float, *, open_: Callable[[Settings], Cluster | None] = open_cluster
) -> int:
    """Wait at most ``timeout`` seconds, and print why. Exit status 0 in every case: a failed hook stops nothing, it
    only hides what went wrong.

    The server goes on meanwhile: Kubernetes sends SIGTERM only after the hook.
    """
    cluster = open_(settings)
    if cluster is None:
        _say("this is no pod of a cluster: nothing to wait for")
        return 0
    set_deadline(time.monotonic() + timeout + _LAST_LOOK_SECONDS)
    try:
        try:
            await cluster.wait_for_detach(timeout, _say)
        finally:
            await cluster.close()
    except Exception as error:
        _say(f"not waited for: {type(error).__name__}: {error}")
    return 0


def _say(text: str) -> None:
    # At once: whoever looks on wants to know while it waits.
    print(text, flush=True)
