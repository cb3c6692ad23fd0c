"""Flags, environment and the sentences for wrong values."""

import argparse
import os
from collections.abc import Iterator

import pytest

from rds_csi.errors import ConfigurationError
from rds_csi.settings import Settings, add_flags, flag_of, load_settings


@pytest.fixture(autouse=True)
def empty_environment() -> Iterator[None]:
    """The tests' own environment says nothing about the driver."""
    saved = dict(os.environ)
    os.environ.clear()
    yield
    os.environ.clear()
    os.environ.update(saved)


def test_a_flag_wins_over_the_environment() -> None:
    os.environ["RDS_CSI_CONNECTOR"] = "memory"
    assert load_settings({"connector": "loop"}).connector == "loop"
    assert load_settings({}).connector == "memory"


def test_the_variables_of_sidecars_and_charts_are_understood() -> None:
    os.environ.update({"CSI_ENDPOINT": "unix:///a.sock", "KUBE_NODE_NAME": "worker-1"})
    settings = load_settings({})
    assert (settings.endpoint, settings.node_id) == ("unix:///a.sock", "worker-1")


def test_a_stranger_in_the_environment_is_not_ours() -> None:
    os.environ.update({"ARRAY": "nvmet://x", "ENDPOINT": "tcp://y"})
    assert load_settings({}).array.startswith("local://")


@pytest.mark.parametrize("endpoint", ["unix:///a/b.sock", "unix:/a/b.sock"])
def test_both_spellings_of_a_unix_socket_mean_the_same(endpoint: str) -> None:
    assert load_settings({"endpoint": endpoint}).endpoint == "unix:///a/b.sock"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("endpoint", "tcp://127.0.0.1:1"),
        ("endpoint", "unix://relative"),
        ("endpoint", "unix:///" + "x" * 120),
        ("node_id", ""),
        ("node_id", "a b"),
        ("node_id", "a#b"),
        ("driver_name", "under_score"),
        ("nqn_prefix", ""),
        ("nqn_prefix", "nqn.2000-02.com.mikrotik"),
        ("nqn_prefix", "nqn.2000-02.com.mikrotik:"),
        ("max_connects", "0"),
        ("grace", "-1"),
        ("grace", "nan"),
        ("sweep_interval", "inf"),
        ("interval", "soon"),
        ("dry_run", "perhaps"),
        ("state_dir", "relative"),
        ("host_root", ""),
        ("max_volumes_per_node", "-1"),
        ("max_volumes_per_node", "many"),
        ("http_endpoint", "9809"),
        ("http_endpoint", "localhost:"),
        ("log_format", "xml"),
        ("log_level", "loud"),
        ("shutdown_grace", "-1"),
        ("shutdown_grace", "soon"),
    ],
)
def test_a_wrong_value_is_told_in_one_sentence_with_its_flag(name: str, value: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        load_settings({name: value})
    assert str(caught.value).startswith(f"{flag_of(name)} (RDS_CSI_{name.upper()}): ")
    assert "\n" not in str(caught.value)


def test_the_connector_follows_the_array_unless_it_is_named() -> None:
    assert load_settings({"array": "local:///x"}).connector_name == "loop"
    assert load_settings({"array": "nvmet://h?backing=/x"}).connector_name == "nvme-cli"
    assert load_settings({"array": "local:///x", "connector": "memory"}).connector_name == "memory"


def test_every_setting_has_a_flag_with_help_and_a_variable() -> None:
    parser = argparse.ArgumentParser()
    add_flags(parser, *Settings.model_fields)
    text = parser.format_help()
    for name in Settings.model_fields:
        assert flag_of(name) in text
        assert f"RDS_CSI_{name.upper()}" in text


def test_a_switch_is_a_flag_without_a_value_or_a_variable_with_one() -> None:
    parser = argparse.ArgumentParser()
    add_flags(parser, "dry_run", "sweep_unused")
    settings = load_settings(vars(parser.parse_args(["--dry-run"])))
    assert (settings.dry_run, settings.sweep_unused) == (True, False)
    os.environ["RDS_CSI_SWEEP_UNUSED"] = "true"
    assert load_settings({}).sweep_unused


def test_a_prefix_of_one_cluster_on_a_vendors_server_is_fine() -> None:
    assert load_settings({"nqn_prefix": "nqn.2000-02.com.mikrotik:pvc-"}).nqn_prefix.endswith("pvc-")
