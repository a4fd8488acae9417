"""What Freqtrade does to a plugin: run modes, units of dates, pickling, threads, clamping."""

import logging
import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd
import pytest
from conftest import ONLY_SQLITE, bars_of, events_of, spans
from freqtrade.enums import RunMode
from freqtrade.exceptions import OperationalException
from freqtrade.strategy import IStrategy

from liquidations import provider
from liquidations import strategy as door
from liquidations.event import CANDLE_COLUMNS
from liquidations.provider import LiquidationProvider
from liquidations.settings import read_settings
from liquidations.store import Store
from liquidations.strategy import add_liquidations, prepare_liquidations


PAIR = "BTC/USDT:USDT"
HOUR = 3_600_000

# Of 2024-01-01, 00:00 … 06:00 observed but for 03:30 … 04:00:
#
#   hour      00     01      02     03        04       05
#   long       -   3 + 6      -      1         -        -
#   short      -      1       -      -         -      5 (05:59:59.999)
EVENTS = events_of(
    ("2024-01-01 01:00", "long", 3.0),
    ("2024-01-01 01:20", "short", 1.0),
    ("2024-01-01 01:59:59.999", "long", 6.0),
    ("2024-01-01 03:10", "long", 1.0),
    ("2024-01-01 05:59:59.999", "short", 5.0),
)
COVERAGE = spans(("2024-01-01 00:00", "2024-01-01 03:30"), ("2024-01-01 04:00", "2024-01-01 06:00"))


class Sample(IStrategy):
    timeframe = "1h"

    def populate_indicators(self, dataframe, metadata):
        return add_liquidations(self, dataframe, metadata)

    def populate_entry_trend(self, dataframe, metadata):
        return dataframe

    def populate_exit_trend(self, dataframe, metadata):
        return dataframe


@pytest.fixture
def db_url(any_url):
    yield any_url
    provider.provider_of(any_url).close()


@pytest.fixture
def stored(db_url):
    with Store(db_url, create=True) as store, store.write() as writer:
        writer.insert("binance", PAIR, "feed", EVENTS, COVERAGE)
        vendor = bars_of(("2024-01-01 01:00", 10.0, 30.0))
        span = spans(("2024-01-01 00:00", "2024-01-01 06:00"))
        writer.insert("okx", "BTC/USD:BTC", "vendor", vendor, span, period=HOUR)
    door._warned.clear()
    return db_url


def strategy_of(db_url, runmode=RunMode.HYPEROPT, **section):
    config = {
        "runmode": runmode,
        "exchange": {"name": "binance"},
        "candle_type_def": "futures",
        "liquidations": {"db_url": db_url, **section},
    }
    return Sample(config)


def candles(start="2024-01-01", periods=6, freq="1h", unit="ms"):
    dates = pd.date_range(start, periods=periods, freq=freq, tz="UTC").as_unit(unit)
    return pd.DataFrame({"date": dates, "close": np.arange(periods, dtype=float)})


def listed(frame, column):
    return [None if np.isnan(value) else value for value in frame[column]]


def test_columns_of_a_strategy(stored):
    frame = add_liquidations(strategy_of(stored), candles(), {"pair": PAIR})
    # The hour 03 was observed for half of its time, which is below min_coverage: unknown.
    assert listed(frame, "liq_long") == [0, 9, 0, None, 0, 0]
    assert listed(frame, "liq_short") == [0, 1, 0, None, 0, 5]
    assert listed(frame, "liq_total") == [0, 10, 0, None, 0, 5]
    assert listed(frame, "liq_long_count") == [0, 2, 0, None, 0, 0]
    assert listed(frame, "liq_short_count") == [0, 1, 0, None, 0, 1]
    assert listed(frame, "liq_imbalance") == [None, 0.9, None, None, None, 0]
    assert listed(frame, "liq_coverage") == [1, 1, 1, 0.5, 1, 1]
    assert all(frame[name].dtype == np.float64 for name in CANDLE_COLUMNS)


def test_nothing_else_of_the_frame_changes(stored):
    given = candles()
    kept = given.copy(deep=True)
    frame = add_liquidations(strategy_of(stored), given, {"pair": PAIR})
    pd.testing.assert_frame_equal(given, kept)
    pd.testing.assert_frame_equal(frame[["date", "close"]], kept)
    again = add_liquidations(strategy_of(stored), frame, {"pair": PAIR})
    pd.testing.assert_frame_equal(again, frame)


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
def test_the_unit_of_the_dates_does_not_matter(stored, unit):
    frame = add_liquidations(strategy_of(stored), candles(unit=unit), {"pair": PAIR})
    assert listed(frame, "liq_total") == [0, 10, 0, None, 0, 5]


def test_every_run_mode_gives_the_same_columns(stored):
    frames = [
        add_liquidations(strategy_of(stored, mode), candles(), {"pair": PAIR}) for mode in RunMode
    ]
    for frame in frames[1:]:
        pd.testing.assert_frame_equal(frame, frames[0])


def test_a_shorter_frame_has_the_same_values(stored):
    """What lookahead-analysis does: cut the frame, and nothing before the cut may change."""
    whole = add_liquidations(strategy_of(stored), candles(), {"pair": PAIR})
    for length in range(2, 6):
        cut = add_liquidations(strategy_of(stored), candles(periods=length), {"pair": PAIR})
        pd.testing.assert_frame_equal(cut, whole.iloc[:length])


def test_timeframe_comes_from_argument_then_metadata_then_strategy(stored):
    quarters = candles(periods=24, freq="15min")
    strategy = strategy_of(stored)
    expected = [0] * 4 + [3, 1, 0, 6]
    for metadata, argument in (
        ({"timeframe": "1d", "tf": "1d"}, "15m"),
        ({"timeframe": "15m", "tf": "1d"}, None),
        ({"tf": "15m"}, None),
    ):
        frame = add_liquidations(strategy, quarters, {"pair": PAIR, **metadata}, argument)
        assert listed(frame, "liq_total")[:8] == expected
    with pytest.raises(OperationalException, match=r"closer together than 1h.*from the future"):
        add_liquidations(strategy, quarters, {"pair": PAIR})


def test_a_higher_timeframe_is_sums_first(stored):
    frame = add_liquidations(
        strategy_of(stored), candles(periods=3, freq="2h"), {"pair": PAIR}, "2h"
    )
    assert listed(frame, "liq_imbalance") == [0.9, None, 0]
    assert listed(frame, "liq_coverage") == [1, 0.75, 1]


def test_another_pair_has_a_suffix(stored):
    frame = add_liquidations(strategy_of(stored), candles(), {"pair": "ETH/USDT:USDT"}, pair=PAIR)
    assert listed(frame, "liq_total_btc") == [0, 10, 0, None, 0, 5]
    assert "liq_total" not in frame
    frame = add_liquidations(strategy_of(stored), frame, {"pair": PAIR}, suffix="again")
    assert {"liq_total_btc", "liq_total_again"} <= set(frame)


def test_several_exchanges_are_added_and_shown_one_by_one(stored):
    strategy = strategy_of(stored, exchanges=["binance", "okx"], inverse=True)
    frame = add_liquidations(strategy, candles(), {"pair": PAIR}, per_exchange=True)
    assert listed(frame, "liq_total") == [0, 50, 0, 0, 0, 5]
    assert listed(frame, "liq_total_binance") == [0, 10, 0, None, 0, 5]
    assert listed(frame, "liq_total_okx") == [0, 40, 0, 0, 0, 0]
    assert listed(frame, "liq_coverage") == [1, 1, 1, 0.75, 1, 1]
    # The vendor counts nothing, so with it the number is unknown, in quiet hours too.
    assert listed(frame, "liq_long_count") == [None] * 6
    assert listed(frame, "liq_long_count_binance") == [0, 2, 0, None, 0, 0]
    assert listed(frame, "liq_imbalance_okx")[1] == 0.25
    both = strategy_of(stored, exchanges=["binance", "okx"], inverse=True, min_exchanges=2)
    frame = add_liquidations(both, candles(), {"pair": PAIR})
    assert listed(frame, "liq_total") == [0, 50, 0, None, 0, 5]


def test_columns_do_not_share_memory(stored):
    frame = add_liquidations(strategy_of(stored), candles(), {"pair": PAIR}, per_exchange=True)
    before = frame.copy(deep=True)
    for name in [column for column in frame if column.startswith("liq_")]:
        frame.loc[:, name] = -1.0
        others = frame.columns.drop(name)
        pd.testing.assert_frame_equal(frame[others], before[others])
        frame[name] = before[name]


def test_no_data_ends_a_backtest_and_not_a_bot(stored, caplog):
    frame, metadata = candles(), {"pair": "ETH/USDT:USDT"}
    with pytest.raises(OperationalException, match=r"no liquidations of ETH.*import-data"):
        add_liquidations(strategy_of(stored), frame, metadata)
    bot = strategy_of(stored, RunMode.DRY_RUN)
    for day in range(1, 4):  # the dates in the message move on, the message does not come again
        add_liquidations(bot, candles(f"2023-05-0{day}"), {"pair": PAIR})
        unknown = add_liquidations(bot, frame, metadata)
    assert unknown[[*CANDLE_COLUMNS]].drop(columns="liq_coverage").isna().all(axis=None)
    assert (unknown["liq_coverage"] == 0).all()
    for pair in (PAIR, "ETH/USDT:USDT"):
        message = f"no liquidations for {pair}, the columns are NaN"
        assert len([one for one in caplog.records if message in one.getMessage()]) == 1


def test_time_without_coverage_is_an_error_that_names_what_there_is(stored):
    with pytest.raises(OperationalException, match="only 2024-01-01 00:00 to 2024-01-01 06:00"):
        add_liquidations(strategy_of(stored), candles("2023-05-01"), {"pair": PAIR})


def test_missing_store_is_an_error_and_creates_nothing(tmp_path):
    db_url = f"sqlite:///{tmp_path / 'none.sqlite'}"
    with pytest.raises(OperationalException, match="there is no liquidation store"):
        add_liquidations(strategy_of(db_url), candles(), {"pair": PAIR})
    prepare_liquidations(strategy_of(db_url).config)
    assert not list(tmp_path.iterdir())


def test_bars_coarser_than_the_candles_are_unknown_with_one_warning(stored, caplog):
    strategy = strategy_of(stored, exchanges=["okx"], inverse=True)
    for _ in range(3):
        frame = add_liquidations(strategy, candles(freq="5min"), {"pair": PAIR}, "5m")
    assert frame["liq_total"].isna().all()
    assert (frame["liq_coverage"] == 0).all()
    (record,) = [one for one in caplog.records if one.levelno == logging.WARNING]
    assert "stored in bars of 1h" in record.getMessage()
    assert "5m or shorter" in record.getMessage()


def test_new_data_are_seen_by_a_running_process(stored):
    strategy = strategy_of(stored)
    add_liquidations(strategy, candles(), {"pair": PAIR})
    with Store(stored) as store, store.write() as writer:
        more = events_of(("2024-01-01 02:30", "short", 7.0))
        gap = spans(("2024-01-01 03:30", "2024-01-01 04:00"))
        writer.insert("binance", PAIR, "feed", more, gap)
    frame = add_liquidations(strategy, candles(), {"pair": PAIR})
    assert listed(frame, "liq_total") == [0, 10, 7, 1, 0, 5]


def test_the_cache_serves_parts_of_what_it_holds_and_stays_small(stored, monkeypatch):
    strategy = strategy_of(stored)
    expected = add_liquidations(strategy, candles(), {"pair": PAIR})
    part = add_liquidations(strategy, candles("2024-01-01 01:00", 2), {"pair": PAIR})
    assert listed(part, "liq_total") == [10, 0]
    wider = add_liquidations(strategy, candles("2023-12-31 20:00", 10), {"pair": PAIR})
    assert listed(wider, "liq_total") == [None] * 4 + [0, 10, 0, None, 0, 5]
    monkeypatch.setattr(provider, "CACHE_BYTES", 0)
    own = LiquidationProvider(stored)
    opens = candles()["date"].to_numpy("datetime64[ms]").astype(np.int64)
    settings = read_settings(strategy.config)
    for _ in range(2):
        table, _ = own.columns(PAIR, opens, "1h", settings)
        assert table["liq_total"].tobytes() == expected["liq_total"].to_numpy().tobytes()
    assert not own._cache
    own.close()


def test_a_provider_can_be_pickled_and_a_strategy_holds_none(stored):
    strategy = strategy_of(stored)
    expected = add_liquidations(strategy, candles(), {"pair": PAIR})
    assert not [value for value in vars(strategy).values() if "liquidations" in str(type(value))]
    known = provider.provider_of(stored)
    copy = pickle.loads(pickle.dumps(known))
    opens = candles()["date"].to_numpy("datetime64[ms]").astype(np.int64)
    table, _ = copy.columns(PAIR, opens, "1h", read_settings(strategy.config))
    assert table["liq_total"].tobytes() == expected["liq_total"].to_numpy().tobytes()
    assert copy.__getstate__()["db_url"] == stored  # and no connection
    copy.close()


def test_threads_share_a_provider(stored):
    strategy = strategy_of(stored)
    expected = add_liquidations(strategy, candles(), {"pair": PAIR})

    def load(number):
        frame = candles("2024-01-01", 2 + number % 5)
        return number, add_liquidations(strategy, frame, {"pair": PAIR})

    with ThreadPoolExecutor(8) as pool:
        for number, frame in pool.map(load, range(200)):
            pd.testing.assert_frame_equal(frame, expected.iloc[: 2 + number % 5])


def test_prepare_changes_the_configuration_only_with_the_data(stored):
    def prepared(**section):
        config = strategy_of(stored, RunMode.BACKTEST, **section).config
        prepare_liquidations(config)
        prepare_liquidations(config)  # the analyses copy a prepared configuration
        return config["liquidations"]["fingerprint"]

    before = prepared()
    assert before == prepared()
    with Store(stored) as store, store.write() as writer:
        assert writer.insert("binance", PAIR, "feed", EVENTS, COVERAGE).new == 0
    assert prepared() == before
    with Store(stored) as store, store.write() as writer:
        writer.insert("binance", PAIR, "feed", events_of(), spans(("2024-01-02", "2024-01-03")))
    assert prepared() != before


def test_a_backtest_that_was_not_prepared_is_told_so(stored, caplog):
    strategy = strategy_of(stored, RunMode.BACKTEST)
    for _ in range(2):
        add_liquidations(strategy, candles(), {"pair": PAIR})
    (record,) = [one for one in caplog.records if "prepare_liquidations" in one.getMessage()]
    assert "--cache none" in record.getMessage()


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"min_coverag": 0.5}, 'did you mean "min_coverage"'),
        ({"exchanges": ["krakn"]}, "unknown exchange 'krakn'"),
        ({"min_exchanges": 2}, "from 1 to 1"),
    ],
)
def test_a_mistake_in_the_config_ends_in_freqtrades_own_error(stored, section, message):
    strategy = strategy_of(stored, **section)
    with pytest.raises(OperationalException, match=message):
        prepare_liquidations(strategy.config)
    with pytest.raises(OperationalException, match=message):
        add_liquidations(strategy, candles(), {"pair": PAIR})


def test_an_empty_frame_gets_empty_columns(stored):
    frame = add_liquidations(strategy_of(stored), candles(periods=0), {"pair": PAIR})
    assert frame.empty
    assert set(CANDLE_COLUMNS) <= set(frame)


def test_holes_in_the_candles_do_not_shift_anything(stored):
    frame = candles().drop(index=[1, 4]).reset_index(drop=True)
    assert listed(add_liquidations(strategy_of(stored), frame, {"pair": PAIR}), "liq_total") == [
        0, 0, None, 5,
    ]  # fmt: skip


@ONLY_SQLITE
def test_a_store_that_was_deleted_and_made_anew_is_read_anew(stored, tmp_path):
    strategy = strategy_of(stored)
    add_liquidations(strategy, candles(), {"pair": PAIR})
    for file in tmp_path.glob("liquidations.sqlite*"):
        file.unlink()
    with pytest.raises(OperationalException, match="there is no liquidation store"):
        add_liquidations(strategy, candles(), {"pair": PAIR})
    with Store(stored, create=True) as store, store.write() as writer:
        writer.insert(
            "binance", PAIR, "feed", events_of(("2024-01-01 01:00", "short", 8.0)), COVERAGE
        )
    frame = add_liquidations(strategy, candles(), {"pair": PAIR})
    assert listed(frame, "liq_total") == [0, 8, 0, None, 0, 0]


def test_a_pair_that_is_none_ends_in_freqtrades_own_error(stored):
    with pytest.raises(OperationalException, match="write it as Freqtrade does"):
        add_liquidations(strategy_of(stored), candles(), {"pair": PAIR}, pair="btc")


# --- which source -------------------------------------------------------------------------------


@pytest.fixture
def twice(db_url):
    """Store two sources of one contract: events of 01:00 to 03:00, hourly bars of all six hours."""
    with Store(db_url, create=True) as store, store.write() as writer:
        events = EVENTS.take(slice(0, 3))
        writer.insert("binance", PAIR, "binance", events, spans(("2024-01-01 01", "2024-01-01 03")))
        vendor = bars_of(("2024-01-01 01:00", 70.0, 30.0), ("2024-01-01 03:00", 8.0, 8.0))
        span = spans(("2024-01-01 00:00", "2024-01-01 06:00"))
        writer.insert("binance", PAIR, "coinalyze", vendor, span, period=HOUR)
    return db_url


@pytest.mark.parametrize(
    ("prefer", "long", "source"),
    [
        ([], 9.0, "binance 1m"),
        (["coinalyze"], 70.0, "coinalyze 1h"),
        (["tardis", "coinalyze", "binance"], 70.0, "coinalyze 1h"),
        (["binance", "coinalyze"], 9.0, "binance 1m"),
    ],
)
def test_the_preferred_source_wins_and_is_named(twice, prefer, long, source):
    strategy = strategy_of(twice, prefer=prefer)
    frame = add_liquidations(strategy, candles(), {"pair": PAIR})
    assert frame["liq_long"].tolist() == [0.0, long, 0.0, 8.0, 0.0, 0.0]  # never added
    settings = read_settings(strategy.config)
    opens = candles()["date"].dt.as_unit("ms").astype("int64").to_numpy()
    chosen = provider.provider_of(twice).chosen(PAIR, opens, "1h", settings)
    vendor = "coinalyze 1h"
    other = source if source != vendor else vendor
    assert {name: found.tolist() for name, found in chosen.items()} == {
        f"binance {PAIR}": [vendor, source, other, vendor, vendor, vendor]
    }


def test_where_nobody_observed_no_source_is_named(twice):
    opens = candles(periods=8)["date"].dt.as_unit("ms").astype("int64").to_numpy()
    settings = read_settings(strategy_of(twice).config)
    (found,) = provider.provider_of(twice).chosen(PAIR, opens, "1h", settings).values()
    assert found.tolist()[-2:] == ["", ""]


@pytest.mark.parametrize("value", ["coinalyze", ["coinalyse"], ["okx", "okx"], [1], {"okx": 1}])
def test_a_mistaken_preference_is_refused(db_url, value):
    with pytest.raises(OperationalException, match='"prefer"'):
        prepare_liquidations(strategy_of(db_url, prefer=value).config)
