"""The demo's tables: every flight that left New York City in 2013, with its weather, planes and airports.

They live in a schema of their own, `flights`, as an author's tables would: apart from the service's.
"""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import BigInteger, DateTime, Double, Identity, Index, Integer, MetaData, SmallInteger, String
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

SCHEMA = "flights"


class Base(DeclarativeBase):
    """The declarative base of the demo's models."""

    metadata = MetaData(schema=SCHEMA)
    type_annotation_map = {  # noqa: RUF012  (SQLAlchemy reads it as it is)
        int: Integer,
        float: Double,
        str: String,
        datetime: DateTime(timezone=True),
    }


class Airline(Base):
    """A carrier code and its name."""

    __tablename__ = "airlines"

    carrier: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str]


class Airport(Base):
    """An airport of the United States. A few destinations (Puerto Rico, the Virgin Islands) are not here."""

    __tablename__ = "airports"

    faa: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str]
    lat: Mapped[float]
    lon: Mapped[float]
    alt: Mapped[int]
    tz: Mapped[int]
    dst: Mapped[str]
    tzone: Mapped[str | None]


class Plane(Base):
    """A plane by its tail number; `year` is when it was built."""

    __tablename__ = "planes"

    tailnum: Mapped[str] = mapped_column(primary_key=True)
    year: Mapped[int | None]
    type: Mapped[str]
    manufacturer: Mapped[str]
    model: Mapped[str]
    engines: Mapped[int]
    seats: Mapped[int]
    speed: Mapped[int | None]
    engine: Mapped[str]


class Weather(Base):
    """One hour of weather at one of the three airports."""

    __tablename__ = "weather"

    origin: Mapped[str] = mapped_column(primary_key=True)
    time_hour: Mapped[datetime] = mapped_column(primary_key=True)
    year: Mapped[int] = mapped_column(SmallInteger)
    month: Mapped[int] = mapped_column(SmallInteger)
    day: Mapped[int] = mapped_column(SmallInteger)
    hour: Mapped[int] = mapped_column(SmallInteger)
    temp: Mapped[float | None]
    dewp: Mapped[float | None]
    humid: Mapped[float | None]
    wind_dir: Mapped[int | None] = mapped_column(SmallInteger)
    wind_speed: Mapped[float | None]
    wind_gust: Mapped[float | None]
    precip: Mapped[float]
    pressure: Mapped[float | None]
    visib: Mapped[float]


class Flight(Base):
    """A scheduled flight; a cancelled one has no `dep_time`. Clock times are `hhmm`, delays are minutes.

    No foreign keys: some tail numbers and destinations are in no other table.
    """

    __tablename__ = "flights"
    __table_args__ = (
        Index("flights_time_hour", "time_hour"),
        Index("flights_tailnum", "tailnum"),
        Index("flights_carrier_flight", "carrier", "flight"),
    )

    id: Mapped[int] = mapped_column(BigInteger, Identity(always=True), primary_key=True)
    year: Mapped[int] = mapped_column(SmallInteger)
    month: Mapped[int] = mapped_column(SmallInteger)
    day: Mapped[int] = mapped_column(SmallInteger)
    dep_time: Mapped[int | None] = mapped_column(SmallInteger)
    sched_dep_time: Mapped[int] = mapped_column(SmallInteger)
    dep_delay: Mapped[int | None] = mapped_column(SmallInteger)
    arr_time: Mapped[int | None] = mapped_column(SmallInteger)
    sched_arr_time: Mapped[int] = mapped_column(SmallInteger)
    arr_delay: Mapped[int | None] = mapped_column(SmallInteger)
    carrier: Mapped[str]
    flight: Mapped[int]
    tailnum: Mapped[str | None]
    origin: Mapped[str]
    dest: Mapped[str]
    air_time: Mapped[int | None] = mapped_column(SmallInteger)
    distance: Mapped[int]
    hour: Mapped[int] = mapped_column(SmallInteger)
    minute: Mapped[int] = mapped_column(SmallInteger)
    time_hour: Mapped[datetime]
