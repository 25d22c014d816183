"""A long, steady load on one broker: what it holds must stay flat, and everybody must get everything."""
