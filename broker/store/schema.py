"""The version of the layout, so that an incompatible Signalbox keeps its hands off."""

from typing import Final

from broker.store.errors import WrongSchema
from broker.store.layout import Layout
from broker.store.replies import maybe_text, text
from broker.store.request import Operation, command

SCHEMA: Final = "1"


def check_schema(layout: Layout) -> Operation[None]:
    """Mark an empty store with this layout's version, or check that it bears it.

    Raises WrongSchema.
    """
    found = maybe_text((yield command("GET", layout.schema())))
    if found is None:  # asked first: a store that is out of memory refuses to be marked once more, and must be usable
        yield command("SETNX", layout.schema(), SCHEMA)
        found = text((yield command("GET", layout.schema())))
    if found != SCHEMA:
        raise WrongSchema(found, SCHEMA)
