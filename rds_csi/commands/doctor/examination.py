"""``rds-csi doctor``: what this machine needs for volumes, what of it is there, and how to mend the rest.

It looks and changes nothing: no module is loaded, no directory, identity or record is written.
"""

import contextlib
import json
import os
import platform
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict
from functools import partial
from typing import TypeVar

from rds_csi import __version__
from rds_csi.commands.doctor.array import examine_array, portals_of
from rds_csi.commands.doctor.findings import (
    Result,
    State,
    missing,
    ok,
    print_results,
    result_of,
    together,
    warning,
    worst_last,
)
from rds_csi.commands.doctor.identity import look_at_identity
from rds_csi.commands.doctor.kernel import look_at_kernel, look_at_loop_control
from rds_csi.commands.doctor.portals import (
    Portal,
    known_portals,
    look_at_portals,
    look_at_sessions,
    parse_portal,
    sessions_of,
)
from rds_csi.commands.doctor.state import look_at_state_dir
from rds_csi.commands.doctor.tools import CONNECTOR_TOOLS, look_at_tools
from rds_csi.commands.stopping import Stopping
from rds_csi.errors import DriverError, InvalidArgument
from rds_csi.filesystem.protocol import Filesystems, StageRecords
from rds_csi.metrics import Metrics
from rds_csi.model.names import MAX_ID_LENGTH, check_nqn
from rds_csi.model.records import StageRecord
from rds_csi.nvme.resolver import DeviceResolver
from rds_csi.nvme.sessions import Session
from rds_csi.parts import Machine, open_connector, open_filesystems
from rds_csi.settings import Examined, Settings

T = TypeVar("T")

# Seconds for looks at files; a directory on a dead server must not hold up the rest.
_LOOK_SECONDS = 10.0
_LOOP = "loop"
_REPEAT = "Repeat it as root; if it stays so, look at the kernel's log of this node."


async def examine(
    settings: Settings, *, portals: Sequence[str], as_json: bool, probe: bool = False, capture: str = ""
) -> int:
    """Print every finding; exit status 1 when something is missing, 128 and a signal's number when it was stopped.

    ``probe`` makes and removes a tiny volume on the array, and keeps what was said in the file ``capture``.
    ConfigurationError for a ``portals`` entry that is none, for an unknown connector, and for an array's URL that
    cannot work.
    """
    named = [parse_portal(portal) for portal in portals]
    doctor = Doctor(_with_connector(settings))
    on_array: Sequence[Result] = ()
    with Stopping() as stopping:
        if probe or settings.role is not Examined.NODE:
            array = examine_array(settings, probe=probe, capture=capture, stopping=stopping)
            on_array = await stopping.run(array, "") or ()
        if settings.role is Examined.CONTROLLER:
            look = doctor.look_from_afar(named)
        else:
            look = doctor.look([*named, *portals_of(settings)])
        looked = await stopping.run(look, "") or ()
    results = worst_last([*looked, *on_array])
    if as_json:
        print(json.dumps([asdict(result) for result in results], indent=2))
    else:
        print_results(results)
    if stopping.is_stopped:
        return stopping.status
    return 1 if any(result.state is State.MISSING for result in results) else 0


def _with_connector(settings: Settings) -> Settings:
    """Where nothing was said about array and connector, it is NVMe/TCP that is asked about."""
    said = settings.connector or "array" in settings.model_fields_set
    return settings if said else settings.model_copy(update={"connector": "nvme-cli"})


class Doctor:
    """All looks at one machine; one that fails is a finding, and never ends the others."""

    def __init__(self, settings: Settings) -> None:
        """ConfigurationError for an unknown connector."""
        self._settings = settings
        self._machine = Machine.of(settings, Metrics())
        self._connector = settings.connector_name
        self._filesystems: Filesystems
        self._records: StageRecords
        self._filesystems, self._records = open_filesystems(settings, self._machine)
        # Our own connectors load modules and keep an identity when they check; what others need, only they know.
        known = self._is_nvme or self._connector == _LOOP
        self._other_connector = None if known else open_connector(settings, self._machine)

    async def look(self, given: Sequence[Portal]) -> Sequence[Result]:
        """Every finding, in the order of the subjects. ``given``: portals to ask beside the known ones."""
        looks = [
            _guarded("kernel", self._kernel),
            _guarded("tools", self._tools),
            _guarded("connector", self._own_checks),
            _guarded("host identity", self._identity),
            _guarded("state directory", self._state_dir),
            _guarded("sessions", partial(self._sessions_and_portals, given)),
        ]
        found = await together(looks)
        on_machine = (result for results in found for result in results)
        return [_driver(self._connector), *_user(), *self._prefix(), *on_machine]

    async def look_from_afar(self, named: Sequence[Portal]) -> Sequence[Result]:
        """What matters where no volume is staged. ``named``: portals that are asked all the same."""
        asked = await look_at_portals(known_portals(named, "", (), ())) if named else ()
        return [_driver(self._connector), *self._prefix(), *asked]

    @property
    def _is_nvme(self) -> bool:
        return self._connector in CONNECTOR_TOOLS

    async def _kernel(self) -> Sequence[Result]:
        return await self._off_loop(partial(look_at_kernel, self._machine.host, needs_nvme=self._is_nvme))

    async def _tools(self) -> Sequence[Result]:
        return await look_at_tools(self._machine.runner, await self._filesystems.check(), self._connector)

    async def _own_checks(self) -> Sequence[Result]:
        if self._other_connector is not None:
            with contextlib.closing(self._other_connector) as connector:
                return [result_of(finding) for finding in await connector.check()]
        if self._connector == _LOOP:
            return [await self._off_loop(partial(look_at_loop_control, self._machine.host))]
        return ()

    async def _identity(self) -> Sequence[Result]:
        if not self._is_nvme:
            return ()
        return await self._off_loop(partial(look_at_identity, self._machine.host, self._settings.state_dir))

    async def _state_dir(self) -> Sequence[Result]:
        table = await self._filesystems.mount_table()
        return [await self._off_loop(partial(look_at_state_dir, self._settings.state_dir, table))]

    async def _sessions_and_portals(self, given: Sequence[Portal]) -> Sequence[Result]:
        results: list[Result] = []
        records: Sequence[StageRecord] = ()
        sessions: Sequence[Session] = ()
        try:
            records = await self._records.all()
        except DriverError as error:
            results.append(warning("stage records", error.message, error.remedy or _REPEAT))
        try:
            index = await DeviceResolver(self._machine.host, self._machine.workers).index()
            sessions = sessions_of(index, self._settings.nqn_prefix)
            results += look_at_sessions(sessions, self._settings.nqn_prefix) if self._is_nvme or sessions else ()
        except DriverError as error:
            results.append(warning("sessions", error.message, error.remedy or _REPEAT))
        known = known_portals(given, self._settings.array, records, sessions)
        # A connector without a network has none, and nobody misses them.
        return [*results, *(await look_at_portals(known) if self._is_nvme or known else ())]

    def _prefix(self) -> Sequence[Result]:
        prefix = self._settings.nqn_prefix
        try:
            check_nqn(prefix + "x" * MAX_ID_LENGTH, "the NQN prefix with a volume's id")
        except InvalidArgument as error:
            return [missing("NQN prefix", error.message, "Choose a shorter or plainer --nqn-prefix.")]
        return [ok("NQN prefix", prefix)]

    async def _off_loop(self, look: Callable[[], T]) -> T:
        return await self._machine.workers.run(look, timeout=_LOOK_SECONDS)


async def _guarded(subject: str, look: Callable[[], Awaitable[Sequence[Result]]]) -> Sequence[Result]:
    try:
        return await look()
    except DriverError as error:
        return [warning(subject, f"not looked at: {error.message}", error.remedy or _REPEAT)]
    except OSError as error:
        return [warning(subject, f"not looked at: {error.strerror or error}", _REPEAT)]


def _driver(connector: str) -> Result:
    return ok("driver", f"rds-csi {__version__} with connector {connector}, Python {platform.python_version()}")


def _user() -> Sequence[Result]:
    if os.geteuid() == 0:
        return ()
    remedy = "The driver connects and mounts as root; some looks need it too: sudo rds-csi doctor"
    return [warning("user", f"this is user {os.geteuid()}, not root", remedy)]
