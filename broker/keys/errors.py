"""What can go wrong when a key is looked up."""


class KeysUnavailable(Exception):
    """The store cannot be asked now, or the key's secret not unsealed, and nothing that is known is recent enough."""
