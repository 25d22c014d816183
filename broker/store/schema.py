"""The version of the layout, so that an incompatible Signalbox keeps its hands off."""

from typing import Final

from broker.store.errors import WrongSchema
from broker.store.layout import Layout
from broker.store.replies import text
from broker.store.request import Operation, command

SCHEMA: Final = "1"


def check_schema(layout: Layout) -> Operation[None]:
    """Mark an empty store with this layout's version, or check that it bears it.

    Raises WrongSchema.
    """
    yield command("SETNX", layout.schema(), SCHEMA)
    found = text((yield command("GET", layout.schema())))
    if found != SCHEMA:
        raise WrongSchema(found, SCHEMA)
