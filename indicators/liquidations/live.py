"""The collector inside a bot: one for each store and process, in a daemon thread. Floor 4.

``/reload_config`` runs the strategy's file again while imported modules stay, so the collector
lives in a registry of this module: it goes on through a reload, without a gap or a second socket.
Freqtrade joins no daemon thread at its end; an exit handler lets ours write what it has.
"""

from __future__ import annotations

import asyncio
import atexit
import logging
import threading
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from liquidations.collector import Collector, Plan, bases_of
from liquidations.errors import LiquidationsError
from liquidations.exchanges import EXCHANGES
from liquidations.pairs import base_of, is_pair
from liquidations.provider import MARKET
from liquidations.settings import Settings, read_ccxt_config


logger = logging.getLogger(__name__)

#: So long (s) the end of the process waits for what is still to be written.
LAST = 1.5

#: So long (s) between two attempts to open a store that can't be opened.
AGAIN = 5.0


def plan_of(config: Mapping[str, Any], settings: Settings, *, standby: bool = False) -> Plan:
    """Plan what a configuration asks to collect: its whitelist's bases, or the whole market.

    A whitelist may hold patterns, or be made anew by Freqtrade; what a strategy asks for is added
    when it does.
    """
    whitelist = config.get("exchange", {}).get("pair_whitelist", ())
    bases = None if settings.market else bases_of(pair for pair in whitelist if is_pair(pair))
    configs = {name: read_ccxt_config(config, name) for name in EXCHANGES}
    return Plan(settings, bases, configs, standby)


class _Inside:
    """Run a collector in a daemon thread, started again if its store can't be opened."""

    def __init__(self, plan: Plan) -> None:
        #: What is collected now; it grows with what strategies ask for.
        self.plan = plan
        self._collector: Collector | None = None
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self.thread = threading.Thread(target=self._run, name="liquidations", daemon=True)
        self.thread.start()

    def want(self, bases: frozenset[str] | None, exchanges: tuple[str, ...]) -> None:
        """Collect these bases (None = the whole market) of these exchanges too."""
        with self._lock:
            plan, settings = self.plan, self.plan.settings
            both = None if bases is None or plan.bases is None else plan.bases | bases
            every = tuple(dict.fromkeys((*settings.exchanges, *exchanges)))
            if both == plan.bases and every == settings.exchanges:
                return
            self.plan = replace(plan, bases=both, settings=replace(settings, exchanges=every))
            if self._collector is not None:
                self._collector.want(both, every)

    def stop(self) -> None:
        """Ask the thread to write what it has and to end."""
        with self._lock:
            self._stop.set()
            if self._collector is not None:
                self._collector.stop()

    def _run(self) -> None:
        said: set[str] = set()
        while not self._stop.is_set():
            try:
                with self._lock:
                    self._collector = Collector(self.plan)
            except LiquidationsError as error:
                if str(error) not in said:
                    logger.warning(f"liquidations can't be collected, trying again: {error}")
                    said.add(str(error))
                self._stop.wait(AGAIN)
                continue
            try:
                asyncio.run(self._collector.run())
            except Exception:  # a mistake of ours must not end the bot, nor pass unseen
                logger.exception("the collection of liquidations failed; starting it again")
                self._stop.wait(AGAIN)


_running: dict[str, _Inside] = {}
_lock = threading.Lock()


def start(config: Mapping[str, Any], settings: Settings, pair: str | None = None) -> None:
    """Collect in this process what the configuration asks for, if it is not done already.

    :param pair: a strategy asks for it; ``MARKET`` is all of them
    """
    if not settings.collect:
        stop_all()
        return
    plan = plan_of(config, settings, standby=True)
    if pair is not None and plan.bases is not None:
        plan = replace(plan, bases=None if pair == MARKET else plan.bases | {base_of(pair)})
    with _lock:
        for url in [url for url in _running if url != settings.db_url]:
            _running.pop(url).stop()  # a bot has one configuration, and it was changed
        inside = _running.get(settings.db_url)
        if inside is not None and _rest_of(inside.plan) != _rest_of(plan):
            inside.stop()
            inside.thread.join(LAST)
            inside = None
        if inside is None:
            if not _running:
                atexit.register(stop_all)
            _running[settings.db_url] = _Inside(plan)
            return
    inside.want(plan.bases, settings.exchanges)


def _rest_of(plan: Plan) -> Plan:
    """Return what of a plan can't be changed without starting anew."""
    shown = replace(plan.settings, exchanges=(), min_coverage=0.0, min_exchanges=1, as_of=True)
    return replace(plan, bases=None, settings=shown)


def stop_all() -> None:
    """End all collectors of this process, and wait a moment for what they still write."""
    with _lock:
        ending = list(_running.values())
        _running.clear()
    for inside in ending:
        inside.stop()
    for inside in ending:
        inside.thread.join(LAST)
