"""Contract sizes from a real ccxt client, which asks a loopback server that speaks as OKX does."""

import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from conftest import utc

from liquidations.cli import run
from liquidations.errors import LiquidationsError
from liquidations.markets import okx_contracts


# The answer of /api/v5/public/instruments, cut to two rows: 0.01 BTC, and 100 USD, a contract.
COMMON = {"instType": "SWAP", "state": "live", "alias": "", "expTime": "",
          "listTime": "1573557408000", "lotSz": "1", "minSz": "1", "tickSz": "0.1",
          "lever": "100", "stk": "", "optType": "",
          "baseCcy": "", "quoteCcy": "", "maxLmtSz": "100000000", "maxMktSz": "85000"}  # fmt: skip
ROWS = [
    COMMON | {"instId": "BTC-USDT-SWAP", "uly": "BTC-USDT", "instFamily": "BTC-USDT",
              "ctType": "linear", "ctVal": "0.01", "ctMult": "1", "ctValCcy": "BTC",
              "settleCcy": "USDT"},
    COMMON | {"instId": "BTC-USD-SWAP", "uly": "BTC-USD", "instFamily": "BTC-USD",
              "ctType": "inverse", "ctVal": "100", "ctMult": "1", "ctValCcy": "USD",
              "settleCcy": "BTC"},
]  # fmt: skip


class Okx(BaseHTTPRequestHandler):
    asked: list[str] = []

    def do_GET(self):
        self.asked.append(self.path)
        body = json.dumps({"code": "0", "msg": "", "data": ROWS}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture
def port():
    server = HTTPServer(("127.0.0.1", 0), Okx)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server.server_address[1]
    server.shutdown()
    server.server_close()
    thread.join()


def at(port: int) -> dict:
    return {"urls": {"api": {"rest": f"http://127.0.0.1:{port}"}}}


def test_sizes_come_from_the_exchanges_own_rows(port):
    found = okx_contracts(None, at(port))
    assert any("/api/v5/public/instruments?instType=SWAP" in path for path in Okx.asked)
    linear, inverse = found["BTC-USDT-SWAP"], found["BTC-USD-SWAP"]
    assert (linear.pair, linear.size, linear.inverse) == ("BTC/USDT:USDT", 0.01, False)
    assert (inverse.pair, inverse.size, inverse.inverse) == ("BTC/USD:BTC", 100.0, True)


def test_an_unreachable_exchange_names_the_other_way():
    with pytest.raises(LiquidationsError, match=r"give them with --markets FILE"):
        okx_contracts(None, at(9) | {"timeout": 500, "maxRetriesOnFailure": 0})


def test_import_asks_the_exchange_of_the_config(port, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "user_data").mkdir()
    exchange = {"name": "okx", "ccxt_config": at(port)}
    (tmp_path / "config.json").write_text(json.dumps({"exchange": exchange}))
    rows = [
        {"bkPx": "50000", "side": "sell", "sz": "3", "ts": str(utc("2026-03-05 10:00"))},
        {"bkPx": "50000", "side": "buy", "sz": "2", "ts": str(utc("2026-03-05 11:00"))},
    ]
    names = ("BTC-USDT-SWAP", "BTC-USD-SWAP")
    page = {"code": "0", "data": [{"instId": name, "details": rows} for name in names]}
    (tmp_path / "page.json").write_text(json.dumps(page))
    assert run(["import-data", "--source", "okx", "page.json"]) == 0
    capsys.readouterr()
    words = ["show", "-t", "1d", "--min-coverage", "0", "--format", "csv"]
    for pair, values in (
        # 3 and 2 contracts of 0.01 BTC at 50,000; of 100 USD whatever the price.
        ("BTC/USDT:USDT", ["1500.0", "1000.0", "2500.0", "1.0", "1.0", "0.6"]),
        ("BTC/USD:BTC", ["300.0", "200.0", "500.0", "1.0", "1.0", "0.6"]),
    ):
        assert run([*words, "-p", pair]) == 0
        assert capsys.readouterr().out.splitlines()[1].split(",")[1:-1] == values
    assert run(["import-data", "--source", "okx", "page.json", "-p", "ETH/USDT:USDT"]) == 2
    assert "no liquidations of any chosen pair" in capsys.readouterr().err
    assert run(["import-data", "--source", "okx", "page.json", "--exchange", "bybit"]) == 2
    assert "no liquidations of any chosen pair on bybit" in capsys.readouterr().err
