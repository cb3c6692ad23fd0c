"""RouterOS scripts: a guarded command, or a look, as ONE line for one exec.

A script looks, decides and acts on the device, so nobody comes between; then it prints what is there and ends with a
line that holds a fresh nonce. Only that line says that the reply is whole: RouterOS prints errors on stdout and exits
with 0 (facts, 2.3). ``script_replies`` reads what comes back.

What is used of the language is small: ``:local :set :if :put :len :pick :find :typeof :onerror``, and ``&&`` whose two
sides are both always evaluated. Variables have one letter: in ``where`` a property would hide one of its name.
"""

import re
from collections.abc import Mapping

from rds_csi.arrays.routeros.commands import (
    AddDisk,
    AddSubvolume,
    Anchors,
    Command,
    Deed,
    Expect,
    MakeDirectory,
    RemoveDisk,
    RemoveFile,
    RemoveSubvolume,
    SetDisk,
    Step,
)
from rds_csi.arrays.routeros.values import check_properties, check_value, escape, normal_path, quote
from rds_csi.errors import InvalidArgument, ResourceExhausted

# Characters. RouterOS takes lines of up to 65,535; a cut command must never be run.
MAX_SCRIPT = 60_000

# The words that begin the lines of a reply.
DONE, ERROR, DISKS, FILES, UNREAD, END = "done", "error", "disks", "files", "unread", "end"
# What a step says, over either transport, when that is not there without which nothing can be called absent.
AWAY = "not there:"

_SUBVOLUME = "/disk/btrfs/subvolume"


def command_script(command: Command, nonce: str) -> str:
    """The script that does ``command``: a line ``done <index>`` (nothing behind it when no deed held), ``error <text>``
    when something was refused, then what is there, as JSON after the lines ``disks`` and ``files``."""
    return _checked(
        f':local n "";:local x "";'
        f":onerror e in={{{_decision(command)}}} do={{:set x ({_text('error ')} . $e)}};"
        f':put ("{DONE} " . $n);:if ([:len $x]>0) do={{:put $x}};'
        f':onerror e in={{:put "{DISKS}";{_put_disks(command.anchors)};:put "{FILES}";{_put_files(command.anchors)}}}'
        f' do={{:put ("{UNREAD} " . $e)}};{_end(nonce)}'
    )


def look_script(menu: str, where: str, nonce: str) -> str:
    """The script that prints the items of a menu as JSON; ``where`` may be empty."""
    return _checked(f':onerror e in={{{_put(menu, where)}}} do={{:put ("{ERROR} " . $e)}};{_end(nonce)}')


def disks_look(anchors: Anchors, nonce: str) -> str:
    """The script that prints the disks which the anchors find."""
    return look_script("/disk", disk_condition(anchors), nonce)


def files_look(directory: str, nonce: str) -> str:
    """The script that prints every file below ``directory``, and perhaps some that are not: the caller compares again.

    The condition is a regular expression in which whatever could mean something is any character.
    """
    pattern = re.sub(r"[^A-Za-z0-9/_-]", ".", normal_path(directory))
    return look_script("/file", f'name~"^{pattern}/"', nonce)


def facts_script(user: str, nonce: str) -> str:
    """The script that prints what the device is, a word and its value a line; no line of it is newer than RouterOS 7.1.

    The policies need a group that one may not be allowed to read: then their line is missing. So it is for a user
    whose name (``csi@example``) cannot stand in a script.
    """
    resource = "".join(
        f':put ("{word} " . [/system/resource/get {name}]);'
        for word, name in (("version", "version"), ("board", "board-name"), ("architecture", "architecture-name"))
    )
    packages = (
        ":foreach p in=[/system/package/find] do={:local r [/system/package/get $p];"
        ':put ("package " . ($r->"name") . " " . ($r->"disabled") . " " . ($r->"available"))};'
    )
    return _checked(f"{resource}{packages}{_policies(user) if user else ''}{_end(nonce)}")


def _policies(user: str) -> str:
    try:
        name = quote(user, "the user")
    except InvalidArgument:
        return ""
    return (
        f":do {{:local g [/user/get [/user/find where name={name}] group];"
        ':put ("policies " . [:tostr [/user/group/get [/user/group/find where name=$g] policy]])} on-error={};'
    )


def copy_script(source: str, destination: str, then: Command) -> str:
    """What a job does: copy, look whether the copy is whole, and only then the command. An error ends the job."""
    one, other = (f"[/file find where name={quote(path)}]" for path in (source, destination))
    return _checked(
        f':if ([:len {one}]!=1) do={{:error "no source"}};:if ([:len {other}]!=0) do={{:error "in the way"}};'
        f"/file copy {one} name={quote(destination)};"
        f':if ([/file get {one} size]!=[/file get {other} size]) do={{:error "not whole"}};'
        f':local n "";{_decision(then)}'
    )


def job_script(script: str, nonce: str) -> str:
    """The script that starts ``script`` as a job and prints the job's id."""
    return _checked(
        f':onerror e in={{:put [:execute script={escape(script)}]}} do={{:put ("{ERROR} " . $e)}};{_end(nonce)}'
    )


def disk_condition(anchors: Anchors) -> str:
    """What follows ``where`` to find the anchors' disks; paths are asked for in both forms (facts, 1.5)."""
    terms = [f"slot={quote(slot)}" for slot in anchors.slots]
    terms += [f"nvme-tcp-server-nqn={quote(nqn)}" for nqn in anchors.nqns]
    terms += [f"file-path={quote(form)}" for path in anchors.paths for form in (f"/{path}", path)]
    return f"({' || '.join(terms)})"


def file_condition(paths: tuple[str, ...]) -> str:
    """What follows ``where`` to find the files at ``paths``."""
    return f"({' || '.join(f'name={quote(path)}' for path in paths)})"


def _checked(script: str) -> str:
    if len(script) > MAX_SCRIPT:
        raise ResourceExhausted(f"the command takes {len(script)} characters, the array's console takes {MAX_SCRIPT}")
    return script


def _text(words: str) -> str:
    return f'"{words}"'


def _end(nonce: str) -> str:
    return f':put "{END} {nonce}"'


def _put(menu: str, where: str) -> str:
    """Print the items of a menu. ``detail`` is what real devices were seen to give every property for (facts, 1.8)."""
    condition = f" where {where}" if where else ""
    items = f"[{menu} print detail as-value{condition}]"
    return f":put [:serialize to=json options=json.no-string-conversion value={items}]"


def _put_disks(anchors: Anchors) -> str:
    return _put("/disk", disk_condition(anchors))


def _put_files(anchors: Anchors) -> str:
    return _put("/file", file_condition(anchors.paths)) if anchors.paths else ':put "[]"'


def _decision(command: Command) -> str:
    """Look, then do the first deed that holds. ``$d`` disks, ``$f`` files, ``$i`` the one disk, ``$c`` its comment (the
    concatenation makes "" of an unset one), ``$s`` its size (0 for an unset one), when a deed asks for it, ``$n`` the
    index of the deed that was begun."""
    files = f"[/file find where {file_condition(command.anchors.paths)}]" if command.anchors.paths else '""'
    # Looked up here and not in the condition, whose sides are all evaluated: without the disk that would be an error.
    size = ""
    if any(deed.expect.smaller for deed in command.deeds):
        size = ';:set s [:tonum [/disk get $i size]];:if ([:typeof $s]!="num") do={:set s 0}'
    look = (
        f":local d [/disk find where {disk_condition(command.anchors)}];:local f {files};"
        ':local i "";:local c "";:local s 0;'
        f':if ([:len $d]=1) do={{:set i [:pick $d 0];:set c ("" . [/disk get $i comment]){size}}};'
    )
    return look + ";".join(_deed(index, deed) for index, deed in enumerate(command.deeds))


def _deed(index: int, deed: Deed) -> str:
    # What makes a removal sure comes first: a disk must not go when its file then cannot be known to be gone.
    needed = [check for step in deed.steps if (check := _needed(step))]
    steps = "".join(f";{text}" for text in (*needed, *map(_step, deed.steps)))
    return f':if ({_condition(deed.expect)}) do={{:set n "{index}"{steps}}}'


def _condition(expect: Expect) -> str:
    terms = ['$n=""', f"[:len $d]={expect.disks}"]
    if expect.no_file:
        terms.append("[:len $f]=0")
    if expect.disk_id:
        # Ids are numbers, read as upper case whatever the device's spelling is.
        spellings = dict.fromkeys((expect.disk_id.upper(), expect.disk_id.lower()))
        terms.append("(" + " || ".join(f'("" . $i)="{text}"' for text in spellings) + ")")
    if expect.comment is not None:
        terms.append(f"$c={quote(expect.comment)}")
    if expect.smaller:
        terms.append(f"$s<{expect.smaller}")
    return " && ".join(terms)


def _step(step: Step) -> str:
    match step:
        case AddDisk(properties):
            return f":set i [/disk add {_arguments(properties)}]"
        case SetDisk(properties):
            return f"/disk set $i {_arguments(properties)}"
        case RemoveDisk():
            return '/disk set $i nvme-tcp-export="no";/disk remove $i'
        case MakeDirectory(path):
            where = f"[:len [/file find where name={quote(path)}]]=0"
            return f':if ({where}) do={{/file add type="directory" name={quote(path)}}}'
        case RemoveFile(path):
            return f"/file remove [/file find where name={quote(path)}]"
        case AddSubvolume(_, name):
            # A device that nests the new one, or takes the old one for it, would deliver old content.
            taken = f"[:len [{_SUBVOLUME} find where name={quote(name)}]]>0"
            add = f"{_SUBVOLUME} add {_arguments(subvolume_properties(step))}"
            return f':if ({taken}) do={{:error "already have such entry"}};{add}'
        case RemoveSubvolume(filesystem, name):
            same = f"name={quote(name)}"
            return (
                f"{_SUBVOLUME} remove [{_SUBVOLUME} find where (fs={quote(filesystem)} && {same})];"
                f':if ([:len [{_SUBVOLUME} find where {same}]]>0) do={{:error "the subvolume is still there"}}'
            )


def _needed(step: Step) -> str:
    """The command that refuses to go on without that by which a removal is sure; "" when the step needs nothing."""
    match step:
        case RemoveFile(_, within) if within:
            return _without("/file", f"name={quote(within)}", within)
        case RemoveSubvolume(filesystem, _, mounted) if mounted:
            return _without("/disk", f"(fs-label={quote(filesystem)} && mounted=true)", filesystem)
    return ""


def _without(menu: str, where: str, name: str) -> str:
    return f':if ([:len [{menu} find where {where}]]=0) do={{:error "{AWAY} {check_value(name, "a name")}"}}'


def subvolume_properties(step: AddSubvolume) -> dict[str, str]:
    """RouterOS's names and values for a new subvolume."""
    parent = {"parent": step.parent} if step.parent else {}
    return {"fs": step.filesystem, "name": step.name, **parent, "read-only": "yes" if step.read_only else "no"}


def _arguments(properties: Mapping[str, str]) -> str:
    check_properties(properties)
    return " ".join(f"{name}={quote(value, name)}" for name, value in properties.items())
