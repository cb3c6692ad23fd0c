"""The machine's own apt sources, as the kernel lane reads them."""

from pathlib import Path

from tests.vm.sources import Source, parse_deb822, parse_one_line, read_sources

WITH_KEY = """\
# A comment
Types: deb deb-src
URIs: http://mirror.test/debian
Suites: bookworm bookworm-updates
Components: main contrib
Signed-By:
 -----BEGIN PGP PUBLIC KEY BLOCK-----
 .
 mQINBF
 -----END PGP PUBLIC KEY BLOCK-----

Enabled: no
Types: deb
URIs: http://off.test/debian
Suites: bookworm
Components: main
"""


def test_a_stanza_keeps_its_place_and_its_embedded_key() -> None:
    on, off = parse_deb822(WITH_KEY)

    assert on.is_debian_binary
    assert not off.is_debian_binary
    assert on.words("suites") == ("bookworm", "bookworm-updates")
    assert on.only("bookworm-backports").to_deb822() == (
        "Types: deb\n"
        "Uris: http://mirror.test/debian\n"
        "Suites: bookworm-backports\n"
        "Components: main\n"
        "Signed-By: \n -----BEGIN PGP PUBLIC KEY BLOCK-----\n .\n mQINBF\n -----END PGP PUBLIC KEY BLOCK-----\n"
    )


def test_what_is_written_is_read_back() -> None:
    for source in parse_deb822(WITH_KEY):
        assert list(parse_deb822(source.to_deb822())) == [source]


def test_a_line_becomes_a_stanza_with_its_options() -> None:
    text = """\
    # deb http://commented.test/debian bookworm main
    deb [ signed-by=/usr/share/keyrings/a.gpg arch=amd64,i386 ] http://mirror.test/debian bookworm main contrib  # more
    deb-src http://mirror.test/debian bookworm main
    deb http://flat.test ./
    """
    binary, source_code, flat = parse_one_line(text)

    assert binary == Source(
        {
            "types": "deb",
            "signed-by": "/usr/share/keyrings/a.gpg",
            "architectures": "amd64 i386",
            "uris": "http://mirror.test/debian",
            "suites": "bookworm",
            "components": "main contrib",
        }
    )
    assert binary.is_debian_binary
    assert not source_code.is_debian_binary
    assert not flat.is_debian_binary


def test_both_formats_are_found_and_other_files_are_not(tmp_path: Path) -> None:
    parts = tmp_path / "sources.list.d"
    parts.mkdir()
    (tmp_path / "sources.list").write_text("deb http://one.test bookworm main\n")
    (parts / "two.list").write_text("deb http://two.test bookworm main\n")
    (parts / "three.sources").write_text("Types: deb\nURIs: http://three.test\nSuites: bookworm\nComponents: main\n")
    (parts / "four.list.disabled").write_text("deb http://four.test bookworm main\n")

    assert [source.words("uris")[0] for source in read_sources(tmp_path)] == [
        "http://one.test",
        "http://two.test",
        "http://three.test",
    ]
