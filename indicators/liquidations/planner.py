"""What a download has to ask: which contracts, of which sources, and what of them is missing.

Floor 3. It asks sources for their lists of contracts, and exchanges for their markets where a
pattern is to be matched with them.
"""

from __future__ import annotations

import difflib
import os
import re
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from liquidations.archives import ARCHIVES, LIQUIDATIONS, Ask, Service, Wanted, archive, service
from liquidations.archives.vendors import SETTLED
from liquidations.candles import format_period
from liquidations.errors import LiquidationsError
from liquidations.event import MINUTE, Ints
from liquidations.exchanges.frames import perpetuals
from liquidations.http import Absent, Client, NoAnswer, how_to_key
from liquidations.pairs import QUOTES, base_of, is_inverse, is_pair
from liquidations.settings import read_source
from liquidations.store import Store


#: Of intraday bars a vendor keeps at least about so many.
KEPT = 1_500

HOUR = 60 * MINUTE

#: No interval.
NO_TIME = np.empty((0, 2), np.int64)

_OF_PATTERNS = frozenset("*+?[](){}|^$\\.")


@dataclass(frozen=True, slots=True)
class Asked:
    """Name one contract that is asked for, by the pairs under which it may be had, best first.

    ``needed`` tells that it is a fault if no source has it.
    """

    names: tuple[str, ...]
    needed: bool = True


@dataclass(frozen=True, slots=True)
class Request:
    """Say what is asked for.

    :param pairs: by exchange
    :param start: ms UTC
    :param end: ms UTC, exclusive
    :param now: our time
    :param kinds: see ``archives.LIQUIDATIONS`` and so on
    :param timeframes: lengths (ms) of the candles that bars are to serve; none leaves it to the
        source and the length of time
    :param prepend: also ask for time before the first that is stored
    :param again: also ask for what is stored, to learn what a vendor has revised
    :param erase: ask for all of it, and let each answer replace what is stored of its time
    """

    pairs: Mapping[str, Sequence[Asked]]
    start: int
    end: int
    now: int
    kinds: tuple[str, ...] = (LIQUIDATIONS,)
    timeframes: tuple[int, ...] = ()
    prepend: bool = False
    again: bool = False
    erase: bool = False


@dataclass(frozen=True, slots=True)
class Job:
    """Hold what is to be had of one contract, kind and period from one source.

    ``missing`` are the intervals that the ``questions`` are about; ``before`` is the interval
    before the first stored moment that was left out, of which the source has nothing any more
    before ``kept_from``; ``locked`` names what needs a key; ``known`` tells that something of it is
    stored.
    """

    source: str
    kind: str
    exchange: str
    pair: str
    period: int
    start: int
    end: int
    missing: tuple[tuple[int, int], ...]
    questions: tuple[tuple[Ask, Wanted], ...]
    before: tuple[int, int] | None = None
    kept_from: int = 0
    locked: tuple[str, ...] = ()
    known: bool = False


@dataclass(frozen=True, slots=True)
class Fault:
    """Say what failed, of which source and pair, and how often."""

    source: str
    pair: str
    message: str
    count: int = 1


@dataclass(frozen=True, slots=True)
class Lacking:
    """Name a contract that is not in any source's list, and what there is of the same base."""

    exchange: str
    names: tuple[str, ...]
    near: tuple[str, ...]


@dataclass(slots=True)
class Plan:
    """Hold what is to be asked, and what failed on the way there.

    ``taken`` are (exchange, pair, what stands for it there); ``erase`` is the request's.
    """

    jobs: list[Job] = field(default_factory=list)
    taken: list[tuple[str, str, str]] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    lacking: list[Lacking] = field(default_factory=list)
    erase: bool = False


# --- what is missing ----------------------------------------------------------------------------


def missing(
    start: int, end: int, coverage: Ints, *, prepend: bool = False
) -> list[tuple[int, int]]:
    """List what of ``[start, end)`` is not covered; none of it is before all coverage.

    :param coverage: sorted disjoint intervals
    :param prepend: also list the time before all coverage

    >>> stored = np.array([[20, 30], [40, 50]])
    >>> missing(10, 60, stored), missing(10, 60, stored, prepend=True)[0]
    ([(30, 40), (50, 60)], (10, 20))
    """
    if len(coverage) and not prepend:
        start = max(start, int(coverage[0, 0]))
    found = []
    for begin, stop in coverage.tolist():
        if begin >= end:
            break
        if begin > start:
            found.append((start, begin))
        start = max(start, stop)
    return [*found, (start, end)] if start < end else found


def subtract(intervals: Sequence[tuple[int, int]], coverage: Ints) -> list[tuple[int, int]]:
    """List what of the intervals is not covered.

    >>> subtract([(0, 10), (20, 30)], np.array([[5, 22]]))
    [(0, 5), (22, 30)]
    """
    return [part for one in intervals for part in missing(*one, coverage, prepend=True)]


def choose_period(periods: Sequence[int], timeframe: int | None, back: int) -> int | None:
    """Choose the length (ms) of bars.

    For candles of ``timeframe`` ms the longest one that fits into them, because vendors keep longer
    bars for longer; None if none does. Without a timeframe the finest one of which a vendor still
    has ``back`` ms, else the longest.

    >>> hour, day = 3_600_000, 86_400_000
    >>> choose_period([hour, 4 * hour, day], 8 * hour, 0) == 4 * hour
    True
    >>> choose_period([hour, 4 * hour, day], None, 100 * day) == 4 * hour
    True
    """
    if timeframe is not None:
        return max((one for one in periods if timeframe % one == 0), default=None)
    return min((one for one in periods if back <= KEPT * one), default=max(periods))


def stand_ins(pair: str, exchange: str) -> tuple[str, ...]:
    """List under which names a contract may stand on an exchange, the likeliest first.

    >>> stand_ins("1000PEPE/USDT:USDT", "hyperliquid")
    ('KPEPE/USDC:USDC', 'PEPE/USDC:USDC')
    >>> stand_ins("1000SHIB/USDT:USDT", "bybit")[:2]
    ('1000SHIB/USDT:USDT', 'SHIB1000/USDT:USDT')
    """
    given, base = pair.split("/")[0], base_of(pair)
    if is_inverse(pair):
        return (pair,)
    multiplied, thousand = given != base, f"1000{base}"
    own = thousand if multiplied and given.startswith("K") else given  # the K is Hyperliquid's
    names: tuple[str, ...] = {
        "binance": (own, thousand, base),
        "bybit": (own, thousand, f"{base}1000", base),
        "okx": (base,),
        "hyperliquid": (f"K{base}", base) if multiplied else (base, f"K{base}"),
    }[exchange]
    quotes = ("USDC",) if exchange == "hyperliquid" else (pair.split(":")[1], "USDT", "USDC")
    found = (f"{name}/{quote}:{quote}" for quote in quotes for name in names)
    return tuple(dict.fromkeys(found))


def inverse_of(pair: str) -> str:
    """Name the inverse contract of the same base.

    >>> inverse_of("BTC/USDT:USDT")
    'BTC/USD:BTC'
    """
    base = base_of(pair)
    return f"{base}/USD:{base}"


def _near(pair: str) -> list[str]:
    """List what may have been meant, if there is no such contract."""
    bases = dict.fromkeys((pair.split("/")[0], base_of(pair), f"1000{base_of(pair)}"))
    return [inverse_of(pair), *(f"{b}/{q}:{q}" for b in bases for q in QUOTES)]


def resolve(
    texts: Sequence[str],
    exchanges: Sequence[str],
    markets: Callable[[str], Sequence[str]],
    *,
    inverse: bool = False,
) -> tuple[dict[str, list[Asked]], list[Fault]]:
    """Find the contracts that are meant by pairs and patterns.

    Of several exchanges, a pair means on each what stands for it there. A pattern, as Freqtrade has
    them, is matched with the perpetuals of each exchange; where it matches none, it means what
    stands for the pairs that it matches elsewhere.

    :param markets: lists the perpetuals of an exchange; it is only called if there is a pattern
    :param inverse: also name the inverse contract of each pair
    :return: by exchange, and a fault for each text that means nothing
    :raises LiquidationsError: on a pattern that is none, or if nothing is meant at all.
    """
    found: dict[str, list[Asked]] = {exchange: [] for exchange in exchanges}
    faults: list[Fault] = []
    known: dict[str, Sequence[str]] = {}
    for text in texts:
        if is_pair(text):
            for exchange in exchanges:
                names = stand_ins(text, exchange)
                # On one exchange only, the pair means itself.
                exact = len(exchanges) == 1 and exchange != "hyperliquid"
                found[exchange].append(Asked((text,) if exact else names))
        elif not set(text) & _OF_PATTERNS:
            quote = text.split("/")[-1]
            near = f"{text}:{quote}" if text.count("/") == 1 and ":" not in text else ""
            meant = near if near and is_pair(near) else "BTC/USDT:USDT"
            faults.append(Fault("", text, f"it is not a perpetual; write it as {meant}"))
        else:
            for exchange in exchanges:
                if exchange not in known:
                    known[exchange] = markets(exchange)
            matched = {exchange: _expand(text, known[exchange]) for exchange in exchanges}
            everywhere = list(dict.fromkeys(pair for some in matched.values() for pair in some))
            for exchange in exchanges:
                found[exchange] += [Asked((pair,)) for pair in matched[exchange]] or [
                    Asked(names, needed=False)
                    for pair in everywhere
                    if (names := _those(stand_ins(pair, exchange), known[exchange]))
                ]
            if not everywhere:
                all_known = sorted({pair for some in known.values() for pair in some})
                plain = re.sub(r"[^A-Z0-9/:]", "", text.upper())
                near = ", ".join(difflib.get_close_matches(plain, all_known, n=3))
                hint = f"; near: {near}" if near else ""
                where = ", ".join(exchanges)
                faults.append(Fault("", text, f"it matches no perpetual of {where}{hint}"))
    if not any(found.values()):
        said = "; ".join(f"{fault.pair}: {fault.message}" for fault in faults)
        raise LiquidationsError(said or "no pair is named; name some with -p BTC/USDT:USDT")
    if inverse:
        for several in found.values():
            several += [Asked((inverse_of(one.names[0]),), needed=False) for one in several]
    return {e: list(dict.fromkeys(several)) for e, several in found.items() if several}, faults


def _those(names: Iterable[str], known: Collection[str]) -> tuple[str, ...]:
    return tuple(name for name in names if name in known)


def _expand(text: str, known: Sequence[str]) -> list[str]:
    from freqtrade.plugins.pairlist.pairlist_helpers import expand_pairlist

    try:
        return expand_pairlist([text], list(known))
    except ValueError as error:
        raise LiquidationsError(f"{error}; for all pairs write .*/USDT:USDT") from error


def list_perpetuals(exchange: str, ccxt_config: Mapping[str, Any]) -> list[str]:
    """Ask an exchange for its perpetuals that are quoted in dollars.

    :param ccxt_config: see ``settings.read_ccxt_config``
    :raises LiquidationsError: if it can't be reached.
    """
    import ccxt

    types = ["linear", "inverse"] if exchange in ("binance", "bybit") else ["swap"]
    options = {"options": {"fetchMarkets": {"types": types}}, "enableRateLimit": True}
    client = getattr(ccxt, exchange)(ccxt.Exchange.deep_extend(options, dict(ccxt_config)))
    try:
        markets = client.fetch_markets()
    except ccxt.BaseError as error:
        raise LiquidationsError(
            f"{exchange} can't be asked for its pairs ({type(error).__name__}); try again, or name "
            "them without a pattern"
        ) from error
    found = (market["symbol"] for market, _ in perpetuals(markets) if market.get("active", True))
    return sorted(pair for pair in found if is_pair(pair))


# --- who is asked, and what ---------------------------------------------------------------------


def find_clients(
    config: Mapping[str, Any],
    request: Request,
    sources: Collection[str] = (),
    stop: threading.Event | None = None,
) -> tuple[dict[str, Client], list[str]]:
    """Find the sources to ask, with the keys that the configuration or the environment has.

    :param sources: by name; none means all that serve the exchanges and need no key, or have one
    :return: a client of each, and a line for each that was left out for want of a key
    :raises LiquidationsError: if a source that was named is unknown, serves none of the exchanges,
        or lacks its key; or if there is none.
    """
    clients: dict[str, Client] = {}
    without: list[str] = []
    for name in dict.fromkeys(sources) or ARCHIVES:
        about = service(name).ABOUT if sources else archive(name).ABOUT
        serves = set(about.exchanges) & set(request.pairs) and set(about.kinds) & set(request.kinds)
        if sources and not serves:
            raise LiquidationsError(
                f"the source {name} gives {', '.join(about.kinds)} of "
                f"{', '.join(about.exchanges)}; asked for: {', '.join(request.kinds)} of "
                f"{', '.join(request.pairs)}. Choose an exchange with --exchange"
            )
        if not about.url or not serves:
            continue
        said = read_source(config, name)
        key = said.get("key") or (os.environ.get(about.key, "") if about.key else "")
        if about.key and not key.strip() and not about.key_optional:
            need = f"the source {name} needs a key: {how_to_key(name, about)}"
            if sources:
                raise LiquidationsError(need)
            without.append(need)
            continue
        clients[name] = Client(name, about, url=said.get("url", ""), key=key, stop=stop)
    if not clients:
        raise LiquidationsError(
            f"no source gives {', '.join(request.kinds)} of {', '.join(request.pairs)} without a "
            f"key. {'; '.join(without)}"
        )
    return clients, without


def plan(
    store: Store,
    request: Request,
    clients: Mapping[str, Client],
    *,
    held: Callable[[str, str, str, int], Ints] = lambda *_: NO_TIME,
) -> Plan:
    """Plan what is to be asked of each source: what is asked for, but not stored.

    :param held: tells what of open interest or funding is there: intervals, by kind, exchange, pair
        and period; what it raises is a fault of that pair
    """
    made = Plan(erase=request.erase)
    listed: dict[tuple[str, Asked], set[str]] = {}
    found_in: set[tuple[str, Asked]] = set()
    chosen: list[tuple[str, str, str, str]] = []
    for source, client in clients.items():
        module = service(source)
        groups = [
            (exchange, asked)
            for exchange, all_asked in request.pairs.items()
            if exchange in module.ABOUT.exchanges
            for asked in all_asked
        ]
        try:
            names = _symbols(module, client, groups)
        except LiquidationsError as error:
            made.faults.append(Fault(source, "", str(error)))
            continue
        for exchange, asked in groups:
            pair = next((one for one in asked.names if (exchange, one) in names), None)
            if pair is not None:
                chosen.append((source, exchange, pair, names[exchange, pair]))
                if pair != asked.names[0]:
                    made.taken.append((exchange, asked.names[0], pair))
            if module.CATALOGUE is not None:
                near = {one for one in _near(asked.names[0]) if (exchange, one) in names}
                listed.setdefault((exchange, asked), set()).update(near)
                if pair is not None:
                    found_in.add((exchange, asked))
    chosen = list(dict.fromkeys(chosen))
    stored = covered_times(store)

    def covered(source: str, kind: str, exchange: str, pair: str, period: int) -> Ints:
        if kind == LIQUIDATIONS:
            return stored.get((exchange, pair, source, period), NO_TIME)
        return held(kind, exchange, pair, period)

    for source, exchange, pair, symbol in chosen:
        made.jobs += _jobs(request, clients[source], exchange, pair, symbol, covered, made.faults)
    made.lacking = [
        Lacking(exchange, asked.names, tuple(sorted(near)))
        for (exchange, asked), near in listed.items()
        if asked.needed and (exchange, asked) not in found_in
    ]
    made.faults = list(dict.fromkeys(made.faults))
    made.taken = list(dict.fromkeys(made.taken))
    return made


def _symbols(
    module: Service, client: Client, groups: Collection[tuple[str, Asked]]
) -> dict[tuple[str, str], str]:
    """Ask a source for its names of all that may be meant."""
    wanted = {
        (exchange, pair)
        for exchange, asked in groups
        for pair in (*asked.names, *_near(asked.names[0]))
    }
    if module.CATALOGUE is None:
        return module.symbols(wanted, None)
    try:
        return client.read(module.CATALOGUE, lambda reply: module.symbols(wanted, reply.data))
    except Absent:
        raise LiquidationsError("its list of contracts is not there (status 404)") from None
    except NoAnswer as error:
        raise LiquidationsError(f"its list of contracts can't be had: {error}") from error


def covered_times(store: Store) -> dict[tuple[str, str, str, int], Ints]:
    """Read what is covered, by exchange, pair, source and period."""
    with store.read() as reader:
        return {
            (one.exchange, one.pair, one.source, one.period): reader.coverage(one)
            for one in reader.series()
        }


def _jobs(
    request: Request,
    client: Client,
    exchange: str,
    pair: str,
    symbol: str,
    covered: Callable[[str, str, str, str, int], Ints],
    faults: list[Fault],
) -> Iterator[Job]:
    about, module = client.about, service(client.source)
    for kind in request.kinds:
        if kind not in about.kinds:
            continue
        for period in _periods(request, client, kind, faults):
            start, end = request.start, request.end
            own = kind == LIQUIDATIONS
            step = period if own or about.periods else about.step
            if about.periods:  # only what is over and has settled can be had
                end = min(end, request.now - SETTLED)
                start, end = start // period * period, end // period * period
            elif not own:
                start = -(-start // step) * step
            try:
                known = covered(client.source, kind, exchange, pair, step)
            except LiquidationsError as error:
                faults.append(Fault(client.source, pair, str(error)))
                continue
            coverage = NO_TIME if request.again or request.erase else known
            # What follows is appended, but what a source soon forgets, and what may lie around
            # Freqtrade's own rows, is wanted on both sides.
            both = request.prepend or about.expires or not own
            spans = missing(start, end, coverage, prepend=both)
            names = (kind, exchange, pair, symbol)
            before, kept_from = None, 0
            first = min(end, int(coverage[0, 0])) if len(coverage) else start
            if not both and start < first:
                earlier = Wanted(*names, start, first, period, request.now)
                if next(iter(module.asks(earlier)), None) is not None:
                    before = earlier.start, earlier.end
                    kept_from = request.now - KEPT * period if about.periods else 0
            wanted = [Wanted(*names, *span, period, request.now) for span in spans]
            pairs = [(ask, one) for one in wanted for ask in module.asks(one)]
            open_to_all = client.has_key or not about.key
            locked = [ask.label for ask, _ in pairs if not (open_to_all or ask.keyless)]
            yield Job(
                client.source,
                kind,
                exchange,
                pair,
                period,
                start,
                end,
                tuple(spans),
                tuple((ask, one) for ask, one in pairs if open_to_all or ask.keyless),
                before,
                kept_from,
                tuple(locked),
                len(known) > 0,
            )


def _periods(request: Request, client: Client, kind: str, faults: list[Fault]) -> list[int]:
    """Choose the periods of a source's bars."""
    periods = client.about.periods
    if not periods:
        return [MINUTE]
    if kind != LIQUIDATIONS and not request.timeframes:
        timeframes: tuple[int | None, ...] = (HOUR,)  # what strategies read of them by default
    else:
        timeframes = request.timeframes or (None,)
    found = []
    for timeframe in timeframes:
        period = choose_period(periods, timeframe, request.now - request.start)
        if period is None:
            shown = format_period(timeframe or 0)
            what = f"it has no bars that fit into candles of {shown}; choose others with -t"
            faults.append(Fault(client.source, "", what))
        else:
            found.append(period)
    return list(dict.fromkeys(found))
