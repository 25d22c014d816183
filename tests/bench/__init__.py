"""The comparison of the broker with a floor and a peer: `make bench`."""
