"""OKX liquidation orders as the REST endpoint answers them: single events, about the last 24 h.

``/api/v5/public/liquidation-orders`` answers with pages of at most 100 orders of one family
(``uly``), newest first. A file is one page ``{"code", "msg", "data": [{"instId", "uly", "details":
[...]}]}`` or a list of pages, overlapping or not. No key. Complete as far as OKX reports at all (a
lower bound, see ``exchanges/okx.py``). Contract sizes come from the exchange's instruments.

Traps:

- The endpoint is not documented any more, nor how far back it goes, nor its limit of calls; it
  answered in October 2026. OKX's public endpoints of that kind allow 20 calls a second; five are
  made here.
- An order appears in the answer some time after it happened, so a page says nothing of the last
  ``BEHIND`` ms before it was made.
- Orders of one millisecond may be on both sides of a page's edge, so the next page begins with the
  millisecond that the last one ended with, which is counted to the next page alone.
- A page that is not full is the end of what OKX has: it is complete from its oldest order on, and
  an empty one proves nothing, because how far back it would go is not known.
- What is older than ``KEPT`` in an answer is no part of what OKX keeps, and proves nothing of the
  time that follows it.
- The coverage of a file reaches from its oldest to its newest order: it does not say when and with
  what it was asked for.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from liquidations.archives import About, Answer, Ask, Context, Options, Part, Wanted, parse_json
from liquidations.archives.vendors import TooMany
from liquidations.candles import format_time
from liquidations.errors import LiquidationsError, OtherAnswer
from liquidations.event import DAY, Events
from liquidations.exchanges.frames import MALFORMED, Contract, moment, short
from liquidations.exchanges.okx import contracts, orders


ABOUT = About(
    gives="single events",
    exchanges=("okx",),
    depth="about 24 hours",
    complete="a lower bound: OKX does not publish all",
    url="https://www.okx.com",
    expires=True,
    per_minute=300,
    parallel=2,
)

#: An order is in the answer so long (ms) after its time; not documented.
BEHIND = 30_000

#: OKX keeps about a day; nothing that is so much (ms) older than the answer belongs to it.
KEPT = 2 * DAY

#: Orders of a full page.
PAGE = 100

#: Below ``/api/v5/``.
PATH = "public/liquidation-orders"

CATALOGUE = Ask("/api/v5/public/instruments", {"instType": "SWAP"}, label="the contracts")

#: Of an answer to those who ask too often.
_TOO_MANY = "50011"

_SHAPE = (
    'expected OKX\'s answer {"code": "0", "data": [{"instId": …, "details": […]}]} '
    "or a list of such pages"
)


class Page(NamedTuple):
    """Hold one page: a contract's rows, when (ms) the oldest of all was, and whether it is full."""

    rows: list[Any]
    oldest: int
    full: bool


def query(symbol: str, after: int | None = None) -> dict[str, str]:
    """Write the question for the orders of a swap, newest first.

    :param after: only what is older than this (ms)
    """
    question = {
        "instType": "SWAP",
        "uly": symbol.removesuffix("-SWAP"),
        "state": "filled",
        "limit": str(PAGE),
    }
    return question if after is None else {**question, "after": str(after)}


def read_page(answer: Any, symbol: str, after: int | None = None, since: int = 0) -> Page:
    """Find a swap's orders in the decoded answer to :func:`query`.

    :param since: what is older (ms) is left out; a page with such orders is the last one
    :raises LiquidationsError: if it is no answer to that.
    """
    groups = _groups(answer)
    family = symbol.removesuffix("-SWAP")
    if other := [
        str(group.get("instId"))
        for group in groups
        if group.get("instId") != symbol and group.get("uly") != family
    ]:
        raise LiquidationsError(f"asked for {symbol}, OKX answered of {', '.join(other)}")
    try:
        times = [moment(row["ts"]) for group in groups for row in group["details"]]
    except MALFORMED as error:
        raise LiquidationsError(f"OKX answered with an order without a time; {_SHAPE}") from error
    if after is not None and max(times, default=0) >= after:
        raise LiquidationsError(f"asked OKX for what is older than {after}, and got what is newer")
    rows = [row for group in groups if group.get("instId") == symbol for row in group["details"]]
    if min(times, default=since) < since:
        rows = [row for row in rows if moment(row["ts"]) >= since]
        return Page(rows, min((time for time in times if time >= since), default=0), False)
    return Page(rows, min(times, default=0), len(times) >= PAGE)


def next_after(page: Page, since: int, after: int | None) -> int | None:
    """Say where the next page begins (ms); None if there is none that reaches back to ``since``."""
    # A page of one millisecond alone has no edge to go on from.
    more = page.full and page.oldest >= since and page.oldest + 1 != after
    return page.oldest + 1 if more else None


def read(data: bytes, options: Options) -> list[Part]:
    """Read one page or a list of pages into one part per contract.

    Each page is read on its own, so that a row that two overlapping pages share gets the same key
    in both and is stored once, while two equal orders within one page stay two. Two equal orders
    on either side of a page's edge can't be told from an overlap and count once.

    :raises LiquidationsError: on another shape, an error answer, or an unknown contract.
    """
    answer = parse_json(data)
    pages = answer if isinstance(answer, list) else [answer]
    sizes = options.contracts()
    events: dict[str, list[Events]] = defaultdict(list)
    for page in pages:
        details: dict[str, list[Any]] = defaultdict(list)
        for group in _groups(page):
            details[str(group.get("instId"))] += group["details"]
        for name, rows in details.items():
            events[name].append(orders(rows, _contract(sizes, name)))
    parts = []
    for name, found in events.items():
        whole = Events.concat(found)
        if len(whole):
            span = np.array([[whole.timestamp.min(), whole.timestamp.max() + 1]])
            parts.append(Part("okx", sizes[name].pair, "okx", whole, span))
    return parts


def symbols(
    wanted: Collection[tuple[str, str]], catalogue: bytes | None
) -> dict[tuple[str, str], str]:
    """Find OKX's swaps of pairs, as ``BTC-USDT-SWAP``; those that it does not list are left out.

    :param catalogue: the answer to ``CATALOGUE``
    :raises LiquidationsError: if that is something else.
    """
    answer = parse_json(catalogue or b"")
    rows = answer.get("data") if isinstance(answer, dict) else None
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise LiquidationsError('expected OKX\'s instruments {"code": "0", "data": [{"instId": …')
    listed = contracts(rows)
    if not listed:
        raise LiquidationsError(
            f"OKX lists no swap; it answered {short(str(answer.get('msg') or rows))!r}"
        )
    known = {("okx", contract.pair): symbol for symbol, contract in listed.items()}
    return {one: known[one] for one in wanted if one in known}


def asks(wanted: Wanted) -> Iterator[Ask]:
    """Ask for the newest page that is wanted; each answer names the next older one."""
    yield _ask(wanted.symbol, wanted.end if wanted.end <= wanted.now - BEHIND else None)


def answer(data: bytes, ask: Ask, wanted: Wanted, options: Options) -> Answer:
    """Read a page: complete from its oldest order to where the one before began.

    :raises LiquidationsError: if it is no answer to that, or the contract's size is not known.
    """
    after = int(ask.query["after"]) if "after" in ask.query else None
    since = 0 if options.made is None else options.made - KEPT
    page = read_page(parse_json(data), wanted.symbol, after, since)
    sizes = options.contracts()
    if wanted.symbol not in sizes:
        raise LiquidationsError(f"OKX does not tell the size of a contract of {wanted.symbol}")
    events = orders(page.rows, sizes[wanted.symbol])
    # What the page can't have: the youngest orders, and of a full one those at its old edge.
    newest = int(events.timestamp.max(initial=0)) + 1
    blind = newest if options.made is None else options.made - BEHIND
    start, end = page.oldest + page.full, blind if after is None else min(after, blind)
    parts: list[Part | Context] = []
    if page.oldest and start < end:
        inside = (events.timestamp >= start) & (events.timestamp < end)
        span = np.array([[start, end]])
        parts = [Part("okx", wanted.pair, "okx", events.take(inside), span)]
    following = next_after(page, wanted.start, after)
    return parts, None if following is None else _ask(wanted.symbol, following)


def _ask(symbol: str, after: int | None) -> Ask:
    label = "newest" if after is None else f"before {format_time(after)}"
    return Ask(f"/api/v5/{PATH}", query(symbol, after), label=label)


def _groups(page: Any) -> list[Any]:
    """Return what a page has of each contract."""
    if not isinstance(page, dict) or not isinstance(page.get("data"), list):
        raise LiquidationsError(_SHAPE)
    if page.get("code") != "0":
        kind = TooMany if page.get("code") == _TOO_MANY else LiquidationsError
        raise kind(
            f"OKX answered with the error {page.get('code')!r}: {page.get('msg')!r}; "
            "fetch this page again"
        )
    for group in page["data"]:
        if not isinstance(group, dict) or not isinstance(group.get("details"), list):
            raise OtherAnswer(f"this is another answer of OKX; {_SHAPE}")
    return list(page["data"])


def _contract(sizes: Mapping[str, Contract], name: str) -> Contract:
    if name not in sizes:
        raise LiquidationsError(
            f"the size of a contract of {name!r} is unknown; known: "
            f"{', '.join(sorted(sizes)) or 'none'}. Give it with --markets FILE, or "
            "leave --markets away to ask the exchange"
        )
    return sizes[name]
