"""What can go wrong when a key is looked up."""


class KeysUnavailable(Exception):
    """The key cannot be read now, and nothing that is known of it is recent enough.

    The store cannot be asked, or what it holds is damaged, or sealed with another master key.
    """
