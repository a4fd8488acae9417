"""The simulated market against arithmetic by hand, conservation laws and its own prefixes."""

import math
import time

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from liquidations import capitulation
from liquidations.commands.simulate import SHOCK
from liquidations.errors import LiquidationsError
from liquidations.event import LONG, MINUTE, SHORT, Events, make_events
from liquidations.simulate import (
    Book,
    Parameters,
    SimulatedMarket,
    largest_per_second,
    resample,
    simulate,
)


START = 1_700_006_400_000  # 2023-11-15 00:00 UTC
HOUR = 60 * MINUTE
DAYS = 90


@pytest.fixture(scope="module")
def market() -> SimulatedMarket:
    """Ninety days at the defaults."""
    return simulate(1, START, DAYS * 1440)


def usd_per(events: Events, side: int, period: int, count: int) -> np.ndarray:
    """Sum the USD of one side by period from START."""
    own = events.take(events.side == side)
    return np.bincount((own.timestamp - START) // period, own.value_usd, count)


def assert_prefix(short: Events, long: Events, end: int) -> None:
    """Assert that the one holds exactly the events of the other before the end."""
    cut = long.take(long.timestamp < end)
    assert len(short) > 0
    for name, column in short.arrays().items():
        np.testing.assert_array_equal(column, getattr(cut, name), err_msg=name)


# --- the book, by hand --------------------------------------------------------------------------


def book_of(*positions: tuple[int, float, int, float], open_interest: float = 10.0) -> Book:
    """Build a book at a maintenance margin of 0.5 % from (side, entry, leverage, size)."""
    book = Book(Parameters(leverages=(10.0, 20.0), shares=(0.1, 0.1), maintenance=0.005))
    book.open_interest = open_interest
    for side, entry, leverage, amount in positions:
        book.enter(side, math.log(entry), leverage, amount)
    return book


def test_long_and_short_are_liquidated_at_the_price_worked_by_hand():
    # 10x, 0.5 %: 100 * (1 - 0.1 + 0.005) = 90.5 and 100 * (1 + 0.1 - 0.005) = 109.5
    for side, safe, beyond, level in ((LONG, 90.6, 90.4, 90.5), (SHORT, 109.4, 109.6, 109.5)):
        book = book_of((LONG, 100, 0, 2.0), (SHORT, 100, 0, 2.0))
        price = book.move(0, math.log(100), math.log(safe), 0.0)
        assert price == pytest.approx(math.log(safe))
        assert not book.forced
        price = book.move(1, price, math.log(beyond), 0.0)
        assert price == pytest.approx(math.log(beyond))
        [(step, liquidated, amount, begin, end)] = book.forced
        assert (step, liquidated, amount, begin) == (1, side, 2.0, end)
        assert math.exp(begin) == pytest.approx(level, rel=0.0005)  # one bucket
        # 2 of 10 contracts are gone; the other side closed in proportion: 2 * 8 / 10
        assert book.open_interest == pytest.approx(8.0)
        assert book.levels(side)[1].sum() == 0.0
        assert book.levels(1 - side)[1].sum() == pytest.approx(1.6)


def test_a_cascade_goes_further_than_the_price_that_started_it():
    # Levels 90.5 and 99.5 * 0.905 = 90.0475. The outside flow stops at 90.45, between the two.
    positions = (LONG, 100, 0, 2.0), (LONG, 99.5, 0, 1.0)
    calm = book_of(*positions)
    assert calm.move(0, math.log(99), math.log(90.45), 0.0) == pytest.approx(math.log(90.45))
    assert [row[2] for row in calm.forced] == [2.0]
    # 0.3 % a contract: the first order ends at 90.45 * e**-0.006 = 89.91, below 90.0475.
    chain = book_of(*positions)
    end = chain.move(0, math.log(99), math.log(90.45), 0.003)
    assert end == pytest.approx(math.log(90.45) - 0.006 - 0.003)
    assert [row[2] for row in chain.forced] == [2.0, 1.0]
    prices = [row[k] for row in chain.forced for k in (3, 4)]
    assert prices == sorted(prices, reverse=True)
    assert prices[-1] >= end
    # The same upwards: shorts at 109.5 and 100.5 * 1.095 = 110.0475, the flow stops at 109.6.
    squeeze = book_of((SHORT, 100, 0, 2.0), (SHORT, 100.5, 0, 1.0))
    end = squeeze.move(0, math.log(101), math.log(109.6), 0.003)
    assert end == pytest.approx(math.log(109.6) + 0.009)
    assert [row[1:3] for row in squeeze.forced] == [(SHORT, 2.0), (SHORT, 1.0)]


def test_what_was_closed_voluntarily_is_not_liquidated():
    book = book_of((LONG, 100, 0, 2.0))
    assert book.close(0.75) == pytest.approx(7.5)
    book.enter(LONG, math.log(100), 0, 1.0)
    book.open_interest += 1.0
    book.move(0, math.log(100), math.log(90), 0.0)
    assert [row[2] for row in book.forced] == [pytest.approx(0.5 + 1.0)]
    assert book.open_interest == pytest.approx(10 - 7.5 + 1 - 1.5)


def test_closing_for_years_keeps_fresh_positions():
    book = book_of((SHORT, 100, 0, 2.0))
    for _ in range(3000):  # far below the smallest float without rescaling
        book.close(0.5)
        book.enter(SHORT, math.log(100), 0, 1.0)
        book.open_interest += 1.0
    assert book.levels(SHORT)[1].sum() == pytest.approx(2.0)  # 1 + 1/2 + 1/4 + …


# --- the tables against each other --------------------------------------------------------------


def test_candles_are_contiguous_and_consistent(market):
    candles = market.candles
    assert str(candles["date"].dtype) == "datetime64[ms, UTC]"
    dates = pd.DatetimeIndex(candles["date"]).asi8
    np.testing.assert_array_equal(dates, START + MINUTE * np.arange(DAYS * 1440))
    for name in ("open", "close"):
        assert (candles["low"] <= candles[name]).all()
        assert (candles[name] <= candles["high"]).all()
    np.testing.assert_allclose(candles["open"][1:], candles["close"][:-1], rtol=1e-12)
    assert candles["open"][0] == 50_000.0
    assert (candles["low"] > 0).all()
    assert (candles["volume"] > 0).all()
    assert np.isfinite(candles.drop(columns="date").to_numpy()).all()


def test_events_lie_in_their_candle_and_sum_to_the_forced_volume(market):
    events, candles = market.events, market.candles
    assert (np.diff(events.timestamp) >= 0).all()
    minute = (events.timestamp - START) // MINUTE
    low, high = candles["low"].to_numpy()[minute], candles["high"].to_numpy()[minute]
    assert ((low <= events.price) & (events.price <= high)).all()
    assert ((low == events.price) | (events.price == high)).mean() < 0.01  # not merely clipped
    for side, name in ((LONG, "long"), (SHORT, "short")):
        own = events.side == side
        amount = np.bincount(minute[own], events.amount[own], len(candles))
        np.testing.assert_allclose(amount, market.flows[name], rtol=1e-9, atol=1e-12)
        assert (amount <= candles["volume"]).all()
    np.testing.assert_allclose(events.value_usd, events.amount * events.price, atol=1e-7)
    assert len(np.unique(np.stack((events.timestamp, events.key)), axis=1).T) == len(events)


def test_longs_are_liquidated_in_falls_and_shorts_in_rises(market):
    fell = (market.candles["close"] < market.candles["open"]).to_numpy()
    long, short = (usd_per(market.events, side, MINUTE, DAYS * 1440) for side in (LONG, SHORT))
    assert long[fell].sum() > 0.9 * long.sum() > 0
    assert short[~fell].sum() > 0.9 * short.sum() > 0


def test_no_contract_is_lost_or_made(market):
    interest, flows = market.open_interest, market.flows
    change = flows["opened"] - flows["closed"] - flows["long"] - flows["short"]
    hourly = change.to_numpy().reshape(-1, 60).sum(axis=1)
    amount = interest["open_interest_amount"].to_numpy()
    np.testing.assert_allclose(amount[0] + np.cumsum(hourly)[:-1], amount[1:], rtol=1e-9)
    np.testing.assert_array_equal(
        interest["open_interest_value"], amount * market.candles["open"].to_numpy()[::60]
    )


def test_the_defaults_look_like_a_market(market):
    hours = resample(market.candles, HOUR)
    volatility = np.log(market.candles["close"]).diff().std() * math.sqrt(365 * 1440)
    assert 0.3 < volatility < 1.0
    move = np.log(hours["close"] / hours["open"]).to_numpy()
    assert np.mean((move - move.mean()) ** 4) / move.var() ** 2 > 5  # a normal one has 3
    long, short = (usd_per(market.events, side, HOUR, DAYS * 24) for side in (LONG, SHORT))
    total = long + short
    busy = total > 0
    share = long[busy] / total[busy]
    assert ((share > 0.8) | (share < 0.2)).mean() > 0.6
    assert 0.1 < busy.mean() < 0.9
    assert 300 < len(market.events) / DAYS < 10_000
    worst = np.argsort(total)[-5:]
    assert (np.abs(move[worst]) > 0.01).all()
    np.testing.assert_array_equal(move[worst] < 0, long[worst] > short[worst])
    amount = market.open_interest["open_interest_amount"]
    assert amount.between(40_000 * 0.4, 40_000 * 1.6).all()
    assert (1 - amount[1:].to_numpy() / amount[:-1]).max() > 0.03
    rate = market.funding["funding_rate"]
    assert rate.between(-0.003, 0.003).all()
    assert rate.nunique() > 10
    assert rate.median() == 0.0001


# --- time ---------------------------------------------------------------------------------------


def test_same_arguments_give_the_same_bytes():
    one, two, other = (simulate(seed, START, 1500, positions=True) for seed in (5, 5, 6))
    for name in ("candles", "mark", "funding", "open_interest", "flows"):
        assert getattr(one, name).equals(getattr(two, name))
    for name, column in one.events.arrays().items():
        assert column.tobytes() == getattr(two.events, name).tobytes()
    assert one.positions.long_usd.tobytes() == two.positions.long_usd.tobytes()
    assert not one.candles.equals(other.candles)


@pytest.mark.parametrize("minutes", [600, 1440, 1440 + 137])
def test_a_shorter_run_is_a_prefix_so_nothing_comes_from_the_future(minutes):
    short, long = (simulate(3, START, count, positions=True) for count in (minutes, 2 * 1440 + 11))
    for name in ("candles", "flows", "open_interest", "funding"):
        part = getattr(short, name)
        pd.testing.assert_frame_equal(part, getattr(long, name)[: len(part)], check_exact=True)
    whole = minutes // 60  # the last mark candle may be partial
    pd.testing.assert_frame_equal(short.mark[:whole], long.mark[:whole], check_exact=True)
    count = len(short.positions.snapshot_time)
    np.testing.assert_array_equal(short.positions.short_usd, long.positions.short_usd[:count])
    assert_prefix(short.events, long.events, START + minutes * MINUTE)


def test_a_shock_changes_nothing_before_it():
    calm = simulate(3, START, 900)
    shocked = simulate(3, START, 900, shocks={700: -0.06})
    pd.testing.assert_frame_equal(calm.candles[:700], shocked.candles[:700], check_exact=True)
    end = START + 700 * MINUTE
    assert_prefix(calm.events.take(calm.events.timestamp < end), shocked.events, end)
    interest = shocked.open_interest["open_interest_amount"]
    assert interest[:12].equals(calm.open_interest["open_interest_amount"][:12])
    assert interest[12] < 0.97 * interest[11]


def test_tables_of_hours_lie_on_full_hours_whatever_the_start():
    market = simulate(2, START + 7 * MINUTE, 1440, open_interest_minutes=15)
    for table, period, first in (
        (market.open_interest, 15 * MINUTE, 15 * MINUTE),
        (market.mark, HOUR, 0),
        (market.funding, 8 * HOUR, 8 * HOUR),
    ):
        dates = pd.DatetimeIndex(table["date"]).asi8
        assert dates[0] == START + first
        assert (np.diff(dates) == period).all()
    assert (market.mark["volume"] == 0.0).all()
    close = market.candles["close"].to_numpy()[52::60]  # the last minute of each hour
    np.testing.assert_allclose(market.mark["close"][:24], close, rtol=0.01)


# --- a crash ------------------------------------------------------------------------------------


def test_a_crash_liquidates_longs_and_impact_makes_it_worse():
    minute, depth = 600, {}
    for impact in (0.0, 0.2):
        market = simulate(
            4,
            START,
            720,
            shocks={minute: -0.06},
            positions=True,
            parameters=Parameters(impact=impact),
        )
        candle = market.candles.iloc[minute]
        flows = market.flows.iloc[minute]
        assert flows["long"] > 0.0
        assert flows["short"] == 0.0
        depth[impact] = math.log(candle["low"] / candle["open"])
        # What the snapshot showed between price and low, ten minutes' voluntary closing aside.
        held, hour = market.positions, minute // 60
        assert held.snapshot_time[hour] == START + minute * MINUTE
        above = held.distance - 0.001 > depth[impact]
        shown = held.long_usd[hour][above].sum() / held.price[hour]
        nearly = held.long_usd[hour][held.distance + 0.003 > depth[impact]].sum() / held.price[hour]
        assert 0.99 * shown < flows["long"] < nearly + flows["opened"]
    assert depth[0.0] == pytest.approx(-0.06, abs=0.01)
    assert depth[0.2] < depth[0.0] - 0.005


def test_reversion_is_the_share_of_forced_impact_that_comes_back():
    ends = {}
    for reversion in (0.0, 1.0):
        parameters = Parameters(volatility=0.0, reversion=reversion)
        market = simulate(4, START, 400, shocks={5: -0.12}, parameters=parameters)
        log = np.log(market.candles["close"].to_numpy() / 50_000)
        pushed = log.min() + 0.12
        assert pushed < -0.01
        ends[reversion] = (log[-1] + 0.12) / pushed
    assert ends[0.0] == pytest.approx(1, abs=0.02)
    assert ends[1.0] == pytest.approx(0, abs=0.2)  # shorts opened at the low push it up a little


def test_snapshots_hold_longs_below_and_shorts_above_the_price():
    market = simulate(8, START, 1440, positions=True)
    held = market.positions
    assert held.long_usd.dtype == held.short_usd.dtype == np.float32
    assert held.long_usd.shape == held.short_usd.shape == held.bucket_price.shape == (24, 250)
    np.testing.assert_allclose(held.price, market.candles["open"][::60])
    above = held.bucket_price > held.price[:, None] * 1.001
    below = held.bucket_price < held.price[:, None] * 0.999
    assert (held.long_usd[above] == 0).all()
    assert (held.short_usd[below] == 0).all()
    value = market.open_interest["open_interest_value"].to_numpy()
    for side in (held.long_usd, held.short_usd):
        assert (side.sum(axis=1) > 0.1 * value).all()
        assert (side.sum(axis=1) < value).all()


@pytest.mark.parametrize("minute", [1440 + 17, 2000, 2880 - 3])
@pytest.mark.parametrize(("seed", "shock", "sign"), [(4, -SHOCK, 1), (1004, SHOCK, -1)])
def test_the_shock_of_a_dry_run_is_a_capitulation_for_the_sample_strategy(
    minute, seed, shock, sign
):
    market = simulate(seed, START, minute + 1, shocks={minute: shock})
    long, short = (usd_per(market.events, side, MINUTE, minute + 1) for side in (LONG, SHORT))
    total = pd.Series(long + short)
    total[minute - 2 : minute] = math.nan  # between the stored past and the collector's start
    frame = market.candles.assign(liq_total=total, liq_imbalance=long / total.where(total > 0))
    # What strategies/LiquidationReversal.py takes by default.
    signal = capitulation(frame, 0.8, 48, 0.8, 0.8)
    assert signal.iloc[-1] == sign
    frame.loc[minute, "liq_total"] = math.nan
    assert capitulation(frame, 0.8, 48, 0.8, 0.8).iloc[-1] == 0


# --- helpers ------------------------------------------------------------------------------------


def test_resample_by_hand():
    minutes = pd.DataFrame(
        {
            "date": pd.to_datetime(
                [START + k * MINUTE for k in (3, 4, 5, 6, 20)], unit="ms", utc=True
            ),
            "open": [10.0, 11.0, 12.0, 13.0, 20.0],
            "high": [15.0, 12.0, 14.0, 13.5, 21.0],
            "low": [9.0, 10.5, 8.0, 12.0, 19.0],
            "close": [11.0, 12.0, 13.0, 12.5, 20.5],
            "volume": [1.0, 2.0, 4.0, 8.0, 16.0],
        }
    )
    before = minutes.copy()
    five = resample(minutes, 5 * MINUTE)
    assert five.drop(columns="date").to_numpy().tolist() == [
        [10.0, 15.0, 9.0, 12.0, 3.0],
        [12.0, 14.0, 8.0, 12.5, 12.0],
        [20.0, 21.0, 19.0, 20.5, 16.0],
    ]
    assert pd.DatetimeIndex(five["date"]).as_unit("ms").asi8.tolist() == [
        START, START + 5 * MINUTE, START + 20 * MINUTE
    ]  # fmt: skip
    assert str(five["date"].dtype) == "datetime64[ms, UTC]"
    pd.testing.assert_frame_equal(minutes, before)
    assert len(resample(minutes[:0], HOUR)) == 0


def test_largest_per_second_by_hand():
    second = START + 5000
    rows = [  # time, side, price, amount, value
        (second, LONG, 10.0, 1.0, 10.0),
        (second + 400, SHORT, 10.0, 3.0, 30.0),
        (second + 999, LONG, 15.0, 2.0, 30.0),  # equal: the first one stays
        (second + 1000, LONG, 10.0, 0.5, 5.0),  # the next calendar second
        (second + 4000, SHORT, 10.0, 2.0, 20.0),
        (second + 4000, LONG, 10.0, 2.5, 25.0),
    ]
    shown = largest_per_second(make_events(*zip(*rows, strict=True)))
    assert (shown.timestamp - second).tolist() == [400, 1000, 4000]
    assert shown.value_usd.tolist() == [30.0, 5.0, 25.0]
    assert shown.side.tolist() == [SHORT, LONG, LONG]
    assert len(largest_per_second(Events.concat([]))) == 0


@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 4000), st.integers(0, 1), st.integers(1, 4)),
        min_size=1,
        max_size=40,
    ),
    st.randoms(use_true_random=False),
)
def test_largest_per_second_against_a_loop(rows, random):
    offset, side, amount = (np.array(column) for column in zip(*rows, strict=True))
    events = make_events(START + offset, side, np.ones(len(rows)), amount, amount)
    best: dict[int, int] = {}
    for row in range(len(events)):
        second = int(events.timestamp[row]) // 1000
        if second not in best or events.value_usd[row] > events.value_usd[best[second]]:
            best[second] = row
    expected = events.take(np.array([best[second] for second in sorted(best)]))
    for name, column in largest_per_second(events).arrays().items():
        np.testing.assert_array_equal(column, getattr(expected, name), err_msg=name)
    # Out of order, as after joining pages: the same seconds, the same sizes.
    rows_order = list(range(len(events)))
    random.shuffle(rows_order)
    shuffled = largest_per_second(events.take(np.array(rows_order)))
    np.testing.assert_array_equal(shuffled.value_usd, expected.value_usd)
    np.testing.assert_array_equal(shuffled.timestamp // 1000, expected.timestamp // 1000)


def test_ten_million_events_take_less_than_a_minute():
    begin = time.perf_counter()
    market = simulate(1, START, 5 * 1440, events=1_000_000)
    seconds = time.perf_counter() - begin
    assert len(market.events) == pytest.approx(1_000_000, rel=0.02)
    assert len(market.events) / seconds >= 10_000_000 / 60


def test_a_year_stays_in_range():
    market = simulate(2, START, 365 * 1440, events=1)
    assert market.candles["low"].min() > 5_000
    assert market.candles["high"].max() < 500_000
    amount = market.open_interest["open_interest_amount"].to_numpy()
    early, late = amount[: len(amount) // 2].mean(), amount[len(amount) // 2 :].mean()
    assert 0.7 < late / early < 1.4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"start": START + 1}, "multiple of 60000"),
        ({"start": START // 1000 // 60000 * 60000}, "between 2009 and 2100"),
        ({"minutes": 0}, "minutes must be at least 1, got 0"),
        ({"seed": -1}, "seed must be at least 0, got -1"),
        ({"price": 0.0}, "price must be above 0, got 0.0"),
        ({"price": math.nan}, "price must be above 0, got nan"),
        ({"events": 0}, "events must be at least 1, got 0"),
        ({"shocks": {-3: -0.1}}, "a minute of shocks must be at least 0, got -3"),
        ({"shocks": {3: math.nan}}, "got nan"),
    ],
)
def test_bad_arguments_say_what_is_allowed(change, message):
    arguments = {"seed": 1, "start": START, "minutes": 10} | change
    with pytest.raises(LiquidationsError, match=message):
        simulate(**arguments)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"shares": (0.5, 0.6)}, "one share for each of 5 leverages"),
        ({"shares": (0.5, 0.6, 0.0, 0.0, 0.0)}, "together at most 1"),
        ({"leverages": (5.0, 10.0, 20.0, 50.0, 500.0)}, "at most 200, got 500"),
        ({"holding": 0.0}, "holding must be above 0, got 0.0"),
        ({"reversion": 1.5}, "reversion must be at least 0 and at most 1, got 1.5"),
    ],
)
def test_bad_parameters_say_what_is_allowed(change, message):
    with pytest.raises(LiquidationsError, match=message):
        Parameters(**change)
