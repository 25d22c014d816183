"""Worlds of organizations, keys and publications, and what each key may see of them: worked out without the broker."""

import attrs
from hypothesis import strategies as st

ORGS = ("acme", "acme2", "ACME")
"""Names that a careless comparison would take for each other."""

WORKFLOWS = ("a", "ab", "acme")

CHANNELS = (
    "workflow:a", "workflow:ab", "workflow:A", "workflow:a:b", "workflow:acme", "workflow:acme2", "workflow:*",
    "workflow:[a]", "execution:a", "execution:acme:1", "execution:acme2:1", "epic:é",
)  # fmt: skip

FORBIDDEN = (
    "control:acme", "control:*", "signalbox:keys", "signalbox:{acme}:live", "__keyspace@0__:x", "other:a", "Workflow:a",
)  # fmt: skip
"""Redis channels that no client may ever reach, whatever its key."""

_PIECES = ("workflow", "execution", "epic", ":", "a", "b", "acme", "2", "*", "?", "[ab]", "[!a]", "[A-Z]", "1", "é")


@attrs.frozen
class KeySpec:
    """A key to be made, and how its browser comes in."""

    org: str
    workflow: str | None
    globs: tuple[str, ...]
    with_ticket: bool


@attrs.frozen
class Event:
    """An event to be published."""

    channel: str


@attrs.frozen
class Change:
    """A state change to be published: by the publisher, or by a plain PUBLISH."""

    org: str
    workflow: str
    state: str
    plain: bool


@attrs.frozen
class World:
    """Keys, and what is published while all of them are connected."""

    keys: tuple[KeySpec, ...]
    publications: tuple[Event | Change, ...]


globs = st.one_of(
    st.sampled_from(CHANNELS[:6]),
    st.sampled_from(("*", "workflow:*", "*:a", "workflow:a?", "*:acme:*", "w*", "*2", "execution:acme*")),
    st.lists(st.sampled_from(_PIECES), min_size=1, max_size=5).map("".join),
)

keys = st.builds(
    KeySpec,
    org=st.sampled_from(ORGS),
    workflow=st.none() | st.sampled_from(WORKFLOWS),
    globs=st.lists(globs, max_size=3).map(tuple),
    with_ticket=st.booleans(),
)

publications = st.one_of(
    st.builds(Event, channel=st.sampled_from(CHANNELS)),
    st.builds(
        Change,
        org=st.sampled_from(ORGS),
        workflow=st.sampled_from(WORKFLOWS),
        state=st.sampled_from(("Normal", "Flagged", "Paused")),
        plain=st.booleans(),
    ),
)

worlds = st.builds(
    World,
    keys=st.lists(keys, min_size=1, max_size=5).map(tuple),
    publications=st.lists(publications, max_size=20).map(tuple),
)


def may_see(key: KeySpec, channel: str) -> bool:
    """Whether a key's browser may see a channel of the pool."""
    if key.globs:
        return any(matches(glob, channel) for glob in key.globs)
    return key.workflow is None


def matches(glob: str, text: str) -> bool:
    """Whether a glob of these worlds matches the whole of a text: `*` any characters, `?` one, `[...]` one of a set."""
    if not glob:
        return not text
    if glob[0] == "*":
        return matches(glob[1:], text) or (bool(text) and matches(glob, text[1:]))
    if not text:
        return False
    if glob[0] == "[" and "]" in glob:
        inside, _, rest = glob[1:].partition("]")
        wanted, inside = not inside.startswith("!"), inside.removeprefix("!")
        among = inside[0] <= text[0] <= inside[2] if inside[1:2] == "-" else text[0] in inside
        return among is wanted and matches(rest, text[1:])
    return glob[0] in ("?", text[0]) and matches(glob[1:], text[1:])
