"""The doctor on RouterOS arrays: every check of each, the lines that make its user, and the probe."""

import os
import secrets
from collections.abc import Mapping, Sequence

from rds_csi.arrays.routeros.array import open_client
from rds_csi.arrays.routeros.checks import examine
from rds_csi.arrays.routeros.least_privilege import setup_lines
from rds_csi.arrays.routeros.options import HTTPS_SCHEME, SSH_SCHEME, RouterosOptions, parse
from rds_csi.arrays.routeros.probe import Probe
from rds_csi.arrays.routeros.recording import Recorder, capture_text, open_recorded
from rds_csi.arrays.several_config import SCHEME, read_config
from rds_csi.arrays.url import parse_array_url
from rds_csi.atomic import write_atomically
from rds_csi.commands.doctor.findings import Result, ok, result_of, together
from rds_csi.commands.doctor.portals import Portal
from rds_csi.errors import ConfigurationError
from rds_csi.model.volumes import Finding
from rds_csi.settings import Settings
from rds_csi.workers import Workers

_SECONDS = 10.0
_FORM = f"{SCHEME}:///etc/rds-csi/arrays.toml"


async def examine_array(settings: Settings, *, probe: bool = False, capture: str = "") -> Sequence[Result]:
    """What there is to say of the arrays in ``--array``; nothing when none of them is a RouterOS device.

    ``probe`` makes a tiny volume on the one array, tries it and removes it; ``capture`` names the file where all that
    was said is kept. ConfigurationError for a URL that cannot work, and for a probe of several arrays.
    """
    workers = Workers()
    arrays = await workers.run(lambda: routeros_arrays(settings), timeout=_SECONDS)
    if capture and not probe:
        raise ConfigurationError("--capture is nothing without --probe", remedy="Add --probe, or leave it out.")
    if not probe:
        return [
            result for results in await together(_look(*item, workers) for item in arrays.items()) for result in results
        ]
    if len(arrays) != 1:
        raise ConfigurationError(
            f"--probe is for one RouterOS array, and --array names {len(arrays)}",
            remedy="Name it by its own URL, routeros+ssh://… or routeros+https://….",
        )
    (name, options), *_ = arrays.items()
    _check_capture(capture)
    return [*await _look(name, options, workers), *await _probe(name, options, capture, workers)]


def portals_of(settings: Settings) -> Sequence[Portal]:
    """The portals of the RouterOS arrays in ``--array``. Blocking; ConfigurationError for a URL that cannot work."""
    return [
        Portal(address, options.nvme_port)
        for options in routeros_arrays(settings).values()
        for address in options.nvme_addresses
    ]


def routeros_arrays(settings: Settings) -> Mapping[str, RouterosOptions]:
    """The RouterOS arrays in ``--array`` by name ("" for the only one). Blocking; ConfigurationError."""
    urls = {"": settings.array}
    if settings.array.startswith(f"{SCHEME}:"):
        urls = dict(read_config(parse_array_url(settings.array, form=_FORM).path).urls)
    schemes = (f"{SSH_SCHEME}://", f"{HTTPS_SCHEME}://")
    return {name: parse(url, settings) for name, url in urls.items() if url.startswith(schemes)}


async def _look(name: str, options: RouterosOptions, workers: Workers) -> Sequence[Result]:
    client = open_client(options, workers)
    try:
        findings = await examine(client, options, workers)
    finally:
        await client.close()
    lines = setup_lines(options.transport)
    setup = [ok(_named(name, f"user, line {number}"), line) for number, line in enumerate(lines, start=1)]
    return [*_results(name, findings), *setup]


async def _probe(name: str, options: RouterosOptions, capture: str, workers: Workers) -> Sequence[Result]:
    recorder = Recorder()
    client = open_recorded(options, recorder, workers)
    probe = Probe(client, options, recorder, secrets.token_hex(4))
    answers: Sequence[Finding] = ()
    try:
        answers = await probe.run()
    finally:
        await client.close()
        if capture:
            # Also of a probe that was cut off: what was said until then is worth keeping.
            text = capture_text(options, probe.facts, answers, recorder.exchanges)
            await workers.run(lambda: write_atomically(capture, text.encode()), timeout=_SECONDS)
    results = _results(name, answers, prefix="probe: ")
    if not capture:
        return results
    message = f"what was said, {len(recorder.exchanges)} times, is in {capture}"
    return [*results, ok(_named(name, "capture"), message, "Read it before you give it away: it names your disks.")]


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
