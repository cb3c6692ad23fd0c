"""The commands a person or a container starts: flags in, exit status out."""

import argparse
import asyncio
import os
import sys
from collections.abc import Callable, Sequence

from rds_csi import __version__
from rds_csi.errors import DriverError
from rds_csi.logging import configure
from rds_csi.settings import LogFormat, Settings, add_flags, load_settings
from rds_csi.simulator.flags import add_flags as add_simulator_flags
from rds_csi.simulator.flags import options_from

# sysexits are not for us: 2 is what argparse gives for a wrong flag, and a wrong value is no different.
EXIT_CONFIGURATION = 2
# 128 + SIGPIPE, as a shell tells it.
EXIT_PIPE = 141
# 128 + SIGINT, as a shell tells it.
EXIT_INTERRUPTED = 130

# The same for all three roles, so that a chart can give one set of flags to all of them.
_SERVER_FLAGS = (
    *("endpoint", "node_id", "driver_name", "array", "connector", "state_dir", "host_root", "nqn_prefix"),
    *("max_volumes_per_node", "max_connects", "sweep_interval", "grace", "sweep_unused"),
    *("http_endpoint", "http_tls_cert", "http_tls_key", "http_token_file"),
    *("kubelet_registration_dir", "kubernetes", "log_format", "log_level", "shutdown_grace"),
)

_EPILOG = """\
Every flag is also an environment variable, shown in brackets; a flag wins.
Start with `rds-csi demo`: it plays the whole life of a volume on this machine.
"""

Command = Callable[[argparse.Namespace], int]


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command. Exit status: 0 well, 1 the command's own bad news, 2 a wrong flag, URL or directory."""
    arguments = _parser().parse_args(argv)
    command: Command = arguments.command
    try:
        status = command(arguments)
        sys.stdout.flush()
        return status
    except BrokenPipeError:
        # Whoever read (head, less) has seen enough. Nothing more is written, not even by the interpreter's end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_PIPE
    except DriverError as error:
        # A wrong setting, or a machine that is not as it must be: either way one sentence, no traceback.
        print(f"rds-csi: {error}", file=sys.stderr)
        return EXIT_CONFIGURATION
    except (KeyboardInterrupt, asyncio.CancelledError):
        return EXIT_INTERRUPTED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="rds-csi",
        description="Kubernetes CSI driver for NVMe/TCP volumes.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"rds-csi {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    def add(name: str, summary: str, command: Command, *flags: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(
            name, help=summary, description=f"{summary[0].upper()}{summary[1:]}.", allow_abbrev=False
        )
        add_flags(sub, *flags)
        sub.set_defaults(command=command)
        return sub

    add("controller", "serve the CSI controller", _serve("CONTROLLER"), *_SERVER_FLAGS)
    add("node", "serve the CSI node of this machine", _serve("NODE"), *_SERVER_FLAGS)
    add("all", "serve controller and node in one process", _serve("ALL"), *_SERVER_FLAGS)
    sweep = add(
        "sweep",
        "disconnect orphaned NVMe sessions of this driver, once or again and again",
        _sweep,
        *("nqn_prefix", "interval", "grace", "sweep_unused", "dry_run", "connector", "state_dir", "host_root"),
        *("node_id", "driver_name", "kubernetes", "log_format", "log_level"),
    )
    sweep.add_argument("--once", action="store_true", help="sweep once, whatever --interval says")
    sweep.add_argument("--output", choices=["text", "json"], default="text", help="how to print (default: text)")
    doctor = add(
        "doctor",
        "check what this machine needs for NVMe/TCP volumes, and say how to mend what is missing",
        _doctor,
        *("role", "connector", "array", "driver_name", "state_dir", "host_root", "nqn_prefix", "log_level"),
    )
    doctor.add_argument(
        "--portal",
        action="append",
        default=[],
        metavar="ADDRESS[:PORT]",
        help="also ask this NVMe/TCP portal (may be repeated; default: those of the array and of staged volumes)",
    )
    doctor.add_argument(
        "--probe",
        action="store_true",
        help="make a tiny volume on the RouterOS array of --array, try what is not proven of it, and remove it again",
    )
    doctor.add_argument(
        "--capture",
        default="",
        metavar="FILE",
        help="with --probe: keep all that was said to the array and by it in this file, without secrets",
    )
    doctor.add_argument("--output", choices=["text", "json"], default="text", help="how to print (default: text)")
    status = add(
        "status",
        "show the volumes, sessions and running operations of this machine, and whether they are well",
        _status,
        *("connector", "array", "state_dir", "host_root", "nqn_prefix", "log_level"),
    )
    status.add_argument("--output", choices=["table", "json"], default="table", help="how to print (default: table)")
    adopt = add(
        "adopt",
        "make a disk that is on the array already a volume, and print the PersistentVolume for it",
        _adopt,
        *("array", "driver_name", "nqn_prefix", "dry_run", "host_root", "log_level"),
    )
    adopt.add_argument("slot", metavar="SLOT", help="the disk's slot; with several arrays ARRAY/SLOT")
    adopt.add_argument("--volume-id", default="", metavar="ID", help="the volume's id (default: the slot)")
    adopt.add_argument(
        "--attached-to",
        action="append",
        default=[],
        metavar="NODE-ID",
        help="the CSI id of a node that uses the disk now, as its CSINode tells it (may be repeated)",
    )
    adopt.add_argument(
        "--not-attached", action="store_true", help="no node uses the disk: for an exported disk of ours without a mark"
    )
    orphans = add(
        "orphans",
        "report what on the array belongs to no PersistentVolume, and what is damaged; delete only by a list",
        _orphans,
        *("array", "driver_name", "nqn_prefix", "state_dir", "host_root", "log_level"),
    )
    orphans.add_argument(
        "--in-use",
        default="",
        metavar="FILE",
        help="the volume and snapshot handles of all PersistentVolumes, one a line; without it only damage is told",
    )
    orphans.add_argument("--delete", default="", metavar="FILE", help="delete what this list names, one id a line")
    orphans.add_argument(
        "--apart",
        type=float,
        default=None,
        metavar="SECONDS",
        help="how far apart two reports must be before what both call an orphan may be deleted (default: 86400)",
    )
    orphans.add_argument(
        "--most-are-orphans",
        action="store_true",
        help="the list of --in-use is whole, although most of what is on the array would be orphans by it",
    )
    orphans.add_argument("--output", choices=["text", "json"], default="text", help="how to print (default: text)")
    pre_stop = add(
        "pre-stop",
        "wait until a node that is being drained has no volume attached (the node container's preStop hook)",
        _pre_stop,
        *("node_id", "driver_name", "kubernetes", "log_format", "log_level"),
    )
    pre_stop.add_argument(
        "--timeout",
        type=float,
        default=60.0,
        metavar="SECONDS",
        help="how long to wait at most; the exit status is 0 all the same (default: 60)",
    )
    demo = add("demo", "play the whole life of a volume on this machine; no array needed", _demo)
    demo.add_argument(
        "--array",
        choices=["local", "routeros"],
        default="local",
        help="image files, or a simulated RouterOS over SSH and then over REST (default: local)",
    )
    simulate = add("simulate", "be a RouterOS look-alike with SSH and REST, with faults on demand", _simulate)
    add_simulator_flags(simulate)
    add_flags(simulate, "log_format", "log_level")
    return parser


def _load(arguments: argparse.Namespace) -> Settings:
    settings = load_settings(vars(arguments))
    configure(level=settings.log_level.value, as_json=settings.log_format is LogFormat.JSON)
    return settings


def _serve(role: str) -> Command:
    def run(arguments: argparse.Namespace) -> int:
        settings = _load(arguments)
        # Imported here: --help and a wrong flag answer at once, without loading a server.
        from rds_csi.app import Role, serve

        asyncio.run(serve(settings, Role[role]))
        return 0

    return run


def _status(arguments: argparse.Namespace) -> int:
    settings = _load(arguments)
    from rds_csi.commands.status import show_status

    return asyncio.run(show_status(settings, as_json=arguments.output == "json"))


def _sweep(arguments: argparse.Namespace) -> int:
    settings = _load(arguments)
    from rds_csi.commands.sweep import sweep

    return asyncio.run(sweep(settings, once=arguments.once, as_json=arguments.output == "json"))


def _doctor(arguments: argparse.Namespace) -> int:
    settings = _load(arguments)
    from rds_csi.commands.doctor import examine

    return asyncio.run(
        examine(
            settings,
            portals=arguments.portal,
            as_json=arguments.output == "json",
            probe=arguments.probe,
            capture=arguments.capture,
        )
    )


def _adopt(arguments: argparse.Namespace) -> int:
    settings = _load(arguments)
    from rds_csi.commands.adopt import adopt

    return asyncio.run(
        adopt(
            settings,
            arguments.slot,
            volume_id=arguments.volume_id,
            dry_run=settings.dry_run,
            attached_to=arguments.attached_to,
            not_attached=arguments.not_attached,
        )
    )


def _orphans(arguments: argparse.Namespace) -> int:
    settings = _load(arguments)
    from rds_csi.commands.orphans import DEFAULT_APART, orphans

    apart = DEFAULT_APART if arguments.apart is None else arguments.apart
    return asyncio.run(
        orphans(
            settings,
            in_use=arguments.in_use,
            delete=arguments.delete,
            apart=apart,
            most=arguments.most_are_orphans,
            as_json=arguments.output == "json",
        )
    )


def _pre_stop(arguments: argparse.Namespace) -> int:
    settings = _load(arguments)
    from rds_csi.commands.pre_stop import pre_stop

    return asyncio.run(pre_stop(settings, arguments.timeout))


def _demo(arguments: argparse.Namespace) -> int:
    configure(level="error", as_json=False)
    if arguments.array == "routeros":
        from rds_csi.commands.demo_routeros import play_routeros

        return asyncio.run(play_routeros())
    from rds_csi.commands.demo import play

    return asyncio.run(play())


def _simulate(arguments: argparse.Namespace) -> int:
    _load(argparse.Namespace(**{name: value for name, value in vars(arguments).items() if name.startswith("log_")}))
    options = options_from(arguments)
    from rds_csi.commands.simulate import simulate

    return asyncio.run(simulate(options))
