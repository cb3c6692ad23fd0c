"""``rds-csi simulate``: a RouterOS look-alike on this machine, until it is stopped."""

import asyncio
import contextlib
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote, urlencode

from rds_csi.errors import ConfigurationError, Unavailable
from rds_csi.simulator.credentials import CredentialFiles
from rds_csi.simulator.server import Simulator, SimulatorOptions

_SNAPSHOTS_SINCE = (7, 18)
_STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


async def simulate(options: SimulatorOptions) -> int:
    """Run until SIGINT, SIGTERM or SIGHUP; the exit status is 0. ConfigurationError when it cannot run like this."""
    if options.directory is not None:
        _check_directory(options.directory)
    with _stop_signals() as stop:
        simulator = Simulator(options)
        stack = contextlib.AsyncExitStack()
        try:
            files = await _started(simulator, stack)
            _print(simulator, files)
            await stop.wait()
        finally:
            await _ended(stack)
    return 0


def _check_directory(directory: Path) -> None:
    """ConfigurationError unless it is an empty directory in which files can be made, or can be made itself."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        empty = not any(directory.iterdir())
        with tempfile.TemporaryFile(dir=directory):
            pass
    except OSError as error:
        raise ConfigurationError(
            f"the directory {directory} cannot be used: {error.strerror or error}",
            remedy="Give --directory an empty directory of yours, or none.",
        ) from None
    if not empty:
        raise ConfigurationError(
            f"{directory} is not empty", remedy="A simulator begins anew: give it an empty directory, or none."
        )


async def _started(simulator: Simulator, stack: contextlib.AsyncExitStack) -> CredentialFiles:
    """Everything listens; what a client needs is written."""
    try:
        await stack.enter_async_context(simulator)
    except OSError as error:
        raise ConfigurationError(
            f"the simulator cannot run like this: {error}",
            remedy="Choose other addresses or ports with --ssh, --https and --control.",
        ) from None
    directory = simulator.directory / "credentials"
    try:
        return await asyncio.to_thread(simulator.write_credentials, directory)
    except OSError as error:
        raise ConfigurationError(
            f"the credentials cannot be written to {directory}: {error.strerror or error}",
            remedy="Give --directory another directory.",
        ) from None


async def _ended(stack: contextlib.AsyncExitStack) -> None:
    try:
        await stack.aclose()
    except OSError as error:
        raise Unavailable(
            f"the simulator has not ended cleanly: {error}",
            remedy="Look for what it has left: its directory and, with --nvmet, /sys/kernel/config/nvmet.",
        ) from None


@contextlib.contextmanager
def _stop_signals() -> Iterator[asyncio.Event]:
    """An event that is set by a signal to stop. A process that was told to ignore SIGHUP (nohup(1)) goes on to."""
    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    handled = [each for each in _STOPS if signal.getsignal(each) is not signal.SIG_IGN]
    for number in handled:
        loop.add_signal_handler(number, stop.set)
    try:
        yield stop
    finally:
        for number in handled:
            loop.remove_signal_handler(number)


def array_urls(simulator: Simulator, files: CredentialFiles) -> list[str]:
    """The URLs of its first pool for ``--array``: over SSH and over REST, for each server that listens."""
    return [
        f"{scheme}://{authority}/?{urlencode({**_common(simulator), **secrets}, safe='/:,')}"
        for scheme, authority, secrets in _transports(simulator, files)
    ]


def _print(simulator: Simulator, files: CredentialFiles) -> None:
    device = simulator.device
    pools = ", ".join(f"{pool.slot} ({pool.filesystem})" for pool in device.options.pools)
    print(
        f"RouterOS {device.version} look-alike, with pools: {pools or 'none'}. Its files are in {simulator.directory}."
    )
    for url in array_urls(simulator, files):
        print(f"  --array '{url}'")
    print(f"Credentials are in {files.client_key.parent}; the certificate's SHA-256 is {files.fingerprint}.")
    if simulator.control_port:
        host = _host(simulator.options.control_host)
        print(f'Faults on demand: curl http://{host}:{simulator.control_port}/faults -d \'{{"kind": "lose-reply"}}\'')
    print("Stop it with Ctrl-C.", flush=True)


def _transports(simulator: Simulator, files: CredentialFiles) -> list[tuple[str, str, dict[str, str]]]:
    """Scheme, authority, and where the secrets lie, for each server that listens."""
    options = simulator.options
    user = quote(simulator.users[0].name)
    transports = []
    if simulator.ssh_port:
        secrets = {"key-file": str(files.client_key), "known-hosts": str(files.known_hosts)}
        transports.append(("routeros+ssh", f"{user}@{_url_host(options, options.host)}:{simulator.ssh_port}", secrets))
    if simulator.https_port:
        secrets = {"password-file": str(files.password), "tls-ca": str(files.tls_ca)}
        authority = f"{user}@{_url_host(options, options.rest_host)}:{simulator.https_port}"
        transports.append(("routeros+https", authority, secrets))
    return transports


def _common(simulator: Simulator) -> dict[str, str]:
    common = {}
    device = simulator.device
    if device.options.pools:
        pool = device.options.pools[0]
        common["pool"] = pool.slot
        if pool.filesystem == "btrfs" and device.version.at_least(*_SNAPSHOTS_SINCE):
            common["snapshots"] = "btrfs-subvolume"
    if simulator.options.nvmet_address:
        common["nvme-address"] = simulator.options.nvmet_address
    return common


def _url_host(options: SimulatorOptions, host: str) -> str:
    return _host(options.names_of(host)[0])


def _host(address: str) -> str:
    return f"[{address}]" if ":" in address else address
