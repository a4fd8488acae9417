"""The ratio over exchanges: a mean of ratios, and what is left of it without one of them."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from liquidations.errors import LiquidationsError
from liquidations.imbalance import exchange_imbalance, leave_one_out
from liquidations.significance import robust_extreme


NAN = float("nan")
NAMES = ("binance", "bybit", "okx")


def frame_of(**columns: list[float]) -> pd.DataFrame:
    """Build candles from the exchanges' ratios, and their totals as ``total_okx``."""
    return pd.DataFrame(
        {
            f"liq_{name}" if name.startswith("total") else f"liq_imbalance_{name}": values
            for name, values in columns.items()
        },
        dtype=np.float64,
    )


def test_equal_weights_by_hand():
    frame = frame_of(
        binance=[0.9, 0.9, NAN, NAN, 1.0],
        bybit=[0.5, NAN, NAN, NAN, 1.0],
        okx=[0.1, 0.2, 0.3, NAN, 1.0],
    )
    # (0.9 + 0.5 + 0.1) / 3 ; (0.9 + 0.2) / 2 ; okx alone ; nobody ; exactly 1
    np.testing.assert_allclose(exchange_imbalance(frame), [0.5, 0.55, 0.3, NAN, 1.0])
    assert exchange_imbalance(frame).iloc[4] == 1.0
    # (0.9 + 0.1) / 2 ; (0.9 + 0.2) / 2
    chosen = exchange_imbalance(frame, exchanges=["okx", "binance"])
    np.testing.assert_allclose(chosen, [0.5, 0.55, 0.3, NAN, 1.0])
    np.testing.assert_array_equal(
        exchange_imbalance(frame, exchanges="okx"), frame["liq_imbalance_okx"]
    )


def test_weights_that_are_given():
    frame = frame_of(binance=[0.9, 0.9, 0.9], okx=[0.1, 0.1, 0.1])
    # (3 × 0.9 + 1 × 0.1) / 4
    np.testing.assert_allclose(exchange_imbalance(frame, {"binance": 3, "okx": 1}), [0.7] * 3)
    # A weight of 0, and one that is not known, leave the exchange out.
    open_interest = pd.Series([1.0, 0.0, NAN])
    found = exchange_imbalance(frame, {"binance": open_interest, "okx": 3.0})
    np.testing.assert_allclose(found, [0.3, 0.1, 0.1])
    assert exchange_imbalance(frame, {"binance": 0, "okx": 0}).isna().all()
    # Of more exchanges than are there.
    assert exchange_imbalance(frame, {"binance": 1, "okx": 0, "bybit": 5}).tolist() == [0.9] * 3


def test_observed_weights_are_those_of_the_past():
    frame = frame_of(
        binance=[0.9, 0.9, 0.9, 0.9, 0.9],
        total_binance=[30.0, 30.0, NAN, 0.0, 1e9],
        okx=[0.1, 0.1, 0.1, 0.1, 0.1],
        total_okx=[10.0, 50.0, 20.0, 40.0, 10.0],
    )
    # Of up to two before, one of which must be known; the candle's own 1e9 counts only later.
    #  binance  –   30   30     30       0
    #  okx      –   10   30     35       30
    expected = [NAN, 0.7, 0.5, (30 * 0.9 + 3.5) / 65, 0.1]
    np.testing.assert_allclose(exchange_imbalance(frame, "observed", window=2), expected)
    # With a window of three, two must be known.
    #  binance  –   –    30     30       15
    #  okx      –   –    30     80 / 3   110 / 3
    later = (30 * 0.9 + 80 / 3 * 0.1) / (30 + 80 / 3), (15 * 0.9 + 11 / 3) / (15 + 110 / 3)
    expected = [NAN, NAN, 0.5, *later]
    np.testing.assert_allclose(exchange_imbalance(frame, "observed", window=3), expected)


def test_a_sampled_feed_is_heard():
    # What this is for: a complete feed of 1,000,000 at 0.5 and a sample of 1,000 at 0.95 sum up to
    # 0.50; as ratios they are 0.725.
    frame = frame_of(bybit=[0.5], binance=[0.95])
    assert exchange_imbalance(frame).iloc[0] == pytest.approx(0.725)


def test_leaving_one_out_by_hand():
    frame = frame_of(binance=[0.9, 0.9, 0.9], bybit=[0.95, NAN, NAN], okx=[0.5, 0.85, NAN])
    found = leave_one_out(frame)
    assert found.columns.tolist() == [f"liq_imbalance_without_{name}" for name in NAMES]
    np.testing.assert_allclose(found["liq_imbalance_without_binance"], [0.725, 0.85, NAN])
    np.testing.assert_allclose(found["liq_imbalance_without_bybit"], [0.7, 0.875, 0.9])
    np.testing.assert_allclose(found["liq_imbalance_without_okx"], [0.925, 0.9, 0.9])
    # 0: it is okx that is not extreme; 1: both are; 2: binance alone can't be confirmed.
    assert robust_extreme(frame).tolist() == [0, 1, 0]
    assert robust_extreme(1 - frame).tolist() == [0, -1, 0]
    assert robust_extreme(frame, 0.69).tolist() == [1, 1, 0]
    assert robust_extreme(frame, pd.Series([0.69, 0.9, 0.69])).tolist() == [1, 0, 0]
    assert robust_extreme(frame, weights={"binance": 1, "bybit": 1, "okx": 0}).tolist() == [1, 0, 0]


def test_one_exchange_alone_confirms_nothing():
    frame = frame_of(okx=[0.99, 0.01])
    assert leave_one_out(frame)["liq_imbalance_without_okx"].isna().all()
    assert robust_extreme(frame).tolist() == [0, 0]


# --- against the plain definition -----------------------------------------------------------------


@st.composite
def drawn(draw) -> pd.DataFrame:
    """Draw candles of three exchanges, some without liquidations, some not observed."""
    size = draw(st.integers(1, 30))
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    frame = pd.DataFrame(index=pd.date_range("2024-08-05", periods=size, freq="5min", tz="UTC"))
    for name in NAMES:
        total = np.where(random.random(size) < 0.3, 0.0, random.pareto(0.7, size) * 1000)
        total[random.random(size) < 0.3] = NAN
        ratio = np.where(total > 0, random.random(size), NAN)
        frame[f"liq_imbalance_{name}"], frame[f"liq_total_{name}"] = ratio, total
        frame[name] = np.where(random.random(size) < 0.2, NAN, random.integers(0, 5, size))
    return frame


def plain(frame: pd.DataFrame, row: int, weights: str, window: int, names: set[str]) -> float:
    """Work out the ratio of one candle from its definition."""
    total = weight_sum = 0.0
    for name in names:
        ratio = frame[f"liq_imbalance_{name}"].iloc[row]
        if weights == "equal":
            weight = 1.0
        elif weights == "observed":
            past = frame[f"liq_total_{name}"].iloc[max(row - window, 0) : row].dropna()
            weight = past.mean() if len(past) >= window / 2 else NAN
        else:
            weight = frame[name].iloc[row]
        if ratio == ratio and weight == weight:
            total, weight_sum = total + weight * ratio, weight_sum + weight
    return total / weight_sum if weight_sum else NAN


RULES = st.sampled_from(["equal", "observed", "series"])


def given_weights(frame: pd.DataFrame, rule: str):
    return {name: frame[name] for name in NAMES} if rule == "series" else rule


@settings(max_examples=50)
@given(drawn(), RULES, st.integers(1, 6))
def test_the_ratios_are_those_of_the_plain_definition(frame, rule, window):
    weights, rows = given_weights(frame, rule), range(len(frame))
    expected = [plain(frame, row, rule, window, set(NAMES)) for row in rows]
    found = exchange_imbalance(frame, weights, window=window)
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)
    assert ((found >= 0) & (found <= 1 + 1e-12) | found.isna()).all()
    for name, column in zip(NAMES, leave_one_out(frame, weights, window=window), strict=True):
        expected = [plain(frame, row, rule, window, set(NAMES) - {name}) for row in rows]
        without = leave_one_out(frame, weights, window=window)[column]
        np.testing.assert_allclose(without, expected, rtol=1e-9, atol=1e-12)


def robust_of(frame, weights, window):
    return robust_extreme(frame, 0.6, weights, window=window)


@settings(max_examples=50)
@given(drawn(), RULES, st.integers(1, 6), st.data())
def test_later_candles_change_nothing_and_the_input_stays(frame, rule, window, data):
    before = frame.copy(deep=True)
    part = frame.iloc[: data.draw(st.integers(1, len(frame)))]
    for read in (exchange_imbalance, leave_one_out, robust_of):
        full = read(frame, given_weights(frame, rule), window=window)
        cut = read(part, given_weights(part, rule), window=window)
        pd.testing.assert_index_equal(full.index, frame.index)
        np.testing.assert_array_equal(cut, full.iloc[: len(part)])
    pd.testing.assert_frame_equal(frame, before)


@settings(max_examples=50)
@given(drawn(), RULES)
def test_an_extreme_that_survives_each_omission_is_one_of_all(frame, rule):
    weights = given_weights(frame, rule)
    whole = exchange_imbalance(frame, weights, window=4)
    side = robust_extreme(frame, 0.6, weights, window=4)
    assert (whole[side > 0] > 0.6 - 1e-12).all()
    assert (whole[side < 0] < 0.4 + 1e-12).all()


# --- what is there, and what is not ---------------------------------------------------------------


def test_exchanges_are_found_among_other_columns():
    frame = frame_of(okx=[0.9], high=[0.7], btc=[0.1], without_okx=[0.2], okx_btc=[0.3])
    assert exchange_imbalance(frame).tolist() == [0.9]
    assert exchange_imbalance(frame, exchanges=["okx_btc"]).tolist() == [0.3]


@pytest.mark.parametrize("read", [exchange_imbalance, leave_one_out])
@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"exchanges": ["okx", "deribit"]}, r"deribit.*there are exchanges: binance, okx; .*"),
        ({"exchanges": []}, "per_exchange=True"),
        ({"weights": "observed"}, r"liq_total_binance.*none.*per_exchange=True"),
        ({"weights": "volume"}, "'equal', 'observed' or .*got 'volume'"),
        ({"weights": {"okx": 1.0}}, "none for 'binance', only for okx"),
        ({"weights": {}}, "only for no exchange"),
        ({"weights": {"okx": 1.0, "binance": -1}}, r"weights\['binance'\] must be 0 or more"),
        ({"weights": {"okx": 1.0, "binance": NAN}}, r"weights\['binance'\] must be 0 or more"),
        ({"weights": {"okx": 1, "binance": pd.Series([1.0], [7])}}, "index of the candles"),
    ],
)
def test_mistakes_are_named(read, arguments, says):
    with pytest.raises(LiquidationsError, match=says):
        read(frame_of(binance=[0.9], okx=[0.5]), **arguments)


def test_candles_without_single_exchanges_say_how_to_get_them():
    with pytest.raises(LiquidationsError, match="per_exchange=True"):
        exchange_imbalance(pd.DataFrame({"liq_imbalance": [0.9]}))
    frame = frame_of(okx=[0.9], total_okx=[1.0])
    with pytest.raises(
        LiquidationsError, match="window must be a whole number from 1 to 100000, got 0"
    ):
        exchange_imbalance(frame, "observed", window=0)
