"""``rds-csi simulate``: a RouterOS look-alike on this machine, until it is stopped."""

import asyncio
import signal
from urllib.parse import quote, urlencode

from rds_csi.errors import ConfigurationError
from rds_csi.simulator.credentials import CredentialFiles
from rds_csi.simulator.server import Simulator, SimulatorOptions

_SNAPSHOTS_SINCE = (7, 18)


async def simulate(options: SimulatorOptions) -> int:
    """Run until SIGINT or SIGTERM; the exit status is 0. ConfigurationError when it cannot listen there."""
    if options.directory is not None and options.directory.is_dir() and any(options.directory.iterdir()):
        raise ConfigurationError(
            f"{options.directory} is not empty", remedy="A simulator begins anew: give it an empty directory, or none."
        )
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    try:
        simulator = Simulator(options)
        try:
            async with simulator:
                _print(simulator, simulator.write_credentials(simulator.directory / "credentials"))
                await stop.wait()
        except OSError as error:
            raise ConfigurationError(
                f"the simulator cannot run like this: {error}",
                remedy="Choose other addresses or ports with --ssh, --https and --control.",
            ) from None
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)
    return 0


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
        transports.append(("routeros+ssh", f"{user}@{_host(options.host)}:{simulator.ssh_port}", secrets))
    if simulator.https_port:
        secrets = {"password-file": str(files.password), "tls-ca": str(files.tls_ca)}
        transports.append(("routeros+https", f"{user}@{_host(options.rest_host)}:{simulator.https_port}", secrets))
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


def _host(address: str) -> str:
    return f"[{address}]" if ":" in address else address
