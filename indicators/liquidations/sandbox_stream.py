"""What the sandbox says over its websocket: liquidations, a ticking price, and planned faults.

Floor 3. A `Tape` is all liquidations that will be published, in one array over all pairs, with the
time at which each is due; faults are worked into it beforehand, so that what a session loses or
gets late does not depend on how fast anything runs. A `Stream` is one connection: it answers
requests and says what is due. Neither knows a socket (that is ``sandbox_server.py``).

The protocol is Binance's of the USDⓈ-M market streams: SUBSCRIBE, UNSUBSCRIBE and
LIST_SUBSCRIPTIONS, acknowledged with ``{"result": null, "id": …}``; ``forceOrder`` and
``markPriceUpdate``. What differs, knowingly: all stored liquidations are published, not the largest
of each second (``largest_per_second`` makes such a store); ``/ws`` works as ``/market/ws`` does,
though Binance retired it (it acknowledges there, and stays silent). What happens while nobody is
connected, or in a silence, is lost, as there.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from liquidations.errors import LiquidationsError
from liquidations.event import LONG, Events


#: An order is published so long (ms) after its own time.
PUSH_DELAY = 20

#: What can go wrong on purpose: see `Fault`.
KINDS = ("cut", "silence", "delay")

ALL_ORDERS = "!forceOrder@arr"
ORDERS = "@forceOrder"
#: The streams of a price, and their periods in seconds.
PRICES = {"@markPrice@1s": 1, "@markPrice": 3}

# A number from here on is a date, not a time since the start.
_DATES = 1_000_000_000


class Fault(NamedTuple):
    """Plan a fault of the websocket; REST goes on.

    - ``cut``: connections are aborted, and handshakes are for so long;
    - ``silence``: connections stay, but nothing is sent and nothing is heard, not even pings;
    - ``delay``: prices go on, but liquidations that are due are held back until the end.

    ``start`` is in seconds since the sandbox started (from 1e9 on: since 1970), ``length`` too.
    """

    kind: str
    start: float
    length: float


def parse_fault(text: str) -> Fault:
    """Read a fault as it is typed, ``KIND@SECONDS+LENGTH``.

    :raises LiquidationsError: if it is no fault.

    >>> parse_fault("cut@30+2.5")
    Fault(kind='cut', start=30.0, length=2.5)
    """
    number = r"(\d+\.?\d*)"
    if not (found := re.fullmatch(rf"({'|'.join(KINDS)})@{number}\+{number}", text)):
        raise LiquidationsError(
            f"{text!r} is no fault; write KIND@SECONDS+LENGTH with a kind of {', '.join(KINDS)}, "
            "for example cut@30+10: from second 30 on, for 10 seconds"
        )
    kind, start, length = found.groups()
    return Fault(kind, float(start), float(length))


class Tape:
    """Hold the liquidations to publish in the order in which they are due.

    :param events: by symbol, their times as they are to be published
    :param start: when the sandbox started, ms UTC; faults count from it
    :param delay: how long (ms) after its own time an order is published
    :param faults: may overlap
    """

    def __init__(
        self,
        events: Mapping[str, Events],
        start: int,
        *,
        delay: int = PUSH_DELAY,
        faults: Sequence[Fault] = (),
    ) -> None:
        self._spans = [(fault.kind, *_span(fault, start)) for fault in faults]
        self.symbols = list(events)
        merged = Events.concat(list(events.values()))
        order = np.argsort(merged.timestamp, kind="stable")
        self.events = merged.take(order)
        lengths = np.array([len(one) for one in events.values()], np.int64)
        self.symbol = np.repeat(np.arange(len(lengths)), lengths)[order]
        due = self.events.timestamp + delay
        for begin, end in sorted(self._of("delay")):
            due[(due >= begin) & (due < end)] = end  # in order of time, it stays sorted
        kept = np.ones(len(due), dtype=bool)
        for begin, end in self._of("silence"):
            kept &= (due < begin) | (due >= end)
        self.events, self.symbol, self.due = self.events.take(kept), self.symbol[kept], due[kept]
        #: How many orders were published, over all connections.
        self.sent = 0

    def _of(self, kind: str) -> Iterator[tuple[int, int]]:
        return ((begin, end) for one, begin, end in self._spans if one == kind)

    def silent(self, now: int) -> bool:
        """Tell whether nothing is sent or heard now."""
        return any(begin <= now < end for begin, end in self._of("silence"))

    def cut(self, since: int, now: int) -> bool:
        """Tell whether connections were aborted after `since`, up to now."""
        return any(begin <= now and end > since for begin, end in self._of("cut"))

    def frame(self, row: int, now: int) -> str:
        """Write one order as Binance does; numbers lose nothing, so neither does their product."""
        events = self.events
        amount, price = repr(float(events.amount[row])), repr(float(events.price[row]))
        order = {
            "s": self.symbols[self.symbol[row]],
            "S": "SELL" if events.side[row] == LONG else "BUY",  # closing a long sells
            "o": "LIMIT",
            "f": "IOC",
            "q": amount,
            "p": price,
            "ap": price,
            "X": "FILLED",
            "l": amount,
            "z": amount,
            "T": int(events.timestamp[row]),
        }
        return json.dumps({"e": "forceOrder", "E": now, "o": order}, separators=(",", ":"))


def _span(fault: Fault, start: int) -> tuple[int, int]:
    begin = round(fault.start * 1000) + (start if fault.start < _DATES else 0)
    return begin, begin + round(fault.length * 1000)


class Stream:
    """Speak over one connection: answer requests, and say what is due.

    :param prices: gives the ``markPriceUpdate`` of a symbol at a time
    :param symbols: those that are traded, in capitals
    :param tail: of the path that was dialled; Binance subscribes what it names, if it is a stream
    :param now: ms UTC; what was due before is never said
    """

    def __init__(
        self,
        tape: Tape,
        prices: Callable[[str, int], dict[str, Any]],
        symbols: Sequence[str],
        tail: str,
        now: int,
    ) -> None:
        self._tape, self._prices = tape, prices
        self._known = {ALL_ORDERS} | {
            symbol.lower() + stream for symbol in symbols for stream in (ORDERS, *PRICES)
        }
        self._streams = dict.fromkeys({tail} & self._known)
        self._said, self._row = now, int(np.searchsorted(tape.due, now))

    def cut(self, now: int) -> bool:
        """Tell whether this connection is aborted."""
        return self._tape.cut(self._said, now)

    def answer(self, text: str) -> str:
        """Answer one request: what it asked, or Binance's refusal."""
        request: Any = None
        try:
            request = json.loads(text)
            method, number = request["method"], request["id"]
            result = None
            if method == "LIST_SUBSCRIPTIONS":
                result = list(self._streams)
            elif method in ("SUBSCRIBE", "UNSUBSCRIBE"):
                self._subscribe(request["params"], method == "SUBSCRIBE")
            else:
                raise ValueError(f"unknown method {method!r}")
        except (KeyError, TypeError, ValueError) as error:
            reason = {"code": 2, "msg": f"Invalid request: {error}"}
            told = request.get("id") if isinstance(request, dict) else None
            return json.dumps({"error": reason, "id": told})
        return json.dumps({"result": result, "id": number})

    def _subscribe(self, names: Any, on: bool) -> None:
        if not isinstance(names, list) or not names:
            raise ValueError("params must be a list of streams")
        if unknown := [name for name in names if name not in self._known]:
            raise ValueError(f"unknown stream {unknown[0]!r}")
        for name in names:
            if on:
                self._streams[name] = None
            else:
                self._streams.pop(name, None)

    def due(self, now: int) -> Iterator[str]:
        """Say what is due up to now; orders first, so that a price closes the time before it."""
        tape, streams, since = self._tape, self._streams, self._said
        until = int(np.searchsorted(tape.due, now, side="right"))
        row, self._row, self._said = self._row, until, now
        for at in range(row, until):
            symbol = tape.symbols[tape.symbol[at]].lower()
            if ALL_ORDERS in streams or symbol + ORDERS in streams:
                tape.sent += 1
                yield tape.frame(at, now)
        if tape.silent(now):
            return
        for name in list(streams):
            symbol, _, stream = name.partition("@")
            period = 1000 * PRICES.get(f"@{stream}", 0)
            if period and since // period < now // period:
                yield json.dumps(self._prices(symbol.upper(), now), separators=(",", ":"))
