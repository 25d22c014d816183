"""What one who waits for a subscription hears of it."""

import pytest
import trio
import trio.testing
from redis.exceptions import NoPermissionError

from broker.link.confirmation import Confirmation
from broker.link.errors import SubscriptionEnded


async def wait(confirmation: Confirmation, heard: list[Exception | None]) -> None:
    """Wait for a subscription, and note what comes of it."""
    try:
        await confirmation.wait()
    except (NoPermissionError, SubscriptionEnded) as error:
        heard.append(error)
    else:
        heard.append(None)


async def test_one_that_is_given_up(nursery: trio.Nursery) -> None:
    """Whoever waits for a subscription that is given up is told so, instead of waiting for ever."""
    confirmation, heard = Confirmation(b"a"), list[Exception | None]()
    nursery.start_soon(wait, confirmation, heard)
    confirmation.when_settled(heard.append)
    await trio.testing.wait_all_tasks_blocked()
    confirmation.end()
    await trio.testing.wait_all_tasks_blocked()
    confirmation.when_settled(heard.append)
    assert [type(each) for each in heard] == [SubscriptionEnded] * 3
    confirmation.confirm(1, 1)
    with pytest.raises(SubscriptionEnded):
        await confirmation.wait()


async def test_one_that_outlives_its_connection(nursery: trio.Nursery) -> None:
    """After a break it is pending again; a refusal is told, and does not outlive the connection either."""
    confirmation, heard = Confirmation(b"a"), list[Exception | None]()
    confirmation.confirm(1, 1)
    await confirmation.wait()
    confirmation.unconfirm()
    nursery.start_soon(wait, confirmation, heard)
    await trio.testing.wait_all_tasks_blocked()
    assert heard == []
    refusal = NoPermissionError("no")
    confirmation.refuse(refusal)
    await trio.testing.wait_all_tasks_blocked()
    assert heard == [refusal]
    confirmation.unconfirm()
    confirmation.confirm(2, 2)
    await confirmation.wait()
    assert (confirmation.subscribed_at, confirmation.generation, confirmation.error) == (2, 2, None)
