"""Connecting the portals of one target: all of them where native multipath joins them, else one that works."""

import asyncio
import errno
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from rds_csi.connectors.budget import budget
from rds_csi.connectors.nvme_addresses import Addresses, addresses_of
from rds_csi.connectors.nvme_failures import Reason, failure
from rds_csi.connectors.nvme_link import Link
from rds_csi.connectors.nvme_look import Standing, Verdict, is_portal, judge, lacking
from rds_csi.connectors.nvme_places import ConnectPlaces
from rds_csi.connectors.nvme_probe import Probe, probe
from rds_csi.connectors.nvme_tuning import Tuning
from rds_csi.connectors.nvme_use import NvmeRemoval
from rds_csi.connectors.nvme_waits import SETTLE_SECONDS, NvmeWaits
from rds_csi.errors import DeadlineExceeded, DriverError, FailedPrecondition, Unavailable
from rds_csi.metrics import Metrics
from rds_csi.model.connection import ConnectionConfig
from rds_csi.model.targets import NvmeTarget
from rds_csi.nvme.identity import HostIdentity
from rds_csi.nvme.portal_probe import Resolve, resolve
from rds_csi.nvme.resolver import DeviceResolver
from rds_csi.nvme.sessions import Controller, Session
from rds_csi.progress import note
from rds_csi.retry import Transient

# fork(2) and pipe(2): this node has run out of something just now.
_EXHAUSTED = frozenset({errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE})


@dataclass(frozen=True, slots=True)
class PortalTools:
    """What every call needs. ``ask`` is what a portal says in user space, ``resolve`` a name's address."""

    link: Link
    resolver: DeviceResolver
    waits: NvmeWaits
    removal: NvmeRemoval
    tuning: Tuning
    places: ConnectPlaces
    metrics: Metrics
    ask: Probe = probe
    resolve: Resolve = resolve


class PortalConnects:
    """The attempts of one call to connect one target; remembers what the call has made, so that it can be undone."""

    def __init__(
        self, tools: PortalTools, target: NvmeTarget, config: ConnectionConfig, identity: HostIdentity
    ) -> None:
        self._tools = tools
        self._target = target
        self._config = config
        self._identity = identity
        self._made: set[str] = set()
        # Connects whose end was not seen: killed after their deadline or by a cancellation.
        self._unseen: set[str] = set()
        # Controllers that were there before this call made any.
        self._before: frozenset[str] | None = None
        # Addresses to judge a session by, looked up once; empty when a name has none just now.
        self._named: tuple[str, ...] | None = None
        self._attempts = 0
        self._tuned = False
        self.reason = ""

    @property
    def made(self) -> bool:
        """Whether there may be a controller by this call."""
        return bool(self._made or self._unseen)

    @property
    def created(self) -> bool:
        """Whether the whole session is by this call: made, and nothing was there before."""
        return self.made and not self._before

    @property
    def attempts(self) -> int:
        """How many attempts were begun."""
        return self._attempts

    async def attempt(self) -> None:
        """Make sure that there is a live session; Transient when another attempt may help.

        One that is there is used as it is, one that is coming is waited for, a useless one that nobody uses is
        made anew.
        """
        self._attempts += 1
        self.reason = ""
        session, verdict = await self._look()
        if verdict.standing is Standing.COMING and await self._connect_beside(session):
            return
        if verdict.standing in (Standing.COMING, Standing.LEAVING):
            session, verdict = await self._settled()
        if verdict.standing is Standing.USABLE:
            return
        await self._clear(session, verdict)
        await self._connect_first()

    async def complete(self) -> None:
        """One attempt to have a path through every portal (without native multipath: through one); the first
        failure is raised, and what was connected all the same stays.

        Nobody stages here, so a session with namespaces is never taken away: a pod may use one as a raw block
        volume, which cannot be seen. FailedPrecondition when such a session is of no use.
        """
        self._attempts += 1
        session, verdict = await self._look()
        if verdict.standing is Standing.LEAVING:
            session, verdict = await self._settled()
        joins = await self._joins()
        if not joins and _is_left_alone(session, verdict):
            return
        await self._clear(session, verdict, spare=True)
        addresses = await self._addresses()
        if joins:
            left = session if verdict.standing is not Standing.STALE else None
            errors = await self._connect_all(lacking(left, addresses.found, self._target.port))
        else:
            errors = await self._connect_one(addresses.found)
        await self._tune_made()
        if joins or len(errors) == len(addresses.found):
            for error in (*addresses.errors, *errors):
                raise error

    async def undo(self) -> None:
        """Disconnect the controllers that this call has made, unless something uses the session by now."""
        if self.made:
            await self._take_away(lambda _: True)

    async def undo_unseen(self) -> None:
        """``undo`` of the connects whose end was not seen: what was seen to be made stays."""
        if self._unseen:
            await self._take_away(lambda controller: is_portal(controller, self._unseen, self._target.port))

    async def _take_away(self, wanted: Callable[[Controller], bool]) -> None:
        """Disconnect the ``wanted`` ones of the controllers that were not there before this call."""
        session = await self._tools.waits.session(self._target.nqn)
        if session is None:
            return
        before = self._before or frozenset()
        ours = tuple(c for c in session.controllers if c.name not in before and wanted(c))
        if ours:
            await self._tools.removal.remove_unused(replace(session, controllers=ours))

    async def _look(self) -> tuple[Session | None, Verdict]:
        session = await self._tools.waits.session(self._target.nqn)
        return session, await self._judge(session)

    async def _judge(self, session: Session | None) -> Verdict:
        """The standing of what is there now; its values are brought to the config's once in a call."""
        if not self.made:
            self._before = frozenset(c.name for c in session.controllers) if session is not None else frozenset()
        verdict = judge(session, self._target, self._identity)
        if verdict.standing is Standing.COMING:
            if self._named is None:
                known = await self._addresses()
                self._named = () if known.errors else known.found
            verdict = judge(session, self._target, self._identity, self._named)
        if session is not None and verdict.standing in (Standing.USABLE, Standing.COMING) and not self._tuned:
            self._tuned = True
            await self._tools.tuning.apply(session, self._config)
        return verdict

    async def _tune_made(self) -> None:
        """Give what this call has made the values that its link cannot give."""
        session = await self._tools.waits.session(self._target.nqn) if self.made else None
        if session is not None:
            await self._tools.tuning.apply(session, self._config, fresh=True)

    async def _settled(self) -> tuple[Session | None, Verdict]:
        """What is there once it is neither coming nor leaving; Unavailable when it stays so."""
        last: Session | None = None

        async def settled(session: Session | None) -> tuple[Session | None, Verdict] | None:
            nonlocal last
            last = session
            verdict = await self._judge(session)
            return None if verdict.standing in (Standing.COMING, Standing.LEAVING) else (session, verdict)

        note("waiting for the session", attempt=self._attempts)
        found = await self._tools.waits.until(self._target.nqn, settled, timeout=budget(SETTLE_SECONDS))
        if found is not None:
            return found
        self.reason = "not live"
        raise Unavailable(
            f"the session of {self._target.nqn} is not live: {last.states if last is not None else 'it is gone'}",
            remedy="The kernel goes on reconnecting; is the array up, and does it export the volume to this host?",
        )

    async def _clear(self, session: Session | None, verdict: Verdict, *, spare: bool = False) -> None:
        """Take a useless session away. FailedPrecondition when something uses it, except where new portals can
        join it. ``spare``: one with namespaces counts as used, also when nobody is seen to use it."""
        if session is None or verdict.standing not in (Standing.MOVED, Standing.STALE):
            return
        user = await self._tools.removal.why_in_use(session)
        if not user and spare and session.namespaces:
            user = "a pod may use its device as a raw block volume"
        if not user:
            await self._tools.removal.remove(session)
            self._before = frozenset()
            return
        if verdict.standing is Standing.MOVED and await self._joins():
            return
        self.reason = "in use"
        raise FailedPrecondition(
            f"the session of {self._target.nqn} is of no use: {verdict.why}. It stays, because {user}",
            remedy="Delete the pods that use the volume on this node, so that it is unstaged, then stage it again.",
        )

    async def _connect_beside(self, session: Session | None) -> bool:
        """Whether a portal that a session on its way lacks was connected: then nobody has to wait for the others."""
        if len(self._target.addresses) == 1 or not await self._joins():
            return False
        addresses = (await self._addresses()).found
        missing = lacking(session, addresses, self._target.port)
        return len(await self._connect_all(missing)) < len(missing)

    async def _connect_first(self) -> None:
        """Connect what there are portals for; raises only when no one was."""
        addresses = await self._addresses()
        errors = [*addresses.errors]
        self.reason = Reason.UNRESOLVED.value if errors else ""
        if len(addresses.found) > 1 and await self._joins():
            errors += await self._connect_all(addresses.found)
        else:
            errors += await self._connect_one(addresses.found)
        if self._made:
            return
        if len(errors) == len(addresses.found) + len(addresses.errors):
            raise next((error for error in errors if isinstance(error, Transient)), errors[0])
        _, verdict = await self._look()
        if verdict.standing is not Standing.USABLE:
            # "Already connected" is not believed: the other's session may have been on its way out.
            raise self._failure(Reason.ALREADY, addresses.found[0], "no session is there")

    async def _addresses(self) -> Addresses:
        return await addresses_of(self._target, self._tools.waits.call, self._tools.resolve)

    async def _joins(self) -> bool:
        return await self._tools.waits.look(self._tools.resolver.sysfs.native_multipath)

    async def _connect_all(self, addresses: Sequence[str]) -> list[DriverError]:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._connect(address)) for address in addresses]
        return [error for task in tasks if (error := task.result()) is not None]

    async def _connect_one(self, addresses: Sequence[str]) -> list[DriverError]:
        errors = []
        for address in addresses:
            error = await self._connect(address)
            if error is None:
                break
            errors.append(error)
        return errors

    async def _connect(self, address: str) -> DriverError | None:
        """Connect one portal; its failure, or None. Never raises a DriverError: the others go on."""
        self._tools.metrics.connect_attempts.inc()
        portal = f"{address}:{self._target.port}"
        note(f"connecting {portal}", attempt=self._attempts)
        reason = await self._tools.ask(address, self._target.port, self._config.host_iface)
        if reason not in (None, Reason.UNTOLD):
            assert reason is not None
            return self._failure(reason, address, "asked from user space")
        try:
            async with self._tools.places.place():
                note(f"connecting {portal}", attempt=self._attempts)
                return await self._connect_portal(address)
        except DriverError as error:
            return error

    async def _connect_portal(self, address: str) -> DriverError | None:
        self._unseen.add(address)
        try:
            answer = await self._tools.link.connect(self._target, address, self._config, self._identity)
        except OSError as error:
            # No process could be started: no memory, no descriptor, no process number was left.
            self._unseen.discard(address)
            return self._failure(Reason.BUSY, address, str(error))
        except DeadlineExceeded as error:
            return self._failure(Reason.TIMED_OUT, address, error.message)
        except DriverError as error:
            self._unseen.discard(address)
            return self._failure(Reason.BUSY, address, error.message) if _is_exhaustion(error) else error
        if answer.reason is Reason.KILLED:
            # Perhaps just after the kernel had made the session.
            return self._failure(answer.reason, address, answer.line)
        self._unseen.discard(address)
        if answer.reason is None:
            self._made.add(address)
        elif answer.reason is not Reason.ALREADY:
            return self._failure(answer.reason, address, answer.line)
        return None

    def _failure(self, reason: Reason, address: str, detail: str) -> DriverError:
        self.reason = reason.value
        return failure(reason, f"{address}:{self._target.port}", self._target.nqn, detail)


def _is_left_alone(session: Session | None, verdict: Verdict) -> bool:
    """Whether a session stays as it is where paths are not joined: a second path would be a second disk, and the
    kernel goes on with the first by itself. One without namespaces that looks in the wrong place is of no use."""
    if verdict.standing is Standing.MOVED:
        return session is not None and bool(session.namespaces)
    return verdict.standing in (Standing.USABLE, Standing.COMING)


def _is_exhaustion(error: DriverError) -> bool:
    """Whether no process could be started because this node lacked something that comes free again."""
    return isinstance(error.__cause__, OSError) and error.__cause__.errno in _EXHAUSTED
