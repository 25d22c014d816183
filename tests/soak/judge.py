"""Whether what a soak has measured is flat."""

from collections.abc import Sequence
from statistics import median

from tests.soak.sampling import Sample

__all__ = ["judge"]

GROWTH_KIB = 2048
"""How much more memory the last sixth of the samples may have than the second sixth, in the median."""

SPREAD = 6
"""How many descriptors and sockets may come and go with those who are just reconnecting."""

LAG_MS = 25.0
"""The bound of the 99th percentile of the loop's lag, in the median of all samples."""


def judge(samples: Sequence[Sample]) -> list[str]:
    """Return what is not flat; the first sixth is the warming-up."""
    sixth = max(1, len(samples) // 6)
    early, late = samples[sixth : 2 * sixth] or samples, samples[-sixth:]
    found = []

    def medians(field: str) -> tuple[float, float]:
        return median(getattr(each, field) for each in early), median(getattr(each, field) for each in late)

    before, after = medians("rss_kib")
    if after - before > GROWTH_KIB:
        found.append(f"memory grew from {before:g} to {after:g} KiB")
    for field in ("descriptors", "viewers", "agents"):
        before, after = medians(field)
        if abs(after - before) > SPREAD:
            found.append(f"{field} went from {before:g} to {after:g}")
    lag = median(each.lag_p99_ms for each in samples)
    if not 0 <= lag <= LAG_MS:
        found.append(f"the loop's lag was {lag:g} ms at the 99th percentile")
    return found
