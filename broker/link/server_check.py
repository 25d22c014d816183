"""Whether a server is fit to hold the broker's state."""

from __future__ import annotations

import re

import attrs
from redis.exceptions import ResponseError

from broker.link.errors import StartupError
from broker.link.link import Link

OLDEST_REDIS = (6, 2)


@attrs.frozen
class ServerReport:
    """What the server is, and what an operator should know about it.

    Attributes:
        product: "redis" or "valkey", in lower case.
        version: as it says itself.
        warnings: sentences for an operator.
        forgets: it is known to have no append-only file though it should have one.
    """

    product: str
    version: str
    warnings: tuple[str, ...] = ()
    forgets: bool = False


async def check_server(link: Link, *, durable: bool = True) -> ServerReport:
    """Check version, mode, eviction and, if it should be `durable`, persistence.

    Raises StartupError, with a sentence for the operator, for Redis before 6.2, for a server that evicts, and for a
    node of a Cluster or a Sentinel; LinkDown when the link is not up. What the user may not ask (-NOPERM) only makes
    a warning.
    """
    where = link.address.describe()
    product, version = _identity(link.hello)
    numbers = tuple(int(part) for part in re.findall(r"\d+", version)[:2])
    if product == "redis" and numbers < OLDEST_REDIS:
        raise StartupError(f"{where} is Redis {version}: 6.2 or newer, or any Valkey, is needed")
    if (mode := link.hello.get(b"mode")) in (b"cluster", b"sentinel"):
        raise StartupError(f"{where} runs in {str(mode, 'ascii')} mode: a single server is needed")
    warnings = []
    forgets = False
    policy = await _setting(link, "maxmemory-policy", "memory", "maxmemory_policy")
    if policy is None:
        warnings.append(f"{where} does not tell its maxmemory-policy: make sure that it is noeviction")
    elif policy != "noeviction":
        raise StartupError(
            f"{where} has maxmemory-policy {policy} and would drop keys and decisions when memory is short: "
            "set it to noeviction"
        )
    aof = await _setting(link, "appendonly", "persistence", "aof_enabled") if durable else "yes"
    if aof is None:
        warnings.append(f"{where} does not tell whether it has an append-only file: decisions need one to be durable")
    elif forgets := aof not in ("yes", "1"):
        warnings.append(f"{where} has no append-only file (appendonly no): a crash of it loses the latest decisions")
    return ServerReport(product, version, tuple(warnings), forgets)


def _identity(hello: dict[bytes, object]) -> tuple[str, str]:
    product, version = hello.get(b"server"), hello.get(b"version")
    return (
        product.decode(errors="replace").lower() if isinstance(product, bytes) else "unknown",
        version.decode(errors="replace") if isinstance(version, bytes) else "0",
    )


async def _setting(link: Link, name: str, section: str, field: str) -> str | None:
    """Ask CONFIG, then INFO: an ACL or a managed service may forbid the one or the other."""
    try:
        answer = await link.call("CONFIG", "GET", name)
        if isinstance(answer, dict) and isinstance(value := answer.get(name.encode()), bytes):
            return value.decode()
    except ResponseError:
        pass
    try:
        info = await link.call("INFO", section)
    except ResponseError:
        return None
    text = info.decode(errors="replace") if isinstance(info, bytes) else ""
    found = re.search(rf"^{field}:(\S+)", text, re.MULTILINE)
    return found[1] if found else None
