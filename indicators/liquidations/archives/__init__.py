"""One module per source of history: file or answer → events or bars. Pure. Floor 1.

A module says in ``ABOUT`` what it gives, and has ``read(data, options)``, which turns the bytes of
one file into parts. A source that can be downloaded is a :class:`Service` too: it says what to ask
for and what an answer means; who asks, waits and stores is ``downloader.py``. One more source is
one more module and one line in :data:`ARCHIVES`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from typing import Any, Protocol, TypeAlias, cast

from liquidations.errors import LiquidationsError
from liquidations.event import MINUTE, Bars, Events, Floats, Ints
from liquidations.exchanges.frames import Contract


#: Name of ``--source`` → its module.
ARCHIVES = {
    "coinalyze": "liquidations.archives.coinalyze",
    "coinglass": "liquidations.archives.coinglass",
    "okx": "liquidations.archives.okx",
    "binance_vision": "liquidations.archives.binance_vision",
    "tardis": "liquidations.archives.tardis",
    "node_fills": "liquidations.archives.node_fills",
    "plain": "liquidations.archives.plain",
}

#: Bytes of JSON: decoded, it may take 25 times as much memory. Answers have less than 1 MB.
MOST_JSON = 2**24

#: The same of files that are read in steps.
MOST_FILE = 2**31

#: Contracts of one file: all exchanges together list some 2,000.
MOST_SERIES = 5_000

#: What a source may give; the last two are kept where Freqtrade keeps its own.
LIQUIDATIONS, OPEN_INTEREST, FUNDING_RATE = "liquidations", "open_interest", "funding_rate"


@dataclass(frozen=True, slots=True)
class About:
    """Say what a source gives: a line of the README's table, and how the downloader treats it.

    :param gives: what, in a few words
    :param exchanges: of which exchanges, by ccxt id
    :param depth: how far back
    :param complete: what of an exchange's liquidations it has
    :param outranks: it has more than the exchange publishes, so its volumes are no lower bound
    :param whole_exchange: a file tells of all contracts of its exchange, also by silence
    :param files: patterns of its files in a folder
    :param most: bytes of one file or answer; what is longer is not read
    :param url: of the service; none if there are only files
    :param key: the environment variable with the user's key; none if it needs none
    :param key_from: where to get one, and at what price
    :param header: that carries the key, as ``Name: {key}``
    :param key_optional: it gives something without a key
    :param kinds: of what it gives, see ``LIQUIDATIONS`` and so on
    :param periods: of its bars (ms); none if it gives single events
    :param step: of its open interest (ms), if it gives single events
    :param expires: it keeps everything for a day or so only, so all of that is always asked for
    :param per_minute: calls that it allows a minute; none if it does not say
    :param parallel: how many calls may run at the same time
    """

    gives: str
    exchanges: tuple[str, ...]
    depth: str
    complete: str
    outranks: bool = False
    whole_exchange: bool = False
    files: tuple[str, ...] = ("*.json",)
    most: int = MOST_JSON
    url: str = ""
    key: str = ""
    key_from: str = ""
    header: str = ""
    key_optional: bool = False
    kinds: tuple[str, ...] = (LIQUIDATIONS,)
    periods: tuple[int, ...] = ()
    step: int = MINUTE
    expires: bool = False
    per_minute: int | None = None
    parallel: int = 1


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """Hold what one file says of one contract, ready for the store.

    ``rows`` are events, or bars of ``period`` ms whose volumes are in ``unit`` (base or usd);
    ``coverage`` says where the file would have shown a liquidation. ``note`` is for the user.
    ``origins`` names who recorded the events: 1 in their column ``origin`` is the first of them.
    """

    exchange: str
    pair: str
    source: str
    rows: Events | Bars
    coverage: Ints
    period: int = MINUTE
    unit: str = "usd"
    note: str = ""
    origins: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Context:
    """Hold the open interest or funding of one contract, as Freqtrade keeps them.

    ``timestamp`` (ms) is the exchanges' own stamp: the value holds at that moment, so a source that
    stamps otherwise is shifted by its module. ``values`` are Freqtrade's columns:
    ``open_interest_amount`` (base) and ``open_interest_value`` (USD, NaN if unknown), or
    ``funding_rate``.
    """

    kind: str
    exchange: str
    pair: str
    source: str
    period: int
    timestamp: Ints
    values: Mapping[str, Floats]


@dataclass(frozen=True, slots=True)
class Options:
    """Hold what a file does not say itself.

    :param unit: of the volumes, ``base`` or ``usd``
    :param period: of the rows in ms; None lets the module find it
    :param contracts: asks for the sizes of OKX's contracts, by OKX's symbol
    :param made: when (ms UTC) the file or answer was made; None if that is not known
    :param span: from when to when (ms UTC) the file's recorder listened; None if nobody says
    :param name: of the file
    """

    unit: str | None = None
    period: int | None = None
    contracts: Callable[[], Mapping[str, Contract]] = dict
    made: int | None = None
    span: tuple[int, int] | None = None
    name: str = ""


class Archive(Protocol):
    """Describe a module of this package."""

    ABOUT: About

    def read(self, data: bytes, options: Options) -> Collection[Part | Context]:
        """Read the bytes of one file.

        :raises LiquidationsError: if it is not what the source gives; of it nothing is stored then.
        """


@dataclass(frozen=True, slots=True)
class Wanted:
    """Say what of one contract is to be had: ``symbol`` is the source's name of it.

    ``start`` to ``end`` (ms UTC) is the time that is missing, ``period`` (ms) the length of bars
    that was chosen, ``now`` our time.
    """

    kind: str
    exchange: str
    pair: str
    symbol: str
    start: int
    end: int
    period: int
    now: int


@dataclass(frozen=True, slots=True)
class Ask:
    """Hold one question over HTTP: a path below the source's URL, and its query.

    ``checksum`` is the path of a text that begins with the answer's SHA-256; ``label`` is for the
    user, as ``2024-08-05``. ``keyless`` tells that this one needs no key.
    """

    path: str
    query: Mapping[str, str] = field(default_factory=dict)
    checksum: str = ""
    label: str = ""
    keyless: bool = False


#: What an answer brought, and what to ask next, if it was not the last page.
Answer: TypeAlias = tuple[list[Part | Context], Ask | None]


class Service(Archive, Protocol):
    """Describe a module of this package whose source can be downloaded."""

    #: What to ask before all else: which contracts there are. None if their names are a rule.
    CATALOGUE: Ask | None

    def symbols(
        self, wanted: Collection[tuple[str, str]], catalogue: bytes | None
    ) -> dict[tuple[str, str], str]:
        """Find the source's names of contracts, by (exchange, pair); those it lacks are left out.

        :param catalogue: the answer to ``CATALOGUE``
        :raises LiquidationsError: if that is something else.
        """

    def asks(self, wanted: Wanted) -> Iterator[Ask]:
        """List what to ask for; each answer stands for itself, so they may come in any order."""

    def answer(self, data: bytes, ask: Ask, wanted: Wanted, options: Options) -> Answer:
        """Read the answer to a question.

        Each answer brings the coverage that it proves, so that a download that is interrupted
        after any of them goes on with what is missing.

        :param options: with ``made``
        :raises LiquidationsError: if it is no answer to that.
        """


def archive(source: str) -> Archive:
    """Return the module of a source.

    :raises LiquidationsError: if there is none.
    """
    if source not in ARCHIVES:
        raise LiquidationsError(f"unknown source {source!r}; known: {', '.join(ARCHIVES)}")
    return cast(Archive, import_module(ARCHIVES[source]))


def service(source: str) -> Service:
    """Return the module of a source that can be downloaded.

    :raises LiquidationsError: if there is none, or it has files only.
    """
    module = archive(source)
    if not module.ABOUT.url:
        raise LiquidationsError(
            f"the source {source!r} can't be downloaded here, its files can be imported: "
            f"liquidations import-data --source {source} FILES"
        )
    return cast(Service, module)


@cache
def outranks(source: str) -> bool:
    """Tell whether a source has more of an exchange's liquidations than it publishes."""
    return source in ARCHIVES and archive(source).ABOUT.outranks


def ranks(sources: Collection[str], prefer: Sequence[str] = ()) -> list[int]:
    """Rank sources of one contract, the best first at 0: see ``candles.best_source``.

    Those that the user prefers come first, in that order; then those that have more of an
    exchange's liquidations than it publishes; then all others, which are equal.
    """
    first = {name: place for place, name in enumerate(prefer)}
    return [first.get(name, len(first) + (not outranks(name))) for name in sources]


def parse_json(data: bytes) -> Any:
    """Parse JSON.

    :raises LiquidationsError: if it is none, for example because it was cut off.
    """
    try:
        return json.loads(data)
    except RecursionError as error:
        raise LiquidationsError(
            "this JSON is nested deeper than any answer; get the file again"
        ) from error
    except ValueError as error:
        if data.lstrip()[:1] == b"<":
            raise LiquidationsError(
                "this is a web page, not JSON; look at it in a browser, it may say why"
            ) from error
        raise LiquidationsError(
            f"this is not JSON, or it was cut off ({error}); get the file again"
        ) from error
