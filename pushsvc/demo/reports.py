"""The SQL of the airport report: one select per chart, and how its rows become JSON."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from functools import partial
from typing import Any

from sqlalchemy import ColumnElement, Row, Select, String, and_, case, cast, func, select, true

from ..queries import Database, Promise
from .models import Airline, Airport, Flight, Plane, Weather

Query = Select[*tuple[Any, ...]]
Ask = Callable[[], Promise[Any]]
Rows = Sequence[Row[*tuple[Any, ...]]]

PERCENTILES = (0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99)
BIN = 15  # minutes of delay in one column of the histogram
LOWEST, HIGHEST = -30, 180

mean_delay = func.avg(Flight.dep_delay).label("mean_delay")
flights = func.count(Flight.id).label("flights")
cancelled_flights = func.count().filter(Flight.dep_time.is_(None)).label("cancelled")


@dataclass(frozen=True)
class Chart:
    """One chart's select, its name in the result, and what turns its rows into JSON."""

    name: str
    query: Query
    shape: Callable[[Rows], Any]


def scope(origin: str, month: int | None) -> ColumnElement[bool]:
    """The flights that a report is about: one airport's, in one month or the whole year."""
    return and_(Flight.origin == origin, Flight.month == month if month else true())


def rows(found: Rows) -> list[dict[str, Any]]:
    """Each row as an object of plain JSON values, numbers rounded to what a chart can show."""
    return [{name: plain(value) for name, value in row._mapping.items()} for row in found]


def plain(value: Any) -> Any:
    """A database value as JSON has it."""
    match value:
        case Decimal() | float():
            return round(float(value), 2)
        case datetime():
            return value.isoformat()
        case _:
            return value


class Report:
    """What is asked about one airport, and what the answers make."""

    def __init__(self, origin: str, month: int | None) -> None:
        self.origin = origin
        self.month = month
        self.here = scope(origin, month)
        self.charts = {chart.name: chart for chart in _charts(origin, self.here)}

    def asks(self, db: Database) -> dict[str, Ask]:
        """How to ask for everything: a query per chart, the slow ones first, then the single numbers."""
        flown = self.here & Flight.dep_time.is_not(None)
        return {name: partial(db.load_async, chart.query) for name, chart in self.charts.items()} | {
            "flights": partial(db.async_count, Flight.id, where=self.here),
            "cancelled": partial(db.async_count, Flight.id, where=self.here & Flight.dep_time.is_(None)),
            "mean_delay": partial(db.async_average, Flight.dep_delay, where=self.here),
            "longest_delay": partial(db.async_maximum, Flight.dep_delay, where=self.here),
            "miles": partial(db.async_sum, Flight.distance, where=flown),
        }

    def collect(self, answers: Mapping[str, Any]) -> dict[str, Any]:
        """The answers by their names, as the report's JSON."""
        charts = self.charts
        return {
            "origin": self.origin,
            "month": self.month,
            "summary": {name: plain(answer) for name, answer in answers.items() if name not in charts},
            "series": {name: charts[name].shape(answer) for name, answer in answers.items() if name in charts},
        }


def _charts(origin: str, here: ColumnElement[bool]) -> list[Chart]:
    return [
        Chart("destinations", _destinations(here), rows),
        Chart("percentiles", _percentiles(here), _percentile_rows),
        Chart("hours", _hours(here), rows),
        Chart("wind", _weather(here, Weather.wind_speed, _wind()), rows),
        Chart("visibility", _weather(here, Weather.visib, func.floor(Weather.visib / 2) * 2), rows),
        Chart("rain", _weather(here, Weather.precip, _rain()), rows),
        Chart("plane_age", _plane_age(here), rows),
        Chart("months", _months(origin), rows),
        Chart("carriers", _carriers(here), rows),
        Chart("histogram", _histogram(here), rows),
        Chart("worst", _worst(here), rows),
        Chart("planes", _planes(here), lambda found: rows(found)[0]),
        Chart("airports", _airports(), lambda found: [list(map(plain, row)) for row in found]),
    ]


def _planes(here: ColumnElement[bool]) -> Query:
    return (
        select(
            func.sum(Plane.seats).label("seats"),
            func.avg(Plane.seats).label("mean_seats"),
            func.count(Plane.tailnum.distinct()).label("planes"),
        )
        .select_from(Flight)
        .join(Plane, Plane.tailnum == Flight.tailnum)
        .where(here, Flight.dep_time.is_not(None))
    )


def _hours(here: ColumnElement[bool]) -> Query:
    return (
        select(Flight.hour, flights, mean_delay, cancelled_flights)
        .where(here)
        .group_by(Flight.hour)
        .order_by(Flight.hour)
    )


def _months(origin: str) -> Query:
    # The whole year even when one month is asked for: the chart shows where that month stands.
    return (
        select(Flight.month, flights, mean_delay, cancelled_flights)
        .where(Flight.origin == origin)
        .group_by(Flight.month)
        .order_by(Flight.month)
    )


def _carriers(here: ColumnElement[bool]) -> Query:
    return (
        select(Airline.name, flights, mean_delay, cancelled_flights)
        .join(Airline, Airline.carrier == Flight.carrier)
        .where(here)
        .group_by(Airline.name)
        .order_by(mean_delay.desc().nulls_last())
    )


def _destinations(here: ColumnElement[bool]) -> Query:
    return (
        select(Flight.dest, Airport.name, Airport.lat, Airport.lon, flights, mean_delay)
        .outerjoin(Airport, Airport.faa == Flight.dest)  # some destinations are not in the table
        .where(here)
        .group_by(Flight.dest, Airport.faa)
        .order_by(flights.desc())
    )


def _worst(here: ColumnElement[bool]) -> Query:
    return (
        select(
            Flight.time_hour,
            (Flight.carrier + cast(Flight.flight, String)).label("flight"),
            Airline.name.label("airline"),
            Flight.dest,
            Airport.name.label("destination"),
            Flight.dep_delay,
        )
        .join(Airline, Airline.carrier == Flight.carrier)
        .outerjoin(Airport, Airport.faa == Flight.dest)
        .where(here, Flight.dep_delay.is_not(None))
        .order_by(Flight.dep_delay.desc(), Flight.id)
        .limit(10)
    )


def _weather(here: ColumnElement[bool], measured: Any, band: ColumnElement[Any]) -> Query:
    bucket = band.label("bucket")
    return (
        select(bucket, flights, mean_delay)
        .select_from(Flight)
        .join(Weather, and_(Weather.origin == Flight.origin, Weather.time_hour == Flight.time_hour))
        .where(here, Flight.dep_delay.is_not(None), measured.is_not(None))
        .group_by(bucket)
        .order_by(bucket)
    )


def _wind() -> ColumnElement[Any]:
    return func.least(func.floor(Weather.wind_speed / 5) * 5, 30)  # miles an hour; storms are one band


def _rain() -> ColumnElement[Any]:
    # By its lower bound in hundredths of an inch an hour: none, a trace, light, moderate, heavy.
    return case(
        (Weather.precip <= 0, 0),
        (Weather.precip < 0.02, 1),
        (Weather.precip < 0.1, 2),
        (Weather.precip < 0.3, 10),
        else_=30,
    )


def _plane_age(here: ColumnElement[bool]) -> Query:
    age = func.least(Flight.year - Plane.year, 30).label("age")
    return (
        select(age, flights, mean_delay)
        .select_from(Flight)
        .join(Plane, Plane.tailnum == Flight.tailnum)
        .where(here, Flight.dep_delay.is_not(None), Plane.year.is_not(None))
        .group_by(age)
        .order_by(age)
    )


def _percentiles(here: ColumnElement[bool]) -> Query:
    return select(
        *(func.percentile_cont(part).within_group(Flight.dep_delay).label(f"p{part * 100:g}") for part in PERCENTILES)
    ).where(here)


def _percentile_rows(found: Rows) -> list[dict[str, Any]]:
    return [
        {"percentile": float(name.removeprefix("p")), "delay": plain(value)}
        for name, value in found[0]._mapping.items()
    ]


def _histogram(here: ColumnElement[bool]) -> Query:
    # Everything beyond either end is counted in the first and the last column.
    clamped = func.least(func.greatest(Flight.dep_delay, LOWEST), HIGHEST)
    delay = (func.floor(clamped / float(BIN)) * BIN).label("delay")
    return select(delay, flights).where(here, Flight.dep_delay.is_not(None)).group_by(delay).order_by(delay)


def _airports() -> Query:
    # Where airports are, to one degree: enough to draw the outline of the country behind the map.
    lon, lat = func.round(Airport.lon).label("lon"), func.round(Airport.lat).label("lat")
    return select(lon, lat).where(Airport.lon.between(-126, -60), Airport.lat.between(23, 51)).distinct()
