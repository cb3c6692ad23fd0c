"""What a server shows and tells besides CSI: metrics and health, its registration with the kubelet, the cluster."""

import logging
from collections.abc import Sequence

import anyio

from rds_csi.errors import ConfigurationError
from rds_csi.kubernetes.cluster import Cluster
from rds_csi.metrics import Metrics
from rds_csi.retry import Clock
from rds_csi.rpc.activity import OPERATIONS, status_socket
from rds_csi.rpc.http import Check, Document, HttpEndpoint
from rds_csi.rpc.http_tls import open_tls
from rds_csi.rpc.http_token import open_token
from rds_csi.rpc.own_probe import OwnProbe, Phase
from rds_csi.rpc.registration import Registration
from rds_csi.settings import Settings

log = logging.getLogger(__name__)

# Between two looks whether a node that has just started is ready for pods. Each reads what others have found out.
READY_POLL_SECONDS = 1.0


class Edges:
    """Opened before the CSI socket, told when that one answers and when it ends, and closed after it."""

    def __init__(
        self,
        settings: Settings,
        metrics: Metrics,
        *,
        is_node: bool,
        cluster: Cluster | None,
        problem: Check,
        operations: Document,
        clock: Clock | None = None,
    ) -> None:
        """``problem`` tells what this server lacks to do its work, ``operations`` what it is doing (for
        ``rds-csi status`` on a node). ConfigurationError for files or directories that cannot be used."""
        self._clock = clock or Clock()
        self._cluster = cluster
        self._is_node = is_node
        self._problem = problem
        self._probe = OwnProbe(settings.endpoint)
        self._registration = (
            Registration(settings.kubelet_registration_dir, settings.driver_name, settings.endpoint, metrics)
            if is_node and settings.kubelet_registration_dir
            else None
        )
        self._http = HttpEndpoint(
            settings.http_endpoint,
            metrics,
            healthy=self._probe.healthy,
            ready=self._not_ready,
            tls=open_tls(settings.http_tls_cert, settings.http_tls_key),
            token=open_token(settings.http_token_file),
        )
        self._status = HttpEndpoint(
            f"unix:{status_socket(settings.state_dir)}" if is_node else "",
            metrics,
            healthy=self._probe.healthy,
            ready=self._not_ready,
            documents={OPERATIONS: operations},
        )

    async def open(self) -> None:
        """Answer probes: alive, and not ready yet. ConfigurationError when the HTTP endpoint cannot be had."""
        await self._http.start()
        try:
            await self._status.start()
        except ConfigurationError as error:
            # A person who cannot ask is no reason to leave pods without their volumes.
            log.warning("rds-csi status cannot ask this server: %s", error)

    async def serve(self) -> None:
        """The CSI socket answers: the kubelet may come. ConfigurationError when its directory cannot be used."""
        self._probe.phase = Phase.SERVING
        if self._registration is not None:
            await self._registration.start()
        if self._cluster is not None:
            await self._cluster.start()

    async def run(self) -> None:
        """For ever, after ``serve``: stay registered, tell the cluster, and have the start-up taint removed once pods
        with volumes of this driver can run here."""
        async with anyio.create_task_group() as tasks:
            if self._registration is not None:
                tasks.start_soon(self._registration.run)
            if self._cluster is not None:
                tasks.start_soon(self._cluster.run)
                if self._is_node:
                    tasks.start_soon(self._tell_ready, self._cluster)

    async def stop(self) -> None:
        """The CSI socket is about to go: probes and the kubelet are told. May be called again."""
        self._probe.phase = Phase.STOPPING
        if self._registration is not None:
            await self._registration.close()

    async def close(self) -> None:
        """Withdraw everything; may be called in any state."""
        await self.stop()
        await self._status.close()
        await self._http.close()
        if self._cluster is not None:
            await self._cluster.close()

    async def _not_ready(self) -> str:
        """Why no work may be sent here; "" when it may."""
        for check in self._checks():
            if problem := await check():
                return problem
        return ""

    def _checks(self) -> Sequence[Check]:
        registration = [self._registration.problem] if self._registration is not None else []
        return [self._probe.serving, self._problem, *registration]

    async def _is_ready(self) -> bool:
        try:
            return not await self._not_ready()
        except Exception:
            # A look that fails is told by whoever looks again and again; it is no reason to end a server.
            log.debug("whether this node is ready could not be found out", exc_info=True)
            return False

    async def _tell_ready(self, cluster: Cluster) -> None:
        while True:
            while not await self._is_ready():
                await self._clock.sleep(READY_POLL_SECONDS)
            if self._registration is None:
                await cluster.node_ready()
                return
            self._registration.confirmed.clear()
            await cluster.node_ready()
            # A kubelet that was restarted may have registered its node anew, with the taint that new nodes have.
            await self._registration.confirmed.wait()
