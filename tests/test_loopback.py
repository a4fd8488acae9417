"""The loopback exchanges behave as documented, towards real ccxt clients and bare sockets."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import ccxt.pro
import orjson
import pytest
from aiohttp import WSMsgType
from ccxt.base.errors import BadRequest, NetworkError
from loopback import (
    BUILDERS,
    CHILD,
    TRADER,
    VAULT,
    Loopback,
    all_liquidation,
    force_order,
    framed,
    liquidation_order,
    loopback,
    order_detail,
    user_fills,
)


TIME = 1_791_391_082_119


@pytest.fixture
def exchange() -> Iterator[Loopback]:
    """Run the exchanges for one test."""
    with loopback() as exchange:
        yield exchange


@pytest.fixture(scope="module")
def shared() -> Iterator[Loopback]:
    """Run the exchanges for the tests that change nothing."""
    with loopback() as exchange:
        yield exchange


def okx_request(channel: str, **arg: str) -> dict[str, Any]:
    return {"op": "subscribe", "args": [{"channel": channel, **arg}]}


def fills_request(user: str) -> dict[str, Any]:
    return {"method": "subscribe", "subscription": {"type": "userFills", "user": user}}


#: exchange, channel → path below the exchange's own, symbol, requests, pair that ccxt makes of it
FEEDS: dict[tuple[str, str], tuple[str, str, list[Any], str]] = {
    ("binance", "linear"): (
        "market/ws",
        "ILVUSDT",
        [{"method": "SUBSCRIBE", "params": ["!forceOrder@arr", "btcusdt@markPrice@1s"], "id": 1}],
        "ILV/USDT:USDT",
    ),
    ("binance", "inverse"): (
        "dstream/ws",
        "BTCUSD_PERP",
        [
            {
                "method": "SUBSCRIBE",
                "params": ["!forceOrder@arr", "btcusd_perp@markPrice@1s"],
                "id": 1,
            }
        ],
        "BTC/USD:BTC",
    ),
    ("bybit", "linear"): (
        "v5/public/linear",
        "ICPUSDT",
        [{"op": "subscribe", "req_id": "1", "args": ["allLiquidation.ICPUSDT", "tickers.BTCUSDT"]}],
        "ICP/USDT:USDT",
    ),
    ("bybit", "inverse"): (
        "v5/public/inverse",
        "XRPUSD",
        [{"op": "subscribe", "req_id": "1", "args": ["allLiquidation.XRPUSD", "tickers.BTCUSD"]}],
        "XRP/USD:XRP",
    ),
    ("okx", "swap"): (
        "ws/v5/public",
        "CNPY-USDT-SWAP",
        [
            okx_request("liquidation-orders", instType="SWAP"),
            okx_request("mark-price", instId="BTC-USDT-SWAP"),
        ],
        "CNPY/USDT:USDT",
    ),
    ("hyperliquid", "vaults"): (
        "ws",
        "WLFI",
        [
            fills_request(VAULT),
            {"method": "subscribe", "subscription": {"type": "activeAssetCtx", "coin": "BTC"}},
        ],
        "WLFI/USDC:USDC",
    ),
}
EACH = [pytest.param(*feed, id="-".join(feed)) for feed in FEEDS]


def address(exchange: Loopback, name: str, channel: str) -> str:
    return f"ws://127.0.0.1:{exchange.port}/{name}/{FEEDS[name, channel][0]}"


def frame_of(name: str, channel: str, side: str = "long") -> dict[str, Any]:
    return BUILDERS[name](FEEDS[name, channel][1], side, 3.85642, 116.5, TIME)


def dialling(exchange: Loopback, name: str, **more: Any) -> Any:
    """Return a ccxt client; without the quarter of a second that it idles when it closes."""
    config = {"timeout_on_exit": 10, "enableRateLimit": False, **more}
    return getattr(ccxt.pro, name)(exchange.ccxt_config(name) | config)


class Listener:
    """Hold a bare websocket and read what comes over it."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self.socket = socket

    async def ask(self, message: Any) -> None:
        text = message if isinstance(message, str) else orjson.dumps(message).decode()
        await self.socket.send_str(text)

    async def read(self) -> Any:
        """Return the next frame: decoded JSON, text, or (kind, data) of any other."""
        message = await asyncio.wait_for(self.socket.receive(), 5)
        if message.type is not WSMsgType.TEXT:
            data = message.data
            return message.type, bytes(data) if isinstance(data, bytearray) else data
        return orjson.loads(message.data) if message.data[0] in "{[" else message.data

    async def find(self, wanted: Any) -> None:
        """Read until that frame comes, whole and unchanged."""
        while await self.read() != wanted:
            pass

    async def rest(self, seconds: float = 0.1) -> list[Any]:
        """Return what comes within the next moments."""
        frames = []
        try:
            async with asyncio.timeout(seconds):
                while True:
                    frames.append(await self.read())
        except TimeoutError:
            return frames


@asynccontextmanager
async def listening(
    exchange: Loopback, name: str, channel: str, requests: list[Any] | None = None
) -> AsyncIterator[Listener]:
    """Dial, subscribe, and wait until the exchange knows it."""
    requests = FEEDS[name, channel][2] if requests is None else requests
    async with (
        aiohttp.ClientSession() as session,
        session.ws_connect(address(exchange, name, channel), autoping=False) as socket,
    ):
        listener = Listener(socket)
        for request in requests:
            await listener.ask(request)
        count = 2 if requests else 0
        await exchange.until(lambda: len(exchange.subscribed(name, channel)) >= count)
        yield listener


# ------------------------------------------------------------------------------ with ccxt


@pytest.mark.parametrize("name", list(BUILDERS))
def test_a_ccxt_client_loads_markets_and_receives_frames(shared, name):
    async def run() -> None:
        client = dialling(shared, name)
        seen: list[Any] = []
        client.handle_message = lambda _, message: seen.append(message)
        try:
            markets = await client.load_markets()
            for (each, channel), (_, symbol, requests, pair) in FEEDS.items():
                if each != name:
                    continue
                assert markets[pair]["swap"], pair
                assert symbol in (markets[pair]["id"], markets[pair].get("baseName"))
                for number, request in enumerate(requests):
                    key = f"{channel}{number}"
                    client.watch(address(shared, name, channel), key, request, key)
                while len(shared.subscribed(name, channel)) < 2:
                    await asyncio.sleep(0.005)
                frame = frame_of(name, channel)
                assert shared.send(name, channel, frame) == 1
                async with asyncio.timeout(5):
                    while frame not in seen:
                        await asyncio.sleep(0.005)
        finally:
            await client.close()

    asyncio.run(run())
    shared.wait(lambda: shared.connections(name) == 0)


@pytest.mark.parametrize("name", ["bybit", "okx", "hyperliquid"])
def test_ccxts_own_pings_are_answered(shared, name):
    async def run() -> None:
        client = dialling(shared, name, streaming={"keepAlive": 200})
        channel = next(channel for each, channel in FEEDS if each == name)
        url = address(shared, name, channel)
        try:
            client.watch(url, "nothing", FEEDS[name, channel][2][0], "nothing")
            socket = client.clients[url]
            # ccxt gives up when two pings in a row are not answered.
            await shared.until(lambda: socket.connectionEstablished)
            await shared.until(lambda: (socket.lastPong or 0) > socket.connectionEstablished + 350)
            assert socket.error is None
        finally:
            await client.close()

    asyncio.run(run())
    shared.wait(lambda: shared.connections(name) == 0)


def test_contract_sizes_as_ccxt_finds_them(shared):
    wanted = {
        ("binance", "BTC/USD:BTC"): 100,
        ("binance", "ETH/USD:ETH"): 10,
        ("okx", "BTC/USDT:USDT"): 0.01,
        ("okx", "ETH/USDT:USDT"): 0.1,
        ("okx", "BTC/USD:BTC"): 100,
        ("hyperliquid", "KPEPE/USDC:USDC"): 1,
    }

    async def run() -> dict[Any, float]:
        found = {}
        for name in ("binance", "okx", "hyperliquid"):
            client = dialling(shared, name)
            markets = await client.load_markets()
            found |= {key: markets[key[1]]["contractSize"] for key in wanted if key[0] == name}
            if name == "binance":
                assert markets["BTC/USD:BTC-200925"]["future"]
            await client.close()
        return found

    assert asyncio.run(run()) == wanted


@pytest.mark.parametrize("how", ["cut", "close", "refuse", "drop"])
def test_a_ccxt_watch_fails_as_its_connection_does_and_can_dial_anew(exchange, how):
    async def run() -> None:
        client = dialling(exchange, "binance")
        client.handle_message = lambda *_: None
        request = FEEDS["binance", "linear"][2][0]
        url = address(exchange, "binance", "linear")
        refused = how in ("refuse", "drop")
        exchange.refuse("binance", refused, status=503 if how == "refuse" else 0)
        try:
            watched = client.watch(url, "frames", request, "frames")
            if not refused:
                await exchange.until(lambda: exchange.subscribed("binance"))
                getattr(exchange, how)("binance")
            with pytest.raises(NetworkError):
                await asyncio.wait_for(watched, 5)
            await exchange.until(lambda: exchange.connections("binance") == 0)
            exchange.refuse("binance", False)
            client.watch(url, "frames", request, "frames")
            await exchange.until(lambda: exchange.subscribed("binance"))
            assert exchange.dials("binance") >= 2  # aiohttp itself dials again when dropped
        finally:
            await client.close()

    asyncio.run(run())


def test_okx_rest_pages_by_time_newest_first(exchange):
    rows = [order_detail("long", 60_000 + i, 1, TIME + i) for i in range(250)]
    exchange.okx_orders["BTC-USDT-SWAP"] = rows[100:] + rows[:100]

    async def run() -> None:
        client = dialling(exchange, "okx")

        async def page(**more: Any) -> list[Any]:
            params = {"instType": "SWAP", "uly": "BTC-USDT", "state": "filled", **more}
            answer = await client.request("public/liquidation-orders", ["public"], "GET", params)
            return [row for group in answer["data"] for row in group["details"]]

        try:
            assert await page() == rows[:149:-1]
            assert await page(after=TIME + 150) == rows[149:49:-1]
            assert await page(after=TIME + 50) == rows[49::-1]
            assert await page(after=TIME) == []
            assert await page(before=TIME + 247) == rows[:247:-1]
            assert await page(limit=3) == rows[:246:-1]
            assert await page(uly="ETH-USDT") == []
            with pytest.raises(BadRequest):
                await page(uly="")
        finally:
            await client.close()

    asyncio.run(run())
    assert exchange.calls["okx api/v5/public/liquidation-orders"] == 8


def test_hyperliquid_names_the_vaults(exchange):
    async def ask() -> Any:
        client = dialling(exchange, "hyperliquid")
        try:
            return await client.publicPostInfo({"type": "vaultDetails", "vaultAddress": VAULT})
        finally:
            await client.close()

    assert asyncio.run(ask())["relationship"]["data"]["childAddresses"] == [CHILD]
    exchange.vaults = [CHILD, TRADER]
    assert asyncio.run(ask())["relationship"]["data"]["childAddresses"] == [CHILD, TRADER]
    assert exchange.calls["hyperliquid vaultDetails"] == 2
    exchange.rest_status["hyperliquid"] = 503
    with pytest.raises(NetworkError):
        asyncio.run(ask())


# --------------------------------------------------------------------------- on bare sockets


@pytest.mark.parametrize(("name", "channel"), EACH)
def test_acknowledgement_liquidations_and_pings(exchange, name, channel):
    swaps = {"channel": "liquidation-orders", "instType": "SWAP"}
    acknowledged: dict[str, Any] = {
        "binance": {"result": None, "id": 1},
        "bybit": {"success": True, "ret_msg": "", "req_id": "1", "op": "subscribe"},
        "okx": {"event": "subscribe", "arg": swaps, "connId": "a4d3ae55"},
        "hyperliquid": {"channel": "subscriptionResponse", "data": fills_request(VAULT)},
    }
    acknowledged["bybit"]["conn_id"] = "loopback"
    pings: dict[str, Any] = {
        "bybit": ({"op": "ping"}, {"success": True, "ret_msg": "pong", "op": "ping"}),
        "okx": ("ping", "pong"),
        "hyperliquid": ({"method": "ping"}, {"channel": "pong"}),
    }

    async def run() -> None:
        async with listening(exchange, name, channel) as listener:
            assert exchange.connections(name) == exchange.connections(name, channel) == 1
            await listener.find(acknowledged[name])
            for side in ("long", "short"):
                frame = frame_of(name, channel, side)
                assert exchange.send(name, channel, frame) == 1
                await listener.find(frame)
            if name in pings:
                ping, pong = pings[name]
                await listener.ask(ping)
                await listener.find(pong | {"conn_id": "loopback"} if name == "bybit" else pong)
            await listener.socket.ping(b"hello")
            await listener.find((WSMsgType.PONG, b"hello"))
            for raw in ('{"half":', "", "漢" * 30_000):
                assert exchange.send(name, channel, raw) == 1
                message = await listener.socket.receive()
                assert (message.type, message.data) == (WSMsgType.TEXT, raw)
            assert exchange.send(name, channel, b"\xff\x00") == 1
            await listener.find((WSMsgType.BINARY, b"\xff\x00"))

    exchange.tick_every = 60
    asyncio.run(run())
    exchange.wait(lambda: exchange.connections(name) == 0)
    assert exchange.sent(name) == exchange.sent(name, channel) == 6


@pytest.mark.parametrize(("name", "channel"), EACH)
def test_the_companion_ticks_by_the_exchanges_clock(exchange, name, channel):
    def when(frame: Any) -> int | None:
        """Return the time of a companion's frame, None of any other; Hyperliquid's has none."""
        if name == "binance" and frame.get("e") == "markPriceUpdate":
            return frame["E"]
        if name == "bybit" and frame.get("topic", "").startswith("tickers."):
            return frame["ts"]
        if name == "okx" and frame.get("arg", {}).get("channel") == "mark-price":
            return int(frame["data"][0]["ts"]) if "data" in frame else None
        return 0 if frame.get("channel") == "activeAssetCtx" else None

    async def run() -> list[int]:
        async with listening(exchange, name, channel) as listener:
            frames = [await listener.read() for _ in range(8)]
            exchange.mute(name)
            frames += [await listener.read() for _ in range(8)]
            exchange.mute(name, ticks=False)
            await listener.rest(0.05)
            assert await listener.rest() == []
            exchange.mute(name, False)
            frames.append(await listener.read())
        return [at for frame in frames if (at := when(frame)) is not None]

    exchange.tick_every, exchange.clock_offset_ms = 0.02, -3_600_000
    before = time.time_ns() // 1_000_000
    times = asyncio.run(run())
    after = time.time_ns() // 1_000_000
    assert len(times) > 12  # of 17; the others acknowledge
    if name != "hyperliquid":
        assert times == sorted(times)
        assert before <= times[0] + 3_600_000 < times[-1] + 3_600_000 <= after


def test_okx_replays_and_hyperliquid_sends_a_snapshot(exchange):
    old = liquidation_order("MINA-USDT-SWAP", "short", 0.09859, 10975, TIME)
    exchange.replayed = [old]
    fill = user_fills("kPEPE", "long", 0.01, 5, TIME)["data"]["fills"][0]
    exchange.snapshots[VAULT] = [fill]
    snapshot = {"isSnapshot": True, "user": VAULT, "fills": [fill]}

    async def run() -> None:
        async with listening(exchange, "okx", "swap") as listener:
            await listener.find(old)
        async with listening(exchange, "hyperliquid", "vaults") as listener:
            await listener.find({"channel": "userFills", "data": snapshot})

    asyncio.run(run())
    assert exchange.sent("okx") == exchange.sent("hyperliquid") == 0


def test_frames_go_only_to_those_who_asked_for_their_topic(shared):
    async def run() -> None:
        icp = [{"op": "subscribe", "args": ["allLiquidation.ICPUSDT", "tickers.BTCUSDT"]}]
        btc = [{"op": "subscribe", "args": ["allLiquidation.BTCUSDT", "tickers.BTCUSDT"]}]
        async with (
            listening(shared, "bybit", "linear", icp),
            listening(shared, "bybit", "linear", btc) as second,
        ):
            await shared.until(lambda: len(shared.subscribed("bybit")) == 4)
            assert shared.subscribed("bybit")[:2] == [
                "allLiquidation.BTCUSDT",
                "allLiquidation.ICPUSDT",
            ]
            frame = all_liquidation("BTCUSDT", "long", 60_000, 1, TIME)
            assert shared.send("bybit", "linear", frame) == 1
            assert shared.send("bybit", "linear", frame_of("bybit", "inverse")) == 0
            assert shared.send("bybit", "linear", "raw") == 2
            await second.find(frame)
            await second.find("raw")
            await second.ask({"op": "unsubscribe", "args": ["allLiquidation.BTCUSDT"]})
            await shared.until(lambda: len(shared.subscribed("bybit")) == 3)
            assert shared.send("bybit", "linear", frame) == 0
            assert shared.send("hyperliquid", "vaults", user_fills("BTC", "long", 1, 1, TIME)) == 0

    asyncio.run(run())


def test_what_is_refused(exchange):
    """Bybit refuses a request as a whole, OKX an argument, Hyperliquid the eleventh user."""
    exchange.delisted, exchange.unknown = {"ICPUSDT", "MINA-USDT-SWAP"}, {"PIPPINUSDT"}

    async def run() -> None:
        async with listening(exchange, "bybit", "linear", []) as listener:
            for name in ("ICPUSDT", "PIPPINUSDT", "XRPUSD", "NOPE"):
                topics = ["allLiquidation.BTCUSDT", f"allLiquidation.{name}"]
                await listener.ask({"op": "subscribe", "req_id": name, "args": topics})
                answer = await listener.read()
                assert answer["success"] is False
                assert answer["req_id"] == name
                assert answer["ret_msg"] == (f"error:handler not found,topic:allLiquidation.{name}")
            assert exchange.subscribed("bybit") == []
        async with listening(exchange, "okx", "swap", []) as listener:
            await listener.ask(okx_request("mark-price", instId="MINA-USDT-SWAP") | {"id": "7"})
            answer = await listener.read()
            assert (answer["event"], answer["code"], answer["id"]) == ("error", "60018", "7")
        async with listening(exchange, "hyperliquid", "vaults", []) as listener:
            for number in range(11):
                await listener.ask(fills_request(f"0x{number:040x}"))
            await listener.find(
                {"channel": "error", "data": "Cannot track more than 10 total users."}
            )
            assert len(exchange.subscribed("hyperliquid")) == 10
        async with listening(exchange, "binance", "linear", []) as listener:
            await listener.ask({"method": "SUBSCRIBED", "id": 3})
            assert (await listener.read())["error"]["code"] == 2

    asyncio.run(run())

    async def listed() -> Any:
        client = dialling(exchange, "bybit")
        try:
            return await client.load_markets()
        finally:
            await client.close()

    pairs = set(asyncio.run(listed()))
    assert "PIPPIN/USDT:USDT" in pairs
    assert "ICP/USDT:USDT" not in pairs


def test_binances_retired_address_acknowledges_and_stays_silent(exchange):
    exchange.tick_every = 0.02
    frame = frame_of("binance", "linear")

    async def run() -> None:
        async with aiohttp.ClientSession() as session:
            url = f"ws://127.0.0.1:{exchange.port}/binance/ws"
            async with session.ws_connect(url) as socket:
                listener = Listener(socket)
                await listener.ask(FEEDS["binance", "linear"][2][0])
                assert await listener.read() == {"result": None, "id": 1}
                exchange.send("binance", "linear", frame)
                exchange.send("binance", "retired", frame)
                assert await listener.rest() == []

    asyncio.run(run())


@pytest.mark.parametrize(("name", "channel"), EACH)
def test_a_stalled_feed_answers_nothing_and_loses_what_was_said(exchange, name, channel):
    exchange.tick_every = 0.02
    lost, heard = frame_of(name, channel), frame_of(name, channel, "short")

    async def run() -> None:
        async with listening(exchange, name, channel) as listener:
            exchange.stall(name)
            await listener.rest(0.05)
            exchange.send(name, channel, lost)
            await listener.socket.ping()
            await listener.ask("ping" if name == "okx" else {"op": "ping", "method": "ping"})
            assert await listener.rest() == []
            assert exchange.connections(name) == 1
            async with listening(exchange, name, channel, []) as late:  # the handshake succeeds
                await late.ask(FEEDS[name, channel][2][0])
                assert await late.rest(0.05) == []
                exchange.stall(name, False)
            exchange.send(name, channel, heard)
            while (frame := await listener.read()) != heard:
                assert frame != lost

    asyncio.run(run())


def test_a_stalled_feed_answers_no_close_frame(exchange):
    async def run() -> None:
        async with listening(exchange, "binance", "linear") as listener:
            exchange.stall("binance")
            closing = asyncio.create_task(listener.socket.close())
            await asyncio.sleep(0.2)
            assert not closing.done()
            exchange.cut("binance")
            await closing

    asyncio.run(run())


def test_mute_and_delay(exchange):
    exchange.tick_every = 60
    frames = [all_liquidation("ICPUSDT", "long", 2.585, size, TIME) for size in (1, 2, 3)]

    async def run() -> None:
        async with listening(exchange, "bybit", "linear") as listener:
            await listener.rest()
            exchange.mute("bybit")
            exchange.send("bybit", "linear", frames[0])
            exchange.mute("bybit", False)
            exchange.delay("bybit", 0.5)
            exchange.send("bybit", "linear", frames[1])
            exchange.tick()
            assert (await listener.read())["topic"] == "tickers.BTCUSDT"
            assert await listener.rest() == []
            exchange.delay("bybit", 0)
            exchange.send("bybit", "linear", frames[2])
            assert [await listener.read(), await listener.read()] == [frames[2], frames[1]]

    asyncio.run(run())
    assert exchange.sent("bybit") == 2


def test_faults_of_one_channel_leave_the_other_alone(exchange):
    async def run() -> None:
        async with (
            listening(exchange, "binance", "linear") as linear,
            listening(exchange, "binance", "inverse") as inverse,
        ):
            exchange.close("binance", 1012, channel="linear")
            await linear.find((WSMsgType.CLOSE, 1012))
            exchange.refuse("binance", channel="linear")
            with pytest.raises(aiohttp.WSServerHandshakeError, match="503"):
                async with listening(exchange, "binance", "linear"):
                    pass
            frame = frame_of("binance", "inverse")
            exchange.send("binance", "inverse", frame)
            await inverse.find(frame)
            assert exchange.connections("binance") == 1
            assert exchange.dials("binance", "linear") == 2

    asyncio.run(run())


def test_a_burst_of_20_000_arrives_in_order(exchange):
    exchange.tick_every = 60
    frames = [force_order("BTCUSDT", "long", 60_000, 1, TIME + i) for i in range(20_000)]

    async def run() -> None:
        async with listening(exchange, "binance", "linear") as listener:
            await listener.rest(0.05)
            clock = asyncio.get_running_loop().time
            begin = clock()
            assert exchange.burst("binance", "linear", frames, seconds=0.5) == 1
            await asyncio.sleep(0.1)
            # 50 parts of 400, one each 10 ms: never ahead of its time.
            assert 400 <= exchange.sent("binance") <= 400 + 40_000 * (clock() - begin)
            times = [(await listener.read())["o"]["T"] for _ in frames]
            assert times == list(range(TIME, TIME + 20_000))

    asyncio.run(run())
    assert exchange.sent("binance") == 20_000


# -------------------------------------------------------------------------------- the frames


def test_recorded_frames_can_be_built(recorded):
    """The builders give the recorded frames but for the fields that a builder can't know."""

    def read(name: str) -> Any:
        return orjson.loads((recorded / "frames" / name).read_bytes())

    live = read("binance_usdm_live_20261008.json")["data"]
    built = force_order("ILVUSDT", "long", 3.85642, 116.5, 1791391082119, sent=1791391083124)
    free = dict.fromkeys(("p", "ap", "l", "st"))
    assert built["o"] | free == live["o"] | free
    assert (float(built["o"]["ap"]), built["E"]) == (float(live["o"]["ap"]), live["E"])
    for name, side, symbol, price, size, at, sent in [
        ("long_liq", "long", "ICPUSDT", 2.585, 19.7, 1789670094099, 1789670094412),
        ("short_liq", "short", "MARSCOINUSDT", 0.12734, 2380, 1789670278053, 1789670278264),
    ]:
        frame = read(f"bybit_all_{name}_20260918.json")
        assert all_liquidation(symbol, side, price, size, at, sent) == frame
    frame = read("okx_short_liq_mina_20260918.json")
    order = liquidation_order("MINA-USDT-SWAP", "short", 0.09859, 10975, 1789678209470)
    assert order == frame
    block = orjson.loads(
        (recorded / "frames" / "hyperliquid_node_fills_by_block_20251027.jsonl").read_bytes()
    )
    maker = "0x622450a3048ae44a5c54e2b54c91b082313e1d23"
    fills = [(user, fill) for user, fill in block["events"] if "liquidation" in fill]
    assert [user for user, _ in fills] == [TRADER, maker]
    for user, fill in fills:
        built = user_fills("WLFI", "short", 0.15327, 890, 1761584402387, user, TRADER)
        mine = built["data"]["fills"][0]
        known = ("coin", "side", "time")
        assert {name: mine[name] for name in known} == {name: fill[name] for name in known}
        assert (mine["px"], float(mine["sz"])) == (fill["px"], float(fill["sz"]))
        assert mine["liquidation"]["liquidatedUser"] == fill["liquidation"]["liquidatedUser"]


@pytest.mark.parametrize(("size", "head"), [(125, 2), (126, 4), (65_535, 4), (65_536, 10)])
def test_frames_of_any_length_are_packed_as_rfc_6455_says(size, head):
    data = framed("x" * size)
    assert len(data) == head + size
    assert data[0] == 0x81
    assert data[1] == {2: size, 4: 126, 10: 127}[head]
    assert head == 2 or int.from_bytes(data[2:head], "big") == size
