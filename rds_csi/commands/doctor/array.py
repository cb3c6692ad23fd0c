"""The doctor on RouterOS arrays: every check of each, the lines that make its user, and the probe."""

import contextlib
import os
import secrets
from collections.abc import Iterator, Mapping, Sequence

from rds_csi.arrays.routeros.array import open_client
from rds_csi.arrays.routeros.checks import examine
from rds_csi.arrays.routeros.least_privilege import setup_lines
from rds_csi.arrays.routeros.options import HTTPS_SCHEME, SSH_SCHEME, RouterosOptions, parse
from rds_csi.arrays.routeros.probe import Probe
from rds_csi.arrays.routeros.recording import Recorder, capture_text, open_recorded
from rds_csi.arrays.several_config import SCHEME, check_scheme, known_schemes, read_config
from rds_csi.arrays.url import parse_array_url
from rds_csi.atomic import write_atomically
from rds_csi.commands.doctor.findings import Result, missing, ok, result_of, together
from rds_csi.commands.doctor.portals import Portal
from rds_csi.commands.stopping import Stopping
from rds_csi.errors import ConfigurationError, DriverError
from rds_csi.model.volumes import Finding
from rds_csi.settings import Settings
from rds_csi.workers import Workers

_SECONDS = 10.0
_ROUTEROS = (f"{SSH_SCHEME}://", f"{HTTPS_SCHEME}://")
_FORM = f"{SCHEME}:///etc/rds-csi/arrays.toml"


async def examine_array(
    settings: Settings, *, probe: bool = False, capture: str = "", stopping: Stopping | None = None
) -> Sequence[Result]:
    """What there is to say of the arrays in ``--array``.

    ``probe`` makes a tiny volume on the one array, tries it and removes it, also when ``stopping`` ends it half-way;
    ``capture`` names the file where all that was said is kept. ConfigurationError for a URL that cannot work, and for a
    probe of several arrays.
    """
    workers = Workers()
    urls = await workers.run(lambda: array_urls(settings), timeout=_SECONDS)
    arrays = {name: _parsed(name, url, settings) for name, url in urls.items() if url.startswith(_ROUTEROS)}
    # Without --array nobody has asked about one.
    asked = "array" in settings.model_fields_set
    others = [_not_looked_at(name, url) for name, url in urls.items() if name not in arrays and asked]
    if capture and not probe:
        raise ConfigurationError("--capture is nothing without --probe", remedy="Add --probe, or leave it out.")
    if not probe:
        looks = await together(_look(*item, workers) for item in arrays.items())
        return [*others, *(result for results in looks for result in results)]
    if len(arrays) != 1:
        raise ConfigurationError(
            f"--probe is for one RouterOS array, and --array names {len(arrays)}",
            remedy="Name it by its own URL, routeros+ssh://… or routeros+https://….",
        )
    (name, options), *_ = arrays.items()
    _check_capture(capture)
    probing = _Probing(name, options, capture, workers, stopping or Stopping())
    return [*await _look(name, options, workers), *await probing.results()]


def portals_of(settings: Settings) -> Sequence[Portal]:
    """The portals of the RouterOS arrays in ``--array``. Blocking; ConfigurationError for a URL that cannot work."""
    return [
        Portal(address, options.nvme_port)
        for name, url in array_urls(settings).items()
        if url.startswith(_ROUTEROS)
        for options in (_parsed(name, url, settings),)
        for address in options.nvme_addresses
    ]


def array_urls(settings: Settings) -> Mapping[str, str]:
    """The arrays in ``--array`` by name ("" for the only one). Blocking; ConfigurationError for a scheme that is none,
    and for a file of arrays that cannot be used."""
    known = known_schemes()
    if check_scheme(settings.array, known) != SCHEME:
        return {"": settings.array}
    urls = read_config(parse_array_url(settings.array, form=_FORM).path).urls
    for name, url in urls.items():
        with _about(name):
            check_scheme(url, set(known) - {SCHEME})
    return urls


@contextlib.contextmanager
def _about(name: str) -> Iterator[None]:
    """Errors name the array of a file that they are about."""
    try:
        yield
    except ConfigurationError as error:
        if not name:
            raise
        raise ConfigurationError(f"array {name}: {error.message}", remedy=error.remedy) from None


def _parsed(name: str, url: str, settings: Settings) -> RouterosOptions:
    with _about(name):
        return parse(url, settings)


def _not_looked_at(name: str, url: str) -> Result:
    scheme = url.partition("://")[0]
    return ok(_named(name, "array"), f"a {scheme} array is not looked at: its server checks it when it starts")


async def _look(name: str, options: RouterosOptions, workers: Workers) -> Sequence[Result]:
    client = open_client(options, workers)
    try:
        findings = await examine(client, options, workers)
    finally:
        await client.close()
    lines = setup_lines(options.transport)
    setup = [ok(_named(name, f"user, line {number}"), line) for number, line in enumerate(lines, start=1)]
    return [*_results(name, findings), *setup]


class _Probing:
    """One probe of one array, and what is told of it, however it ends."""

    def __init__(self, name: str, options: RouterosOptions, capture: str, workers: Workers, stopping: Stopping) -> None:
        self._name = name
        self._options = options
        self._capture = capture
        self._workers = workers
        self._stopping = stopping
        self._recorder = Recorder()

    async def results(self) -> Sequence[Result]:
        """The answers, also those of a probe that was stopped."""
        client = open_recorded(self._options, self._recorder, self._workers)
        probe = Probe(client, self._options, self._recorder, secrets.token_hex(4))
        try:
            await self._stopping.run(probe.run(), f"removing {probe.name}, please wait")
        finally:
            await client.close()
        results = [*_results(self._name, probe.answers, prefix="probe: ")]
        if self._stopping.is_stopped:
            subject = _named(self._name, "probe")
            results.append(missing(subject, "it was stopped half-way", "Start it again; see what is left behind."))
        return [*results, *await self._write(probe)]

    async def _write(self, probe: Probe) -> Sequence[Result]:
        """Write the capture; one that cannot be written takes no answer with it."""
        if not self._capture:
            return ()
        exchanges, subject = self._recorder.exchanges, _named(self._name, "capture")
        text = capture_text(self._options, probe.facts, probe.answers, exchanges)
        try:
            await self._workers.run(lambda: write_atomically(self._capture, text.encode()), timeout=_SECONDS)
        except (OSError, DriverError) as error:
            why = getattr(error, "strerror", None) or str(error)
            message = f"{self._capture} could not be written: {why}"
            return [missing(subject, message, "Name a file on a disk with room, and probe again.")]
        message = f"what was said, {len(exchanges)} times, is in {self._capture}"
        return [ok(subject, message, "Read it before you give it away: it names your disks.")]


def _check_capture(path: str) -> None:
    """Told before the probe: its answers cost work on a device."""
    directory = os.path.dirname(os.path.abspath(path))
    if path and (not os.access(directory, os.W_OK | os.X_OK) or os.path.isdir(path)):
        raise ConfigurationError(f"--capture {path} cannot be written", remedy="Name a file in another directory.")


def _results(name: str, findings: Sequence[Finding], prefix: str = "") -> Sequence[Result]:
    results = map(result_of, findings)
    return [Result(_named(name, f"{prefix}{r.subject}"), r.state, r.message, r.remedy) for r in results]


def _named(name: str, subject: str) -> str:
    return f"{name}: {subject}" if name else subject
