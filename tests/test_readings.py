"""The contract that every reading keeps, whatever it reads."""

from collections.abc import Callable
from functools import cache

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

import liquidations as door
from liquidations.errors import LiquidationsError


NAN = float("nan")
SIZE = 60

#: What the door offers beside readings: functions that need Freqtrade, and arithmetic on arrays.
NO_READINGS = {
    "add_context", "add_corrected", "add_liquidations", "add_thresholds", "alert",
    "context_pairs", "effective_count", "prepare_liquidations", "wilson",
}  # fmt: skip

Reading = Callable[[pd.DataFrame], pd.Series | pd.DataFrame]

#: +1 longs, -1 shorts, 0 nothing to say: negated when the sides and the price are mirrored.
SIDES: dict[str, Reading] = {
    "extreme": lambda f: door.extreme(f["liq_imbalance"], 0.77),
    "shift": lambda f: door.shift(f["liq_imbalance"], 0.057, 5),
    "flip": lambda f: door.flip(f["liq_imbalance"], 0.77, 4),
    "return_to_balance": lambda f: door.return_to_balance(f["liq_imbalance"], 0.77, 0.123, 5),
    "pressure": lambda f: door.pressure(f["liq_long"], f["liq_short"], 3, 0.613),
    "capitulation": lambda f: door.capitulation(f, 0.77, 6, 0.5, 0.5, 5),
    "fragile": lambda f: door.fragile(f, 0.77, 4),
    "quiet": lambda f: door.quiet(f, door.extreme(f["liq_imbalance"], 0.77), 4, 1, 2, 5),
    "significant": lambda f: door.significant(f["liq_imbalance"], f["liq_n_eff"], 0.77, z=0.9),
    "significant_by_count": lambda f: door.significant_by_count(
        f["liq_imbalance"], f["liq_long_count"], f["liq_short_count"], 0.77, z=0.9
    ),
    "gated_extreme": lambda f: door.gated_extreme(f, 0.77, z=0.9, window=4),
    "robust_extreme": lambda f: door.robust_extreme(f, 0.67),
    "flush": lambda f: door.flush(f, 0.77, 0.01, 4),
    "isolated": lambda f: door.isolated(f, 0.77, 0.03, 4, 1),
}

#: The same of the price alone, which is there whether liquidations were observed or not.
PRICE_SIDES: dict[str, Reading] = {
    "sharp_move": lambda f: door.sharp_move(f["high"], f["low"], f["close"], 0.7, 5),
}

#: From -1 to 1, negated too, but NaN where unknown.
BALANCES: dict[str, Reading] = {
    "consistency": lambda f: door.consistency(f["liq_imbalance"], 4),
}

#: A ratio in [0, 1]: mirrored about a half.
RATIOS: dict[str, Reading] = {
    "window_imbalance": lambda f: door.window_imbalance(f["liq_long"], f["liq_short"], 3),
    "shrunk_imbalance": lambda f: door.shrunk_imbalance(f["liq_long"], f["liq_short"], window=4),
    "exchange_imbalance": lambda f: door.exchange_imbalance(f, "observed", window=4),
    "leave_one_out": door.leave_one_out,
    "corrected_imbalance": lambda f: door.corrected_imbalance(
        f["liq_long"], f["liq_short"], f["liq_long_count"] + f["liq_short_count"], 60, 3
    ),
}

#: True or False, the same for both sides.
FLAGS: dict[str, Reading] = {
    "high_volume": lambda f: door.high_volume(f["liq_total"], 5),
    "gated_by_volume": door.gated_by_volume,
    "saturated": lambda f: door.saturated(f["liq_long_count"] + f["liq_short_count"], 60),
}

#: Numbers that are the same for both sides; NaN where unknown.
MEASURES: dict[str, Reading] = {
    "volatility_regime": lambda f: door.volatility_regime(f["close"], 2, 5),
    "saturation": lambda f: door.saturation(f["liq_long_count"] + f["liq_short_count"], 60),
    "intensity": lambda f: door.intensity(f["liq_total"], f["volume"] * f["close"]),
    "open_interest_change": lambda f: door.open_interest_change(f["liq_open_interest_amount"], 3),
    "reported_share": lambda f: door.reported_share(
        f["liq_total"], f["liq_open_interest_amount"], f["close"], 3, 1
    ),
    "liquidation_levels": lambda f: door.liquidation_levels(f, window=5, threshold=0.001),
}

READINGS = SIDES | PRICE_SIDES | BALANCES | RATIOS | FLAGS | MEASURES


def drawn(data: st.DataObject) -> pd.DataFrame:
    """Draw some candles of two exchanges."""
    return market(data.draw(st.integers(0, 300))).iloc[: data.draw(st.integers(1, SIZE))].copy()


@cache
def market(seed: int) -> pd.DataFrame:
    """Make candles of two exchanges, some without liquidations, unobserved or uncounted."""
    size, random = SIZE, np.random.default_rng(seed)
    close = 100 * np.exp(np.cumsum(random.normal(0, 0.01, size)))
    dates = pd.date_range("2024-01-01 21:00", periods=size, freq="1h", tz="UTC").as_unit("ms")
    frame = pd.DataFrame({"date": dates, "close": close, "open": np.append(100.0, close[:-1])})
    frame["high"] = frame[["open", "close"]].max(axis=1) * (1 + random.random(size) / 100)
    frame["low"] = frame[["open", "close"]].min(axis=1) * (1 - random.random(size) / 100)
    frame["volume"] = random.random(size) * 1000
    interest = 1000 * np.exp(np.cumsum(random.normal(0, 0.03, size)))
    frame["liq_open_interest_amount"] = np.where(random.random(size) < 0.1, NAN, interest)
    for exchange in ("binance", "okx"):
        known = random.random(size) >= 0.2
        counted = random.random(size) >= 0.2
        for side in ("long", "short"):
            # Whole dollars, so that long / total and 1 - short / total lie on the same side.
            values = np.floor(random.pareto(0.7, size) * 3) * (random.random(size) >= 0.3)
            count = np.minimum(values, random.integers(1, 30, size))
            frame[f"liq_{side}_{exchange}"] = np.where(known, values, NAN)
            frame[f"liq_{side}_count_{exchange}"] = np.where(known & counted, count, NAN)
    unknown = frame[["liq_long_binance", "liq_long_okx"]].isna().all(axis=1)
    for name in ("liq_long", "liq_short"):
        total = frame[[f"{name}_binance", f"{name}_okx"]].sum(axis=1)
        frame[name] = total.where(~unknown)
        count = frame[[f"{name}_count_binance", f"{name}_count_okx"]].sum(axis=1, skipna=False)
        frame[f"{name}_count"] = count
    frame["n"] = random.random(size) * 10 + 1
    return with_ratios(frame)


def with_ratios(frame: pd.DataFrame) -> pd.DataFrame:
    for end in ("", "_binance", "_okx"):
        long, total = frame[f"liq_long{end}"], frame[f"liq_long{end}"] + frame[f"liq_short{end}"]
        frame[f"liq_total{end}"] = total
        frame[f"liq_imbalance{end}"] = long / total.where(total > 0)
    frame["liq_n_eff"] = frame["n"].where(frame["liq_total"] > 0)
    frame["liq_open_interest"] = frame["liq_open_interest_amount"] * 100
    return frame


def mirrored(frame: pd.DataFrame, *, price: bool = True) -> pd.DataFrame:
    """Swap longs and shorts, and turn the price upside down."""
    turned = frame.copy()
    for end in ("", "_binance", "_okx", "_count", "_count_binance", "_count_okx"):
        turned[f"liq_long{end}"] = frame[f"liq_short{end}"]
        turned[f"liq_short{end}"] = frame[f"liq_long{end}"]
    if price:
        for column, other in (("high", "low"), ("low", "high"), ("close", "close")):
            turned[column] = 300 - frame[other]
    return with_ratios(turned)


def equal(one: pd.Series | pd.DataFrame, other: pd.Series | pd.DataFrame, **how) -> None:
    compare = (
        pd.testing.assert_frame_equal
        if isinstance(one, pd.DataFrame)
        else pd.testing.assert_series_equal
    )
    compare(one, other, **how)


def test_the_contract_knows_every_reading():
    assert set(READINGS) | NO_READINGS == set(door.__all__)


@pytest.mark.parametrize("name", READINGS)
@given(st.data())
def test_every_reading_keeps_the_contract(name, data):
    frame, read = drawn(data), READINGS[name]
    before = frame.copy(deep=True)
    result = read(frame)
    pd.testing.assert_frame_equal(frame, before)
    pd.testing.assert_index_equal(result.index, frame.index)
    columns = result if isinstance(result, pd.DataFrame) else result.to_frame()
    wanted = bool if name in FLAGS else np.float64
    assert all(dtype == wanted for dtype in columns.dtypes)
    # Later candles change nothing, not a bit.
    length = data.draw(st.integers(1, len(frame)))
    equal(read(frame.iloc[:length]), result.iloc[:length], check_exact=True)
    if name in SIDES | FLAGS:
        # An unobserved candle says nothing, whatever lies around it.
        assert not result[frame["liq_total"].isna()].any()
    if name in SIDES | PRICE_SIDES:
        assert set(result) <= {-1.0, 0.0, 1.0}
        assert not (np.signbit(result) & (result == 0)).any()
    if name in RATIOS:
        values = columns.to_numpy()
        assert (np.isnan(values) | (values >= 0) & (values <= 1)).all()


@pytest.mark.parametrize("name", sorted(SIDES.keys() | FLAGS.keys()))
def test_nothing_observed_says_nothing(name):
    size = 50
    dates = pd.date_range("2024-01-01", periods=size, freq="1h", tz="UTC").as_unit("ms")
    random = np.random.default_rng(1)
    close = 100 * np.exp(np.cumsum(random.normal(0, 0.05, size)))
    frame = pd.DataFrame({"date": dates, "open": close, "high": close, "low": close})
    frame["close"], frame["volume"], frame["n"] = close, 1.0, 1.0
    frame["liq_open_interest_amount"] = 1000 * np.exp(np.cumsum(random.normal(0, 0.05, size)))
    for end in ("", "_binance", "_okx", "_count", "_count_binance", "_count_okx"):
        frame[f"liq_long{end}"] = frame[f"liq_short{end}"] = NAN
    assert not READINGS[name](with_ratios(frame)).any()


@pytest.mark.parametrize("name", READINGS)
@given(st.data())
def test_swapping_the_sides_and_the_price_mirrors_every_reading(name, data):
    frame = drawn(data)
    # Where the price is nobody's side it is left alone: turned upside down it moves otherwise.
    price = name not in MEASURES.keys() | {"quiet"}
    result, turned = READINGS[name](frame), READINGS[name](mirrored(frame, price=price))
    if name in SIDES | PRICE_SIDES | BALANCES:
        equal(-turned + 0.0, result + 0.0)
    elif name in RATIOS:
        equal(1 - turned, result)
    else:
        equal(turned, result)


@pytest.mark.parametrize("name", READINGS)
@pytest.mark.parametrize("size", [0, 1])
def test_frames_of_no_or_one_candle_are_frames(name, size):
    result = READINGS[name](market(0).iloc[:size])
    assert len(result) == size


@pytest.mark.parametrize("name", SIDES)
def test_every_reading_does_speak(name):
    """A reading that never says anything would keep the contract too."""
    spoken = {side for seed in range(300) for side in READINGS[name](market(seed))}
    assert spoken == {-1.0, 0.0, 1.0}


@pytest.mark.parametrize(
    ("mistake", "says"),
    [
        (lambda f: door.capitulation(f.drop(columns="liq_imbalance")), r"add_liquidations\(self"),
        (lambda f: door.flush(f.drop(columns="liq_open_interest_amount")), r"add_context\(self"),
        (
            lambda f: door.fragile(f.drop(columns="low")),
            "no column 'low'; they must be Freqtrade's",
        ),
        (lambda f: door.gated_extreme(f.drop(columns="liq_long_count")), "'liq_long_count'"),
        (lambda f: door.liquidation_levels(f.drop(columns="high")), "no column 'high'"),
        (lambda f: door.high_volume(f["liq_total"], 24 * 60 / 60), "whole number .* got 24.0"),
        (lambda f: door.fragile(f, window=2.5), "whole number .* got 2.5"),
        (lambda f: door.sharp_move(f["high"], f["low"], f["close"], 1, 200_000), "to 100000, got"),
        (lambda f: door.isolated(f, window="48"), "window must be a whole number .* got '48'"),
        (lambda f: door.extreme(f["liq_imbalance"], [0.8]), r"threshold must be .*got \[0.8\]"),
        (lambda f: door.extreme(f["liq_imbalance"], "0.8"), "threshold must be .*got '0.8'"),
        (
            lambda f: door.extreme(f["liq_imbalance"], f["liq_imbalance"].iloc[:5]),
            "threshold must have the index of the candles",
        ),
        (
            lambda f: door.significant(f["liq_imbalance"], f["n"], base=f["n"].iloc[::-1]),
            "base must have the index of the candles",
        ),
    ],
)
def test_plain_mistakes_are_named(mistake, says):
    with pytest.raises(LiquidationsError, match=says):
        mistake(market(0))


def test_quiet_passes_over_what_its_signal_does_not_know():
    frame = market(3)
    signal = door.extreme(frame["liq_imbalance"])
    shifted = door.quiet(frame, signal.shift(1), 4, 1, 2, 5)
    assert shifted.notna().all()
    equal(shifted, door.quiet(frame, signal.shift(1).fillna(0.0), 4, 1, 2, 5))
