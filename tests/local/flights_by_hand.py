"""Recompute the workload's features from raw CSV by hand, with only what was known at the time.

Deliberately shares no code with ``jobs/flights``: plain loops over masks, one flight at a time.
"""

from __future__ import annotations

import csv
import io
import zipfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np

MINUTE = 60
HALF_HOUR = 30 * MINUTE
HOUR = 60 * MINUTE
DAY = 24 * HOUR
NAN = float("nan")


def _number(text: str) -> float:
    return NAN if text in ("", "NA") else float(text)


def _rows(folder: Path, name: str) -> list[dict[str, str]]:
    if name.endswith(".zip"):
        with zipfile.ZipFile(folder / name) as archive:
            text = archive.read(archive.namelist()[0]).decode()
    else:
        text = (folder / name).read_text()
    return list(csv.DictReader(io.StringIO(text)))


class RawFlights:
    """All raw rows as arrays, with times in seconds since the epoch."""

    def __init__(self, folder: Path) -> None:
        rows = _rows(folder, "flights.csv.zip")
        zones = {row["faa"]: row["tzone"] for row in _rows(folder, "airports.csv")}
        planes = _rows(folder, "planes.csv")
        self.planes = {row["tailnum"]: row for row in planes}
        self.weather = _rows(folder, "weather.csv")
        self.weather_at = np.array([_seconds(row["time_hour"]) for row in self.weather])
        self.weather_origin = np.array([row["origin"] for row in self.weather])
        self.rows = rows
        # Numbers compare ten times faster than text.
        self._codes: dict[str, dict[str, int]] = {}
        self._coded: dict[str, Any] = {}
        for name in ("carrier", "origin", "dest", "tailnum"):
            codes = self._codes.setdefault(name, {})
            self._coded[name] = np.array([codes.setdefault(row[name], len(codes)) for row in rows])
        self.dep_delay = np.array([_number(row["dep_delay"]) for row in rows])
        self.arr_delay = np.array([_number(row["arr_delay"]) for row in rows])
        hours: dict[str, float] = {}
        for row in rows:
            hours.setdefault(row["time_hour"], _seconds(row["time_hour"]))
        self.scheduled = np.array(
            [hours[row["time_hour"]] + MINUTE * int(row["minute"]) for row in rows]
        )
        self.planned_minutes = np.array(
            [
                self._planned(row, moment, zones)
                for row, moment in zip(rows, self.scheduled, strict=True)
            ]
        )
        self.left = np.maximum(self.scheduled + MINUTE * self.dep_delay, self.scheduled + MINUTE)
        self.landed = self.scheduled + MINUTE * (self.planned_minutes + self.arr_delay)

    _offsets: dict[tuple[str, float], int] = {}  # noqa: RUF012 - a cache of pure values

    def _offset(self, zone: str, moment: float) -> int:
        hour = moment // HOUR * HOUR
        if (zone, hour) not in self._offsets:
            offset = datetime.fromtimestamp(hour, ZoneInfo(zone)).utcoffset()
            assert offset is not None
            self._offsets[zone, hour] = int(offset.total_seconds()) // MINUTE
        return self._offsets[zone, hour]

    def _planned(self, row: dict[str, str], moment: float, zones: dict[str, str]) -> int:
        def minutes(text: str) -> int:
            return int(text) // 100 * 60 + int(text) % 100

        away = zones.get(row["dest"], "NA")
        away = "America/Puerto_Rico" if away in ("NA", "") else away
        return (
            minutes(row["sched_arr_time"]) - self._offset(away, moment)
            - minutes(row["sched_dep_time"]) + self._offset("America/New_York", moment)
        ) % 1440  # fmt: skip

    def _is(self, name: str, text: str) -> Any:
        """Which flights have this in a column."""
        return self._coded[name] == self._codes[name][text]

    def features(self, index: int) -> dict[str, Any]:
        """Every feature of one flight as of its scheduled departure."""
        row, now = self.rows[index], self.scheduled[index]
        mark = now // HALF_HOUR * HALF_HOUR
        origin = self._is("origin", row["origin"])
        dest = self._is("dest", row["dest"])
        carrier = self._is("carrier", row["carrier"])
        found: dict[str, Any] = {
            "carrier_code": row["carrier"],
            "origin_code": row["origin"],
            "dest_code": row["dest"],
            "day_of_week": datetime(
                int(row["year"]), int(row["month"]), int(row["day"]), tzinfo=UTC
            ).strftime("%a"),
            "minute_of_day": int(row["hour"]) * 60 + int(row["minute"]),
            "distance": int(row["distance"]),
            "planned_minutes": int(self.planned_minutes[index]),
        }
        found |= self._window("origin_2h", origin, self.left, self.dep_delay, mark, 2 * HOUR)
        found |= self._window(
            "origin_6h_arrival", origin, self.landed, self.arr_delay, mark, 6 * HOUR
        )
        found |= self._window(
            "carrier_3h", origin & carrier, self.left, self.dep_delay, mark, 3 * HOUR
        )
        found |= self._window("dest_3h", dest, self.left, self.dep_delay, mark, 3 * HOUR)
        found["origin_overdue"] = self._overdue(origin, mark)
        found["dest_overdue"] = self._overdue(dest, mark)
        found |= self._last_flight(row["tailnum"], mark)
        found["route_28d_late_ratio"] = self._month(carrier & dest, now)
        found["origin_28d_late_ratio"] = self._month(origin, now)
        found |= self._weather(row["origin"], now)
        plane = self.planes.get(row["tailnum"])
        found["built"] = _number(plane["year"]) if plane else NAN
        found["seats"] = _number(plane["seats"]) if plane else NAN
        return found

    def _window(
        self, prefix: str, who: Any, known: Any, delay: Any, mark: float, length: float
    ) -> dict[str, float]:
        inside = who & (known <= mark) & (known > mark - length)
        seen = np.clip(delay[inside], -180, 180)
        names = (f"{prefix}_delay", f"{prefix}_late_ratio", f"{prefix}_num")
        if not len(seen):
            return dict(zip(names, (NAN, NAN, 0.0), strict=True))
        return dict(
            zip(names, (seen.mean(), (delay[inside] > 15).mean(), float(len(seen))), strict=True)
        )

    def _overdue(self, who: Any, mark: float) -> float:
        due = who & (self.scheduled + 15 * MINUTE <= mark)
        forgotten = self.scheduled + 3 * HOUR <= mark
        gone = self.left <= mark  # NaN, never left, compares false
        return float((due & ~forgotten & ~gone).sum())

    def _last_flight(self, tail: str, mark: float) -> dict[str, float]:
        names = ("last_arr_delay", "last_dep_delay")
        if tail in ("", "NA"):
            return dict.fromkeys(names, NAN)
        landed = np.flatnonzero(self._is("tailnum", tail) & (self.landed <= mark))
        if not len(landed):
            return dict.fromkeys(names, NAN)
        last = max(landed, key=lambda i: self.landed[i])
        published = -(-self.landed[last] // HALF_HOUR) * HALF_HOUR
        if sum(self.landed[i] == self.landed[last] for i in landed) > 1:
            return dict.fromkeys(names, None)  # type: ignore[arg-type]
        return {
            "last_arr_delay": float(self.arr_delay[last]),
            "last_dep_delay": float(self.dep_delay[last]),
            "_published": published,
        }

    def _month(self, who: Any, now: float) -> float:
        today = now // DAY * DAY
        inside = who & (self.landed < today) & (self.landed >= today - 28 * DAY)
        late = self.arr_delay[inside] > 15
        return float(late.mean()) if len(late) else NAN

    def _weather(self, origin: str, now: float) -> dict[str, float]:
        names = ("temp", "dewp", "humid", "wind_speed", "wind_gust", "precip", "pressure", "visib")
        known = self.weather_at + HOUR
        seen = np.flatnonzero((self.weather_origin == origin) & (known <= now))
        if not len(seen):
            return dict.fromkeys(names, NAN)
        last = max(seen, key=lambda i: known[i])
        if now - known[last] > 12 * HOUR:
            return dict.fromkeys(names, NAN)
        return {name: _number(self.weather[last][name]) for name in names}


def _seconds(text: str) -> float:
    return datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC).timestamp()
