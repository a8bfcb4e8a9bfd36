"""The numbers of all workers in Prometheus' words. Knows the board and prometheus_client, and no network.

Each answer is made anew of the board, so that it is the same whichever worker is asked, and nothing is lost with one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from time import monotonic

from prometheus_client import CollectorRegistry, Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from proxy import __version__
from proxy.meters import METERS, Board, Kind, Meter

Totals = Mapping[tuple[str, ...], float]


class Exposition:
    """Renders a board. One per process, made by build()."""

    def __init__(self, board: Board, workers: int, *, clock: Callable[[], float] = monotonic) -> None:
        """`workers` is how many there should be."""
        self._registry = CollectorRegistry()
        self._registry.register(_Numbers(board, workers, clock))

    def render(self, accept: str) -> tuple[str, bytes]:
        """The content type and the text, in the form that the Accept header of a request asks for."""
        encode, content_type = choose_encoder(accept)
        return content_type, encode(self._registry)


class _Numbers(Collector):
    def __init__(self, board: Board, workers: int, clock: Callable[[], float]) -> None:
        self._board = board
        self._workers = workers
        self._clock = clock

    def collect(self) -> Iterator[Metric]:
        totals = self._board.totals()
        for meter in METERS:
            yield _family(meter, {key[1:]: value for key, value in totals.items() if key[0] == meter.name})
        workers = GaugeMetricFamily(
            "gatepost_workers", "Workers by what they are: configured, accepting.", None, ["is"]
        )
        workers.add_metric(["configured"], self._workers)
        workers.add_metric(["accepting"], self._board.accepting(self._clock()))
        yield workers
        build = GaugeMetricFamily("gatepost_build_info", "Always 1; which Gatepost this is.", None, ["version"])
        build.add_metric([__version__], 1)
        yield build


def _family(meter: Meter, values: Totals) -> Metric:
    """A meter's numbers by the values of its labels, and for a histogram also by the part."""
    labels = list(meter.labels)
    if meter.kind is Kind.HISTOGRAM:
        return _histogram(meter, labels, values)
    kind = CounterMetricFamily if meter.kind is Kind.COUNTER else GaugeMetricFamily
    family = kind(meter.name, meter.words, labels=labels)
    for key, value in sorted(values.items()):
        family.add_metric(list(key), value)
    if meter.kind is Kind.COUNTER and not labels and not values:
        family.add_metric([], 0)  # alerts look at rates: they need to see the start
    return family


def _histogram(meter: Meter, labels: list[str], values: Totals) -> Metric:
    family = HistogramMetricFamily(meter.name, meter.words, labels=labels)
    for of in sorted({key[:-1] for key in values}):
        count = 0.0
        buckets = []
        for number, bound in enumerate((*map(str, meter.bounds), "+Inf")):
            count += values.get((*of, str(number)), 0.0)
            buckets.append((bound, count))
        family.add_metric(list(of), buckets, values.get((*of, "sum"), 0.0))
    return family
