"""Silence: what is calm and what is dead, by numbers on the hand."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from liquidations.event import MINUTE
from liquidations.silence import MEMORY, Activity, why_dead


HOUR, DAY = 60 * MINUTE, 1440 * MINUTE
#: 10:00 of some day.
TEN = 20_000 * DAY + 10 * HOUR


def activity(*rows: tuple[int, int, int]) -> Activity:
    """Build from (first minute, how many minutes, events in each)."""
    made = Activity()
    for first, minutes, events in rows:
        for minute in range(minutes):
            made.add(first + minute * MINUTE, events)
    return made


def test_the_rate_is_that_of_the_hour_of_the_day():
    own = activity((TEN - 2 * DAY, 60, 6), (TEN - DAY, 60, 2), (TEN - DAY + HOUR, 60, 30))
    # (60 × 6 + 60 × 2) / 120 minutes = 4 a minute.
    assert own.rate(TEN) * MINUTE == pytest.approx(4.0)
    assert own.rate(TEN + HOUR - 1) * MINUTE == pytest.approx(4.0)
    assert own.rate(TEN + HOUR) * MINUTE == pytest.approx(30.0)
    assert own.rate(TEN + 5 * HOUR) == 0.0  # never observed: unknown


def test_what_is_a_week_old_or_too_little_is_no_rate():
    assert activity((TEN - DAY, 60, 1)).rate(TEN) == 0.0  # 60 events, fewer than 100
    assert activity((TEN - DAY, 60, 2)).rate(TEN) > 0.0
    own = activity((TEN - MEMORY, 60, 50))
    assert own.rate(TEN) * MINUTE == pytest.approx(50.0)
    own.add(TEN + 30 * MINUTE, 0)  # now half of them are more than a week old
    assert own.between(0, TEN) == 30 * 50
    own.add(TEN + HOUR, 0)
    assert own.between(0, TEN) == 0


def test_a_minute_that_is_told_again_counts_once():
    own = activity((TEN, 10, 5))
    own.add(TEN, 7)
    assert own.between(TEN, TEN + 10 * MINUTE) == 9 * 5 + 7


def test_events_are_counted_by_the_open_of_their_minute():
    own = activity((TEN, 3, 5))
    assert own.between(TEN, TEN + 2 * MINUTE) == 10
    assert own.between(TEN + 1, TEN + 2 * MINUTE + 1) == 10
    assert own.between(TEN + 2 * MINUTE + 1, TEN + HOUR) == 0


def test_a_feed_with_a_busy_hour_that_says_nothing_is_dead():
    own = activity((TEN - DAY, 60, 20))  # 20 a minute: 50 in 2.5 minutes
    assert why_dead(own, [], TEN, TEN + 149_000, 0) is None
    why = why_dead(own, [], TEN, TEN + 150_000, 0)
    assert why == "no liquidation for 150 s, usual are 50"


def test_a_feed_is_dead_if_the_others_say_what_it_usually_shares():
    own, other = activity((TEN - 5 * HOUR, 60, 2)), activity((TEN - 5 * HOUR, 60, 8))
    assert own.share_of([other]) == 0.25
    assert own.share_of([other, other]) == 0.125  # 2 for 16
    assert why_dead(own, [other], TEN, TEN + MINUTE, 79) is None  # 19.75 were to be expected
    why = why_dead(own, [other], TEN, TEN + MINUTE, 80)
    assert why is not None
    assert "other exchanges published 80, of which it usually has 20" in why


def test_only_minutes_that_both_observed_tell_the_share():
    own = activity((TEN, 100, 1), (TEN + DAY, 100, 1))
    other = activity((TEN + DAY, 100, 2), (TEN + 2 * DAY, 100, 50))
    assert own.share_of([other]) == 0.5
    assert own.share_of([activity((TEN + 3 * DAY, 100, 50))]) == 0.0
    assert own.share_of([]) == 0.0
    # With another one beside it only those minutes count that this one observed too.
    third = activity((TEN + DAY + 50 * MINUTE, 50, 2), (TEN, 10, 10**6))
    assert own.share_of([other, third]) == 0.0  # 50 events of its own are too few
    own = activity((TEN + DAY, 100, 4))
    assert own.share_of([other, third]) == 1.0  # 200 for 100 + 100


def test_a_young_feed_and_a_short_silence_are_not_judged():
    busy = activity((TEN - DAY, 60, 10_000))
    assert why_dead(busy, [], TEN, TEN + MINUTE - 1, 10**6) is None
    assert why_dead(busy, [], TEN, TEN + MINUTE, 0) is not None
    young, other = activity((TEN - MINUTE, 1, 99)), activity((TEN - MINUTE, 1, 10**6))
    assert why_dead(young, [other], TEN, TEN + HOUR, 10**6) is None


def test_what_was_heard_by_nobody_is_forgotten():
    own = activity((TEN, 4, 50))
    own.forget(TEN + 2 * MINUTE)
    assert own.between(0, TEN + HOUR) == 100


@given(st.integers(0, 10**4), st.integers(0, 10 * 60), st.integers(1, 10**4))
def test_a_longer_silence_is_never_calmer(events, seconds, published):
    own, other = activity((TEN - DAY, 120, events)), activity((TEN - DAY, 120, 7))
    before = why_dead(own, [other], TEN, TEN + seconds * 1000, published)
    after = why_dead(own, [other], TEN, TEN + seconds * 1000 + 1, published + 1)
    assert before is None or after is not None
