"""What FreqUI is given to draw of each sample: through the API of a real webserver, offline."""

from __future__ import annotations

import base64
import json
import os
import re
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from conftest import REPOSITORY
from test_freqai import OBSERVED, OVERLAY, PAIR, store
from test_freqtrade import make_userdir

from liquidations.cli import run as liquidations
from liquidations.sandbox_server import environment, running


#: The candles of an hour in which nobody listened, of the hours that are asked for.
GAP = pd.date_range(OBSERVED[0][1], OBSERVED[1][0], freq="1h", tz="UTC", inclusive="left")
TIMERANGE = "20240112-20240119"

#: What the samples must show beside the levels of the ratio: sub-plots by strategy.
SHOWN = {
    "LiquidationReversal": {"Imbalance", "USD", "Signal"},
    "LiquidationFlip": {"Imbalance", "USD", "Signal"},
    "LiquidationFragility": {"Imbalance", "USD", "Signal", "Open interest", "Funding"},
    "LiquidationFreqAI": {"Imbalance", "USD", "Predicted move", "Known"},
}

#: Lines that are always there.
LEVELS = {"midpoint": 0.5, "extreme_long": 0.8, "extreme_short": 0.2}

#: Columns that don't say what was liquidated: Freqtrade's own data, and whether all was known.
OTHERS = {"liq_open_interest", "liq_funding_rate", "%%-known"}

#: What FreqUI knows of a column (src/types/plot.ts), and plot-dataframe besides. A "line" would end
#: plot-dataframe: no type is a line in both.
KEYS, TYPES = {"color", "type", "fill_to", "scatterSymbolSize", "plotly"}, {None, "bar", "scatter"}


@dataclass
class Webserver:
    """Ask a webserver of Freqtrade as FreqUI does."""

    port: int

    def get(self, path: str, **query: str) -> Any:
        url = f"http://127.0.0.1:{self.port}/api/v1/{path}?{urllib.parse.urlencode(query)}"
        word = base64.b64encode(b"trader:a-password").decode()
        request = urllib.request.Request(url, headers={"Authorization": f"Basic {word}"})
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as one:
        return one.getsockname()[1]


@pytest.fixture(scope="module")
def webserver(tmp_path_factory) -> Iterator[Webserver]:
    userdir = make_userdir(tmp_path_factory.mktemp("frequi") / "user_data")
    words = ["simulate", "--userdir", str(userdir), "--timerange", "20240101-20240201"]
    assert liquidations([*words, "-t", "1h", "-p", PAIR]) == 0
    datadir = userdir / "simulated" / "data"
    db_url = f"sqlite:///{userdir}/simulated/liquidations.sqlite"
    store(db_url, OBSERVED)
    port = free_port()
    api = {
        "enabled": True,
        "listen_ip_address": "127.0.0.1",
        "listen_port": port,
        "username": "trader",
        "password": "a-password",
        "jwt_secret_key": "a secret of this test, of enough length",
        "ws_token": "another secret of this test",
    }
    (userdir / "api.json").write_text(json.dumps({"api_server": api}))
    configs = [str(REPOSITORY / "config.json"), OVERLAY, str(userdir / "api.json")]
    command = [sys.executable, "-m", "freqtrade", "webserver", "--userdir", str(userdir)]
    command += ["--datadir", str(datadir), *(word for one in configs for word in ("-c", one))]
    with running(datadir) as exchange, (userdir / "said.txt").open("w+") as said:
        env = os.environ | environment(exchange)
        env["FREQTRADE__LIQUIDATIONS__DB_URL"] = db_url
        env["FREQTRADE__EXCHANGE__PAIR_WHITELIST"] = json.dumps([PAIR])
        env["FREQTRADE__STRATEGY_PATH"] = str(REPOSITORY / "strategies")
        server = subprocess.Popen(command, env=env, cwd=userdir, stdout=said, stderr=said)
        try:
            made, end = Webserver(port), time.monotonic() + 60
            while not answers(made):
                printed = Path(said.name).read_text()
                assert server.poll() is None, printed
                assert time.monotonic() < end, printed
                time.sleep(0.1)
            yield made
        finally:
            server.terminate()
            server.wait(20)


def answers(webserver: Webserver) -> bool:
    try:
        return webserver.get("ping") == {"status": "pong"}
    except (urllib.error.URLError, ConnectionError):
        return False


@pytest.mark.parametrize("strategy", SHOWN)
def test_what_frequi_draws_is_there_and_unknown_is_null(webserver, strategy):
    config = webserver.get("plot_config", strategy=strategy)
    assert set(config) == {"main_plot", "subplots"}
    assert set(config["subplots"]) == SHOWN[strategy]
    drawn = {name: how for panel in config["subplots"].values() for name, how in panel.items()}
    for name, how in drawn.items():
        assert set(how) <= KEYS, name
        assert how.get("type") in TYPES, name
        assert re.fullmatch("#[0-9a-f]{6}", how["color"]), name
        assert how.get("fill_to") in {None, *drawn}, name
    imbalance, usd = config["subplots"]["Imbalance"], config["subplots"]["USD"]
    assert {"liq_imbalance", *LEVELS} <= set(imbalance)
    assert "type" not in imbalance["liq_imbalance"]
    assert {name: how["type"] for name, how in usd.items()} == {
        "liq_long": "bar",
        "short_down": "bar",
    }

    answer = webserver.get(
        "pair_history", pair=PAIR, timeframe="1h", timerange=TIMERANGE, strategy=strategy
    )
    assert set(drawn) <= set(answer["columns"])
    # As JSON has them: a null stays None, and nothing else is taken for it.
    rows = pd.DataFrame(answer["data"], columns=answer["columns"], dtype=object)
    rows.index = pd.to_datetime(rows["date"].astype(str), utc=True)
    assert len(rows) == 7 * 24 + 1
    gap = rows.index.isin(GAP)
    assert gap.sum() == len(GAP) == 10
    quiet = rows["liq_total"] == 0
    assert 5 < quiet.sum() < 120
    for name in drawn:
        values = rows[name]
        if name in LEVELS:
            assert set(values) == {LEVELS[name]}
            continue
        if name in OTHERS:
            assert np.isfinite(values.astype(float)).all(), name
            continue
        if name == "liq_imbalance_4h":
            # The candle of 4:00 was half observed, that of 16:00 is the next one in full: at 20:00.
            unknown = (rows.index >= "2024-01-15 07:00Z") & (rows.index < "2024-01-15 19:00Z")
            known = ~unknown & (rows["liq_total_4h"] != 0)
        elif name in (
            "move",
            "least",
        ):  # windows of 24 candles, and one before that, reach into the gap
            unknown = gap
            known = rows["%%-known"] == 1
            assert 100 < known.sum() < 140
        else:
            unknown = gap | (quiet if name == "liq_imbalance" else False)
            known = ~unknown
        assert values[unknown].isna().all(), name
        assert np.isfinite(values[known].astype(float)).all(), name
    assert (rows["short_down"][~gap] <= 0).all()
    assert (rows["short_down"][~gap] == -rows["liq_short"][~gap]).all()
