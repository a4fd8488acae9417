"""Judge whether a feed that says nothing has nothing to say, or is dead. Floor 1, no clock.

A subscription can be acknowledged, its connection alive, and yet no liquidation come through it.
Nothing on the wire tells that from a calm hour; how many there usually are does:

- its own rate in this hour of the day: so many were to be expected, and none came;
- the other feeds: they published so many meanwhile, of which it usually has its share.

Liquidations come in swarms, so an expectation of a few means little; the bounds are wide, and a
feed with too short a past is not judged at all.
"""

from __future__ import annotations

from collections.abc import Iterable

from liquidations.event import MINUTE


#: A feed is not judged before it was silent for so long (ms).
SHORTEST = MINUTE

#: So many were to be expected by the feed's own rate of the hour, or by what the others published.
BY_RATE, BY_OTHERS = 50.0, 20.0

#: What lies further back (ms) says nothing of today.
MEMORY = 7 * 24 * 60 * MINUTE

#: Fewer events in the memory are no rate.
LEAST = 100


class Activity:
    """Remember how many events a feed had in each minute that it observed."""

    def __init__(self) -> None:
        self._minutes: dict[int, int] = {}

    def add(self, minute: int, events: int) -> None:
        """Note an observed minute (its open, ms UTC) and its number of events."""
        self._minutes.pop(minute, None)
        self._minutes[minute] = events
        for old in list(self._minutes):  # in order of arrival: stops at the first young one
            if old >= minute - MEMORY:
                break
            del self._minutes[old]

    def forget(self, since: int) -> None:
        """Forget the minutes from ``since`` (ms) on: nobody was listening."""
        self._minutes = {at: n for at, n in self._minutes.items() if at < since}

    def rate(self, time: int) -> float:
        """Return the events per ms that are usual in the hour of the day of ``time``; 0 = unknown.

        >>> calm = Activity()
        >>> for minute in range(60):
        ...     calm.add(minute * 60_000, 3)
        >>> calm.rate(30 * 60_000) * 60_000
        3.0
        >>> calm.rate(90 * 60_000)
        0.0
        """
        hour = 60 * MINUTE
        same = [n for at, n in self._minutes.items() if (at // hour - time // hour) % 24 == 0]
        if sum(self._minutes.values()) < LEAST or not same:
            return 0.0
        return sum(same) / (len(same) * MINUTE)

    def between(self, start: int, end: int) -> int:
        """Count the events of the minutes that open in ``[start, end)``."""
        return sum(n for at, n in self._minutes.items() if start <= at < end)

    def share_of(self, others: Iterable[Activity]) -> float:
        """Return how many events it usually has for each one of all others; 0 = unknown."""
        minutes = [other._minutes for other in others]
        shared = self._minutes.keys() & set.intersection(*map(set, minutes)) if minutes else ()
        own = sum(self._minutes[minute] for minute in shared)
        theirs = sum(other[minute] for other in minutes for minute in shared)
        return own / theirs if own >= LEAST and theirs >= LEAST else 0.0


def why_dead(
    own: Activity, others: Iterable[Activity], since: int, now: int, published: int
) -> str | None:
    """Tell why a feed without an event since ``since`` must be dead; None if it may be calm.

    :param others: of other exchanges that are observed
    :param since, now: ms UTC
    :param published: events of those others in between
    """
    if now - since < SHORTEST:
        return None
    expected = own.rate(now) * (now - since)
    if expected >= BY_RATE:
        return f"no liquidation for {(now - since) / 1000:.0f} s, usual are {expected:.0f}"
    share = own.share_of(others) * published
    if share >= BY_OTHERS:
        return (
            f"no liquidation for {(now - since) / 1000:.0f} s, while other exchanges published "
            f"{published}, of which it usually has {share:.0f}"
        )
    return None
