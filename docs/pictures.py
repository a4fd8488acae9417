"""Make the pictures of the users' guide, docs/readings.md, all of a SIMULATED market.

::

    .venv/bin/python docs/pictures.py            # all of them
    .venv/bin/python docs/pictures.py levels     # those whose name holds "levels"

Everything goes the way that it goes in a strategy: liquidations into a store, columns out of it,
readings of the columns. plotly (``pip install '.[plot]'``) draws, Chromium takes the photographs.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from freqtrade.enums import RunMode
from plotly.subplots import make_subplots

import liquidations as liq
from liquidations.candles import timeframe_ms
from liquidations.chart import GREY, LIGHT, LONGS, PURPLE, RATIO, SHORTS, TEAL
from liquidations.errors import LiquidationsError
from liquidations.event import DAY, LONG, MINUTE, SIMULATED, Events, make_events
from liquidations.page import find_browser, photograph
from liquidations.simulate import HOUR, Parameters, resample, simulate
from liquidations.store import Store


FOLDER = Path(__file__).parent / "readings"

WIDTH, HEIGHT = 1000, 500
ORANGE, DARK = "#ef6c00", "#546e7a"
BAND, EDGE = "rgba(41, 98, 255, 0.15)", {"width": 0, "shape": "hvh"}
HEAT = [[0, "white"], [0.3, "#fff3c4"], [0.65, "#ffb74d"], [1, "#e64a19"]]

START, DAYS = int(np.datetime64("2025-05-01", "ms").astype(np.int64)), 45
DEALT = ("binance", "bybit", "okx")
BTC, ETH, SOL = "BTC/USDT:USDT", "ETH/USDT:USDT", "SOL/USDT:USDT"

#: More high leverage than the defaults, so that both sides are hit in many hours: six of ten are
#: extreme, about as many as in two recorded months of BTC.
PARAMETERS = Parameters(
    leverages=(5.0, 10.0, 25.0, 50.0, 100.0, 180.0),
    shares=(0.1, 0.1, 0.1, 0.05, 0.08, 0.08),
    open_interest_usd=2e8,
    order_usd=60_000.0,
)

#: Hours of BTC in which nobody listened.
UNSEEN = (20 * 24 + 9, 20 * 24 + 16)

#: The hour in which OKX shows an order of 3 million USD that nobody else saw.
HUGE = 25 * 24 + 5


class Simulated:
    """Stand for a strategy, and for Freqtrade's data provider, in a simulated market.

    Bybit, whose feed is complete, has all liquidations of three pairs; Binance has of SOL what its
    feed shows, the latest order of each second. In a second store the orders of BTC are dealt out
    to three exchanges, and OKX once shows a huge order that nobody else saw.
    """

    timeframe = "1h"

    def __init__(self, folder: Path) -> None:
        self.dp = self
        self.markets = {
            pair: simulate(
                seed,
                START,
                DAYS * DAY // MINUTE,
                price=price,
                parameters=replace(PARAMETERS, order_usd=2_000.0) if pair == SOL else PARAMETERS,
                positions=pair == BTC,
            )
            for pair, seed, price in ((BTC, 4, 60_000.0), (ETH, 11, 3_000.0), (SOL, 12, 150.0))
        }
        self.urls = [f"sqlite:///{folder / name}.sqlite" for name in ("one", "dealt")]
        self.config = self._config(0, "bybit")
        self._store()

    def _config(self, number: int, *exchanges: str) -> dict:
        return {
            "runmode": RunMode.PLOT,
            "exchange": {"name": "bybit"},
            "liquidations": {"db_url": self.urls[number], "exchanges": list(exchanges)},
        }

    def _store(self) -> None:
        everything = np.array([[START, START + DAYS * DAY]])
        first, last = (START + hour * HOUR for hour in UNSEEN)
        seen = np.array([[START, first], [last, START + DAYS * DAY]])
        with Store(self.urls[0], create=True) as store, store.write() as writer:
            for pair, market in self.markets.items():
                events, coverage = market.events, everything
                if pair == BTC:
                    time = events.timestamp
                    events = events.take(np.flatnonzero((time < first) | (time >= last)))
                    coverage = seen
                if pair == SOL:
                    writer.insert("binance", pair, SIMULATED, _latest(events), coverage)
                writer.insert("bybit", pair, SIMULATED, events, coverage)
        events = self.markets[BTC].events
        owner = np.random.default_rng(5).choice(3, len(events), p=(0.5, 0.3, 0.2))
        with Store(self.urls[1], create=True) as store, store.write() as writer:
            for number, exchange in enumerate(DEALT):
                own = events.take(np.flatnonzero(owner == number))
                if exchange == "okx":
                    time = START + HUGE * HOUR
                    huge = make_events([time], [LONG], [60_000.0], [50.0], [3_000_000.0])
                    own = Events.concat([own, huge])
                writer.insert(exchange, BTC, SIMULATED, own, everything)

    def get_pair_dataframe(self, pair: str, timeframe: str, candle_type: str) -> pd.DataFrame:
        """Return open interest or funding, as Freqtrade's data provider does."""
        market = self.markets[pair]
        return market.open_interest if candle_type == "open_interest" else market.funding

    def get_funding_rate_timeframe(self) -> str:
        """Return what Freqtrade keeps funding rates under."""
        return "1h"

    def candles(self, timeframe: str = "1h", pair: str = BTC) -> pd.DataFrame:
        """Return the candles of a pair as Freqtrade gives them to a strategy."""
        return resample(self.markets[pair].candles, timeframe_ms(timeframe))

    def columns(self, timeframe: str = "1h", pair: str = BTC, **options) -> pd.DataFrame:
        """Return the candles of a pair with the liquidation columns."""
        frame = self.candles(timeframe, pair)
        return liq.add_liquidations(self, frame, {"pair": pair}, timeframe, **options)

    def dealt(self) -> pd.DataFrame:
        """Return hours of BTC with the columns of three exchanges that share its orders."""
        other = SimpleNamespace(config=self._config(1, *DEALT), timeframe=self.timeframe)
        return liq.add_liquidations(other, self.candles(), {"pair": BTC}, per_exchange=True)


def _latest(events: Events) -> Events:
    second = events.timestamp // 1000
    return events.take(np.flatnonzero(np.diff(second, append=second[-1] + 1)))


# --- drawing --------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Panel:
    """Describe a part of a picture by the columns of its frame.

    ``lines``, ``steps`` and ``bars`` map columns to colours; a line has a candle's value around its
    open, a step from its open on; ``between`` is a pair of columns with a shaded area between them;
    ``signals`` are readings with a side, or flags, a row of markers each; ``limits`` are dotted
    lines; ``heat`` are values by price (index) and time (columns), drawn behind the candles.
    """

    title: str = ""
    candles: bool = False
    lines: dict[str, str] = field(default_factory=dict)
    steps: dict[str, str] = field(default_factory=dict)
    bars: dict[str, str] = field(default_factory=dict)
    between: tuple[str, str] | None = None
    signals: tuple[str, ...] = ()
    limits: tuple[float, ...] = ()
    heat: pd.DataFrame | None = None
    range: tuple[float, float] | None = None
    share: float = 1.0


def price(**more) -> Panel:
    """Describe a panel of candles."""
    return Panel(**{"title": "price", "candles": True, "share": 1.4, **more})


def ratio(*columns: str, limits: tuple[float, ...] = (0.2, 0.5, 0.8), **more) -> Panel:
    """Describe a panel of ratios from 0 to 1."""
    lines = dict(zip(columns, (RATIO, ORANGE, PURPLE, TEAL), strict=False))
    more = {"title": "imbalance", "lines": lines, "range": (-0.06, 1.06), **more}
    return Panel(limits=limits, **more)


def signals(*columns: str) -> Panel:
    """Describe rows of markers, one for each reading."""
    return Panel(signals=columns, share=0.16 + 0.17 * len(columns))


def usd(share: float = 0.6) -> Panel:
    """Describe a panel of what was liquidated."""
    return Panel(title="USD", bars={"liq_long": LONGS, "liq_short": SHORTS}, share=share)


def draw(title: str, frame: pd.DataFrame, *panels: Panel) -> go.Figure:
    """Draw panels of one time axis, one below the other.

    :param title: what the picture shows; SIMULATED is put before it
    :param frame: candles with all columns that the panels name
    """
    figure = make_subplots(
        len(panels),
        1,
        shared_xaxes=True,
        row_heights=[panel.share for panel in panels],
        vertical_spacing=0.025,
    )
    for row, panel in enumerate(panels, 1):
        _panel(figure, row, frame, panel)
    date = frame["date"]
    edge = 0.7 * date.diff().min()
    figure.update_xaxes(
        type="date",
        rangeslider_visible=False,
        gridcolor=LIGHT,
        linecolor=GREY,
        showline=True,
        range=[date.iloc[0] - edge, date.iloc[-1] + edge],
        tickformat="%-d %b\n%H:%M",
    )
    figure.update_yaxes(gridcolor=LIGHT, zeroline=False, title_standoff=12)
    return figure.update_layout(
        title={"text": f"SIMULATED market: {title}", "x": 0.01, "y": 0.975, "font_size": 15},
        legend={"orientation": "h", "traceorder": "normal", "x": 1, "xanchor": "right", "y": 1.0},
        legend_yanchor="bottom",
        template="plotly_white",
        font={"family": "sans-serif", "size": 11},
        margin={"l": 10, "r": 14, "t": 62, "b": 10},
        width=WIDTH,
        height=HEIGHT,
        barmode="relative",
        bargap=0.1,
    )


def _panel(figure: go.Figure, row: int, frame: pd.DataFrame, panel: Panel) -> None:
    date, place = frame["date"], {"row": row, "col": 1}
    if panel.heat is not None:
        heat = panel.heat
        figure.add_heatmap(
            x=heat.columns, y=heat.index, z=heat, colorscale=HEAT, showscale=False, **place
        )
    if panel.between:
        for column, fill in zip(panel.between, (None, "tonexty"), strict=True):
            line = {"x": date, "y": frame[column], "mode": "lines", "line": EDGE}
            figure.add_scatter(**line, fill=fill, fillcolor=BAND, showlegend=False, **place)
    if panel.candles:
        ohlc = {name: frame[name] for name in ("open", "high", "low", "close")}
        line = {"color": DARK, "width": 1}
        figure.add_candlestick(
            x=date,
            **ohlc,
            increasing={"line": line, "fillcolor": "white"},
            decreasing={"line": line, "fillcolor": DARK},
            showlegend=False,
            **place,
        )
    for column, colour in panel.bars.items():
        figure.add_bar(x=date, y=frame[column], name=column, marker_color=colour, **place)
    for columns, shape in ((panel.lines, "hvh"), (panel.steps, "hv")):
        for column, colour in columns.items():
            line = {"color": colour, "width": 1.5, "shape": shape}
            figure.add_scatter(
                x=date, y=frame[column], name=column, mode="lines", line=line, **place
            )
    for value in panel.limits:
        figure.add_hline(value, line={"color": GREY, "width": 1, "dash": "dot"}, **place)
    for number, column in enumerate(panel.signals):
        _markers(figure, place, date, frame[column], -number)
    axis = {"title_text": panel.title, "range": panel.range, "tickvals": panel.limits or None}
    if panel.signals:
        rows = [-number for number in range(len(panel.signals))]
        axis |= {"tickvals": rows, "ticktext": panel.signals, "range": [rows[-1] - 0.6, 0.6]}
    figure.update_yaxes(axis, **place)


def _markers(
    figure: go.Figure, place: dict[str, int], date: pd.Series, reading: pd.Series, level: int
) -> None:
    """Mark where a reading speaks: longs hit point down, shorts hit up, a flag is a square."""
    kinds = [(1, LONGS, "triangle-down"), (-1, SHORTS, "triangle-up")]
    if reading.dtype == bool:
        kinds = [(1, DARK, "square")]
    for value, colour, symbol in kinds:
        where = date[reading == value]
        marker = {"color": colour, "symbol": symbol, "size": 8}
        figure.add_scatter(
            x=where,
            y=[level] * len(where),
            mode="markers",
            marker=marker,
            name=reading.name,
            showlegend=False,
            **place,
        )


def cut(frame: pd.DataFrame, first: float, last: float) -> pd.DataFrame:
    """Take the candles from one day of the market to another."""
    day = (frame["date"] - pd.Timestamp(START, unit="ms", tz="UTC")) / pd.Timedelta(days=1)
    return frame[(day >= first) & (day < last)].reset_index(drop=True)


# --- the pictures ---------------------------------------------------------------------------------


def extreme(market: Simulated) -> go.Figure:
    """Draw the ratio, its windows and its extremes, and hours in which nobody listened."""
    frame = market.columns()
    frame["window_imbalance"] = liq.window_imbalance(frame["liq_long"], frame["liq_short"], 12)
    frame["extreme"] = liq.extreme(frame["liq_imbalance"])
    return draw(
        "the ratio of each hour, and of 12 hours (blank: not observed)",
        cut(frame, 18, 22),
        price(),
        usd(),
        ratio("liq_imbalance", "window_imbalance"),
        signals("extreme"),
    )


def turns(market: Simulated) -> go.Figure:
    """Draw the three readings of a ratio that turns."""
    frame = market.columns()
    frame["shift"] = liq.shift(frame["liq_imbalance"], hysteresis=0.1)
    frame["flip"] = liq.flip(frame["liq_imbalance"])
    frame["return_to_balance"] = liq.return_to_balance(frame["liq_imbalance"])
    return draw(
        "one extreme follows the other, or the ratio comes back",
        cut(frame, 15, 18),
        price(),
        ratio("liq_imbalance"),
        signals("shift", "flip", "return_to_balance"),
    )


def capitulation(market: Simulated) -> go.Figure:
    """Draw a capitulation and the three readings that it is made of."""
    frame = market.columns()
    frame["extreme"] = liq.extreme(frame["liq_imbalance"])
    frame["high_volume"] = liq.high_volume(frame["liq_total"])
    frame["sharp_move"] = liq.sharp_move(frame["high"], frame["low"], frame["close"])
    frame["capitulation"] = liq.capitulation(frame)
    return draw(
        "an extreme on high volume in a sharp move",
        cut(frame, 2, 5),
        price(),
        usd(),
        ratio("liq_imbalance", share=0.7),
        signals("extreme", "high_volume", "sharp_move", "capitulation"),
    )


def quiet(market: Simulated) -> go.Figure:
    """Draw the calm after a capitulation."""
    frame = market.columns()
    frame["capitulation"] = liq.capitulation(frame)
    frame["volatility_regime"] = liq.volatility_regime(frame["close"])
    frame["quiet"] = liq.quiet(frame, frame["capitulation"])
    regime = Panel(title="regime", lines={"volatility_regime": PURPLE}, limits=(0.5, 1.0, 2.0))
    return draw(
        "the price has calmed down after a capitulation",
        cut(frame, 31, 37),
        price(),
        regime,
        signals("capitulation", "quiet"),
    )


def fragile(market: Simulated) -> go.Figure:
    """Draw extremes that came without a new low or high of 48 hours."""
    frame = market.columns()
    frame["extreme"] = liq.extreme(frame["liq_imbalance"])
    frame["fragile"] = liq.fragile(frame)
    frame["lowest low"] = frame["low"].rolling(48).min().shift()
    frame["highest high"] = frame["high"].rolling(48).max().shift()
    return draw(
        "an extreme without a new low or high",
        cut(frame, 27, 31),
        price(steps={"lowest low": LONGS, "highest high": SHORTS}),
        ratio("liq_imbalance"),
        signals("extreme", "fragile"),
    )


def pressure(market: Simulated) -> go.Figure:
    """Draw which side is hit persistently, by USD and by candles."""
    frame = market.columns()
    long, short = frame["liq_long"], frame["liq_short"]
    frame["window_imbalance"] = liq.window_imbalance(long, short, 12)
    frame["consistency"] = liq.consistency(frame["liq_imbalance"])
    frame["pressure"] = liq.pressure(long, short)
    steady = Panel(title="", lines={"consistency": PURPLE}, limits=(-0.5, 0, 0.5), share=0.7)
    return draw(
        "one side is hit for hours",
        cut(frame, 7, 13),
        price(),
        ratio("window_imbalance", limits=(0.4, 0.6), range=(0.1, 1)),
        steady,
        signals("pressure"),
    )


def significance(market: Simulated) -> go.Figure:
    """Draw quarters of an hour: which extremes have evidence behind them."""
    frame = market.columns("15m", n_eff=True)
    ratios, count = frame["liq_imbalance"], frame["liq_n_eff"]
    # Without a ratio there is no interval; the area would cross the gap.
    lower, upper = liq.wilson(ratios, count)
    frame["lower"], frame["upper"] = lower.fillna(0.5), upper.fillna(0.5)
    frame["shrunk_imbalance"] = liq.shrunk_imbalance(frame["liq_long"], frame["liq_short"])
    frame["extreme"] = liq.extreme(ratios)
    frame["significant"] = liq.significant(ratios, count)
    sides = frame["liq_long_count"], frame["liq_short_count"]
    frame["significant_by_count"] = liq.significant_by_count(ratios, *sides)
    frame["gated_extreme"] = liq.gated_extreme(frame)
    number = Panel(
        title="orders",
        bars={"liq_long_count": LONGS, "liq_short_count": SHORTS},
        lines={"liq_n_eff": DARK},
        share=0.5,
    )
    return draw(
        "which extremes are more than chance (band: 90 % interval of wilson)",
        cut(frame, 21.1, 21.8),
        price(),
        number,
        ratio("liq_imbalance", "shrunk_imbalance", between=("lower", "upper")),
        signals("extreme", "significant", "significant_by_count", "gated_extreme"),
    )


def open_interest(market: Simulated) -> go.Figure:
    """Draw extremes that took open interest along, and others that did not."""
    frame = liq.add_context(market, market.columns(), {"pair": BTC})
    frame["extreme"] = liq.extreme(frame["liq_imbalance"])
    frame["flush"] = liq.flush(frame, window=3)
    frame["isolated"] = liq.isolated(frame, window=4, lag=2)
    frame["intensity"] = 100 * liq.intensity(frame["liq_total"], frame["liq_open_interest"])
    contracts = frame["liq_open_interest_amount"]
    frame["open_interest_change"] = 100 * liq.open_interest_change(contracts)
    amount = Panel(title="BTC", lines={"liq_open_interest_amount": TEAL}, share=0.6)
    share = Panel(
        title="%", bars={"intensity": ORANGE}, lines={"open_interest_change": DARK}, share=0.6
    )
    return draw(
        "positions left with an extreme, or others came",
        cut(frame, 2, 6),
        price(),
        amount,
        share,
        signals("extreme", "flush", "isolated"),
    )


def timeframes(market: Simulated) -> go.Figure:
    """Draw the hour beside four hours, another pair and the whole market."""
    frame = market.columns(informative="4h")
    for pair in (None, ETH, "market"):
        frame = liq.add_liquidations(market, frame, {"pair": BTC}, pair=pair)
    return draw(
        "the hour, the last four hours that have closed, another pair, all pairs",
        cut(frame, 29, 32),
        price(share=1.0),
        ratio("liq_imbalance", steps={"liq_imbalance_4h": DARK}),
        ratio(lines={"liq_imbalance_eth": ORANGE, "liq_imbalance_market": PURPLE}),
    )


def thresholds(market: Simulated) -> go.Figure:
    """Draw thresholds that come from a pair's own past."""
    frame = market.columns("4h")
    frame = liq.add_thresholds(market, frame, {"pair": BTC}, "4h", days=14)
    bounds = frame["liq_imbalance_high"], frame["liq_imbalance_low"]
    frame["0.8 / 0.2"] = liq.extreme(frame["liq_imbalance"])
    frame["adaptive"] = liq.extreme(frame["liq_imbalance"], *bounds)
    names = "liq_imbalance", "liq_imbalance_high", "liq_imbalance_low", "liq_base"
    return draw(
        "bounds from the pair's own 14 days",
        cut(frame, 14, 35),
        price(),
        ratio(*names),
        signals("0.8 / 0.2", "adaptive"),
    )


def levels(market: Simulated) -> go.Figure:
    """Draw the levels as they are estimated, and as only a simulation can know them."""
    frame = liq.add_context(market, market.columns(), {"pair": BTC})
    frame = cut(frame, 14 - 7, 18)  # a week before, so that the levels are known from the start
    frame = frame.join(liq.liquidation_levels(frame))
    reaches = np.arange(1, 26) / 250
    both = [liq.liquidation_levels(frame, reach=reach, bucket=0.004) for reach in reaches]
    frame, *both = (cut(part.assign(date=frame["date"]), 14, 18) for part in (frame, *both))
    close = frame["close"].to_numpy()[:, None]
    below, above = (
        np.diff([part[f"liq_ahead_{side}"] for part in both], axis=0, prepend=0).T
        for side in ("below", "above")
    )
    grid = np.arange(frame["low"].min() * 0.92, frame["high"].max() * 1.08, 250.0)
    guess = _heat(
        np.hstack([(close * (1 - reaches))[:, ::-1], close * (1 + reaches)]),
        np.hstack([below[:, ::-1], above]),
        grid,
        frame["date"],
    )
    truth = market.markets[BTC].positions
    rows = np.searchsorted(truth.snapshot_time, frame["date"].dt.as_unit("ms").astype("int64"))
    book = truth.long_usd[rows] + truth.short_usd[rows]
    true = _heat(truth.bucket_price[rows], book, grid, frame["date"])
    steps = {"liq_level_above": SHORTS, "liq_level_below": LONGS}
    reach = {"range": (grid[0], grid[-1]), "share": 1.0}
    return draw(
        "liquidation levels, estimated (above) and true (below)",
        frame,
        price(title="estimated", heat=guess, steps=steps, **reach),
        price(title="true", heat=true, **reach),
        ratio("liq_ahead_imbalance", title="ahead", share=0.5),
    )


def _heat(places: np.ndarray, usd: np.ndarray, grid: np.ndarray, date: pd.Series) -> pd.DataFrame:
    """Spread USD at growing prices, a row for each candle, over a grid of prices."""
    sums = np.cumsum(usd, axis=1, dtype=np.float64)
    on_grid = [np.interp(grid, *pair) for pair in zip(places, sums, strict=True)]
    values = np.diff(on_grid, axis=1).T
    # Else the largest one leaves all others white.
    return pd.DataFrame(np.minimum(values, np.quantile(values, 0.98)), grid[1:], date)


def sampling(market: Simulated) -> go.Figure:
    """Draw what a feed of one order a second shows of a market, and what it hides."""
    frame = market.columns(pair=SOL)
    shown = market.columns(pair=SOL, exchanges=["binance"])
    frame["true"], frame["shown"] = frame["liq_imbalance"], shown["liq_imbalance"]
    frame = liq.add_corrected(market, frame, {"pair": SOL}, exchanges=["binance"])
    frame = frame.rename(columns={"liq_imbalance_corrected_binance": "corrected"})
    frame = frame.rename(columns={"liq_saturation_binance": "liq_saturation"})
    count = shown["liq_long_count"] + shown["liq_short_count"]
    frame["saturation"] = liq.saturation(count, 3600 * shown["liq_coverage"])
    minutes = market.columns("1m", pair=SOL, exchanges=["binance"])
    count = minutes["liq_long_count"] + minutes["liq_short_count"]
    sides = minutes["liq_long"], minutes["liq_short"]
    # The hour's last minute holds what its sixty say.
    hours = liq.corrected_imbalance(*sides, count, 60, window=60)[59::60]
    frame["corrected_imbalance"] = hours.to_numpy()
    full_minutes = liq.saturated(count, 60).to_numpy().reshape(-1, 60)
    frame["saturated"] = full_minutes.any(axis=1)
    bounds = "liq_imbalance_lower_binance", "liq_imbalance_upper_binance"
    full = {"liq_saturation": DARK, "saturation": TEAL}
    return draw(
        "a feed of one order a second (band: its bounds)",
        cut(frame, 16, 18.5),
        price(share=0.8),
        ratio("true", "shown", "corrected", "corrected_imbalance", between=bounds),
        Panel(title="full", lines=full, limits=(0.0, 0.5, 1.0), range=(0, 1.1), share=0.4),
        signals("saturated"),
    )


def exchanges(market: Simulated) -> go.Figure:
    """Draw the ratios of three exchanges, one of which shows an order that no other saw."""
    frame = market.dealt()
    frame["added up"] = frame["liq_imbalance"]
    frame["exchange_imbalance"] = liq.exchange_imbalance(frame)
    frame = frame.join(liq.leave_one_out(frame))
    frame["extreme"] = liq.extreme(frame["liq_imbalance"])
    frame["robust_extreme"] = liq.robust_extreme(frame)
    return draw(
        "three exchanges; on 26 May at 05:00 OKX alone shows an order of 3 million",
        cut(frame, 24.5, 26),
        price(),
        ratio(*(f"liq_imbalance_{exchange}" for exchange in DEALT)),
        ratio(
            lines={
                "added up": DARK,
                "exchange_imbalance": "#ad1457",
                "liq_imbalance_without_okx": TEAL,
            }
        ),
        signals("extreme", "robust_extreme"),
    )


PICTURES: dict[str, Callable[[Simulated], go.Figure]] = {
    picture.__name__: picture
    for picture in (
        extreme,
        turns,
        capitulation,
        quiet,
        fragile,
        pressure,
        significance,
        open_interest,
        timeframes,
        thresholds,
        levels,
        sampling,
        exchanges,
    )
}


# --- photographs ----------------------------------------------------------------------------------


def html(figure: go.Figure) -> str:
    """Return a page of a figure, without buttons and margins."""
    drawing = figure.to_html(include_plotlyjs=True, config={"staticPlot": True})
    return drawing.replace("<body>", '<body style="margin: 0">')


def main(words: list[str]) -> None:
    """Make all pictures, or those that have one of the words in their names."""
    try:
        find_browser()
    except LiquidationsError as error:
        raise SystemExit(str(error)) from error
    FOLDER.mkdir(exist_ok=True)
    with TemporaryDirectory() as folder:
        market = Simulated(Path(folder))
        for name, picture in PICTURES.items():
            if not words or any(word in name for word in words):
                file = FOLDER / f"{name}.png"
                photograph(html(picture(market)), file, WIDTH, HEIGHT)
                print(f"{file}: {file.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main(sys.argv[1:])
