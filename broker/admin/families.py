"""Shorthands for the four shapes of metrics that are exported here."""

from collections.abc import Iterable, Mapping
from itertools import accumulate

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from broker.observe.histogram import SECONDS, Histogram

__all__ = ["counter", "counters", "gauge", "gauges", "histogram"]

PREFIX = "signalbox_"


def counter(name: str, text: str, value: float) -> Metric:
    """Return a number that only rises; `_total` is added to its name."""
    return CounterMetricFamily(PREFIX + name, text, value)


def counters(
    name: str,
    text: str,
    label: str,
    values: Mapping[str, float] | Mapping[int, float],
    known: Iterable[str | int] = (),
) -> Metric:
    """Return such numbers by the value of a label.

    `known` are values of the label that are there from the beginning, as 0: the first time of something that appears
    out of nowhere is no increase to Prometheus, and an alert would miss it.
    """
    family = CounterMetricFamily(PREFIX + name, text, labels=(label,))
    counted = {str(key): 0.0 for key in known} | {str(key): value for key, value in values.items()}
    for key, value in counted.items():
        family.add_metric((key,), value)
    return family


def gauge(name: str, text: str, value: float) -> Metric:
    """Return a number that comes and goes."""
    return GaugeMetricFamily(PREFIX + name, text, value)


def gauges(name: str, text: str, label: str, values: Mapping[str, float]) -> Metric:
    """Return such numbers by the value of a label."""
    family = GaugeMetricFamily(PREFIX + name, text, labels=(label,))
    for key, value in values.items():
        family.add_metric((key,), value)
    return family


def histogram(name: str, text: str, value: Histogram) -> Metric:
    """Return durations in seconds."""
    bounds = [f"{bound:g}" for bound in SECONDS] + ["+Inf"]
    buckets = list(zip(bounds, map(float, accumulate(value.counts)), strict=True))
    return HistogramMetricFamily(PREFIX + name, text, buckets=buckets, sum_value=value.total)
