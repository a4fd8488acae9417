"""Put a sandbox on 127.0.0.1, and point Freqtrade's commands at it. Floor 3.

The exchange itself is ``sandbox.py``; this is its socket, and the configuration that makes
Freqtrade's Binance dial it.
"""

from __future__ import annotations

import asyncio
import errno
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from aiohttp import WSMsgType, web

from liquidations.errors import LiquidationsError
from liquidations.sandbox import Sandbox
from liquidations.sandbox_stream import Stream


HOST = "127.0.0.1"

#: How often (s) a connection looks for what is due.
POLL = 0.05

# The addresses of Binance's futures API by their names in ccxt. The private ones are among them so
# that no request of a misconfigured bot reaches the real exchange.
ADDRESSES = {
    "fapiPublic": "/fapi/v1",
    "fapiPublicV2": "/fapi/v2",
    "fapiPublicV3": "/fapi/v3",
    "fapiPrivate": "/fapi/v1",
    "fapiPrivateV2": "/fapi/v2",
    "fapiPrivateV3": "/fapi/v3",
    "fapiData": "/futures/data",
}


def application(sandbox: Sandbox) -> web.Application:
    """Wrap a sandbox for aiohttp."""
    conversations: set[asyncio.Task[Any] | None] = set()

    async def get(request: web.Request) -> web.Response:
        status, body = sandbox.answer(request.path, request.query)
        return web.json_response(body, status=status)

    async def websocket(request: web.Request) -> web.StreamResponse:
        now = sandbox.time_ms()
        if sandbox.tape.cut(now, now):
            _abort(request)
            return web.Response(status=503)  # goes nowhere
        # Pings and closings are answered by hand, because in a silence they are not.
        socket = web.WebSocketResponse(autoping=False, autoclose=False, compress=False)
        if not socket.can_prepare(request):
            return await get(request)
        stream = sandbox.connect(request.match_info.get("tail", ""))
        await socket.prepare(request)
        conversations.add(asyncio.current_task())
        speaking = asyncio.create_task(speak(request, socket, stream))
        try:
            async for message in socket:
                if sandbox.tape.silent(sandbox.time_ms()):
                    continue
                if message.type == WSMsgType.PING:
                    await socket.pong(message.data)
                elif message.type == WSMsgType.TEXT:
                    await socket.send_str(stream.answer(message.data))
            while sandbox.tape.silent(sandbox.time_ms()):
                await asyncio.sleep(POLL)
        except ConnectionError:
            pass  # gone while it was answered
        finally:
            speaking.cancel()
            conversations.discard(asyncio.current_task())
        return socket

    async def speak(request: web.Request, socket: web.WebSocketResponse, stream: Stream) -> None:
        # Gone while it was spoken to: the reader above ends, and then this.
        with suppress(ConnectionError):
            while not stream.cut(now := sandbox.time_ms()):
                for text in stream.due(now):
                    await socket.send_str(text)
                await asyncio.sleep(POLL)
            _abort(request)

    async def close(app: web.Application) -> None:
        tasks = [task for task in conversations if task]
        for task in tasks:
            task.cancel()  # aborts the connection; no client is waited for
        await asyncio.gather(*tasks, return_exceptions=True)

    app = web.Application()
    # Without liquidations to play there is no websocket: a collector would take the silence for an
    # exchange on which nothing happens, and store that as a fact.
    for path in ("/ws", "/market/ws") if sandbox.tape.symbols else ():
        app.router.add_get(path, websocket)
        app.router.add_get(path + "/{tail}", websocket)
    app.router.add_get("/{path:.*}", get)
    app.on_shutdown.append(close)
    return app


def _abort(request: web.Request) -> None:
    """Cut a connection without a word."""
    if isinstance(request.transport, asyncio.WriteTransport):
        request.transport.abort()


@contextmanager
def running(datadir: Path, *, port: int = 0, **settings: Any) -> Iterator[int]:
    """Run a sandbox on 127.0.0.1 in a daemon thread, for as long as the context lasts.

    :param port: 0 takes any free one.
    :param settings: those of `Sandbox`: ``pairs``, ``replay``, ``ahead_hours``, ...
    :return: yields the port.
    :raises LiquidationsError: when there is nothing to serve, or the port can't be had.
    """
    with serving(Sandbox(datadir, **settings), port=port) as bound:
        yield bound


@contextmanager
def serving(sandbox: Sandbox, *, port: int = 0) -> Iterator[int]:
    """Put a sandbox that was made already on 127.0.0.1, as `running` does."""
    try:
        listener = socket.create_server((HOST, port))
    except (OSError, OverflowError) as e:
        reason = "is in use" if getattr(e, "errno", 0) == errno.EADDRINUSE else f"fails: {e}"
        raise LiquidationsError(
            f"port {port} on {HOST} {reason}. Give another one with --port; 0 takes any free one"
        ) from e
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="sandbox", daemon=True)
    thread.start()
    runner = web.AppRunner(application(sandbox), access_log=None, shutdown_timeout=1.0)

    async def start() -> None:
        await runner.setup()
        await web.SockSite(runner, listener).start()

    try:
        asyncio.run_coroutine_threadsafe(start(), loop).result()
        yield listener.getsockname()[1]
    finally:
        asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
        listener.close()


def serve(datadir: Path, *, port: int = 8911, **settings: Any) -> None:
    """Run a sandbox until Ctrl-C, and print the config that points Freqtrade at it."""
    with running(datadir, port=port, **settings) as bound:
        overrides = freqtrade_overrides(bound, played=_played(settings))
        print(f"Sandbox on http://{HOST}:{bound}. A further --config for Freqtrade:", flush=True)
        print(json.dumps(overrides, indent=2), flush=True)
        with suppress(KeyboardInterrupt):
            threading.Event().wait()


def _played(settings: dict[str, Any]) -> bool:
    return settings.get("liquidations") is not None


def freqtrade_overrides(port: int, *, played: bool = False) -> dict[str, Any]:
    """Give the config that points Freqtrade's Binance at the sandbox, always as a dry run.

    :param played: whether liquidations come over the websocket; what a bot collects of them is
        stored as simulated then, never as a real exchange's.
    """
    urls: dict[str, Any] = {n: f"http://{HOST}:{port}{path}" for n, path in ADDRESSES.items()}
    urls["ws"] = {"linear": f"ws://{HOST}:{port}/ws"}
    # ccxt takes a plain list for fetchMarkets too; {"types": [...]} can't pass the environment.
    ccxt_config = {"urls": {"api": urls}, "options": {"fetchMarkets": ["linear"]}}
    exchange = {"name": "binance", "only_from_ccxt": True, "ccxt_config": ccxt_config}
    labelled = {"liquidations": {"simulated": True}} if played else {}
    return {"dry_run": True, "exchange": exchange, **labelled}


def environment(port: int, *, played: bool = False) -> dict[str, str]:
    """Give `freqtrade_overrides` as variables that hold for any Freqtrade command under them.

    Freqtrade keeps the case of the last key only, and reads lists but no objects
    (configuration/environment_vars.py, 2026.9).
    """
    variables: dict[str, str] = {}

    def flatten(value: Any, keys: list[str]) -> None:
        if isinstance(value, dict):
            for key, inner in value.items():
                flatten(inner, [*keys, key])
        else:
            last = keys[-1] if "ccxt_config" in keys else keys[-1].upper()
            name = "__".join(["FREQTRADE", *(key.upper() for key in keys[:-1]), last])
            variables[name] = value if isinstance(value, str) else json.dumps(value)

    flatten(freqtrade_overrides(port, played=played), [])
    return variables


def run_command(datadir: Path, command: list[str], *, port: int = 0, **settings: Any) -> int:
    """Run a command, usually ``freqtrade ...``, against a sandbox of its own.

    SIGTERM is passed on to the command; so is SIGINT, except in a terminal, which sends it to the
    command itself.

    :param settings: those of `Sandbox`.
    :return: the command's exit code; 128 + the signal's number when a signal ended it.
    :raises LiquidationsError: when there is nothing to serve, or no such command.
    """
    # The Freqtrade next to this Python counts even if its environment isn't activated.
    path = os.pathsep.join([os.environ.get("PATH", os.defpath), str(Path(sys.executable).parent)])
    program = shutil.which(command[0], path=path) if command else None
    if program is None:
        raise LiquidationsError(
            f"no such command: {' '.join(command[:1]) or 'none was given'}. Name a program after "
            "--, for example `liquidations sandbox -- freqtrade backtesting -c config.json`"
        )
    child: subprocess.Popen[bytes] | None = None

    def forward(number: int, frame: object) -> None:
        if child and not (number == signal.SIGINT and sys.stdin.isatty()):
            child.send_signal(number)

    with running(datadir, port=port, **settings) as bound:
        # Before the start: a command behind a shell's & would inherit an ignored SIGINT.
        previous = {n: signal.signal(n, forward) for n in (signal.SIGINT, signal.SIGTERM)}
        try:
            ours = environment(bound, played=_played(settings))
            child = subprocess.Popen([program, *command[1:]], env=os.environ | ours)
            code = child.wait()
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)
    return code if code >= 0 else 128 - code
