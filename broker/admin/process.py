"""What every process tells Prometheus, under the names that every dashboard knows.

prometheus-client's own collector wants /proc/stat, which the sandbox of the shipped unit hides (ProcSubset=pid).
"""

import os
import resource
from collections.abc import Iterator
from pathlib import Path

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

__all__ = ["process_metrics"]

SELF = Path("/proc/self")


def process_metrics(started_at: float) -> Iterator[Metric]:
    """Return CPU, memory and descriptors of this process; leaves out what the system does not tell.

    Not for the event loop: it reads a directory with an entry for every open descriptor.
    """
    usage = resource.getrusage(resource.RUSAGE_SELF)
    yield CounterMetricFamily("process_cpu_seconds", "User and system CPU time.", usage.ru_utime + usage.ru_stime)
    yield GaugeMetricFamily("process_start_time_seconds", "When the process started, in unix time.", started_at)
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    yield GaugeMetricFamily("process_max_fds", "The most descriptors that may be open.", soft)
    try:
        virtual, resident = (SELF / "statm").read_text().split()[:2]
        open_now = sum(1 for _ in os.scandir(SELF / "fd"))
    except OSError:
        return
    page = os.sysconf("SC_PAGE_SIZE")
    yield GaugeMetricFamily("process_virtual_memory_bytes", "Virtual memory.", int(virtual) * page)
    yield GaugeMetricFamily("process_resident_memory_bytes", "Memory in RAM.", int(resident) * page)
    yield GaugeMetricFamily("process_open_fds", "Open descriptors.", open_now)
