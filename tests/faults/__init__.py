"""Faults, by seed: whatever breaks, no decision is lost.

A run has a real Valkey and two real brokers as child processes, each behind a proxy that can cut and stall its links,
publishers, agents that behave as SDKs do, and browsers. A plan drawn from the seed breaks everything in turn. At the
end everything is mended, and what every client knows is compared with what the store says and with what publishers
were promised. Run it with `make faults`, or `python -m tests.faults --seeds 7`.
"""
