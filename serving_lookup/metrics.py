"""Counters of all worker processes in one shared page, read together by ``/metrics`` of any worker.

Each worker adds to a row of its own, so nothing is locked; a scrape sums the rows. Labels are fixed
sets: no user id can become one.
"""

from __future__ import annotations

import mmap
import multiprocessing
from bisect import bisect_left
from typing import TYPE_CHECKING, Final

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

from serving_lookup.shared_names import SharedNames

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from prometheus_client.core import Metric

ROUTES: Final = (
    "recommendations",
    "batch",
    "pair_score",
    "explain",
    "score",
    "seen",
    "online_features",
    "other",
)
SOURCES: Final = ("none", "precomputed", "stale", "fallback", "default")
STATUSES: Final = (200, 304, 400, 401, 404, 405, 406, 408, 413, 415, 422, 431, 500, 501, 503)
BUCKETS: Final = (0.0005, 0.001, 0.002, 0.004, 0.006, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
EVENTS: Final = (
    "scored",
    "joined",
    "remembered",
    "deadline",
    "store_error",
    "exhausted",
    "shed",
    "mismatch",
    "activated",
    "parity_equal",
    "parity_differs",
    "parity_skipped",
)
"""Countable happenings.

scored: a user was scored on demand; joined: a request waited for a scoring under way; remembered: an
on-demand list of a moment ago was used; deadline: scoring took too long; store_error: the store failed a
request; exhausted: fewer items than asked for were left; shed: refused because too much was under way;
mismatch: a row of another generation was met; activated: a generation became live here. Of hits
that were scored again in the background: parity_equal, parity_differs; parity_skipped: there was no time, or the
store's features are not those of the generation.
"""

MOST_ARM_NAMES: Final = 64
"""Arms that can be told apart from start to stop; further ones are counted with the last."""

_EVENTS_AT: Final = 0
_SUMS_AT: Final = len(EVENTS)
_BUCKETS_AT: Final = _SUMS_AT + len(ROUTES)
_REQUESTS_AT: Final = _BUCKETS_AT + len(ROUTES) * (len(BUCKETS) + 1)
_ARMS_AT: Final = _REQUESTS_AT + len(ROUTES) * len(SOURCES) * len(STATUSES)
_CELLS: Final = _ARMS_AT + MOST_ARM_NAMES * len(SOURCES)

ROUTE_INDEX: Final = {name: i for i, name in enumerate(ROUTES)}
_SOURCE_INDEX: Final = {name: i for i, name in enumerate(SOURCES)}
_STATUS_INDEX: Final = {status: i for i, status in enumerate(STATUSES)}
_UNNAMED: Final = _STATUS_INDEX[500]
_EVENT_INDEX: Final = {name: i for i, name in enumerate(EVENTS)}


class SharedCounters:
    """Memory that a process and those it forks share: int64[rows, cells], zero at first.

    Args:
        rows: Most processes that will count; a worker that replaces another takes a new row.
    """

    def __init__(self, rows: int) -> None:
        self.rows = rows
        self._taken = multiprocessing.get_context("fork").Value("q", 0)
        self._cells = memoryview(mmap.mmap(-1, rows * _CELLS * 8)).cast("q")
        self.arms = SharedNames(MOST_ARM_NAMES)

    def claim(self) -> WorkerMetrics:
        """The next free row."""
        with self._taken.get_lock():
            start = self._taken.value % self.rows * _CELLS
            self._taken.value += 1
        return WorkerMetrics(self, self._cells[start : start + _CELLS])

    def totals(self) -> list[int]:
        """Sums over all rows."""
        table = self._cells.tolist()
        return [sum(table[i::_CELLS]) for i in range(_CELLS)]


class WorkerMetrics:
    """What one worker counts."""

    def __init__(self, shared: SharedCounters, cells: memoryview) -> None:
        self._shared = shared
        self._cells = cells

    def request(self, route: int, source: str, status: int, seconds: float) -> None:
        """Count an answered request.

        Args:
            route: Position in :data:`ROUTES`.
            source: One of :data:`SOURCES`.
            status: HTTP status.
            seconds: Time from its arrival to its answer.
        """
        cells = self._cells
        cells[_SUMS_AT + route] += int(seconds * 1e9)
        cells[_BUCKETS_AT + route * (len(BUCKETS) + 1) + bisect_left(BUCKETS, seconds)] += 1
        kind = (route * len(SOURCES) + _SOURCE_INDEX[source]) * len(STATUSES) + _STATUS_INDEX.get(
            status, _UNNAMED
        )
        cells[_REQUESTS_AT + kind] += 1

    def event(self, name: str, count: int = 1) -> None:
        """Count a happening of :data:`EVENTS`."""
        self._cells[_EVENT_INDEX[name]] += count

    def arm(self, name: str, source: str) -> None:
        """Count a list that an arm gave, or that was given in its place."""
        at = self._shared.arms.number(name) * len(SOURCES) + _SOURCE_INDEX[source]
        self._cells[_ARMS_AT + at] += 1

    def totals(self) -> dict[str, int]:
        """Happenings of all workers, by name."""
        return dict(zip(EVENTS, self._shared.totals(), strict=False))

    def exposition(self, gauges: Mapping[str, tuple[str, float]]) -> bytes:
        """Everything in Prometheus' text format.

        Args:
            gauges: (help, value) by name: states of the worker that answers.
        """
        registry = CollectorRegistry()
        registry.register(_Collector(self._shared.totals(), self._shared.arms.names(), gauges))
        return generate_latest(registry)


class _Collector:
    """One reading as Prometheus' metric families."""

    def __init__(self, totals: list[int], arms: list[str], gauges: Mapping[str, tuple[str, float]]) -> None:
        self._totals = totals
        self._arms = arms
        self._gauges = gauges

    def collect(self) -> Iterator[Metric]:
        totals = self._totals
        requests = CounterMetricFamily(
            "prescore_requests", "Answered requests.", labels=["route", "source", "status"]
        )
        seconds = HistogramMetricFamily("prescore_request_seconds", "Time to answer.", labels=["route"])
        for r, route in enumerate(ROUTES):
            at, upper, running = _BUCKETS_AT + r * (len(BUCKETS) + 1), [*map(str, BUCKETS), "+Inf"], 0
            counts: list[tuple[str, float]] = []
            for i, bound in enumerate(upper):
                running += totals[at + i]
                counts.append((bound, running))
            seconds.add_metric([route], counts, totals[_SUMS_AT + r] / 1e9)
            for s, source in enumerate(SOURCES):
                for c, status in enumerate(STATUSES):
                    count = totals[_REQUESTS_AT + (r * len(SOURCES) + s) * len(STATUSES) + c]
                    if count:
                        requests.add_metric([route, source, str(status)], count)
        events = CounterMetricFamily("prescore_events", "Countable happenings.", labels=["event"])
        for i, name in enumerate(EVENTS):
            events.add_metric([name], totals[_EVENTS_AT + i])
        yield from (requests, seconds, events, self._arm_lists())
        for name, (text, value) in self._gauges.items():
            yield GaugeMetricFamily(name, text, value=value)

    def _arm_lists(self) -> CounterMetricFamily:
        lists = CounterMetricFamily(
            "prescore_arm_lists", "Lists given by the arms of an experiment.", labels=["arm", "source"]
        )
        for a, arm in enumerate(self._arms):
            for s, source in enumerate(SOURCES):
                if count := self._totals[_ARMS_AT + a * len(SOURCES) + s]:
                    lists.add_metric([arm, source], count)
        return lists
