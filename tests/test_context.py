"""Open interest and funding through Freqtrade's own data provider, as late as a bot knows them."""

import numpy as np
import pandas as pd
import pytest
from conftest import utc
from freqtrade.data.dataprovider import DataProvider
from freqtrade.data.history import get_datahandler
from freqtrade.enums import CandleType, RunMode
from freqtrade.exceptions import OperationalException
from freqtrade.resolvers import ExchangeResolver
from test_provider import PAIR, Sample, candles, listed

from liquidations import strategy
from liquidations.context import add_context, alert, context_pairs
from liquidations.sandbox_server import freqtrade_overrides, running


NONE = None


def dated(start, periods, freq, **columns):
    dates = pd.date_range(start, periods=periods, freq=freq, tz="UTC").as_unit("ms")
    return pd.DataFrame({"date": dates, **columns})


@pytest.fixture(scope="module")
def datadir(tmp_path_factory):
    """Store a day of 1h candles of BTC, its open interest with a hole of 5 hours, and funding."""
    folder = tmp_path_factory.mktemp("data")
    (folder / "futures").mkdir()
    handler = get_datahandler(folder, "feather")
    ones = np.ones(24)
    frame = dated("2024-01-01", 24, "1h", open=ones, high=ones, low=ones, close=ones, volume=ones)
    handler.ohlcv_store(PAIR, "1h", frame, CandleType.FUTURES)
    amount = 100.0 + np.arange(24)
    value = amount * 10
    value[5] = np.nan
    interest = dated("2024-01-01", 24, "1h", open_interest_amount=amount, open_interest_value=value)
    interest = interest.drop(index=range(8, 13))
    handler.ohlcv_store(PAIR, "1h", interest, CandleType.OPEN_INTEREST)
    funding = dated("2024-01-01", 3, "8h", funding_rate=[0.0001, -0.0002, 0.0003])
    handler.ohlcv_store(PAIR, "1h", funding, CandleType.FUNDING_RATE)
    return folder


@pytest.fixture(scope="module")
def exchange(datadir):
    """Load Freqtrade's real exchange against the loopback one."""
    with running(datadir) as port:
        config = {
            "runmode": RunMode.BACKTEST,
            "trading_mode": "futures",
            "margin_mode": "isolated",
            "candle_type_def": CandleType.FUTURES,
            "stake_currency": "USDT",
            "timeframe": "1h",
            "datadir": datadir,
            "dataformat_ohlcv": "feather",
            "entry_pricing": {"price_side": "other"},
            "exit_pricing": {"price_side": "other"},
            **freqtrade_overrides(port),
        }
        loaded = ExchangeResolver.load_exchange(config, validate=False)
        yield loaded
        loaded.close()


def strategy_of(exchange, runmode=RunMode.BACKTEST, **more):
    made = Sample({**exchange._config, "runmode": runmode, **more})
    made.dp = DataProvider(made.config, exchange)
    return made


@pytest.fixture
def backtest(exchange):
    strategy._warned.clear()
    return strategy_of(exchange)


def test_a_row_counts_after_its_date_plus_its_timeframe(backtest):
    frame = add_context(backtest, candles(periods=8), {"pair": PAIR})
    # The row of 00:00 is over at 01:00, when the first candle closes: a bot may not have it then.
    amounts = [NONE, 100, 101, 102, 103, 104, 105, 106]
    assert listed(frame, "liq_open_interest_amount") == amounts
    # Where the USD are unknown they are amount × close, which is the candle's number here.
    assert listed(frame, "liq_open_interest") == [NONE, 1000, 1010, 1020, 1030, 1040, 630, 1060]
    assert listed(frame, "liq_funding_rate") == [NONE] + [0.0001] * 7
    assert all(frame[name].dtype == np.float64 for name in frame if name.startswith("liq_"))


def test_in_candles_of_five_minutes_an_hour_passes_before_a_row_is_known(backtest):
    frame = candles("2024-01-01 00:50", 16, "5min")
    got = add_context(backtest, frame, {"pair": PAIR}, "5m")
    # The candle 01:00 closes at 01:05 and has the row of 00:00, the candle 02:00 that of 01:00.
    assert listed(got, "liq_open_interest_amount") == [NONE] * 2 + [100] * 12 + [101] * 2
    frame = candles("2024-01-01 08:50", 4, "5min")
    got = add_context(backtest, frame, {"pair": PAIR}, "5m")
    assert listed(got, "liq_funding_rate") == [0.0001] * 2 + [-0.0002] * 2


def test_what_is_old_is_unknown_and_not_repeated(backtest):
    frame = add_context(backtest, candles(periods=24), {"pair": PAIR})
    amounts = listed(frame, "liq_open_interest_amount")
    # The row of 07:00 is over at 08:00 and stands for three hours.
    assert amounts[7:15] == [106, 107, 107, 107, NONE, NONE, NONE, 113]
    later = add_context(backtest, candles("2024-01-02 00:00", 24), {"pair": PAIR})
    assert listed(later, "liq_open_interest_amount")[:4] == [123, 123, 123, NONE]
    # Funding of 16:00 is over at 17:00 and stands for a day.
    assert listed(later, "liq_funding_rate")[15:18] == [0.0003, 0.0003, NONE]


def test_no_later_row_changes_an_earlier_candle(backtest):
    whole = add_context(backtest, candles(periods=24), {"pair": PAIR})
    for length in range(1, 24):
        cut = add_context(backtest, candles(periods=length), {"pair": PAIR})
        pd.testing.assert_frame_equal(cut, whole.iloc[:length])


def test_another_pair_has_a_suffix_and_not_this_price(backtest):
    frame = add_context(backtest, candles(periods=6), {"pair": "ETH/USDT:USDT"}, pair=PAIR)
    assert listed(frame, "liq_open_interest_btc") == [NONE, 1000, 1010, 1020, 1030, 1040]
    later = add_context(
        backtest, candles("2024-01-01 06:00", 1), {"pair": "ETH/USDT:USDT"}, pair=PAIR
    )
    assert listed(later, "liq_open_interest_btc") == [NONE]  # its USD are unknown
    assert listed(later, "liq_open_interest_amount_btc") == [105]


def test_missing_files_are_unknown_and_the_log_names_the_command(backtest, caplog):
    frame = add_context(backtest, candles(), {"pair": "ETH/USDT:USDT"})
    assert frame[["liq_open_interest", "liq_funding_rate"]].isna().all(axis=None)
    ours = [one.getMessage() for one in caplog.records if one.name.startswith("liquidations")]
    assert len(ours) == 2
    assert "freqtrade download-data" in ours[0]
    assert "-p ETH/USDT:USDT -t 1h --candle-types open_interest" in ours[0]
    add_context(backtest, candles(), {"pair": "ETH/USDT:USDT"})
    assert [one.getMessage() for one in caplog.records if one.name.startswith("liq")] == ours


def test_a_bot_that_fetches_nothing_is_told_how(exchange, caplog):
    strategy._warned.clear()
    bot = strategy_of(exchange, RunMode.DRY_RUN)
    frame = add_context(bot, candles(), {"pair": PAIR})
    assert frame["liq_open_interest"].isna().all()
    assert "informative_pairs return context_pairs(self)" in caplog.text


def test_a_bot_fetches_the_rows_that_a_backtest_reads(exchange, datadir):
    """Refresh the real exchange object from the loopback exchange, at a time within the day."""
    bot = strategy_of(exchange, RunMode.DRY_RUN)
    pairs = context_pairs(bot, pair=PAIR)
    assert pairs == [(PAIR, "1h", "open_interest"), (PAIR, "1h", "funding_rate")]
    typed = [(name, frame, CandleType.from_string(kind)) for name, frame, kind in pairs]
    exchange.refresh_latest_ohlcv(typed, since_ms=utc("2024-01-01"))
    got = add_context(bot, candles(periods=8), {"pair": PAIR})
    expected = add_context(strategy_of(exchange), candles(periods=8), {"pair": PAIR})
    names = ["liq_open_interest_amount", "liq_funding_rate"]
    pd.testing.assert_frame_equal(got[names], expected[names])
    assert got[names].iloc[1:].notna().all(axis=None)


def test_wrong_timeframes_are_refused(backtest):
    with pytest.raises(OperationalException, match="no timeframe of months, got 1M"):
        add_context(backtest, candles(), {"pair": PAIR}, every="1M")
    with pytest.raises(OperationalException, match="'1x' is not a timeframe"):
        add_context(backtest, candles(), {"pair": PAIR}, every="1x")


# --- messages ------------------------------------------------------------------------------------


def test_an_alert_goes_through_freqtrade_once_a_candle(exchange):
    bot = strategy_of(exchange, RunMode.DRY_RUN)
    frame = candles("2024-08-05 01:00", 3)
    frame["liq_total"], frame["liq_imbalance"] = 42_500_000.4, 0.914
    for _ in range(2):  # a bot may analyse a candle more than once
        alert(bot, frame, {"pair": PAIR}, pd.Series([0.0, 0.0, 1.0]))
    assert list(bot.dp._msg_queue) == [
        "BTC/USDT:USDT: capitulation of longs, 42,500,000 USD liquidated, imbalance 0.91, "
        "candle of 2024-08-05 03:00 UTC"
    ]
    alert(bot, frame, {"pair": PAIR}, pd.Series([0.0, 0.0, -1.0]), name="flip")
    assert "flip of shorts" in bot.dp._msg_queue[-1]
    alert(bot, frame, {"pair": PAIR}, pd.Series([1.0, -1.0, 0.0]))
    assert len(bot.dp._msg_queue) == 2


def test_an_alert_is_silent_on_the_unknown_and_names_no_side_of_a_flag(exchange):
    bot = strategy_of(exchange, RunMode.DRY_RUN)
    frame = candles(periods=1).assign(liq_total=1.0, liq_imbalance=np.nan)
    for says in (np.nan, 0.0, False):
        alert(bot, frame, {"pair": PAIR}, pd.Series([says]))
    assert not bot.dp._msg_queue
    alert(bot, frame, {"pair": PAIR}, pd.Series([True]), name="high volume")
    assert "high volume, 1 USD" in bot.dp._msg_queue[0]


def test_a_backtest_sends_nothing(backtest):
    frame = candles(periods=1).assign(liq_total=1.0, liq_imbalance=1.0)
    alert(backtest, frame, {"pair": PAIR}, pd.Series([1.0]))
    assert not backtest.dp._msg_queue
