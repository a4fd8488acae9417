"""The FreqAI sample learns for real, on a simulated market, and never from what is unknown."""

import importlib.util
import json
import os
import subprocess
import sys
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pytest
from conftest import REPOSITORY, events_of, spans, utc
from freqtrade.enums import RunMode
from freqtrade.exceptions import OperationalException
from test_freqtrade import Market, make_userdir

from liquidations import add_liquidations
from liquidations.cli import run as liquidations
from liquidations.event import MINUTE, SIMULATED, Events
from liquidations.sandbox_server import environment, running
from liquidations.simulate import simulate
from liquidations.store import Store


PAIR = "BTC/USDT:USDT"
DAYS = ("2024-01-01", "2024-02-01")
# A gap of ten hours in the days that are learned from, and one of eight that are predicted.
OBSERVED = [
    ("2024-01-01", "2024-01-15 06:00"),
    ("2024-01-15 16:00", "2024-01-24"),
    ("2024-01-24 08:00", "2024-02-01"),
]
# config_freqai.json has windows of up to 24 candles, one shifted candle, targets of 6 candles:
# a gap of n candles is in the features of n + 23 + 1 of them.
GAP = pd.date_range("2024-01-24", "2024-01-25 07:00", freq="1h", tz="UTC")
OVERLAY = str(REPOSITORY / "config_freqai.json")


def store(db_url: str, observed: list[tuple[str, str]]) -> None:
    """Replace the stored liquidations by those of the same market that were observed."""
    start, end = map(utc, DAYS)
    events = simulate(4, start, (end - start) // MINUTE, price=60_000.0).events
    time, intervals = events.timestamp, spans(*observed)
    seen = np.any([(time >= first) & (time < last) for first, last in intervals], axis=0)
    rows = Events(**{name: array[seen] for name, array in events.arrays().items()})
    with Store(db_url) as store:
        with store.write() as writer:
            writer.remove("binance", PAIR, SIMULATED)
        with store.write() as writer:
            writer.insert("binance", PAIR, SIMULATED, rows, intervals)


@pytest.fixture(scope="module")
def market(tmp_path_factory):
    userdir = make_userdir(tmp_path_factory.mktemp("freqai") / "user_data")
    days = "-".join(day.replace("-", "") for day in DAYS)
    words = ["simulate", "--userdir", str(userdir), "--timerange", days, "-t", "1h", "-p", PAIR]
    assert liquidations(words) == 0
    db_url = f"sqlite:///{userdir}/simulated/liquidations.sqlite"
    store(db_url, OBSERVED)
    datadir = userdir / "simulated" / "data"
    with running(datadir) as port:
        env = os.environ | environment(port) | {"COLUMNS": "200"}
        env["FREQTRADE__LIQUIDATIONS__DB_URL"] = db_url
        env["FREQTRADE__EXCHANGE__PAIR_WHITELIST"] = json.dumps([PAIR])
        env["FREQTRADE__STRATEGY_PATH"] = str(REPOSITORY / "strategies")
        yield Market(userdir, datadir, db_url, env)


def backtest(market: Market, code: int = 0, **env: str) -> str:
    return market.freqtrade(
        "backtesting", "-c", OVERLAY, "--timerange", "20240122-20240130", "--cache", "none",
        code=code, **env,
    )  # fmt: skip


def predictions(market: Market) -> list[pd.DataFrame]:
    """Return what FreqAI kept of each identifier, oldest first, in order of time."""
    folders = (market.userdir / "models").glob("**/backtesting_predictions")
    found = sorted(folders, key=lambda folder: folder.stat().st_mtime)
    return [
        pd.concat(map(pd.read_feather, sorted(folder.iterdir()))).set_index("date")
        for folder in found
    ]


@dataclass
class Learned:
    """What the first backtest printed, predicted and traded."""

    printed: str
    made: pd.DataFrame
    trades: list[dict]


@pytest.fixture(scope="module")
def learned(market):
    printed = backtest(market)
    (made,) = predictions(market)
    return Learned(printed, made, market.trades())


def test_it_learns_and_predicts_from_what_was_observed(learned):
    # Two models, each on 20 days of 24 hours. Rows that are dropped: the first one, whose move over
    # 24 hours, shifted, begins before the data (only the first model); 10 + 24 around the first
    # gap, 8 + 24 around the second (only the second model); 6 with no target yet. Of the rest four
    # fifths are for training, rounded down.
    assert "dropped 41 training points due to NaNs in populated dataset 480" in learned.printed
    assert "Training model on 351 data points" in learned.printed
    assert "dropped 72 training points due to NaNs in populated dataset 480" in learned.printed
    assert "Training model on 326 data points" in learned.printed
    assert learned.printed.count("Done training") == 2
    assert "raised exception" not in learned.printed
    assert "Result for strategy LiquidationFreqAI" in learned.printed
    assert len(learned.made) == 8 * 24
    assert learned.made["&-move"].nunique() > 50
    assert list(learned.made.index[learned.made["%%-known"] == 0]) == list(GAP)


def test_it_trades_only_where_all_was_known(learned):
    made, unknown = learned.made, learned.made["%%-known"] == 0
    sure = made["&-move"].abs() > 0.5 * made["&-move_std"]
    # Where nothing was known FreqAI takes zeros, and its do_predict does not say so; if that ever
    # changes, the sample's docstring is to be changed.
    assert (made["do_predict"] == 1).all()
    assert sure[unknown].any()
    assert learned.trades
    for trade in learned.trades:
        # A trade opens with the candle after its signal.
        signal = pd.Timestamp(trade["open_date"]) - pd.Timedelta("1h")
        assert not unknown[signal]
        assert sure[signal]
        assert trade["is_short"] == (made["&-move"][signal] < 0)


def test_kept_predictions_are_used_again_until_the_data_change(market, learned):
    printed = backtest(market)
    assert "Found backtesting prediction file" in printed
    assert "Done training" not in printed
    assert market.trades() == learned.trades
    assert len(predictions(market)) == 1
    store(market.db_url, [DAYS])
    printed = backtest(market)
    assert "Found backtesting prediction file" not in printed
    # 6 without a target, and the first row.
    assert "dropped 7 training points" in printed
    assert "dropped 6 training points" in printed
    _, new = predictions(market)
    assert (new["%%-known"] == 1).all()


def test_no_liquidations_end_in_one_line_before_any_training(market):
    printed = backtest(market, code=2, FREQTRADE__LIQUIDATIONS__EXCHANGES='["okx"]')
    (line,) = [line for line in printed.splitlines() if "ERROR" in line]
    assert "no liquidations of BTC/USDT:USDT are stored for okx" in line
    assert "Starting training" not in printed


def test_missing_packages_are_named(market):
    code = "import sys; sys.modules['xgboost'] = None; import freqtrade.main as f; f.main()"
    words = [sys.executable, "-c", code, "backtesting", "-c", str(REPOSITORY / "config.json")]
    words += ["-c", OVERLAY, "--userdir", str(market.userdir), "--datadir", str(market.datadir)]
    words += ["--timerange", "20240122-20240130", "--no-color"]
    done = subprocess.run(
        words, env=market.env, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 2
    printed = done.stdout + done.stderr
    (line,) = [line for line in printed.splitlines() if "ERROR" in line]
    assert "pip install 'freqtrade[freqai]'" in line
    assert "Traceback" not in printed


# --- the features, worked by hand ---------------------------------------------------------------


def sample(db_url: str, **config):
    path = REPOSITORY / "strategies" / "LiquidationFreqAI.py"
    spec = importlib.util.spec_from_file_location("LiquidationFreqAI", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    strategy = module.LiquidationFreqAI(
        {
            "exchange": {"name": "binance"},
            "liquidations": {"db_url": db_url},
            "runmode": RunMode.BACKTEST,
            "freqai": {"identifier": "mine"},
        }
        | config
    )
    strategy.freqai_info = {"feature_parameters": {"label_period_candles": 2}}
    return strategy


def frame() -> pd.DataFrame:
    """Return eight hours, in the fifth of which nobody listened."""
    date = pd.date_range("2024-01-01", periods=8, freq="1h", tz="UTC")
    close = [100.0, 100.0, 110.0, 110.0, 99.0, 99.0, 99.0, 198.0]
    return pd.DataFrame({"date": date, "close": close})


@pytest.fixture
def eight(db_url):
    with Store(db_url, create=True) as store, store.write() as writer:
        rows = events_of(
            ("2024-01-01 00:10", "long", 30.0), ("2024-01-01 00:20", "short", 10.0),
            ("2024-01-01 03:30", "long", 5.0), ("2024-01-01 05:30", "short", 7.0),
        )  # fmt: skip
        covered = spans(
            ("2024-01-01", "2024-01-01 04:00"), ("2024-01-01 05:00", "2024-01-01 08:00")
        )
        writer.insert("binance", PAIR, "feed", rows, covered)
    return db_url


NAN = float("nan")


@pytest.mark.parametrize(
    ("period", "ratio", "some", "most", "move"),
    [
        (
            1,
            [0.75, 0.5, 0.5, 1.0, NAN, 0.0, 0.5, 0.5],
            [1.0, 0.0, 0.0, 1.0, NAN, 1.0, 0.0, 0.0],
            [40.0, 0.0, 0.0, 5.0, NAN, 7.0, 0.0, 0.0],
            [NAN, 0.0, 0.1, 0.0, -0.1, 0.0, 0.0, 1.0],
        ),
        (
            2,
            [NAN, 0.75, 0.5, 1.0, NAN, NAN, 0.0, 0.5],
            [NAN, 1.0, 0.0, 1.0, NAN, NAN, 1.0, 0.0],
            [NAN, 40.0, 0.0, 5.0, NAN, NAN, 7.0, 0.0],
            [NAN, NAN, 0.1, 0.1, -0.1, -0.1, 0.0, 1.0],
        ),
    ],
)
def test_features_are_half_where_nothing_happened_and_nan_where_nobody_listened(
    eight, period, ratio, some, most, move
):
    features = sample(eight).feature_engineering_expand_all(
        frame(), period, {"pair": PAIR, "tf": "1h"}
    )
    expected = {"liq_imbalance": ratio, "liq_some": some, "liq_most": np.log1p(most), "move": move}
    for name, values in expected.items():
        np.testing.assert_allclose(features[f"%-{name}-period"], values, rtol=1e-12, atol=0)
    assert not {"liq_total", "liq_imbalance"} & set(features)


def test_features_are_the_same_in_the_training_thread_and_beside_the_columns(eight):
    """FreqAI's thread has candles alone; the other has what populate_indicators made."""
    strategy, metadata = sample(eight), {"pair": PAIR, "tf": "1h"}
    thread = strategy.feature_engineering_expand_all(frame(), 2, metadata)
    beside = add_liquidations(strategy, frame(), {"pair": PAIR})
    pd.testing.assert_frame_equal(
        strategy.feature_engineering_expand_all(beside, 2, metadata)[thread.columns], thread
    )


def test_a_row_is_known_if_all_its_features_are(eight):
    strategy = sample(eight)
    features = strategy.feature_engineering_expand_all(frame(), 2, {"pair": PAIR, "tf": "1h"})
    features["another"] = NAN
    known = strategy.feature_engineering_standard(features, {"pair": PAIR})["%%-known"]
    assert known.tolist() == [0.0, 0.0, 1.0, 1.0, 0.0, 0.0, 1.0, 1.0]


def test_targets_are_the_move_to_a_later_close_and_unknown_at_the_end(eight):
    targets = sample(eight).set_freqai_targets(frame(), {"pair": PAIR})["&-move"]
    expected = [0.1, 0.1, -0.1, -0.1, 0.0, 1.0, NAN, NAN]
    np.testing.assert_allclose(targets, expected, rtol=1e-12, atol=1e-15)


def test_the_identifier_follows_the_data_in_backtests_only(eight):
    def identifier(**config) -> str:
        strategy = sample(eight, freqai={"identifier": "mine"}, **config)
        return strategy.config["freqai"]["identifier"]

    first = identifier()
    assert first.startswith("mine/")
    assert identifier() == first
    assert identifier(runmode=RunMode.DRY_RUN) == "mine"
    assert identifier(freqai_backtest_live_models=True) == "mine"
    with Store(eight) as store, store.write() as writer:
        late = spans(("2024-01-01 04:00", "2024-01-01 05:00"))
        writer.insert("binance", PAIR, "feed", events_of(("2024-01-01 04:10", "long", 1.0)), late)
    assert identifier() != first


def test_unstored_pairs_are_an_error_and_not_a_feature(eight):
    with pytest.raises(OperationalException, match="no liquidations of ETH/USDT:USDT"):
        sample(eight).feature_engineering_expand_all(
            frame(), 2, {"pair": "ETH/USDT:USDT", "tf": "1h"}
        )
