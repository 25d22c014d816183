"""All targets."""

from tests.fuzz import codec, conversations, frames, heads, peers, replies

__all__ = ["ALL", "NAMES"]

ALL = (codec.TARGET, heads.TARGET, conversations.TARGET, frames.TARGET, peers.TARGET, replies.TARGET)
NAMES = tuple(target.name for target in ALL)
