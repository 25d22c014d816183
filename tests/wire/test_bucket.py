"""Token buckets: how much a client may do, and whether it ever rests."""

from broker.wire.bucket import TokenBucket


def test_who_never_relents_never_rests() -> None:
    """However late the waits end, one who takes whenever it may is not at rest; one who holds back a second is."""
    bucket = TokenBucket(100, 50, 0.0)
    now = 0.0
    assert bucket.take(now, 100) == 0
    for step in range(1000):
        now += bucket.take(now) + (0.05 if step % 3 else 0)  # a busy machine
        while not bucket.take(now):
            assert not bucket.rested
    now += 0.9
    bucket.take(now)
    assert not bucket.rested
    now += 1.2
    bucket.take(now)
    assert bucket.rested
