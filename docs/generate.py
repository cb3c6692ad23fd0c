"""docs/reference/: flags, StorageClass parameters and metrics as tables, made from the code that uses them.

``python -m docs.generate`` tells which pages differ from the code (exit status 1); with ``--write`` it re-makes them.
"""

import argparse
import difflib
import sys
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TypeVar

from annotated_types import Ge, Le
from prometheus_client.metrics import MetricWrapperBase

from rds_csi.cli import _parser
from rds_csi.metrics import Metrics
from rds_csi.model.connection import HOST_IFACE_KEY, OPTIONS, ConnectionConfig
from rds_csi.model.mounts import DEFAULT_FILESYSTEM, FILESYSTEMS
from rds_csi.model.parameters import (
    CONNECTION_KEYS,
    FS_TYPE_KEY,
    MKFS_OPTIONS_KEY,
    MUTABLE_KEYS,
    POOL_KEY,
    PROVISIONING_KEY,
    VOLUME_KEYS,
    Provisioning,
)
from rds_csi.settings import Settings, _choices, _variables_of, flag_of
from rds_csi.simulator.flags import _variable as simulator_variable

REFERENCE = Path(__file__).parent / "reference"

_SERVERS = ("controller", "node", "all")
_NOTE = "Made from the code by `nox -s docs -- --write`. Do not edit it."
_NONE = "–"
# Columns of the pages.
_WIDTH = 118

T = TypeVar("T")


def pages() -> Mapping[str, str]:
    """The pages below docs/reference/ by their file names."""
    return {
        "flags.md": flags_page(),
        "metrics.md": metrics_page(),
        "storageclass-parameters.md": parameters_page(),
    }


# Flags


def commands() -> Mapping[str, argparse.ArgumentParser]:
    """The commands of ``rds-csi`` by name, in the order of its help."""
    group = next(action for action in _parser()._actions if isinstance(action, argparse._SubParsersAction))
    return dict(group.choices)


def flags_page() -> str:
    """Every flag: first those that are settings, then those of single commands."""
    settings = [_setting_row(name) for name in Settings.model_fields if _commands_with(flag_of(name))]
    own = [row for name, parser in commands().items() for row in _own_rows(name, parser)]
    return _page(
        "Flags and environment variables",
        "A flag wins over its environment variable, which wins over the default. Where several variables are named, "
        "the first that is set wins. Times are in seconds. *Servers* are `rds-csi controller`, `node` and `all`: "
        "all three take the same flags, and leave alone what is not theirs. "
        "[operations.md](../operations.md) tells what the commands do.",
        "## Settings",
        _table(("flag", "environment variables", "default", "values", "commands", "meaning"), settings),
        "## Flags of single commands",
        "Those of `rds-csi simulate` are environment variables, too; the others are not. A flag that stands above has "
        "other values here.",
        _table(("command", "flag", "environment variable", "value", "meaning"), own),
    )


def _setting_row(name: str) -> Sequence[str]:
    field = Settings.model_fields[name]
    variables = ", ".join(f"`{variable}`" for variable in _variables_of(name))
    return (
        f"`{flag_of(name)}`",
        variables,
        _default(name),
        _values(name),
        _commands_with(flag_of(name)),
        str(field.description),
    )


def _default(name: str) -> str:
    field = Settings.model_fields[name]
    value = field.default
    if field.default_factory or value == "":
        return _NONE
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, str):
        return f"`{getattr(value, 'value', value)}`"
    return f"{value:g}"


def _values(name: str) -> str:
    """What a setting may be: its words, or its range."""
    field = Settings.model_fields[name]
    choices = _choices(field.annotation)
    if choices:
        return ", ".join(f"`{choice}`" for choice in choices)
    if field.annotation is bool:
        return "a switch"
    least = _only(item.ge for item in field.metadata if isinstance(item, Ge))
    most = _only(item.le for item in field.metadata if isinstance(item, Le))
    if least is None or most is None:
        return "text"
    return f"{least} to {most}" + ("" if field.annotation is int else ", also a fraction")


def _only(found: Iterator[T]) -> T | None:
    return next(found, None)


def _commands_with(flag: str) -> str:
    """The commands that have the flag as a setting; "" for none."""
    names = [name for name, parser in commands().items() if _is_setting(parser, flag)]
    if set(_SERVERS) <= set(names):
        names = ["servers", *(name for name in names if name not in _SERVERS)]
    return ", ".join(names)


def _is_setting(parser: argparse.ArgumentParser, flag: str) -> bool:
    # Settings have their environment variables in the help; a command's own flag of the same name has not.
    action = parser._option_string_actions.get(flag)
    name = flag.removeprefix("--").replace("-", "_")
    return action is not None and name in Settings.model_fields and _variables_of(name)[0] in str(action.help)


def _own_rows(command: str, parser: argparse.ArgumentParser) -> Iterator[Sequence[str]]:
    for action in parser._actions:
        flag = action.option_strings[-1] if action.option_strings else ""
        if action.dest == "help" or _is_setting(parser, flag):
            continue
        variable = simulator_variable(flag.removeprefix("--")) if command == "simulate" else ""
        meaning = str(action.help).replace("%%", "%").removesuffix(f" [{variable}]")
        shown = f"`{flag}`" if flag else f"`{action.metavar}`"
        yield (f"`{command}`", shown, f"`{variable}`" if variable else _NONE, _own_values(action), meaning)


def _own_values(action: argparse.Action) -> str:
    if action.choices is not None:
        return ", ".join(f"`{choice}`" for choice in action.choices)
    if action.nargs == 0:
        return "a switch"
    return f"`{action.metavar}`" if action.option_strings else "needed"


# StorageClass parameters


@dataclass(frozen=True, slots=True)
class Parameter:
    """A StorageClass parameter as its row tells it."""

    key: str
    unit: str
    values: str
    default: str
    meaning: str


_FIXED = (
    Parameter(
        FS_TYPE_KEY,
        _NONE,
        ", ".join(f"`{name}`" for name in FILESYSTEMS),
        f"`{DEFAULT_FILESYSTEM}`",
        "the filesystem; not used for `volumeMode: Block`",
    ),
    Parameter(
        POOL_KEY,
        _NONE,
        "a pool's name",
        _NONE,
        "where the volume is made; with several arrays the array, or array/pool",
    ),
    Parameter(
        PROVISIONING_KEY,
        _NONE,
        ", ".join(f"`{item.value}`" for item in Provisioning),
        f"`{Provisioning.THIN.value}`",
        "whether the space is set aside at once",
    ),
    Parameter(
        MKFS_OPTIONS_KEY, _NONE, "options of mkfs, separated by blanks", _NONE, "what mkfs is given beside its own"
    ),
)
_IFACE = Parameter(
    HOST_IFACE_KEY,
    _NONE,
    "1 to 15 of `A-Z a-z 0-9 _ . -`",
    _NONE,
    "the network interface that the connection has to go through",
)


def parameters() -> Sequence[Parameter]:
    """Every parameter; first those that are fixed for the life of a volume."""
    defaults = {field.name: field.default for field in fields(ConnectionConfig)}
    numbers = [
        Parameter(
            option.key,
            option.unit,
            f"{option.minimum} to {option.maximum}",
            str(defaults[option.field]),
            option.meaning,
        )
        for option in OPTIONS
    ]
    found = (*_FIXED, *numbers, _IFACE)
    known = {FS_TYPE_KEY, *VOLUME_KEYS, *CONNECTION_KEYS}
    if {parameter.key for parameter in found} != known:
        raise SystemExit(f"docs/generate.py has not the parameters of the model: {sorted(known)}")
    return found


def parameters_page() -> str:
    """Every StorageClass parameter, and whether a VolumeAttributesClass may have it."""
    rows = [
        (
            f"`{item.key}`",
            item.unit,
            item.values,
            item.default,
            "yes" if item.key in MUTABLE_KEYS else "no",
            item.meaning,
        )
        for item in parameters()
    ]
    return _page(
        "StorageClass parameters",
        'Values are strings in YAML: `queueSize: "256"`. *Mutable* parameters can also stand in a '
        "VolumeAttributesClass; they take effect when the volume is attached the next time. "
        "[parameters.md](../parameters.md) tells when to change each.",
        _table(("parameter", "unit", "values", "default", "mutable", "meaning"), rows),
        "Parameters that begin with `csi.storage.k8s.io/` are the sidecars'; of these the driver reads "
        f"`{FS_TYPE_KEY}` only. Any other name is refused, with the nearest known one.",
    )


# Metrics


def metrics_page() -> str:
    """Every metric of the driver's own."""
    own = [metric for metric in vars(Metrics()).values() if isinstance(metric, MetricWrapperBase)]
    return _page(
        "Metrics",
        "Served at `/metrics` of `--http-endpoint`, in the Prometheus text format, beside those of the process "
        "(`process_cpu_seconds_total`, `process_resident_memory_bytes`, …). Labels are methods, codes, states, "
        "reasons; never volumes. [alerts.md](../alerts.md) tells what is worth an alert.",
        _table(("metric", "type", "labels", "meaning"), [_metric_row(metric) for metric in own]),
    )


def _metric_row(metric: MetricWrapperBase) -> Sequence[str]:
    family = next(iter(metric.describe()))
    name = f"{family.name}_total" if family.type == "counter" else family.name
    labels = ", ".join(f"`{label}`" for label in metric._labelnames) or _NONE
    return (f"`{name}`", family.type, labels, family.documentation)


# Markdown


def _page(title: str, *parts: str) -> str:
    return "\n\n".join(_wrapped(part) for part in (f"# {title}", _NOTE, *parts)) + "\n"


def _wrapped(part: str) -> str:
    """A paragraph in lines of the house's width; a table as it is."""
    if part.startswith("|"):
        return part
    return textwrap.fill(part, _WIDTH, break_long_words=False, break_on_hyphens=False)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in (head, *rows)]
    return "\n".join((lines[0], "|" + "---|" * len(head), *lines[1:]))


def differences(shown: Callable[[str], str]) -> str:
    """How the pages differ from the code, as a unified diff; "" when they do not. ``shown(name)`` is a page's text."""
    return "".join(
        line
        for name, text in pages().items()
        for line in difflib.unified_diff(
            shown(name).splitlines(keepends=True), text.splitlines(keepends=True), f"docs/reference/{name}", "the code"
        )
    )


def read(name: str) -> str:
    """A page as it is; "" when it is missing."""
    path = REFERENCE / name
    return path.read_text(encoding="utf-8") if path.exists() else ""


def main(argv: Sequence[str]) -> int:
    """Compare, or with ``--write`` write. Exit status 1 when a page differs."""
    parser = argparse.ArgumentParser(prog="python -m docs.generate", description=__doc__)
    parser.add_argument("--write", action="store_true", help="re-make the pages")
    if parser.parse_args(argv).write:
        REFERENCE.mkdir(exist_ok=True)
        for name, text in pages().items():
            (REFERENCE / name).write_text(text, encoding="utf-8")
        return 0
    different = differences(read)
    sys.stdout.write(different)
    return 1 if different else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
