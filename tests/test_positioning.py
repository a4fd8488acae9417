"""Open interest beside liquidations: late, in contracts, and never guessed."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from liquidations.candles import to_bars
from liquidations.errors import LiquidationsError
from liquidations.event import MINUTE
from liquidations.positioning import flush, intensity, isolated, open_interest_change
from liquidations.positioning import reported_share as reported
from liquidations.simulate import resample, simulate


NAN = float("nan")
HOUR = 60 * MINUTE
START = 1_700_006_400_000  # 2023-11-15 00:00 UTC


def frame_of(ratio: list[float], amount: list[float], total: float = 9.0) -> pd.DataFrame:
    """Build the columns that flush and isolated read; a ratio of NaN is a quiet candle."""
    columns = {"liq_imbalance": ratio, "liq_open_interest_amount": amount}
    return pd.DataFrame(columns).assign(liq_total=total)


def test_change_is_relative_and_unknown_beside_what_is_unknown():
    amount = pd.Series([100.0, 110.0, 99.0, NAN, 99.0, 0.0, -5.0, 99.0])
    expected = [NAN, 0.1, -0.1, NAN, NAN, NAN, NAN, NAN]
    np.testing.assert_allclose(open_interest_change(amount), expected)
    # 99/100, then 99/99 three candles apart
    expected = [NAN, NAN, NAN, NAN, 99 / 110 - 1, NAN, NAN, 0.0]
    np.testing.assert_allclose(open_interest_change(amount, 3), expected)


#  candle   0   1    2   3    4    5   6   7
#  ratio    –  .9    –   –   .1    –   –   –
#  amount 100 100  100  95   95   88  88  88
RATIO = [NAN, 0.9, NAN, NAN, 0.1, NAN, NAN, NAN]
AMOUNT = [100.0, 100.0, 100.0, 95.0, 95.0, 88.0, 88.0, 88.0]


def test_a_flush_is_an_extreme_and_a_fall():
    # Over 3 candles: 3: 95/100, the longs of 1. 4: 95/100, the shorts of 4, as 1 is too old.
    # 5: 88/100, 6: 88/95. 7: 88/95, but the extreme is 3 candles old.
    expected = [0, 0, 0, 1, -1, -1, -1, 0]
    assert flush(frame_of(RATIO, AMOUNT), window=3).tolist() == expected
    # 5 % are less than 6 %; 88/95 is -7.4 %.
    expected = [0, 0, 0, 0, 0, -1, -1, 0]
    assert flush(frame_of(RATIO, AMOUNT), window=3, drop=0.06).tolist() == expected
    # A fall before the candle's own window says nothing of its extreme: 100 → 100, 95 → 95.
    expected = [0, 0, 0, 0, 0, 0, 0, 0]
    assert flush(frame_of(RATIO, AMOUNT), window=1).tolist() == expected


def test_a_fall_of_the_price_is_no_flush():
    # 8 % lower in USD, and not a contract was closed.
    frame = frame_of([NAN, 0.9, NAN], [100.0] * 3)
    frame["liq_open_interest"] = [5000.0, 5000.0, 4600.0]
    assert not flush(frame, window=2).any()
    assert isolated(frame, window=2, lag=1).tolist() == [0, 0, 1]


def test_isolated_waits_until_open_interest_can_show_the_extreme():
    amount = [100.0, 100.0, 100.0, 100.5, 100.5, 100.5, 99.0, 99.0]
    # Extremes that are 2 or 3 candles old, over 4 candles: 3 has no fourth candle before it.
    # 4: longs of 1, +0.5 %. 5: none. 6: shorts of 4, 99/100. 7: 99/100.5, too much.
    assert isolated(frame_of(RATIO, amount), window=4, lag=2).tolist() == [0, 0, 0, 0, 1, 0, 0, 0]
    wide = isolated(frame_of(RATIO, amount), tolerance=0.0101, window=4, lag=2)
    assert wide.tolist() == [0, 0, 0, 0, 1, 0, -1, 0]


@pytest.mark.parametrize(("first", "side"), [(8.9, -1), (9.0, 0), (9.1, 1)])
def test_of_several_extremes_the_largest_counts_and_of_equals_none(first, side):
    both = frame_of([NAN, 0.9, 0.1, NAN, NAN], [100.0, 100, 100, 90, 90])
    both.loc[1, "liq_total"] = first
    assert flush(both, window=4)[4] == side
    assert isolated(both, tolerance=0.2, window=4, lag=2)[4] == side
    assert flush(both, window=3)[4] == -1  # the longs are too old


@pytest.mark.parametrize("read", [flush, isolated])
def test_an_unobserved_candle_says_nothing(read):
    rising = [100.0 - (6 * (at > 1) if read is flush else 0) for at in range(5)]
    options = {"window": 4} if read is flush else {"window": 4, "lag": 0}
    frame = frame_of([NAN, 0.9, NAN, NAN, NAN], rising)
    assert read(frame, **options)[4] == 1
    frame.loc[4, "liq_total"] = NAN
    assert read(frame, **options)[4] == 0
    # An unobserved candle in between hides nothing that was known before it.
    frame.loc[[3, 4], "liq_total"] = NAN, 0.0
    assert read(frame, **options)[4] == 1
    for unknown in (NAN, 0.0):
        for at in (0, 4):
            changed = frame.copy()
            changed.loc[at, "liq_open_interest_amount"] = unknown
            assert read(changed, **options)[4] == 0


def test_reported_share_by_hand():
    # Two candles of 1000 and 500 USD; 60 contracts fewer at a mean price of 50: 1500 / 3000.
    total = pd.Series([7.0, 1000.0, 500.0, 0.0, 3.0])
    amount = pd.Series([500.0, 500.0, 470.0, 440.0, 440.0])
    close = pd.Series([70.0, 60.0, 40.0, 30.0, 20.0])
    share = reported(total, amount, close, window=2, lag=0)
    expected = [NAN, NAN, 1500 / (30 * 50), 500 / (60 * 35), 3 / (30 * 25)]
    np.testing.assert_allclose(share, expected)
    # With open interest an hour late, what fell until candle 3 was liquidated in 1 and 2.
    late = reported(total, amount, close, window=2, lag=1)
    np.testing.assert_allclose(late, [NAN, NAN, 1007 / (30 * 65), 1500 / (60 * 50), 500 / 1050])
    # Unknown, or no fall: nothing to divide by.
    assert reported(total, pd.Series([5.0, 5, 5, 6, 6]), close, 2, 0).isna().all()
    holes = reported(total.where(total != 500), amount, close, window=2, lag=0)
    np.testing.assert_allclose(holes, [NAN] * 4 + [3 / 750])
    assert reported(total, amount.where(amount != 470), close, 2, 0)[2:].isna().tolist() == [
        True,
        False,
        True,
    ]


def test_intensity_by_hand():
    total = pd.Series([5.0, 0.0, NAN, 5.0, 5.0, 5.0])
    size = pd.Series([100.0, 100.0, 100.0, 0.0, NAN, 2.0])
    np.testing.assert_array_equal(intensity(total, size), [0.05, 0.0, NAN, NAN, NAN, 2.5])


# --- against a simulated market ------------------------------------------------------------------


def market(seed: int, shocks: dict[int, float], minutes: int = 2880) -> pd.DataFrame:
    """Return simulated 5m candles with open interest an hour late, as the provider gives it."""
    made = simulate(seed, START, minutes, shocks=shocks)
    frame = resample(made.candles, 5 * MINUTE)
    date = pd.DatetimeIndex(frame["date"]).asi8
    published = pd.DatetimeIndex(made.open_interest["date"]).asi8 + HOUR
    last = np.searchsorted(published, date + 5 * MINUTE, side="left") - 1
    amount = made.open_interest["open_interest_amount"].to_numpy()
    frame["liq_open_interest_amount"] = np.where(last < 0, NAN, amount[last])
    bars = to_bars(made.events)
    place = (bars.timestamp - START) // (5 * MINUTE)
    for side in ("long", "short"):
        frame[f"liq_{side}"] = np.bincount(place, getattr(bars, side), len(frame))
    frame["liq_total"] = frame["liq_long"] + frame["liq_short"]
    frame["liq_imbalance"] = frame["liq_long"] / frame["liq_total"].where(frame["liq_total"] > 0)
    return frame


@pytest.mark.parametrize(("shock", "side"), [(-0.12, 1), (0.12, -1)])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_simulated_crash_is_a_flush_once_open_interest_shows_it(seed, shock, side):
    # The shock is at 20:02 of the second day. Its hour's open interest is known after 22:00, to the
    # candle that opens then; nothing before can know.
    at = (1440 + 20 * 60 + 2) // 5
    frame = market(seed, {1440 + 20 * 60 + 2: shock})
    assert frame["liq_imbalance"][at] == pytest.approx((1 + side) / 2, abs=0.05)
    said = flush(frame, drop=0.1)
    known = (1440 + 22 * 60) // 5
    assert not said[:known].any()
    assert said[known] == side
    # What the simulated exchange publishes is all there is: the share is about 1, some USD aside
    # that were opened or closed voluntarily.
    share = reported(
        frame["liq_total"], frame["liq_open_interest_amount"], frame["close"], window=24
    )
    assert 0.7 < share[known] < 1.3
    sampled = reported(
        frame["liq_total"] / 10, frame["liq_open_interest_amount"], frame["close"], window=24
    )
    assert sampled[known] == pytest.approx(share[known] / 10)


# --- what holds for all of them ------------------------------------------------------------------


def drawn(data) -> pd.DataFrame:
    """Draw candles with liquidations and open interest, some of them unknown."""
    size = data.draw(st.integers(1, 50))
    random = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    frame = pd.DataFrame(
        {side: np.floor(random.pareto(0.7, size) * 3) for side in ("liq_long", "liq_short")}
    )
    frame.loc[random.random(size) < 0.2, ["liq_long", "liq_short"]] = NAN
    frame["close"] = 100 + random.random(size)
    amount = 1000 * np.exp(np.cumsum(random.normal(0, 0.03, size) * (random.random(size) < 0.4)))
    unknown = random.random(size)
    amount[unknown < 0.1] = NAN
    amount[unknown > 0.95] = 0.0
    frame["liq_open_interest_amount"] = amount
    frame.index += 7
    return with_ratio(frame)


def with_ratio(frame: pd.DataFrame) -> pd.DataFrame:
    frame["liq_total"] = frame["liq_long"] + frame["liq_short"]
    frame["liq_imbalance"] = frame["liq_long"] / frame["liq_total"].where(frame["liq_total"] > 0)
    return frame


READINGS = {
    "flush": lambda f: flush(f, 0.77, 0.02, 5),
    "isolated": lambda f: isolated(f, 0.77, 0.02, 6, 2),
}


@pytest.mark.parametrize("name", READINGS)
@given(st.data())
def test_signed_readings_against_their_definition_candle_by_candle(name, data):
    frame = drawn(data)
    amount, ratio = frame["liq_open_interest_amount"].tolist(), frame["liq_imbalance"].tolist()
    total = frame["liq_total"].tolist()
    window, lag = (5, 0) if name == "flush" else (6, 2)
    expected = []
    for at in range(len(frame)):
        largest = {1.0: 0.0, -1.0: 0.0}
        for then in range(max(at - window + 1, 0), at - lag + 1):
            hit = 1.0 if ratio[then] > 0.77 else -1.0 if ratio[then] < 1 - 0.77 else 0.0
            if hit:
                largest[hit] = max(largest[hit], total[then])
        side = float(np.sign(largest[1.0] - largest[-1.0]))  # of equals none
        held = False
        if at >= window and amount[at] > 0 and amount[at - window] > 0:
            change = amount[at] / amount[at - window] - 1
            held = change <= -0.02 if name == "flush" else abs(change) < 0.02
        observed = not np.isnan(frame["liq_total"].iloc[at])
        expected.append(side if held and observed else 0.0)
    assert READINGS[name](frame).tolist() == expected


@pytest.mark.parametrize(
    "wrong",
    [
        lambda f: open_interest_change(f["liq_open_interest_amount"], 0),
        lambda f: flush(f, threshold=0.4),
        lambda f: flush(f, drop=-0.1),
        lambda f: flush(f, window=0),
        lambda f: isolated(f, tolerance=-0.1),
        lambda f: isolated(f, window=3, lag=3),
        lambda f: isolated(f, window=3, lag=-1),
        lambda f: reported(f["liq_total"], f["liq_total"], f["liq_total"], 0),
        lambda f: reported(f["liq_total"], f["liq_total"], f["liq_total"], 3, -1),
    ],
)
def test_arguments_out_of_range_are_refused(wrong):
    with pytest.raises(LiquidationsError, match=r"must be .*got"):
        wrong(frame_of(RATIO, AMOUNT))
