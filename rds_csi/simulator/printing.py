"""What ``print`` shows to people: tables, ``detail`` and legends, rounded and wrapped, with CRLF; not for programs."""

from collections.abc import Iterable, Sequence

from rds_csi.simulator.menu import Item, Menu, Value

# Columns of a console that nobody has asked for its width.
DEFAULT_WIDTH = 80
_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")
# Below this many of a unit, the next larger one is not used: 1 GiB shows as 1024.0MiB, 1 TiB as 1024.0GiB,
# 50 GiB as 50.0GiB, 5.5 TiB as 5.5TiB (seen on devices; the limit itself lies between 3017 and 5632).
_UNIT_LIMIT = 4096
# Exact, in groups of three digits.
_GROUPED = frozenset({"size", "free", "total-inodes", "free-inodes", "in-flight-ops", "read-ops", "write-ops"})
# Rounded to one decimal.
_ROUNDED = frozenset({"file-size", "total-memory", "free-memory", "total-hdd-space", "free-hdd-space"})
# Words that are never quoted; other texts of detail are. /file quotes nothing.
_BARE = frozenset(
    {
        *("type", "fs", "use", "file-path", "raid-type", "raid-chunk-size", "raid-max-component-size", "raid-master"),
        *("raid-role", "media-interface", "creation-time", "uuid", "default-subvolume", "received-uuid"),
    }
)
# Positions of the flags column of /disk before 7.24; later releases have one for each group in use.
_WIDE_FLAGS = 11
# Columns of the console that detail leaves free: one of 80 wrapped a line of 79.
_MARGIN = 2
_EOL = "\r\n"


def rounded(size: int) -> str:
    """Bytes as ``50.0GiB``, ``1024.0MiB``, ``512B``."""
    value, unit = float(size), 0
    while value >= _UNIT_LIMIT and unit < len(_UNITS) - 1:
        value, unit = value / 1024, unit + 1
    return f"{size}B" if unit == 0 else f"{value:.1f}{_UNITS[unit]}"


def grouped(number: int) -> str:
    """``53 687 091 200``."""
    return f"{number:,}".replace(",", " ")


def shown(menu: Menu, name: str, value: Value, *, quoted: bool) -> str:
    """A value as ``print`` shows it; texts are in quotes in ``detail`` of most menus."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        if menu.path == "/file" or name in _ROUNDED:
            return rounded(value)
        return grouped(value) if name in _GROUPED else str(value)
    if isinstance(value, tuple):
        return ",".join(value)
    text = "" if value is None else value
    return f'"{text}"' if quoted and name not in _BARE and menu.path != "/file" else text


def print_detail(menu: Menu, items: Sequence[Item], *, width: int = DEFAULT_WIDTH, wide_flags: bool = False) -> str:
    """``print detail``; ``wide_flags`` for a release before 7.24."""
    lines = _legend(menu, items)
    places = _places(menu, items, wide_flags=wide_flags)
    for index, item in enumerate(items):
        head = f"{index:>2} {_letters(menu, item, places)} "
        indent = " " * len(head)
        if index:
            lines.append(" ")
        if comment := item.values.get("comment"):
            lines.append(f"{head};;; {comment}")
            head = indent
        lines += _wrapped(_tokens(menu, item), head, indent, width)
    return _text(lines)


def print_table(menu: Menu, items: Sequence[Item], *, width: int = DEFAULT_WIDTH) -> str:
    """``print``: the menu's columns that hold something, as many as the width takes."""
    lines = _legend(menu, items)
    if not items:
        return _text(lines)
    rows = [[_cell(menu, item, name) for name in menu.columns] for item in items]
    used = [place for place in range(len(menu.columns)) if any(row[place] for row in rows)]
    names = [name.upper() for name in menu.columns]
    widths = [max(len(names[place]), *(len(row[place]) for row in rows)) for place in used]
    places = _places(menu, items, wide_flags=False)
    first = len(str(len(items) - 1)) + 1 + (len(places) + 1 if places else 0)
    kept = _fitting(widths, width - first)
    used, widths = used[:kept], widths[:kept]
    lines.append("Columns: " + ", ".join(names[place] for place in used))
    lines.append("#".ljust(first) + _row([names[place] for place in used], widths))
    for index, (item, row) in enumerate(zip(items, rows, strict=True)):
        if comment := item.values.get("comment"):
            lines.append(f";;; {comment}")
        letters = _letters(menu, item, places)
        head = f"{index:>{len(str(len(items) - 1))}} " + (f"{letters} " if places else "")
        lines.append(head + _row([row[place] for place in used], widths))
    return _text(lines)


def print_properties(menu: Menu, item: Item) -> str:
    """A singleton: ``key: value`` rows, the keys to the right."""
    longest = max((len(name) for name in item.values), default=0)
    return _text(
        [f"{name:>{longest}}: {shown(menu, name, value, quoted=False)}" for name, value in item.values.items()]
    )


def print_terse(menu: Menu, items: Sequence[Item]) -> str:
    """``print terse``: one line for each item, values with blanks as they are: nobody can parse it."""
    places = _places(menu, items, wide_flags=False)
    lines = []
    for index, item in enumerate(items):
        tokens = [f"{name}={shown(menu, name, value, quoted=False)}" for name, value in _visible(menu, item)]
        if comment := item.values.get("comment"):
            tokens.insert(0, f"comment={comment}")
        lines.append(f"{index:>2} {_letters(menu, item, places)} " + " ".join(tokens))
    return _text(lines)


def human(
    menu: Menu, items: Sequence[Item], *, detail: bool, width: int = DEFAULT_WIDTH, wide_flags: bool = False
) -> str:
    """What ``print`` or ``print detail`` of a menu shows; ``wide_flags`` for a release before 7.24."""
    if menu.singleton:
        return "".join(print_properties(menu, item) for item in items)
    if detail or not menu.columns:
        return print_detail(menu, items, width=width, wide_flags=wide_flags and menu.path == "/disk")
    return print_table(menu, items, width=width)


def _text(lines: Iterable[str]) -> str:
    return "".join(line + _EOL for line in lines)


def _legend(menu: Menu, items: Sequence[Item]) -> list[str]:
    """Only letters in use; all of them when there is nothing to show. Those of one position stand together."""
    groups: dict[int, list[str]] = {}
    for flag in menu.flags:
        if not items or any(item.values.get(flag.property) is True for item in items):
            groups.setdefault(flag.column, []).append(f"{flag.letter} - {flag.legend}")
    return ["Flags: " + "; ".join(", ".join(group) for group in groups.values())] if groups else []


def _places(menu: Menu, items: Sequence[Item], *, wide_flags: bool) -> tuple[int, ...]:
    if wide_flags:
        return tuple(range(_WIDE_FLAGS))
    used = {flag.column for flag in menu.flags if any(item.values.get(flag.property) is True for item in items)}
    if not used and menu.path == "/file":
        # As captured: three blanks after the number although the menu has no flags.
        return (0,)
    return tuple(sorted(used))


def _letters(menu: Menu, item: Item, places: tuple[int, ...]) -> str:
    letters = dict.fromkeys(places, " ")
    for flag in reversed(menu.flags):
        if item.values.get(flag.property) is True:
            letters[flag.column] = flag.letter
    return "".join(letters.values())


def _visible(menu: Menu, item: Item) -> list[tuple[str, Value]]:
    """Without the comment and without what only the flags column tells."""
    hidden = {flag.property for flag in menu.flags if not flag.shown} | {"comment", "contents"}
    return [(name, value) for name, value in item.values.items() if name not in hidden]


def _tokens(menu: Menu, item: Item) -> list[str]:
    return [f"{name}={shown(menu, name, value, quoted=True)}" for name, value in _visible(menu, item)]


def _wrapped(tokens: Sequence[str], head: str, indent: str, width: int) -> list[str]:
    """Tokens stay whole while they fit into a line; a longer one is cut wherever the line ends."""
    lines, line, empty = [], head, True
    room = max(width - _MARGIN, len(indent) + 8)
    for token in tokens:
        if not empty and len(line) + 1 + len(token) > room:
            lines.append(line)
            line, empty = indent, True
        line += token if empty else f" {token}"
        empty = False
        while len(line) > room:
            lines.append(line[:room])
            line = indent + line[room:]
    return [*lines, line]


def _cell(menu: Menu, item: Item, name: str) -> str:
    value = item.values.get(name)
    return "" if value is None else shown(menu, name, value, quoted=False)


def _fitting(widths: Sequence[int], room: int) -> int:
    """How many columns, two blanks apart, fit; at least one."""
    total = 0
    for kept, width in enumerate(widths):
        total += width + (2 if kept else 0)
        if total > room and kept:
            return kept
    return len(widths)


def _row(cells: Sequence[str], widths: Sequence[int]) -> str:
    return "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip()
