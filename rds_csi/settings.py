"""Every setting: one model from which come the flags, the environment variables, the help and the checks."""

import argparse
import re
import socket
from enum import StrEnum
from typing import Any

from pydantic import AliasChoices, Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from rds_csi.errors import ConfigurationError, InvalidArgument
from rds_csi.model.names import DEFAULT_DRIVER_NAME, check_node_id, check_nqn

ENV_PREFIX = "RDS_CSI_"

# CSI 1.13, GetPluginInfoResponse.name: a domain name of at most 63 characters.
_DRIVER_NAME = re.compile(r"[a-zA-Z0-9](?:[a-zA-Z0-9.-]{0,61}[a-zA-Z0-9])?")


class Examined(StrEnum):
    """What ``rds-csi doctor`` looks at: what a controller needs, what a node needs, or both."""

    ALL = "all"
    CONTROLLER = "controller"
    NODE = "node"


class LogFormat(StrEnum):
    """How log lines look."""

    TEXT = "text"
    JSON = "json"


class ClusterUse(StrEnum):
    """Whether the Kubernetes cluster is spoken to."""

    AUTO = "auto"
    OFF = "off"


class LogLevel(StrEnum):
    """From which weight on lines are logged."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


# Every subsystem of such a server begins with these, also those of other clusters and of diskless hosts (lessons I7).
_VENDOR_PREFIXES = frozenset({"nqn.2000-02.com.mikrotik:", "nqn.2014-08.org.nvmexpress:"})


def _variables(name: str, *others: str) -> AliasChoices:
    """The environment variables of one setting, the first that is set wins.

    The bare name is no alias: an ARRAY or ENDPOINT in the environment belongs to somebody else.
    """
    return AliasChoices(f"{ENV_PREFIX}{name.upper()}", *others)


class Settings(BaseSettings):
    """The settings of every command. A flag wins over its environment variable, which wins over the default."""

    model_config = SettingsConfigDict(extra="forbid", frozen=True, validate_default=True, hide_input_in_errors=True)

    endpoint: str = Field(
        "unix:///csi/csi.sock",
        description="where the CSI socket is made",
        validation_alias=_variables("endpoint", "CSI_ENDPOINT"),
    )
    node_id: str = Field(
        default_factory=socket.gethostname,
        description="this node's name in the cluster (default: the host name)",
        validation_alias=_variables("node_id", "NODE_ID", "KUBE_NODE_NAME"),
    )
    driver_name: str = Field(
        DEFAULT_DRIVER_NAME,
        description="the driver's name in the cluster",
        validation_alias=_variables("driver_name"),
    )
    array: str = Field(
        "local:///var/lib/rds-csi/volumes",
        description="the array's URL: local:///dir, nvmet://host:port?backing=dir, routeros+ssh://user@host/?pool=…, "
        "routeros+https://user@host/?pool=…, or config:///file for several",
        validation_alias=_variables("array"),
    )
    connector: str = Field(
        "",
        description="how a node reaches its volumes: nvme-cli, fabrics, loop or memory "
        "(default: loop for local arrays, nvme-cli for all others)",
        validation_alias=_variables("connector"),
    )
    state_dir: str = Field(
        "/var/lib/rds-csi/state",
        description="where a node keeps what must survive a restart; on the host, not in the container",
        validation_alias=_variables("state_dir"),
    )
    host_root: str = Field(
        "/",
        description="below which directory the host's /sys, /proc, /dev, /run and /etc/nvme are seen",
        validation_alias=_variables("host_root"),
    )
    nqn_prefix: str = Field(
        "nqn.2026-01.io.rds-csi:",
        description="how every NQN of this cluster's volumes begins",
        validation_alias=_variables("nqn_prefix"),
    )
    max_volumes_per_node: int = Field(
        0,
        ge=0,
        le=65536,
        description="how many volumes a node may have attached; 0 for no limit",
        validation_alias=_variables("max_volumes_per_node"),
    )
    max_connects: int = Field(
        8,
        ge=1,
        le=1024,
        description="how many NVMe connects may run at once on a node; more wait in order",
        validation_alias=_variables("max_connects"),
    )
    sweep_interval: float = Field(
        300.0,
        ge=0,
        le=86400,
        description="seconds between two sweeps for orphaned NVMe sessions; 0 for only the one at start",
        validation_alias=_variables("sweep_interval"),
    )
    interval: float = Field(
        0.0,
        ge=0,
        le=86400,
        description="sweep again and again, this many seconds apart; 0 for once",
        validation_alias=_variables("interval"),
    )
    grace: float = Field(
        60.0,
        ge=0,
        le=86400,
        description="how many seconds lie at least between the two looks that make a session an orphan; 0: one decides",
        validation_alias=_variables("grace"),
    )
    sweep_unused: bool = Field(
        False,
        description="let the sweep also disconnect a healthy session of ours that nothing uses and no record names",
        validation_alias=_variables("sweep_unused"),
    )
    dry_run: bool = Field(False, description="only tell what would be done", validation_alias=_variables("dry_run"))
    http_endpoint: str = Field(
        "",
        description="host:port for /metrics, /healthz and /readyz; empty for none",
        validation_alias=_variables("http_endpoint"),
    )
    http_tls_cert: str = Field(
        "",
        description="the certificate chain (PEM) of --http-endpoint, read again when it changes; empty for plain HTTP",
        validation_alias=_variables("http_tls_cert"),
    )
    http_tls_key: str = Field(
        "", description="the private key (PEM) of --http-tls-cert", validation_alias=_variables("http_tls_key")
    )
    http_token_file: str = Field(
        "",
        description="a file with the bearer token that /metrics asks for; empty for none",
        validation_alias=_variables("http_token_file"),
    )
    kubelet_registration_dir: str = Field(
        "",
        description="the kubelet's plugin registration directory, for the driver to register itself; "
        "empty when somebody else does",
        validation_alias=_variables("kubelet_registration_dir"),
    )
    kubernetes: ClusterUse = Field(
        ClusterUse.AUTO,
        description="whether to speak to the Kubernetes API (events, attachments, start-up taint); "
        "auto: where a ServiceAccount's token is mounted",
        validation_alias=_variables("kubernetes"),
    )
    role: Examined = Field(
        Examined.ALL,
        description="whose needs are looked at: those of a controller (the array), of a node (this machine), or all",
        validation_alias=_variables("role"),
    )
    log_format: LogFormat = Field(
        LogFormat.TEXT, description="how log lines look", validation_alias=_variables("log_format")
    )
    log_level: LogLevel = Field(
        LogLevel.INFO, description="from which weight on lines are logged", validation_alias=_variables("log_level")
    )
    shutdown_grace: float = Field(
        25.0,
        ge=0,
        le=3600,
        description="how many seconds running calls get to finish after SIGTERM",
        validation_alias=_variables("shutdown_grace"),
    )

    @field_validator("endpoint")
    @classmethod
    def _endpoint_is_a_unix_socket(cls, value: str) -> str:
        path = value.removeprefix("unix://") if value.startswith("unix://") else value.removeprefix("unix:")
        if path == value or not path.startswith("/") or len(path.encode()) > 107:
            raise ValueError("needs unix:///absolute/path of at most 107 bytes (unix(7))")
        return f"unix://{path}"

    @field_validator("node_id")
    @classmethod
    def _node_id_is_plain(cls, value: str) -> str:
        if "#" in value or "/" in value:
            raise ValueError("must not contain '#' or '/'")
        return _checked(check_node_id, value)

    @field_validator("driver_name")
    @classmethod
    def _driver_name_is_a_domain(cls, value: str) -> str:
        if not _DRIVER_NAME.fullmatch(value):
            raise ValueError("needs a domain name of at most 63 characters (letters, digits, '.', '-')")
        return value

    @field_validator("nqn_prefix")
    @classmethod
    def _nqn_prefix_names_somebody(cls, value: str) -> str:
        # An empty or cut prefix would make other people's subsystems ours (lessons, I7).
        _checked(lambda nqn: check_nqn(nqn, "the prefix"), f"{value}x")
        if ":" not in value:
            raise ValueError("needs the form nqn.yyyy-mm.reverse.domain:something")
        if value in _VENDOR_PREFIXES:
            raise ValueError("is of every subsystem of that vendor; name what only this cluster's volumes begin with")
        return value

    @field_validator("host_root", "state_dir")
    @classmethod
    def _path_is_absolute(cls, value: str) -> str:
        if not value.startswith("/"):
            raise ValueError("needs an absolute path")
        return value

    @field_validator("http_endpoint")
    @classmethod
    def _http_endpoint_is_an_address(cls, value: str) -> str:
        host, separator, port = value.rpartition(":")
        if value and not (separator and host and port.isdecimal() and 1 <= int(port) <= 65535):
            raise ValueError("needs host:port")
        return value

    @property
    def connector_name(self) -> str:
        """The connector chosen, or the one that fits the array."""
        return self.connector or ("loop" if self.array.startswith("local:") else "nvme-cli")


def _checked(check: Any, value: str) -> str:
    try:
        return str(check(value))
    except InvalidArgument as error:
        raise ValueError(str(error)) from None


def flag_of(field: str) -> str:
    """``shutdown_grace`` → ``--shutdown-grace``."""
    return "--" + field.replace("_", "-")


def _variables_of(field: str) -> list[str]:
    alias = Settings.model_fields[field].validation_alias
    assert isinstance(alias, AliasChoices)
    return [str(choice) for choice in alias.choices]


def add_flags(parser: argparse.ArgumentParser, *names: str) -> None:
    """Add the flags of the named settings, with their help, defaults and environment variables."""
    for name in names:
        field = Settings.model_fields[name]
        default = "" if field.default_factory or field.default == "" else f" (default: {field.default})"
        choices = _choices(field.annotation)
        if field.annotation is bool:
            parser.add_argument(
                flag_of(name),
                action="store_true",
                default=argparse.SUPPRESS,
                help=f"{field.description} [{', '.join(_variables_of(name))}]",
            )
            continue
        parser.add_argument(
            flag_of(name),
            metavar=None if choices else name.upper(),
            choices=choices,
            default=argparse.SUPPRESS,
            help=f"{field.description}{default} [{', '.join(_variables_of(name))}]".replace("%", "%%"),
        )


def _choices(annotation: object) -> list[str] | None:
    if isinstance(annotation, type) and issubclass(annotation, StrEnum):
        return [item.value for item in annotation]
    return None


def load_settings(flags: dict[str, Any]) -> Settings:
    """The settings from flags, then the environment, then defaults.

    ConfigurationError in one sentence when one of them cannot be used.
    """
    try:
        return Settings(
            **{_variables_of(name)[0]: value for name, value in flags.items() if name in Settings.model_fields}
        )
    except ValidationError as error:
        problem = error.errors()[0]
        source = str(problem["loc"][0])
        field = next(name for name in Settings.model_fields if source in (name, *_variables_of(name)))
        message = str(problem["msg"]).removeprefix("Value error, ")
        raise ConfigurationError(f"{flag_of(field)} ({source}): {message[0].lower()}{message[1:]}") from None
