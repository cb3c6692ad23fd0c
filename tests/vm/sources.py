"""The machine's own apt sources, read so that kernels come from wherever this machine gets its packages."""

import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

# sources.list(5), "THE DEB AND DEB-SRC TYPES: OPTIONS": these names differ between the two formats.
_RENAMED_OPTIONS = {"arch": "Architectures", "lang": "Languages", "target": "Targets"}


@dataclass(frozen=True, slots=True)
class Source:
    """One stanza of a deb822 sources file: its fields, names in lower case, values as they were written."""

    fields: Mapping[str, str]

    def words(self, name: str) -> tuple[str, ...]:
        """The words of a multi-value field; none when the field is missing."""
        return tuple(self.fields.get(name, "").split())

    @property
    def is_debian_binary(self) -> bool:
        """Whether it is switched on and offers ready-made packages of a component called main."""
        enabled = self.fields.get("enabled", "yes").strip().lower() not in {"no", "false", "0", "off"}
        return enabled and "deb" in self.words("types") and "main" in self.words("components")

    def only(self, *suites: str) -> "Source":
        """The same place, keys and options, for other suites and the component main."""
        return Source({**self.fields, "types": "deb", "suites": " ".join(suites), "components": "main"})

    def to_deb822(self) -> str:
        """The stanza as apt reads it."""
        return "".join(f"{name.title()}: {value}\n" for name, value in self.fields.items())


def read_sources(directory: Path) -> tuple[Source, ...]:
    """Every source below an ``/etc/apt``: sources.list, sources.list.d/*.list and *.sources."""
    parts = directory / "sources.list.d"
    one_line = [directory / "sources.list", *sorted(parts.glob("*.list"))]
    found = [source for path in one_line if path.is_file() for source in parse_one_line(path.read_text())]
    for path in sorted(parts.glob("*.sources")):
        found.extend(parse_deb822(path.read_text()))
    return tuple(found)


def parse_one_line(text: str) -> Iterator[Source]:
    """The entries of a sources.list: ``deb [option=value …] uri suite component…``."""
    for line in text.splitlines():
        words = shlex.split(line.replace("[", " [ ").replace("]", " ] "), comments=True)
        if not words:
            continue
        fields = {"types": words.pop(0)}
        if words[:1] == ["["]:
            end = words.index("]")
            fields |= dict(_option(word) for word in words[1:end])
            words = words[end + 1 :]
        if len(words) >= 2:
            yield Source({**fields, "uris": words[0], "suites": words[1], "components": " ".join(words[2:])})


def _option(word: str) -> tuple[str, str]:
    name, _, value = word.partition("=")
    return _RENAMED_OPTIONS.get(name, name).lower(), value.replace(",", " ")


def parse_deb822(text: str) -> Iterator[Source]:
    """The stanzas of a .sources file; a value keeps its continuation lines (an embedded key has many)."""
    fields: dict[str, str] = {}
    name = ""
    for line in [*text.splitlines(), ""]:
        if line.startswith("#"):
            continue
        if line[:1] in {" ", "\t"} and name:
            fields[name] += f"\n{line}"
        elif ":" in line:
            name, _, value = line.partition(":")
            name = name.strip().lower()
            fields[name] = value.strip()
        elif not line.strip() and fields:
            yield Source(fields)
            fields, name = {}, ""
