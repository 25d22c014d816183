"""A new configuration for a running broker."""
