"""Whether a store can be trusted: each planted fault is found, and what is true passes."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from conftest import REPOSITORY, bars_of, spans, utc
from freqtrade.data.history import get_datahandler
from freqtrade.enums import CandleType
from hypothesis import given
from hypothesis import strategies as st

from liquidations import timing
from liquidations.archives import Options, coinalyze, okx
from liquidations.candles import Source, source_candles, to_bars
from liquidations.check import check_store, prices_of
from liquidations.cli import run
from liquidations.event import Bars, Events, make_events
from liquidations.markets import okx_contracts
from liquidations.plausibility import (
    LOOK,
    OK,
    UNTRIED,
    WRONG,
    Marks,
    judge_duplicates,
    judge_gaps,
    judge_prices,
    judge_repeated_bars,
    judge_shared,
    judge_silence,
    judge_volume,
    marks_of,
    silence_chance,
)
from liquidations.simulate import Parameters, largest_per_second, resample, simulate
from liquidations.store import Store
from liquidations.timing import best_fit, flow, judge_one_side, judge_other, judge_time


NAN = float("nan")
HOUR, DAY = 3_600_000, 86_400_000
PAIR = "BTC/USDT:USDT"
BASES = ("BTC", "ETH", "SOL")


def ms(frame):
    return frame["date"].to_numpy(dtype="datetime64[ms]").view(np.int64)


def moved(values, rows):
    """Stamp what happened so many rows later; what leaves is lost."""
    return pd.Series(values).shift(rows).to_numpy()


# --- times and sides ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def hours(recorded):
    """Return opens, long, short, returns and USD traded of each recorded pair's hours."""
    found = {}
    for base in BASES:
        name = f"{base}USDT_PERP.A-liquidation-history-1hour.json"
        answer = (recorded / "data/coinalyze" / name).read_bytes()
        (part,) = coinalyze.read(answer, Options(unit="base"))
        frame = pd.read_feather(
            recorded / f"data/candles/futures/{base}_USDT_USDT-1h-futures.feather"
        )
        opens, price = ms(frame), frame["close"].to_numpy()
        source = Source("coinalyze", HOUR, part.rows, part.coverage, counted=False)
        sums = source_candles(source, opens, opens + HOUR)
        returns = np.log(frame["close"] / frame["open"]).to_numpy()
        traded = frame["volume"].to_numpy() * price
        found[base] = opens, sums.long * price, sums.short * price, returns, traded
    return found


@pytest.mark.parametrize("base", BASES)
def test_recorded_hours_pass(base, hours):
    opens, long, short, returns, traded = hours[base]
    time, sides, fits = judge_time(opens, flow(long, short), returns, HOUR)
    assert (time.verdict, sides.verdict) == (OK, OK)
    # Three months, two of them begun or ended: each alone is enough, and says the same.
    assert list(fits) == ["all", "2024-06", "2024-07", "2024-08"]
    assert all(fit.lag == 0 and fit.sure and -0.8 < fit.correlation < -0.6 for fit in fits.values())
    assert judge_silence(opens, long + short).verdict == OK
    assert judge_volume(opens, long + short, traded).verdict == OK
    assert judge_one_side(long, short, returns) is None


@pytest.mark.parametrize("base", BASES)
def test_base_units_taken_for_usd_are_seen(base, hours):
    opens, long, short, _, traded = hours[base]
    # The price's order of magnitude is what makes the difference.
    units = (long + short) / {"BTC": 60_000, "ETH": 3_000, "SOL": 150}[base]
    found = judge_volume(opens, units, traded)
    assert (found.verdict, "base units" in found.means) == (LOOK, True), found
    # A feed may show a thirtieth.
    assert judge_volume(opens, (long + short) / 29, traded).verdict == OK
    assert judge_volume(opens, units, traded * 20, own=False).verdict == (
        LOOK if base != "SOL" else OK
    )


@pytest.mark.parametrize("base", BASES)
def test_a_side_that_is_missing_is_found(base, hours):
    _, long, short, returns, _ = hours[base]
    nothing, few = np.zeros(len(long)), np.arange(len(long)) % 50 == 0
    for begin in (0, 500, 1000):
        part = slice(begin, begin + 700)
        price = returns[part]
        assert judge_one_side(long[part], short[part], price) is None
        for missing in (nothing[part], short[part] * few[part], short[part] * 1e-6):
            found = judge_one_side(long[part], missing, price)
            assert found.verdict == WRONG
            assert found.means.startswith("shorts are missing")
        found = judge_one_side(nothing[part], short[part], price)
        assert found.means.startswith("longs are missing")
        # It does not matter which side is which.
        assert "shorts are missing" in judge_one_side(short[part], nothing[part], -price).means
    # Where the price only fell nobody knows, and of few candles nothing is said.
    fell = np.where(returns < 0, returns, NAN)
    assert judge_one_side(long, nothing, fell) is None
    assert judge_one_side(long[:60], nothing[:60], returns[:60]) is None
    assert judge_one_side(nothing, nothing, returns) is None


def test_a_sampled_feed_of_a_falling_market_has_both_sides():
    market = simulate(5, utc("2024-01-01"), 20 * 1440, parameters=Parameters(optimism=-1.0))
    frame = resample(market.candles, 300_000)
    opens, returns = ms(frame), np.log(frame["close"] / frame["open"]).to_numpy()
    traded = (frame["volume"] * frame["close"]).to_numpy()
    for events in (market.events, largest_per_second(market.events)):
        span = np.array([[opens[0], opens[-1] + 300_000]])
        sums = source_candles(Source("x", 60_000, to_bars(events), span), opens, opens + 300_000)
        assert judge_one_side(sums.long, sums.short, returns) is None
        assert judge_volume(opens, sums.long + sums.short, traded).verdict == OK


@pytest.mark.parametrize("base", BASES)
def test_a_month_of_another_time_is_found(base, hours):
    """Of each month and pair, shifted by one to twelve hours each way: 216 cases in all."""
    opens, long, short, returns, _ = hours[base]
    months = opens.astype("datetime64[ms]").astype("datetime64[M]").astype(str)
    lags = {name: [] for name in ("2024-06", "2024-07", "2024-08")}
    shifts = [*range(-12, 0), *range(1, 13)]
    for shift in shifts:
        for month, found in lags.items():
            values = flow(long, short)
            values = np.where(months == month, moved(values, shift), values)
            time, sides, fits = judge_time(opens, values, returns, HOUR)
            assert sides.verdict == OK
            said = f"{month}: stamped {abs(shift)} h too {'late' if shift > 0 else 'early'}"
            if fits[month].sure and fits[month].shifted:
                assert (time.verdict, said in time.seen) == (WRONG, True), time
                found.append(-fits[month].lag)
            else:
                assert time.verdict in (OK, LOOK)
    # The nine days of June that are recorded are not always enough, the others always are.
    assert lags["2024-07"] == lags["2024-08"] == shifts
    assert len(lags["2024-06"]) >= 18
    assert set(lags["2024-06"]) <= set(shifts)


@pytest.mark.parametrize("shift", [-9, -1, 0, 1, 8])
@pytest.mark.parametrize("base", BASES)
def test_swapped_sides_are_found_whatever_the_time(base, shift, hours):
    opens, long, short, returns, _ = hours[base]
    values = moved(flow(short, long), shift)
    time, sides, _ = judge_time(opens, values, returns, HOUR)
    assert sides.verdict == WRONG
    assert "long and short are swapped" in sides.means
    assert time.verdict == (WRONG if shift else OK)
    # A month of it.
    august = opens >= utc("2024-08-01")
    values = flow(np.where(august, short, long), np.where(august, long, short))
    time, sides, _ = judge_time(opens, values, returns, HOUR)
    assert (time.verdict, sides.verdict) == (OK, WRONG)
    assert sides.seen.startswith("2024-08: ")


def test_daylight_saving_time_is_found_in_its_months_only(hours):
    opens, long, short, returns, _ = hours["BTC"]
    summer = opens >= utc("2024-07-01")
    values = flow(long, short)
    values = np.where(summer, moved(values, 1), values)
    time, _, _ = judge_time(opens, values, returns, HOUR)
    assert time.verdict == WRONG
    assert "2024-07, 2024-08: stamped 1 h too late" in time.seen
    assert "daylight-saving" in time.means
    assert "2024-06" not in time.seen


def test_times_that_are_too_early_look_into_the_future(hours):
    opens, long, short, returns, _ = hours["ETH"]
    for shift, future in ((-2, True), (2, False)):
        time, _, _ = judge_time(opens, moved(flow(long, short), shift), returns, HOUR)
        assert ("before they happen" in time.means) == future


def test_half_hours_are_found_on_shorter_candles():
    market = simulate(3, utc("2024-01-01"), 40 * 1440)
    frame = resample(market.candles, 5 * 60_000)
    opens, returns = ms(frame), np.log(frame["close"] / frame["open"]).to_numpy()
    for shift, verdict in ((0, OK), (-330, WRONG)):
        shifted = replace(market.events, timestamp=market.events.timestamp + shift * 60_000)
        source = Source("x", 60_000, to_bars(shifted), np.array([[opens[0], opens[-1] + 300_000]]))
        sums = source_candles(source, opens, opens + 300_000)
        time, sides, _ = judge_time(opens, flow(sums.long, sums.short), returns, 300_000)
        assert (time.verdict, sides.verdict) == (verdict, OK)
    assert "5.5 h too early" in time.seen


def test_noise_is_no_proof_of_anything():
    for seed in range(40):
        random = np.random.default_rng(seed)
        opens = utc("2024-01-01") + HOUR * np.arange(2000)
        # Both in clusters, as liquidations and returns come.
        wild = np.exp(random.standard_normal(2000).cumsum() * 0.1)
        values, returns = random.standard_t(3, (2, 2000)) * wild
        time, sides, fits = judge_time(opens, values, returns, HOUR)
        assert (time.verdict, sides.verdict) == (UNTRIED, UNTRIED), fits
        assert "do not suffice" in time.seen
        assert time.do


def test_too_few_candles_say_so():
    opens = utc("2024-01-01") + HOUR * np.arange(20)
    returns = np.linspace(-1, 1, 20)
    for values in (-returns, np.full(20, NAN)):
        for finding in judge_time(opens, values, returns, HOUR)[:2]:
            assert finding.verdict == UNTRIED


def test_months_that_can_not_be_told_alone_are_named(hours):
    opens, long, short, returns, _ = hours["SOL"]
    rows = (opens >= utc("2024-06-28")) & (opens < utc("2024-08-01"))
    time, _, _ = judge_time(opens[rows], flow(long, short)[rows], returns[rows], HOUR)
    assert time.verdict == OK
    assert time.seen.endswith("may not be seen; too little to tell of 2024-06 alone")


@pytest.mark.parametrize("shift", [-2, 1])
@pytest.mark.parametrize("base", BASES)
def test_days_of_another_time_within_a_month_are_found_or_said_to_be_hidden(base, shift, hours):
    opens, long, short, returns, _ = hours[base]
    values = flow(long, short)
    days = (opens >= utc("2024-07-09")) & (opens < utc("2024-07-21"))
    shifted = np.where(days, moved(values, shift), values)
    time, sides, fits = judge_time(opens, shifted, returns, HOUR)
    assert (time.verdict, sides.verdict) == (WRONG, OK), time
    assert not fits["2024-07"].shifted
    assert f"stamped {abs(shift)} h too {'late' if shift > 0 else 'early'}" in time.seen
    assert "2024-07-" in time.seen
    # Of three days nothing is seen, and that is said.
    days = (opens >= utc("2024-07-09")) & (opens < utc("2024-07-12"))
    time, _, _ = judge_time(opens, np.where(days, moved(values, shift), values), returns, HOUR)
    assert time.verdict == OK
    assert "may not be seen" in time.seen
    time, _, _ = judge_time(opens, values, returns, HOUR)
    assert time.seen.endswith("a shift of less than about 15 days may not be seen")


def test_what_parts_of_months_can_not_tell_is_said(hours):
    opens, long, short, returns, _ = hours["BTC"]
    # Every other candle is not enough for ten days, but for months.
    values = np.where(np.arange(len(opens)) % 4 == 0, flow(long, short), NAN)
    time, _, fits = judge_time(opens, values, returns, HOUR)
    assert fits["all"].sure
    assert time.verdict == OK
    assert "a shift of less than a month may not be seen" in time.seen


def test_no_part_of_the_recorded_hours_is_called_wrong(hours):
    for base in BASES:
        opens, long, short, returns, _ = hours[base]
        for length in (120, 360, 720):
            for begin in range(0, len(opens) - length, 250):
                rows = slice(begin, begin + length)
                columns = long[rows], short[rows], returns[rows]
                time, sides, _ = judge_time(opens[rows], flow(*columns[:2]), columns[2], HOUR)
                assert {time.verdict, sides.verdict} <= {OK, UNTRIED}
                assert judge_one_side(*columns) is None


def test_sides_are_told_before_times_are(hours):
    opens, long, short, returns, _ = hours["SOL"]
    rows = slice(500, 560)
    for values, verdict in ((flow(long, short), OK), (flow(short, long), WRONG)):
        time, sides, _ = judge_time(opens[rows], values[rows], returns[rows], HOUR)
        assert (time.verdict, sides.verdict) == (UNTRIED, verdict)


@given(
    st.lists(
        st.tuples(
            st.one_of(st.just(NAN), st.integers(-9, 9).map(float)),
            st.one_of(st.just(NAN), st.floats(-1, 1)),
        ),
        min_size=5,
        max_size=25,
    )
)
def test_correlations_are_those_of_the_ranks(rows):
    mine, theirs = np.array(rows).T
    ranks = [pd.Series(one).rank().to_numpy() for one in (mine, theirs)]
    lags = np.arange(-4, 5)
    found, number = timing._rank_correlations(mine, theirs, lags)
    for lag, correlation, count in zip(lags, found, number, strict=True):
        x = ranks[0][max(-lag, 0) : len(mine) - max(lag, 0)]
        y = ranks[1][max(lag, 0) : len(mine) - max(-lag, 0)]
        both = ~np.isnan(x) & ~np.isnan(y)
        assert count == both.sum()
        if both.any() and np.ptp(x[both]) > 0 and np.ptp(y[both]) > 0:
            expected = np.corrcoef(x[both], y[both])[0, 1]
            assert correlation == pytest.approx(expected, abs=1e-6)
        else:
            assert np.isnan(correlation)


def test_swapping_sides_turns_the_correlation_and_mirrors_the_price():
    random = np.random.default_rng(1)
    returns = random.standard_normal(500)
    values = random.standard_normal(500) - returns
    one, swapped, mirrored = (
        best_fit(v, r, 0, 500, 24)
        for v, r in ((values, returns), (-values, returns), (-values, -returns))
    )
    assert one.correlation == pytest.approx(-swapped.correlation)
    assert one.correlation == pytest.approx(mirrored.correlation)
    assert one.correlation < -0.5
    assert one.lag == swapped.lag == mirrored.lag == 0


# --- duplicates -----------------------------------------------------------------------------------


def many(number=1000, seed=0, start="2024-01-01", days=30):
    """Draw events, each different, at prices around 100."""
    random = np.random.default_rng(seed)
    time = np.sort(random.integers(utc(start), utc(start) + days * DAY, number))
    price, amount = random.uniform(99, 101, number), random.lognormal(0, 1, number)
    return make_events(time, random.integers(0, 2, number), price, amount, price * amount)


def later(events, by):
    return replace(events, timestamp=events.timestamp + by)


DUPLICATES = {
    "different": (lambda e: [e], OK, "0.0% repeat another event"),
    "each twice": (lambda e: [e, e], WRONG, "stand twice"),
    "each four times": (lambda e: [e, e, e, e], WRONG, "stand twice"),
    "three times": (lambda e: [e, e, e], WRONG, "66.7% repeat another event"),
    # 100 of 1,100 are repeats: 9.1 %.
    "a tenth": (lambda e: [e, e.take(slice(100))], LOOK, "9.1% repeat another event"),
    "one": (lambda e: [e, e.take(slice(1))], OK, "0.1% repeat"),
    "another clock": (lambda e: [e, later(e, 130)], WRONG, "50.0% one of the same second"),
    "a minute later": (lambda e: [e, later(e, 60_000)], OK, "0.0% one of the same second"),
    "other side": (lambda e: [e, replace(e, side=1 - e.side)], OK, "0.0% repeat"),
    "other price": (lambda e: [e, replace(e, price=e.price * 1.01)], OK, "0.0% repeat"),
}


@pytest.mark.parametrize("case", DUPLICATES)
def test_events_that_stand_twice(case):
    change, verdict, seen = DUPLICATES[case]
    found = judge_duplicates(Events.concat(change(many())))
    assert found.verdict == verdict
    assert seen in found.seen


def test_no_events_are_not_fine():
    assert judge_duplicates(Events.concat([])).verdict == UNTRIED


def bars(long, short):
    time = utc("2024-01-01") + HOUR * np.arange(len(long))
    unknown = np.full(len(long), NAN)
    return Bars(time, *map(np.asarray, (long, short)), unknown, unknown, unknown, unknown)


def test_bars_that_repeat_the_one_before():
    random = np.random.default_rng(0)
    long, short = random.lognormal(0, 1, (2, 1000))
    assert judge_repeated_bars(bars(long, short)).verdict == OK
    held = long.copy(), short.copy()
    for side in held:
        side[500:510] = side[499]  # 10 of 1,000
    found = judge_repeated_bars(bars(*held))
    assert (found.verdict, found.seen[:12]) == (LOOK, "10 of 1,000 ")
    halves = np.repeat(long[:500], 2), np.repeat(short[:500], 2)
    assert judge_repeated_bars(bars(*halves)).verdict == WRONG
    # Of one-contract liquidations half repeat the one before by chance.
    small = bars(random.integers(0, 2, 1000).astype(float), np.ones(1000))
    assert judge_repeated_bars(small).verdict == OK
    # Quiet bars are equal, and no repeats.
    assert judge_repeated_bars(bars(np.zeros(99), np.zeros(99))).verdict == UNTRIED


def test_the_same_rows_under_another_name():
    events = many()
    mine = Marks("A", ("BTC/USDT:USDT", "okx"), marks_of(events))
    other = Marks("B", ("ETH/USDT:USDT", "okx"), marks_of(events.take(slice(200, 300))))
    elsewhere = Marks("C", ("BTC/USDT:USDT", "bybit"), marks_of(many(seed=1)))
    again = Marks("D", ("BTC/USDT:USDT", "okx"), marks_of(events))  # another source of the same
    found, inside, *nothing = judge_shared([mine, other, elsewhere])
    assert nothing == [None]
    assert (inside.verdict, inside.seen[:13]) == (WRONG, "100.0% of its")
    assert (found.verdict, found.seen[:23]) == (WRONG, "10.0% of its rows stand")
    assert " B " in found.seen
    assert judge_shared([mine, again, elsewhere]) == [None] * 3
    few = Marks("E", ("ETH/USDT:USDT", "okx"), marks_of(events.take(slice(5))))
    assert [one.verdict for one in judge_shared([few, mine])] == [LOOK, LOOK]
    hourly = bars_of(("2024-01-01", 1.0, 2.0), ("2024-01-01 01:00", 0.0, 2.0))
    assert len(marks_of(hourly)) == 1  # equal bars of one side alone are no rarity


# --- gaps and silence -----------------------------------------------------------------------------


def test_holes_are_told_and_never_wrong():
    whole = utc("2024-01-01"), utc("2024-04-01")
    assert judge_gaps(spans(whole), *whole).verdict == OK
    cut = spans(("2024-01-01", "2024-01-31"), ("2024-03-01", "2024-04-01"))
    found = judge_gaps(cut, *whole, {"cut": 2, "restart": 1})
    # 2024-01-31 … 2024-03-01 are 30 of 91 days.
    assert found.verdict == LOOK
    assert found.seen == (
        "1 hole(s), 33.0% of the time, the longest from 2024-01-31 00:00 to 2024-03-01 00:00; "
        "nothing at all of 2024-02; feeds: cut 2, restart 1"
    )
    blink = spans(("2024-01-01", "2024-01-31"), ("2024-01-31 00:20", "2024-04-01"))
    assert judge_gaps(blink, *whole).verdict == OK
    # What was asked for and lies outside is a hole, too.
    early = judge_gaps(spans(("2024-01-02", "2024-04-01")), *whole)
    assert (early.verdict, early.seen[:9]) == (LOOK, "1 hole(s)")


def silent(total, begin, length):
    changed = total.copy()
    changed[begin : begin + length] = 0
    return changed


@pytest.mark.parametrize("base", BASES)
def test_a_dead_feed_is_found_in_recorded_hours(base, hours):
    opens, long, short, _, _ = hours[base]
    total = long + short
    for begin in range(200, 1400, 100):
        assert judge_silence(opens, silent(total, begin, 24)).verdict == WRONG
        found = judge_silence(opens, silent(total, begin, 12))
        assert found.verdict in (LOOK, WRONG)
        assert "observed" in found.seen
        assert judge_silence(opens, silent(total, begin, 1)).verdict == OK
    # Not observed is not silent.
    unknown = total.copy()
    unknown[300:400] = NAN
    assert judge_silence(opens, unknown).verdict == OK


def test_calm_days_of_a_swarm_are_no_dead_feed():
    opens = utc("2024-01-01") + HOUR * np.arange(24 * 200)
    for seed in range(10):
        random = np.random.default_rng(seed)
        mood = np.repeat(random.standard_normal(100), 48)
        total = random.poisson(0.3 * np.exp(1.5 * mood)).astype(float)
        assert judge_silence(opens, total).verdict == OK
        # Where a Poisson process would have been sure:
        assert silence_chance(np.array([300, 1, 1, 2])) < 1e-6


def test_other_sources_say_whether_the_market_was_quiet():
    random = np.random.default_rng(3)
    opens = utc("2024-01-01") + HOUR * np.arange(1000)
    total = random.poisson(5.0, 1000).astype(float)
    dead = silent(total, 500, 24)
    assert judge_silence(opens, dead).verdict == WRONG
    others = random.poisson(5.0, 1000).astype(float)
    assert judge_silence(opens, dead, others).verdict == WRONG
    assert judge_silence(opens, dead, silent(others, 500, 24)).verdict == OK
    # Who was not observed can't say it.
    others[500:524] = NAN
    assert judge_silence(opens, dead, others).verdict == WRONG
    # It says nothing for days at times, but never so while others do.
    seldom = np.where(np.arange(1000) // 40 % 2 == 0, total, 0.0)
    others = np.where(seldom > 0, 1.0, 0.0)
    assert judge_silence(opens, seldom, others).verdict == OK
    others[40:80] = 1.0
    found = judge_silence(opens, seldom, others)
    assert (found.verdict, "2024-01-02 16:00 to 2024-01-04 08:00" in found.seen) == (LOOK, True)


def test_too_little_for_silence_says_so():
    opens = utc("2024-01-01") + HOUR * np.arange(100)
    assert judge_silence(opens, np.zeros(100)).verdict == UNTRIED
    assert judge_silence(opens[:40], np.ones(40)).verdict == UNTRIED
    assert judge_silence(opens, np.ones(100)).verdict == OK


# --- prices, values, volumes ----------------------------------------------------------------------

#  An hour from 99 to 101, for 30 days.
OPENS = utc("2024-01-01") + HOUR * np.arange(720)
HIGH, LOW = np.full(720, 101.0), np.full(720, 99.0)


def repriced(events, factor):
    price = events.price * factor
    return replace(events, price=price, value_usd=price * events.amount)


PRICES = {
    "true": (lambda e: e, OK, "0.0% lie more than 5% outside"),
    "a little outside": (lambda e: repriced(e, 1.03), OK, "0.0% lie more than 5%"),
    "low leverage": (
        lambda e: repriced(e, np.where(np.arange(1000) < 100, 1.15, 1.0)), LOOK, "10.0% lie more"
    ),
    "the limits of orders": (lambda e: repriced(e, 1.25), WRONG, "100.0% lie more"),
    "in thousands": (lambda e: repriced(e, 1000), WRONG, "prices are 999.9 times"),
    "in cents": (lambda e: repriced(e, 0.01), WRONG, "prices are 0.009999 times"),
    "contracts": (
        lambda e: replace(e, amount=e.amount * 100), WRONG, "100.0% of the values are not price"
    ),
    "another time": (lambda e: later(e, 60 * DAY), UNTRIED, "no candle of the events' time"),
}  # fmt: skip


@pytest.mark.parametrize("case", PRICES)
def test_prices_and_values(case):
    change, verdict, seen = PRICES[case]
    found = judge_prices(change(many()), OPENS, HIGH, LOW, HOUR)
    assert (found.verdict, seen in found.seen) == (verdict, True), found


def test_values_in_another_currency_are_not_judged():
    strange = replace(many(), amount=many().amount * 100)
    assert judge_prices(strange, OPENS, HIGH, LOW, HOUR, usd=False).verdict == OK
    assert judge_prices(Events.concat([]), OPENS, HIGH, LOW, HOUR).verdict == UNTRIED
    nothing = np.empty(0)
    found = judge_prices(many(), np.empty(0, np.int64), nothing, nothing, HOUR)
    assert found.verdict == UNTRIED


def test_recorded_events_pass(recorded):
    contracts = okx_contracts(recorded / "data/okx/instruments.json", {})
    for base in BASES:
        answer = recorded / f"data/okx/{base}-USDT-SWAP-liquidation-orders.json"
        parts = okx.read(answer.read_bytes(), Options(contracts=lambda: contracts))
        (events,) = (part.rows for part in parts)
        frame = pd.read_feather(
            recorded / f"data/candles-2026-03/futures/{base}_USDT_USDT-1h-futures.feather"
        )
        arguments = ms(frame), frame["high"].to_numpy(), frame["low"].to_numpy(), HOUR
        assert judge_prices(events, *arguments).verdict == OK
        assert judge_prices(repriced(events, 1.5), *arguments).verdict == WRONG
        assert judge_duplicates(events).verdict == OK
        assert judge_duplicates(Events.concat([events, events])).verdict == WRONG


def test_more_liquidated_than_traded():
    traded = np.full(720, 1000.0)  # 24,000 a day
    usual = np.full(720, 1.0)
    assert judge_volume(OPENS, usual, traded).verdict == OK
    once = usual.copy()
    once[100] = 30_000.0
    found = judge_volume(OPENS, once, traded)
    assert (found.verdict, found.seen.endswith("on 2024-01-05")) == (WRONG, True)
    assert judge_volume(OPENS, once, traded, own=False).verdict == LOOK
    once[100] = 12_000.0
    assert judge_volume(OPENS, once, traded).verdict == LOOK
    assert judge_volume(OPENS, usual * 1e-6, traded).verdict == LOOK
    # What was not observed, or has no candle, is not counted.
    assert judge_volume(OPENS, np.where(once > 9, NAN, usual), traded).verdict == OK
    assert judge_volume(OPENS, once, np.where(once > 9, NAN, traded)).verdict == OK
    assert judge_volume(OPENS[:9], usual[:9], traded[:9]).verdict == UNTRIED
    assert judge_volume(OPENS, usual, np.zeros(720)).verdict == UNTRIED


# --- sources against each other -------------------------------------------------------------------


def test_two_sources_of_the_same(hours):
    _, long, short, _, _ = hours["BTC"]
    random = np.random.default_rng(0)
    seen = [side * random.uniform(0.2, 0.6, len(side)) for side in (long, short)]
    found = judge_other("x", (long, short), tuple(seen), HOUR, same=True)
    assert found.verdict == OK
    assert found.seen.startswith("x: 2.5 times its volume, correlation 0.9")
    late = tuple(moved(side, 1) for side in seen)
    found = judge_other("x", (long, short), late, HOUR, same=True)
    assert (found.verdict, "these are stamped 1 h too early" in found.seen) == (WRONG, True)
    swapped = judge_other("x", (long, short), tuple(seen[::-1]), HOUR, same=True)
    assert (swapped.verdict, "opposite" in swapped.seen) == (WRONG, True)
    noise = tuple(random.lognormal(0, 1, (2, len(long))))
    for same, verdict in ((True, LOOK), (False, OK)):
        assert judge_other("x", (long, short), noise, HOUR, same=same).verdict == verdict
    # Base units, contracts, or a side that is lost or in another unit.
    for factor, verdict in ((19, OK), (21, LOOK), (1 / 19, OK), (1 / 21, LOOK), (60_000, LOOK)):
        for same in (True, False):
            other = long * factor, short * factor
            found = judge_other("x", (long, short), other, HOUR, same=same)
            assert (found.verdict, "base units" in found.means) == (verdict, verdict == LOOK)
    for other in ((long, short * 0.04), (long, short * 0), (long * 25, short)):
        found = judge_other("x", (long, short), other, HOUR, same=True)
        assert (found.verdict, "of a side" in found.means) == (LOOK, True)
        assert "% are longs, of the other's " in found.seen
        assert judge_other("x", (long, short), other, HOUR, same=False).verdict == OK
    assert judge_other("x", (long, short), (long, short * 0.1), HOUR, same=True).verdict == OK
    unknown = np.full(len(long), NAN)
    found = judge_other("x", (long, short), (unknown, unknown), HOUR, same=True)
    assert found.verdict == UNTRIED


# --- the store and the command --------------------------------------------------------------------


@pytest.fixture(scope="module")
def market():
    return simulate(4, utc("2024-01-01"), 45 * 1440, events=20_000)


@pytest.fixture
def folder(tmp_path, monkeypatch, market):
    """Return an empty folder with a config, and candles of 1h and 5m of the simulated market."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(REPOSITORY / "config.json", tmp_path)
    data = tmp_path / "user_data/data/binance"
    (data / "futures").mkdir(parents=True)
    handler = get_datahandler(data, "feather")
    for timeframe, length in (("5m", 300_000), ("1h", HOUR)):
        candles = resample(market.candles, length)
        handler.ohlcv_store(PAIR, timeframe, candles, CandleType.FUTURES)
    return tmp_path


def write(folder, *series, coverage=None):
    span = spans(("2024-01-01", "2024-02-15")) if coverage is None else coverage
    with Store(f"sqlite:///{folder}/user_data/liquidations.sqlite", create=True) as store:
        for exchange, pair, source, rows, period in series:
            with store.write() as writer:
                writer.insert(exchange, pair, source, rows, span, period=period)


def checked(capsys, *words):
    code = run(["check", "--format", "json", *words])
    return code, json.loads(capsys.readouterr().out)


def test_a_true_store_passes(folder, market, capsys):
    hourly = to_bars(market.events, HOUR)
    write(
        folder,
        ("binance", PAIR, "feed", market.events, 60_000),
        ("binance", PAIR, "vendor", hourly, HOUR),
    )
    code, (events, vendor) = checked(capsys)
    assert code == 0
    assert set(events["verdicts"].values()) == {OK}
    assert events["candles"] == "5m of BTC/USDT:USDT (binance)"
    assert (events["period"], vendor["period"]) == ("1m", "1h")
    assert vendor["verdicts"] == events["verdicts"] | {"prices": UNTRIED}
    assert run(["check", "-p", PAIR]) == 0
    printed = capsys.readouterr().out
    assert "│ vendor │ 1h" in printed
    assert "not tried: BTC/USDT:USDT binance vendor 1h, prices: bars of a vendor have no" in printed


FAULTS = {
    "time": lambda e: later(e, 2 * HOUR),
    "sides": lambda e: replace(e, side=1 - e.side),
    "sides, one": lambda e: e.take(e.side == 0),
    "duplicates": lambda e: twice(e),
    "silence": lambda e: e.take((e.timestamp < utc("2024-01-20")) | (e.timestamp > utc("2024-02"))),
    "prices": lambda e: repriced(e, 10),
    "volume": lambda e: replace(e, value_usd=e.value_usd * 3000, amount=e.amount * 3000),
}


def twice(events):
    columns = [np.repeat(getattr(events, name), 2) for name in Events.names()[2:6]]
    return make_events(np.repeat(events.timestamp, 2), *columns)


@pytest.mark.parametrize("fault", FAULTS)
def test_each_planted_fault_is_named_and_the_exit_code_is_1(fault, folder, market, capsys):
    write(folder, ("binance", PAIR, "feed", FAULTS[fault](market.events), 60_000))
    code, (report,) = checked(capsys)
    wrong = [name for name, verdict in report["verdicts"].items() if verdict == WRONG]
    check, _, _ = fault.partition(",")
    assert (code, wrong) == (1, [check])
    assert run(["check"]) == 1
    lines = capsys.readouterr().out.splitlines()
    (line,) = (line for line in lines if line.startswith("wrong: "))
    assert line.startswith(f"wrong: BTC/USDT:USDT binance feed 1m, {check}: ")
    assert "It means: " in line
    assert "Do: " in line


def test_a_look_is_no_failure(folder, market, capsys):
    holes = spans(("2024-01-01", "2024-01-20"), ("2024-02-01", "2024-02-15"))
    events = FAULTS["silence"](market.events)
    write(folder, ("binance", PAIR, "feed", events, 60_000), coverage=holes)
    code, (report,) = checked(capsys)
    assert (code, report["verdicts"]["gaps"], report["verdicts"]["silence"]) == (0, LOOK, OK)
    # Within the timerange there is no hole.
    code, (report,) = checked(capsys, "--timerange", "20240201-20240215")
    assert (code, report["verdicts"]["gaps"]) == (0, OK)
    assert (report["start"], report["end"]) == ("2024-02-01T00:00:00+00:00",) + (
        "2024-02-15T00:00:00+00:00",
    )


def test_why_a_live_feed_did_not_listen_is_told(folder, capsys):
    noon = utc("2024-01-10 12:00")
    url = f"sqlite:///{folder}/user_data/liquidations.sqlite"
    with Store(url, create=True) as store, store.write() as writer:
        feed = writer.feed("binance", "all", "binance")
        writer.join(feed, [PAIR], noon)
        feed, _ = writer.append(feed, {PAIR: many(start="2024-01-11", days=1)}, 0)
        feed = writer.cover(feed, noon, noon + 4 * HOUR)
        feed = writer.cover(feed, noon + 7 * HOUR, noon + 2 * DAY)
        writer.gap(feed, noon + 4 * HOUR, noon + 7 * HOUR, "cut")
        writer.gap(feed, noon + 8 * HOUR, noon + 9 * HOUR, "restart")  # filled since
        writer.seal(feed, noon + 2 * DAY, noon + 2 * DAY)
    _, (report,) = checked(capsys)
    (gaps,) = (one for one in report["findings"] if one["check"] == "gaps")
    assert gaps["verdict"] == LOOK
    assert gaps["seen"].startswith("1 hole(s), 6.2% of the time")  # 3 h of 48
    assert gaps["seen"].endswith("; feeds: cut 1")


def test_without_candles_the_line_that_gets_them_is_told(folder, market, capsys):
    write(folder, ("okx", "ETH/USDT:USDT", "okx", market.events, 60_000))
    code, (report,) = checked(capsys, "-p", "ETH/USDT:USDT")
    untried = {name for name, verdict in report["verdicts"].items() if verdict == UNTRIED}
    assert (code, untried) == (0, {"time", "sides", "prices", "volume", "sources"})
    (time,) = (one for one in report["findings"] if one["check"] == "time")
    assert time["do"] == (
        "get them with: freqtrade download-data -c config.json --exchange okx "
        "--trading-mode futures -p ETH/USDT:USDT -t 1h --timerange 20240101-20240215"
    )
    assert run(["check"]) == 0
    lines = capsys.readouterr().out.splitlines()
    # What four checks lack is said once.
    assert sum("download-data" in line for line in lines) == 1


def test_the_candles_of_the_series_own_exchange_come_first(folder, market, capsys):
    own = folder / "user_data/data/okx"
    shutil.copytree(folder / "user_data/data/binance", own)
    write(folder, ("okx", PAIR, "okx", market.events, 60_000))
    _, (report,) = checked(capsys)
    assert report["candles"] == "5m of BTC/USDT:USDT (okx)"
    shutil.rmtree(own)
    _, (report,) = checked(capsys)
    assert report["candles"] == "5m of BTC/USDT:USDT (binance)"
    assert WRONG not in report["verdicts"].values()


def test_a_pair_that_stands_for_the_base_lends_its_candles(folder, market, capsys):
    write(folder, ("hyperliquid", "BTC/USDC:USDC", "x", market.events, 60_000))
    _, (report,) = checked(capsys, "--exchange", "hyperliquid")
    assert report["candles"] == "5m of BTC/USDT:USDT (binance)"
    assert report["verdicts"]["time"] == report["verdicts"]["prices"] == OK
    handler = get_datahandler(folder / "user_data/data/binance", "feather")
    candles = resample(market.candles, HOUR)
    handler.ohlcv_store("1000SHIB/USDT:USDT", "1h", candles, CandleType.FUTURES)
    write(folder, ("hyperliquid", "SHIB/USDC:USDC", "x", market.events, 60_000))
    _, reports = checked(capsys, "-p", "SHIB/USDC:USDC")
    assert [one["verdicts"]["prices"] for one in reports] == [UNTRIED]
    assert [one["verdicts"]["time"] for one in reports] == [OK]


def test_another_pairs_file_is_found(folder, market, capsys):
    write(
        folder,
        ("binance", PAIR, "feed", market.events, 60_000),
        ("binance", "ETH/USDT:USDT", "feed", market.events.take(slice(0, 900)), 60_000),
    )
    code, reports = checked(capsys)
    assert code == 1
    assert [one["verdicts"]["duplicates"] for one in reports] == [WRONG, WRONG]
    found = [one for report in reports for one in report["findings"]]
    said = [
        one["seen"] for one in found if one["check"] == "duplicates" and one["verdict"] == WRONG
    ]
    assert "stand in ETH/USDT:USDT binance feed 1m too" in said[0]
    assert "100.0% of its rows stand in BTC/USDT:USDT binance feed 1m too" in said[1]


def test_the_order_in_which_it_was_stored_does_not_matter(folder, market, capsys):
    config = {"datadir": folder / "user_data/data/binance", "exchange": {"name": "binance"}}
    mixed = market.events.take(np.random.default_rng(0).permutation(len(market.events)))
    span = spans(("2024-01-01", "2024-02-15"))
    found = []
    for name, parts in {
        "whole": [market.events],
        "mixed": [mixed.take(slice(0, 3000)), mixed.take(slice(2500, None))],
    }.items():
        with Store(f"sqlite:///{folder}/{name}.sqlite", create=True) as store:
            for part in parts:
                with store.write() as writer:
                    writer.insert("binance", PAIR, "feed", part, span)
            (report,) = check_store(store, prices_of(config))
            found.append(report.findings)
    assert found[0] == found[1]
    for change in DUPLICATES.values():
        rows = Events.concat(change[0](many()))
        shuffled = rows.take(np.random.default_rng(1).permutation(len(rows)))
        assert judge_duplicates(shuffled) == judge_duplicates(rows)
        prices = [judge_prices(one, OPENS, HIGH, LOW, HOUR) for one in (rows, shuffled)]
        assert prices[0] == prices[1]


def test_recorded_answers_pass_the_command_and_shifted_ones_do_not(recorded, folder, capsys):
    data = recorded / "data"
    files = [f"{base}USDT_PERP.A-liquidation-history-1hour.json" for base in BASES]
    words = ["import-data", "--source", "coinalyze", "--unit", "base"]
    words += ["--datadir", str(data / "candles")]
    assert run([*words, *(str(data / "coinalyze" / name) for name in files)]) == 0
    capsys.readouterr()
    code, reports = checked(capsys, "--datadir", str(data / "candles"))
    assert (code, len(reports)) == (0, 3)
    for report in reports:
        good = {name for name, verdict in report["verdicts"].items() if verdict == OK}
        assert good == {"time", "sides", "duplicates", "gaps", "silence", "volume"}
    # A file whose times are those of Berlin in summer.
    answer = json.loads((data / "coinalyze" / files[0]).read_text())
    for row in answer[0]["history"]:
        row["t"] += 7200
    (folder / "shifted.json").write_text(json.dumps(answer))
    other = ["--db-url", "sqlite:///shifted.sqlite"]
    assert run([*words, *other, "shifted.json"]) == 0
    capsys.readouterr()
    code, (report,) = checked(capsys, "--datadir", str(data / "candles"), *other)
    assert (code, report["verdicts"]["time"]) == (1, WRONG)
    (found,) = (one for one in report["findings"] if one["verdict"] == WRONG)
    assert "stamped 2 h too late" in found["seen"]


def test_nothing_to_check_is_an_error(folder, market, capsys):
    write(folder, ("binance", PAIR, "feed", market.events, 60_000))
    for words in (["-p", "DOGE/USDT:USDT"], ["--timerange", "20200101-20200201"]):
        assert run(["check", *words]) == 2
        assert "were observed in that time" in capsys.readouterr().err


def test_invented_liquidations_are_marked(folder, capsys):
    made = ["--timerange", "20240101-20240201", "-t", "1h", "-p", PAIR]
    assert run(["simulate", *made]) == 0
    capsys.readouterr()
    words = ["--db-url", "sqlite:///user_data/simulated/liquidations.sqlite"]
    words += ["--datadir", "user_data/simulated/data"]
    assert run(["check", *words]) == 0
    assert "SIMULATED" in capsys.readouterr().err
