"""The URL of a RouterOS array, the files with its secrets, and the pauses after failures."""

import os
from dataclasses import dataclass
from pathlib import Path

import pytest

from rds_csi.arrays.routeros.errors import (
    BadCredentials,
    GarbageReply,
    LostReply,
    NotPermitted,
    Refused,
    TlsMistrust,
    Unsent,
    is_certainly_undone,
)
from rds_csi.arrays.routeros.options import Fencing, RestOptions, SnapshotMeans, SshOptions, cluster_of, parse
from rds_csi.arrays.routeros.pauses import Pauses
from rds_csi.arrays.routeros.secrets import Credentials, examine, read_password, read_users
from rds_csi.arrays.url import parse_array_url
from rds_csi.errors import ConfigurationError, DriverError
from rds_csi.retry import Pace
from tests.support.clock import FakeClock

SSH = "routeros+ssh://csi@192.0.2.1/?pool=raid10&key-file=/k&known-hosts=/h"
HTTPS = "routeros+https://csi@192.0.2.1/?pool=raid10&password-file=/p&tls-ca=/ca"


@dataclass(frozen=True)
class Naming:
    nqn_prefix: str = "nqn.2026-01.io.rds-csi:"
    driver_name: str = "rds.csi.test"


class TestUrls:
    def test_a_short_ssh_url_gets_the_defaults(self) -> None:
        options = parse(SSH, Naming())
        assert options.transport == SshOptions("192.0.2.1", "csi", "/k", "/h", 22, False, 4)
        assert (options.pool, options.base, options.cluster) == ("raid10", "rds-csi", "default")
        assert (options.nvme_addresses, options.nvme_port) == (("192.0.2.1",), 4420)
        assert (options.fencing, options.snapshots) == (Fencing.NONE, SnapshotMeans.NONE)
        assert (options.driver_name, options.nqn_prefix) == ("rds.csi.test", "nqn.2026-01.io.rds-csi:")

    def test_every_ssh_key_is_understood(self) -> None:
        options = parse(
            "routeros+ssh://a.b@rds.example:2222/?pool=p1&key-file=/k&known-hosts=/h&accept-first-host-key=yes"
            "&channels=2&base=a/b&cluster=prod&nvme-address=192.0.2.7,2001:db8::1&nvme-port=4421"
            "&fencing=allow-host&snapshots=btrfs-subvolume",
            Naming(),
        )
        assert options.transport == SshOptions("rds.example", "a.b", "/k", "/h", 2222, True, 2)
        assert (options.base, options.cluster) == ("a/b", "prod")
        assert (options.nvme_addresses, options.nvme_port) == (("192.0.2.7", "2001:db8::1"), 4421)
        assert (options.fencing, options.snapshots) == (Fencing.ALLOW_HOST, SnapshotMeans.BTRFS_SUBVOLUME)

    def test_a_rest_url_has_a_ca_or_a_fingerprint(self) -> None:
        assert parse(HTTPS, Naming()).transport == RestOptions("192.0.2.1", "csi", "/p", tls_ca="/ca")
        colons = ":".join(["AB"] * 32)
        options = parse(f"routeros+https://[2001:db8::1]:8443/?pool=p&users-file=/u&tls-fingerprint={colons}", Naming())
        assert options.transport == RestOptions("2001:db8::1", users_file="/u", tls_fingerprint="ab" * 32, port=8443)
        assert options.nvme_addresses == ("2001:db8::1",)

    @pytest.mark.parametrize(
        ("url", "message"),
        [
            ("ssh://csi@192.0.2.1/", "another scheme"),
            ("routeros+ssh:///?pool=p&key-file=/k&known-hosts=/h", "no host"),
            ("routeros+ssh://csi@[192.0.2.1/?pool=p", "cannot be taken apart"),
            ("routeros+ssh://csi@192.0.2.1:99999/?pool=p", "cannot be taken apart"),
            (SSH.replace("csi@", ""), "no usable user name"),
            (SSH.replace("csi@", "c*i@"), "no usable user name"),
            (SSH.replace("/?", "/raid10?"), "has a path"),
            (SSH.replace("pool=raid10&", ""), "does not name pool"),
            (SSH.replace("raid10", ""), "does not name pool"),
            (SSH.replace("raid10", "a%20b"), "pool has the value"),
            (SSH.replace("raid10", "%24x"), "pool has the value"),
            (SSH.replace("&key-file=/k", ""), "does not name key-file"),
            (SSH.replace("=/k", "=k"), "not an absolute path"),
            (SSH.replace("&known-hosts=/h", ""), "does not name known-hosts"),
            (SSH + "&password-file=/p", "unknown key 'password-file'"),
            (SSH + "&pool=x", "a key twice"),
            (SSH + "&accept-first-host-key=true", "neither yes nor no"),
            (SSH + "&channels=0", "from 1 to 20"),
            (SSH + "&channels=21", "from 1 to 20"),
            (SSH + "&channels=%D9%A3", "from 1 to 20"),
            (SSH + "&nvme-port=65536", "from 1 to 65535"),
            (SSH + "&nvme-address=", "neither an IP address"),
            (SSH + "&nvme-address=192.0.2.1,192.0.2.1", "twice"),
            (SSH + "&base=", "base has the value"),
            (SSH + "&base=/a", "base has the value"),
            (SSH + "&base=a/../b", "base has the value"),
            (SSH + "&cluster=a/b", "cluster has the value"),
            (SSH + "&fencing=allow-hosts", "did you mean 'allow-host'"),
            (SSH + "&snapshots=copy-from", "known are none, btrfs-subvolume, file-copy"),
            (HTTPS + "&users-file=/u", "either password-file or users-file"),
            (HTTPS.replace("&password-file=/p", ""), "either password-file or users-file"),
            (HTTPS.replace("password-file", "users-file"), "names a user and a users-file"),
            (HTTPS.replace("&tls-ca=/ca", ""), "either tls-ca or tls-fingerprint"),
            (HTTPS.replace("tls-ca=/ca", "tls-fingerprint=abc"), "64 hexadecimal digits"),
            (HTTPS + "&key-file=/k", "unknown key 'key-file'"),
        ],
    )
    def test_a_wrong_url_is_refused_in_one_sentence(self, url: str, message: str) -> None:
        with pytest.raises(ConfigurationError, match=message):
            parse(url, Naming())

    @pytest.mark.parametrize(
        "url",
        [
            SSH.replace("csi@", "csi:hunter2@"),
            SSH.replace("csi@", "csi:hun/hunter2@"),
            SSH.replace("csi@", "csi:a#hunter2@"),
            SSH.replace("csi@", "csi:a?hunter2@"),
            SSH.replace("csi@", ":hunter2@"),
            HTTPS + "&password=hunter2",
            HTTPS + "&hunter2",
        ],
    )
    def test_a_password_in_the_url_is_refused_and_not_repeated(self, url: str) -> None:
        with pytest.raises(ConfigurationError) as caught:
            parse(url, Naming())
        if not url.endswith("&hunter2"):
            assert "hunter2" not in str(caught.value)

    def test_the_files_with_secrets_are_told_for_examination(self) -> None:
        assert parse(SSH, Naming()).transport.secret_files == (("the key file", "/k"),)
        assert parse(HTTPS, Naming()).transport.secret_files == (("the password file", "/p"),)
        users = HTTPS.replace("csi@", "").replace("password-file", "users-file")
        assert parse(users, Naming()).transport.secret_files == (("the users file", "/p"),)

    def test_other_arrays_still_take_no_user(self) -> None:
        with pytest.raises(ConfigurationError, match="user name or password"):
            parse_array_url("nvmet://somebody@192.0.2.1", form="…")
        assert parse_array_url("x://some%2Ebody@h", form="…", user=True).user == "some.body"

    @pytest.mark.parametrize(
        ("prefix", "cluster"),
        [
            ("nqn.2026-01.io.rds-csi:", "default"),
            ("nqn.2026-01.io.rds-csi:prod:", "prod"),
            ("nqn.2026-01.io.rds-csi:prod.", "prod"),
            ("nqn.2026-01.io.rds-csi:site:prod.", "prod"),
        ],
    )
    def test_the_cluster_is_what_the_prefix_ends_with(self, prefix: str, cluster: str) -> None:
        assert cluster_of(prefix) == cluster
        assert parse(SSH, Naming(prefix)).cluster == cluster


class TestSecretFiles:
    @pytest.mark.parametrize(
        ("content", "password"), [(b"x", "x"), (b"x\n", "x"), (b"x\r\n", "x"), (b" x \n", " x "), (b"\xc3\xa9\n", "é")]
    )
    def test_one_line_end_is_not_part_of_the_password(self, tmp_path: Path, content: bytes, password: str) -> None:
        (tmp_path / "p").write_bytes(content)
        assert read_password(str(tmp_path / "p")) == password

    @pytest.mark.parametrize("content", [b"", b"\n", b"a\nhunter2\n", b"hunter2\x00", b"hunter2\xff", b"x" * 2_000_000])
    def test_a_file_that_holds_no_password_is_refused_by_its_name_alone(self, tmp_path: Path, content: bytes) -> None:
        (tmp_path / "p").write_bytes(content)
        with pytest.raises(BadCredentials) as caught:
            read_password(str(tmp_path / "p"))
        assert str(tmp_path / "p") in str(caught.value)
        assert "hunter2" not in str(caught.value)
        assert caught.value.remedy

    def test_a_missing_file_is_no_empty_password(self, tmp_path: Path) -> None:
        with pytest.raises(BadCredentials, match="No such file"):
            read_password(str(tmp_path / "p"))

    def test_a_users_file_has_a_user_a_line(self, tmp_path: Path) -> None:
        (tmp_path / "u").write_text("csi-1:a:b\n\ncsi-2: c\n")
        assert read_users(str(tmp_path / "u")) == (Credentials("csi-1", "a:b"), Credentials("csi-2", " c"))

    @pytest.mark.parametrize("text", ["hunter2", "csi:", ":hunter2", "a:b\na:hunter2", "c*i:hunter2"])
    def test_a_wrong_line_is_told_by_its_number_only(self, tmp_path: Path, text: str) -> None:
        (tmp_path / "u").write_text(text)
        with pytest.raises(BadCredentials, match=r"line \d") as caught:
            read_users(str(tmp_path / "u"))
        assert "hunter2" not in str(caught.value)

    def test_no_text_of_credentials_shows_the_password(self) -> None:
        credentials = Credentials("csi", "hunter2")
        assert "hunter2" not in f"{credentials} {credentials!r} {(credentials,)}"

    def test_a_file_that_everybody_may_read_is_told_with_the_remedy_and_works(self, tmp_path: Path) -> None:
        path = tmp_path / "p"
        path.write_text("x")
        os.chmod(path, 0o644)
        finding = examine(str(path), "the password file")
        assert finding.ok
        assert "0644" in finding.message
        assert finding.remedy == f"chmod o-rwx {path}"
        assert read_password(str(path)) == "x"
        os.chmod(path, 0o640)
        assert examine(str(path), "the password file").remedy == ""
        path.unlink()
        assert not examine(str(path), "the password file").ok


class TestPauses:
    def test_they_double_up_to_the_largest_and_success_ends_them(self) -> None:
        clock = FakeClock()
        pauses = Pauses(clock.clock, Pace(1.0, 30.0))
        lasted = []
        for _ in range(7):
            pauses.failed(Unsent("away"))
            begun = clock.seconds
            while self._is_over(pauses) is False:
                clock.seconds += 0.5
            lasted.append(clock.seconds - begun)
        assert lasted == [1, 2, 4, 8, 16, 30, 30]
        pauses.succeeded()
        pauses.failed(Unsent("away again"))
        clock.seconds += 1
        assert self._is_over(pauses)

    def test_every_caller_gets_an_exception_of_its_own(self) -> None:
        pauses = Pauses(FakeClock().clock)
        first = TlsMistrust("expired", remedy="Renew it.")
        pauses.failed(first)
        with pytest.raises(TlsMistrust, match=r"expired\. Renew it\.") as caught:
            pauses.check()
        assert caught.value is not first

    def _is_over(self, pauses: Pauses) -> bool:
        try:
            pauses.check()
        except Unsent:
            return False
        return True


@pytest.mark.parametrize(
    ("error", "undone"),
    [
        (Unsent("x"), True),
        (Refused("x", text="failure"), True),
        (NotPermitted("x"), True),
        (TlsMistrust("x"), True),
        (LostReply("x"), False),
        (GarbageReply("x"), False),
    ],
)
def test_each_failure_says_whether_something_may_have_been_done(error: DriverError, undone: bool) -> None:
    assert is_certainly_undone(error) is undone
