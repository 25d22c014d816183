"""Signalbox: a WebSocket broker daemon. Programs publish through Redis; every connected SDK and browser hears at once.

For publishers: ``from broker import broadcast, Publisher``. Importing this package loads nothing else, and never trio.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from broker.publisher import Publisher, broadcast

__version__ = "0.1.0"

__all__ = ["Publisher", "__version__", "broadcast"]


def __getattr__(name: str) -> Any:
    if name in {"Publisher", "broadcast"}:
        import broker.publisher

        return getattr(broker.publisher, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
