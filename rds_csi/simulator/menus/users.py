"""/user, /user/group, /user/ssh-keys and /user/active: who may do what, and who is there."""

import hmac
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from rds_csi.simulator.device_options import ALL_POLICIES, BUILTIN_GROUPS, GroupOptions, UserOptions
from rds_csi.simulator.menu import NO_SUCH_ITEM, ArgumentKind, Item, RouterosError, Value
from rds_csi.simulator.menus.base import READING, BaseMenu, TableMenu, editing, typed
from rds_csi.simulator.menus.services import check_networks, is_within
from rds_csi.simulator.versions import Version

_TEXT, _BOOLEAN, _LIST = ArgumentKind.TEXT, ArgumentKind.BOOLEAN, ArgumentKind.LIST
_READ, _POLICY = frozenset({"read"}), frozenset({"policy"})


@dataclass(frozen=True, slots=True)
class User:
    """Who runs a command: the name, and the policies of the group at the moment of the look."""

    name: str
    group: str
    policies: frozenset[str]
    password: str = field(default="", repr=False)
    keys: tuple[str, ...] = ()
    networks: tuple[str, ...] = ()
    """Where the user may come from; empty: from anywhere."""

    def may_come_from(self, peer: str) -> bool:
        """Whether the user's ``address`` admits that IP address."""
        return is_within(peer, self.networks)

    def may_use(self, password: str) -> bool:
        """Whether that is the user's password."""
        return hmac.compare_digest(self.password.encode(), password.encode())


class _PolicyTable(TableMenu):
    """A table that only users with the policy ``policy`` may change."""

    def policies(self, command: str) -> frozenset[str]:
        return _READ if command in READING else _POLICY

    def required(self, command: str) -> tuple[str, ...]:
        return self._required if command == "add" else ()

    _required: tuple[str, ...] = ()

    _duplicate = "failure: already have such entry"

    def named(self, name: str) -> Item | None:
        return next((item for item in self.items() if item.values.get("name") == name), None)

    def _require_free(self, name: str, item_id: str = "") -> None:
        """Refuses the name of another item, and none at all."""
        if not name:
            raise RouterosError("invalid value for argument name")
        taken = self.named(name)
        if taken is not None and taken.id != item_id.upper():
            raise RouterosError(self._duplicate)

    def _complete(self, values: Mapping[str, str]) -> None:
        missing = [name for name in self._required if not values.get(name)]
        if missing:
            raise RouterosError(f"missing value(s) of argument(s) {' '.join(missing)}")


class GroupMenu(_PolicyTable):
    """/user/group: ``policy`` shows what is denied with an exclamation mark."""

    _required = ("name",)

    def __init__(self, version: Version, groups: Iterable[GroupOptions]) -> None:
        super().__init__(
            "/user/group",
            version,
            editing({"name": _TEXT, "policy": _LIST, "skin": _TEXT, "comment": _TEXT}),
            columns=("name", "policy", "skin"),
        )
        for group in (*BUILTIN_GROUPS, *groups):
            self.put({"name": group.name, "policy": _shown(group.policies), "skin": "default"})

    def granted(self, group: str) -> frozenset[str]:
        """The policies of a group; none for one that is not there."""
        item = self.named(group)
        policies = () if item is None else item.values["policy"]
        granted = policies if isinstance(policies, tuple) else ()
        return frozenset(name for name in granted if not name.startswith("!"))

    async def add(self, values: Mapping[str, str]) -> str:
        self._complete(values)
        self._require_free(values["name"])
        policies = _changed(frozenset(), values.get("policy", ""))
        comment = {"comment": values["comment"]} if values.get("comment") else {}
        return self.put({"name": values["name"], "policy": _shown(policies), "skin": "default", **comment}).id

    async def set(self, item_id: str, values: Mapping[str, str]) -> None:
        item = self.known(item_id)
        if values.get("name", item.values["name"]) != item.values["name"]:
            # Its users would have to follow.
            raise RouterosError("failure: /user/group set name is not simulated")
        others = {name: value for name, value in values.items() if name != "policy"}
        if "policy" in values:
            name = item.values["name"]
            item.values["policy"] = _shown(_changed(self.granted(str(name)), values["policy"]))
        await super().set(item_id, others)

    async def remove(self, item_id: str) -> None:
        if self.known(item_id).values["name"] in {group.name for group in BUILTIN_GROUPS}:
            raise RouterosError("failure: cannot remove builtin")
        await super().remove(item_id)


class UserMenu(_PolicyTable):
    """/user: passwords are taken and never shown. ``keys`` are those of each user, by the id of the user's item."""

    _required = ("name", "group")
    _duplicate = "failure: user with the same name already exists"

    def __init__(self, version: Version, groups: GroupMenu, users: Iterable[UserOptions]) -> None:
        settable = {"name": _TEXT, "group": _TEXT, "password": _TEXT, "address": _LIST}
        settable |= {"comment": _TEXT, "disabled": _BOOLEAN, "inactivity-timeout": _TEXT}
        super().__init__("/user", version, editing(settable), columns=("name", "group", "address"))
        self._groups = groups
        self._passwords: dict[str, str] = {}
        self.keys: dict[str, tuple[str, ...]] = {}
        for user in users:
            item = self._put(user.name, user.group)
            self._passwords[item.id] = user.password
            self.keys[item.id] = user.keys

    def user(self, name: str) -> User | None:
        """The user as the tables say at this moment; None: nobody, or disabled."""
        item = self.named(name)
        if item is None or item.values.get("disabled") is True:
            return None
        group = str(item.values["group"])
        networks = item.values.get("address")
        return User(
            name=name,
            group=group,
            policies=self._groups.granted(group),
            password=self._passwords.get(item.id, ""),
            keys=self.keys.get(item.id, ()),
            networks=networks if isinstance(networks, tuple) else (),
        )

    async def add(self, values: Mapping[str, str]) -> str:
        self._complete(values)
        self._require_free(values["name"])
        self._check(values)
        item = self._put(values["name"], values["group"])
        await self.set(item.id, values)
        return item.id

    async def remove(self, item_id: str) -> None:
        await super().remove(item_id)
        self._passwords.pop(item_id.upper(), None)
        self.keys.pop(item_id.upper(), None)

    def _check(self, values: Mapping[str, str]) -> None:
        if "group" in values:
            self._require_group(values["group"])
        check_networks("address", values.get("address", ""))
        if values.get("inactivity-timeout", "none") != "none":
            raise RouterosError("failure: /user inactivity-timeout is not simulated")

    async def set(self, item_id: str, values: Mapping[str, str]) -> None:
        item = self.known(item_id)
        self._require_free(values.get("name", str(item.values["name"])), item_id)
        self._check(values)
        if "password" in values:
            self._passwords[item.id] = values["password"]
        await super().set(item_id, {name: value for name, value in values.items() if name != "password"})

    def _put(self, name: str, group: str) -> Item:
        return self.put({"name": name, "group": group, "address": (), "disabled": False})

    def _require_group(self, group: str) -> None:
        if self._groups.named(group) is None:
            raise RouterosError("input does not match any value of group")


class KeyMenu(_PolicyTable):
    """/user/ssh-keys: public keys, given as text or imported from a file."""

    def __init__(self, version: Version, users: UserMenu, read: Callable[[str], str]) -> None:
        commands = editing({"user": _TEXT, "key": _TEXT})
        commands["import"] = {"user": _TEXT, "public-key-file": _TEXT}
        super().__init__("/user/ssh-keys", version, commands, columns=("user", "key-owner"))
        self._users = users
        self._read = read
        # The item of each key's user: a key follows its user to another name, and goes with it.
        self._owners: dict[str, str] = {}
        for user_id, keys in users.keys.items():
            for key in keys:
                self._put(user_id, key)

    def items(self) -> Sequence[Item]:
        found = []
        for item in super().items():
            user = self._users.item(self._owners[item.id])
            if user is not None:
                item.values["user"] = user.values["name"]
                found.append(item)
        return tuple(found)

    def item(self, item_id: str) -> Item | None:
        return next((item for item in self.items() if item.id == item_id.upper()), None)

    async def add(self, values: Mapping[str, str]) -> str:
        user, key = values.get("user", ""), values.get("key", "").strip()
        owner = self._users.named(user)
        if owner is None:
            raise RouterosError("input does not match any value of user")
        if not key.startswith(("ssh-rsa ", "ssh-ed25519 ")):
            # What RouterOS says to an ECDSA key too.
            raise RouterosError("unable to load key file (wrong format or bad passphrase)!")
        self._users.keys[owner.id] = (*self._users.keys.get(owner.id, ()), key)
        return self._put(owner.id, key).id

    async def set(self, item_id: str, values: Mapping[str, str]) -> None:
        self.known(item_id)
        raise RouterosError(f"failure: /user/ssh-keys set {' '.join(values)} is not simulated")

    async def remove(self, item_id: str) -> None:
        item = self.known(item_id)
        owner = self._owners[item.id]
        self._users.keys[owner] = tuple(key for key in self._users.keys[owner] if key != item.values["key"])
        await super().remove(item_id)

    async def run(self, command: str, item_ids: Sequence[str], values: Mapping[str, str]) -> object:
        if command != "import":
            return await super().run(command, item_ids, values)
        await self.add({"user": values.get("user", ""), "key": self._read(values.get("public-key-file", ""))})
        return None

    def _put(self, user_id: str, key: str) -> Item:
        item = self.put({"user": "", "key": key, "key-owner": " ".join(key.split()[2:])})
        self._owners[item.id] = user_id
        return item


class ActiveMenu(BaseMenu):
    """/user/active: the sessions that the servers have told of."""

    path = "/user/active"
    columns = ("when", "name", "address", "via")
    always = frozenset({*columns, "group", "radius"})

    def __init__(self, version: Version, when: Callable[[], str]) -> None:
        super().__init__(version, {"request-logout": {"numbers": ArgumentKind.ITEMS}})
        self._when = when
        self._next = 1
        self._sessions: dict[str, Item] = {}

    def enter(self, user: User, address: str, via: str) -> str:
        """A session begins; its id for ``leave``. ``via`` is ssh, rest-api, api, …"""
        item_id = f"*{self._next:X}"
        self._next += 1
        values: dict[str, Value] = {"when": self._when(), "name": user.name, "address": address, "via": via}
        self._sessions[item_id] = Item(item_id, {**values, "group": user.group, "radius": False})
        return item_id

    def leave(self, item_id: str) -> None:
        """A session ends; one that has ended already is fine."""
        self._sessions.pop(item_id, None)

    def clear(self) -> None:
        self._sessions.clear()

    def items(self) -> Sequence[Item]:
        return tuple(self._sessions.values())

    async def run(self, command: str, item_ids: Sequence[str], values: Mapping[str, str]) -> object:
        if command != "request-logout":
            return await super().run(command, item_ids, values)
        for item_id in item_ids:
            if item_id not in self._sessions:
                raise RouterosError(NO_SUCH_ITEM)
            self.leave(item_id)
        return None


def _shown(policies: frozenset[str]) -> tuple[str, ...]:
    granted = tuple(name for name in ALL_POLICIES if name in policies)
    return granted + tuple(f"!{name}" for name in ALL_POLICIES if name not in policies)


def _changed(policies: frozenset[str], text: str) -> frozenset[str]:
    """Only what ``text`` lists changes; an exclamation mark takes away."""
    names = typed("policy", text, _LIST)
    changed = set(policies)
    for name in names if isinstance(names, tuple) else ():
        if name.removeprefix("!") not in ALL_POLICIES:
            raise RouterosError("input does not match any value of policy")
        if name.startswith("!"):
            changed.discard(name[1:])
        else:
            changed.add(name)
    return frozenset(changed)
