"""StorageClass parameters, connection config and contexts."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rds_csi.errors import InvalidArgument
from rds_csi.model.connection import HOST_IFACE_KEY, OPTIONS, ConnectionConfig, Option
from rds_csi.model.context import StageContext
from rds_csi.model.parameters import MUTABLE_KEYS, Provisioning, VolumeParameters, parse_mutable
from rds_csi.model.targets import FileTarget, NvmeTarget, target_from_context

INTERFACE = st.from_regex(r"[A-Za-z0-9_.-]{1,15}", fullmatch=True).filter(lambda name: name not in (".", ".."))
SMALL = frozenset(map(str, range(-1, 1000)))
values = st.fixed_dictionaries(
    {},
    optional={option.key: st.integers(option.minimum, option.maximum).map(str) for option in OPTIONS}
    | {HOST_IFACE_KEY: INTERFACE},
)


@given(values)
def test_a_connection_config_survives_the_context(parameters: dict[str, str]) -> None:
    # 0 is the kernel's.
    loss = int(parameters.get("ctrlLossTmo", "-1")) or 600
    delay, fast = int(parameters.get("reconnectDelay", "5")), int(parameters.get("fastIoFailTmo", "-1"))
    if 0 < loss < max(delay, fast):
        # Each value alone is allowed; together they make no sense.
        with pytest.raises(InvalidArgument, match="is above ctrlLossTmo"):
            ConnectionConfig.from_context(parameters)
        return
    config = ConnectionConfig.from_context(parameters)
    assert ConnectionConfig.from_context(config.to_context()) == config
    # The whole way: StorageClass, VolumeContext of CreateVolume, the publish context, NodeStageVolume.
    context = VolumeParameters.parse(parameters).to_context()
    target = {"nqn": "nqn.2026-01.io.example:v", "nvmeAddress": "10.0.0.1"}
    assert StageContext.parse({**target, **context}, {}).config == config
    assert StageContext.parse(target, context).config == config
    if parameters.keys() <= MUTABLE_KEYS:
        assert ConnectionConfig.from_context(parse_mutable(parameters)) == config
    assert {key: value for key, value in parameters.items() if key in context} == context


@given(st.sampled_from(OPTIONS), st.text(max_size=3) | st.integers(-2, 999).map(str))
def test_a_value_is_taken_only_as_it_is_written_back(option: Option, text: str) -> None:
    if text in SMALL and int(text) in range(option.minimum, option.maximum + 1):
        assert str(option.parse(text)) == text
    elif text not in SMALL and len(text) < 4:
        with pytest.raises(InvalidArgument, match=option.key):
            option.parse(text)


@pytest.mark.parametrize(
    "name", ["", " ", ".", "..", "a/b", "eth0,hostnqn=x", "eth 0", "e" * 16, "eth0\n", "éth0", "eth0:1", "\0"]
)
def test_what_is_no_interface_name_is_refused(name: str) -> None:
    with pytest.raises(InvalidArgument, match="'hostIface'"):
        ConnectionConfig.from_context({HOST_IFACE_KEY: name})


def test_an_interface_can_be_changed_for_a_volume_that_exists() -> None:
    assert parse_mutable({HOST_IFACE_KEY: "bond0.7"}) == {HOST_IFACE_KEY: "bond0.7"}


def test_the_defaults_leave_the_context_empty() -> None:
    assert ConnectionConfig().to_context() == {}
    assert ConnectionConfig.from_context({}) == ConnectionConfig()


def test_the_default_never_gives_a_connection_up() -> None:
    assert ConnectionConfig().ctrl_loss_tmo == -1


@pytest.mark.parametrize("option", OPTIONS, ids=lambda option: option.key)
@pytest.mark.parametrize(
    "text", ["", " 5", "5 ", "+5", "0x5", "05", "5.0", "1e3", "five", "٥", "--5", "-0", "-2", "99999999999", "5\n"]
)
def test_only_plain_decimal_integers_are_values(option: Option, text: str) -> None:
    with pytest.raises(InvalidArgument, match=option.key) as caught:
        ConnectionConfig.from_context({option.key: text})
    assert f"from {option.minimum} to {option.maximum}" in str(caught.value)


@pytest.mark.parametrize(
    "parameters",
    [
        {"ctrlLossTmo": "3", "reconnectDelay": "5"},
        {"ctrlLossTmo": "10", "fastIoFailTmo": "11"},
        {"ctrlLossTmo": "0", "reconnectDelay": "601"},
        {"ctrlLossTmo": "0", "fastIoFailTmo": "601"},
    ],
)
def test_combinations_without_sense_are_refused(parameters: dict[str, str]) -> None:
    with pytest.raises(InvalidArgument, match="is above ctrlLossTmo"):
        ConnectionConfig.from_context(parameters)


def test_an_unknown_parameter_is_named_with_the_nearest_known() -> None:
    with pytest.raises(InvalidArgument, match=r"'ctrllosstmo' \(did you mean 'ctrlLossTmo'\?\)"):
        VolumeParameters.parse({"ctrllosstmo": "5"})


def test_the_sidecars_own_parameters_are_let_through() -> None:
    assert VolumeParameters.parse({"csi.storage.k8s.io/pvc/name": "claim"}) == VolumeParameters()


def test_provisioning_is_thin_unless_thick_is_asked() -> None:
    assert VolumeParameters.parse({}).provisioning is Provisioning.THIN
    assert VolumeParameters.parse({"provisioning": "thick"}).provisioning is Provisioning.THICK
    with pytest.raises(InvalidArgument, match="thin or thick"):
        VolumeParameters.parse({"provisioning": "fat"})


@pytest.mark.parametrize("value", ["x" * 1025, "a\nb"])
def test_monstrous_values_are_refused(value: str) -> None:
    with pytest.raises(InvalidArgument):
        VolumeParameters.parse({"pool": value})


def test_only_connection_parameters_are_mutable() -> None:
    assert parse_mutable({"ctrlLossTmo": "600"}) == {"ctrlLossTmo": "600"}
    with pytest.raises(InvalidArgument, match="unknown mutable parameter 'pool'"):
        parse_mutable({"pool": "x"})
    assert "provisioning" not in MUTABLE_KEYS


hosts = st.sampled_from(["10.0.0.1", "fd00::1", "array.example.org", "a"])
nvme_targets = st.builds(
    NvmeTarget,
    st.just("nqn.2026-01.io.example:v"),
    st.lists(hosts, min_size=1, max_size=3).map(tuple),
    st.integers(1, 65535),
    st.sampled_from(["", "2f0a4a6e-6c55-4d8e-8f6f-1f7f1c6b9f4e"]),
)


@given(nvme_targets)
def test_an_nvme_target_survives_the_context(target: NvmeTarget) -> None:
    assert target_from_context(target.to_context()) == target


def test_a_file_target_survives_the_context() -> None:
    target = FileTarget("/var/lib/x.img")
    assert target_from_context(target.to_context()) == target


@pytest.mark.parametrize(
    "context",
    [
        {},
        {"nqn": "x", "nvmeAddress": "10.0.0.1"},
        {"nqn": "nqn.2026-01.io.example:v"},
        {"nqn": "nqn.2026-01.io.example:v", "nvmeAddress": "-bad-"},
        {"nqn": "nqn.2026-01.io.example:v", "nvmeAddress": "a", "nvmePort": "0"},
        {"nqn": "nqn.2026-01.io.example:v", "nvmeAddress": "a", "nvmePort": "99999"},
        {"nqn": "nqn.2026-01.io.example:v", "nvmeAddress": "a", "nvmePort": "٤٤٢٠"},
        {"nqn": "nqn.2026-01.io.example:v", "nvmeAddress": "a", "namespaceUuid": "no"},
        {"imageFile": "relative"},
        {"imageFile": "/a/../b"},
    ],
)
def test_a_context_without_a_proper_target_is_refused(context: dict[str, str]) -> None:
    with pytest.raises(InvalidArgument):
        target_from_context(context)


def test_the_publish_context_wins_over_the_volume_context() -> None:
    volume_context = {"nqn": "nqn.2026-01.io.example:v", "nvmeAddress": "10.0.0.1", "ctrlLossTmo": "60"}
    context = StageContext.parse(
        volume_context, {"nvmeAddress": "10.0.0.2", "ctrlLossTmo": "600", "size": "1048576", "attachment": "t"}
    )
    assert isinstance(context.target, NvmeTarget)
    assert context.target.addresses == ("10.0.0.2",)
    assert context.config.ctrl_loss_tmo == 600
    assert (context.size, context.attachment) == (1048576, "t")


@pytest.mark.parametrize("size", ["", "-1", "1.5", "9223372036854775808", "x"])
def test_a_size_that_is_none_is_refused(size: str) -> None:
    with pytest.raises(InvalidArgument, match="size"):
        StageContext.parse({"imageFile": "/x"}, {"size": size})
