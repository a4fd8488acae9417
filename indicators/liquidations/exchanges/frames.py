"""What every exchange's adapter is made of: requests that go out, frames that come in. Floor 1.

An adapter is a module of pure functions, without socket, clock or file. The collector dials what
``address`` names, sends the ``requests``, and gives each message that arrives to ``read``:

    message (decoded JSON, or text) → Frame(orders, time, …) → order_events → Events by pair

``read`` never guesses: what is no message of the exchange is a :class:`BadFrame`, and so is a kind
of message that nobody asked for.
"""

from __future__ import annotations

import re
import reprlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np

from liquidations.errors import LiquidationsError
from liquidations.event import EARLIEST, LATEST, Events, count_equals, make_events


@dataclass(frozen=True, slots=True)
class Contract:
    """Describe a perpetual: its pair, what one unit of size holds, and whether that is USD."""

    pair: str
    size: float
    inverse: bool


class Order(NamedTuple):
    """Hold one liquidation as it was published: ``side`` is the POSITION, 0 long and 1 short.

    ``size`` is in the exchange's own unit, see :class:`Contract`. ``number`` tells equal orders of
    one millisecond apart where the exchange numbers them, else it is None.
    """

    symbol: str
    timestamp: int
    side: int
    price: float
    size: float
    number: int | None = None


class Request(NamedTuple):
    """Hold one message to send, and the token by which its answer is recognised.

    ``names`` are the symbols or users it subscribes to; none where it is the whole market.
    """

    message: dict[str, Any]
    token: str
    names: tuple[str, ...] = ()


class Frame(NamedTuple):
    """Hold what one message says.

    ``time`` is the exchange's own, ms UTC, where the message tells when it was sent. ``token``
    names the request that it answers; ``refused`` is the reason if that request was not accepted,
    or if the exchange reports an error (then without a token). ``tick`` tells that this is a
    message of the companion stream.
    """

    orders: Sequence[Order] = ()
    time: int | None = None
    token: str | None = None
    refused: str | None = None
    tick: bool = False


#: A message that says nothing but that the connection is alive.
ALIVE = Frame()


#: What exchanges need (ms) to send what is due.
JITTER = 50


class BadFrame(LiquidationsError):
    """Say that a message is not what the exchange documents, and in what way.

    The live loop counts it, logs it once of its kind with the raw text, keeps ``orders``, which
    are those of the message that could be read, and goes on.
    """

    def __init__(self, message: str, orders: Sequence[Order] = ()) -> None:
        super().__init__(message)
        self.orders = tuple(orders)


class Adapter(Protocol):
    """Name what the module of an exchange has."""

    #: Channels by name, such as "linear"; the value tells whether its contracts are inverse.
    CHANNELS: Mapping[str, bool]
    #: An order is published at most so long (ms), and ``JITTER``, after its own time, as far as is
    #: known.
    DELAY: int
    #: A frame of the companion stream comes at least so often (ms) while all is well.
    TICK: int
    #: What is subscribed to by name: "symbols", "users", or "" where a channel is the whole market.
    NAMES: str

    def address(self, urls: Any, channel: str) -> str:
        """Return the URL to dial, from ccxt's ``urls["api"]["ws"]``."""

    def contracts(self, markets: Iterable[Mapping[str, Any]]) -> dict[str, Contract]:
        """Map the symbols of messages to perpetuals, from ccxt's markets."""

    def requests(self, channel: str, names: Sequence[str]) -> list[Request]:
        """List what to send after connecting: the liquidations, and a companion that ticks."""

    def read(self, message: Any) -> Frame:
        """Read one decoded message."""


# --- what the adapters read with ----------------------------------------------------------------

#: What Python raises where a message lacks a field, or has one of another type or range.
MALFORMED = (
    AttributeError,
    IndexError,
    KeyError,
    OverflowError,
    RecursionError,
    TypeError,
    ValueError,
)

# float() would also take "1_000", " 1", "inf" and the digits of other scripts.
_NUMBER = re.compile(r"[0-9]+(?:\.[0-9]*)?(?:[eE][-+]?[0-9]+)?").fullmatch

_brief = reprlib.Repr()
_brief.maxlevel, _brief.maxdict, _brief.maxstring = 4, 16, 60


def positive(value: Any) -> float:
    """Read a price or size: a positive number below 1e18, written as text or as JSON's own.

    >>> positive("0.014"), positive(3)
    (0.014, 3.0)

    :raises ValueError: if it is none (so do other errors of ``MALFORMED``).
    """
    if type(value) is str:
        # The first is the common case, told twice as fast; float() finds the rest of its faults.
        if value.strip("0123456789.") and not _NUMBER(value):
            raise ValueError("not a number")
    elif type(value) is not float and type(value) is not int:
        raise TypeError("not a number")
    number = float(value)
    if 0.0 < number < 1e18:  # what is larger is no price or size, and its products overflow
        return number
    raise ValueError("not a positive number below 1e18")


def moment(value: Any) -> int:
    """Read a time in ms UTC, written as a whole number or as its 13 digits.

    >>> moment("1789669898955")
    1789669898955

    :raises ValueError: if it is none, or not between 2009 and 2100.
    """
    if type(value) is str and len(value) == 13 and not value.strip("0123456789"):
        value = int(value)
    if type(value) is int and EARLIEST <= value <= LATEST:
        return value
    raise ValueError("not a time in ms UTC")


def name(value: Any) -> str:
    """Read a symbol, or another name: text that is not empty.

    :raises ValueError: if it is none.
    """
    if type(value) is str and value:
        return value
    raise ValueError("not a name")


_new = tuple.__new__


def read_order(symbol: Any, time: Any, side: int, price: Any, size: Any) -> Order:
    """Make an order of what a message says, as :func:`name` and the others above read it.

    In half their time: this is what arrives by the thousand in a crash.

    :raises ValueError: if anything is not what it should be (so do other errors of ``MALFORMED``).
    """
    if type(price) is str and type(size) is str and not (price + size).strip("0123456789."):
        price, size = float(price), float(size)
    else:
        price, size = positive(price), positive(size)
    if type(time) is str:
        time = moment(time)
    if (
        type(time) is int
        and EARLIEST <= time <= LATEST
        and 0.0 < price < 1e18
        and 0.0 < size < 1e18
        and type(symbol) is str
        and symbol
    ):
        return _new(Order, (symbol, time, side, price, size, None))
    raise ValueError("not an order")


def token(value: Any) -> str | None:
    """Read the number or text by which an answer names its request; None where it names none.

    :raises TypeError: if it is something else.
    """
    if value is None or type(value) is str:
        return value
    if type(value) is int:
        return str(value)
    raise TypeError("not the name of a request")


def short(value: Any) -> str:
    """Write what was received in at most 300 characters, whatever it is."""
    try:
        text = value if type(value) is str else _brief.repr(value)
    except (RecursionError, ValueError):  # numbers of thousands of digits have no text
        text = type(value).__name__
    return text if len(text) <= 300 else f"{text[:299]}…"


def reason(text: Any, code: Any = None) -> str:
    """Write why an exchange refused something.

    :raises TypeError: if the text is none, or the code is neither number nor text.
    """
    number = token(code)
    if type(text) is not str:
        raise TypeError("not a reason")
    return short(text) if number is None else f"{short(text)} (code {short(number)})"


def bad(received: Any, expected: str, orders: Sequence[Order] = ()) -> BadFrame:
    """Make the error that says what was received, and what a message should be."""
    return BadFrame(f"got {short(received)}; expected {expected}", orders)


def read_orders(
    rows: Any,
    read_row: Callable[[Any], Sequence[Order]],
    expected: str,
    sent: Any = ...,
) -> Frame:
    """Read the orders of a message, and when it was sent.

    :param rows: the list of what ``read_row`` reads
    :param read_row: reads one of them; raises one of ``MALFORMED``, or :class:`BadFrame`
    :param sent: the exchange's time; left away where messages have none
    :raises BadFrame: if anything can't be read; all orders that can be are in it.
    """
    orders: list[Order] = []
    fault: BadFrame | None = None
    if type(rows) is not list:
        raise bad(rows, expected)
    for row in rows:
        try:
            orders += read_row(row)
        except BadFrame as error:
            orders += error.orders
            fault = fault or error
        except MALFORMED:
            fault = fault or bad(row, expected)
    time = None
    if sent is not ...:
        try:
            time = moment(sent)
        except ValueError:
            fault = fault or bad(sent, "the time of the message in ms UTC")
    if fault is not None:
        raise BadFrame(str(fault), orders)
    return Frame(orders, time)


def perpetuals(markets: Iterable[Mapping[str, Any]]) -> Iterator[tuple[Mapping[str, Any], bool]]:
    """List the perpetuals that are quoted in dollars, and whether each is inverse.

    A price in another currency, as that of ETH/BTC:BTC, would make values that are not USD.

    :param markets: ccxt's
    """
    for market in markets:
        linear, inverse = market.get("linear"), market.get("inverse")
        if market.get("swap") and (linear or inverse) and is_dollar(market["quote"]):
            yield market, not linear


def is_dollar(quote: str) -> bool:
    """Tell whether a currency is the US dollar or named as one of its stand-ins.

    >>> [is_dollar(quote) for quote in ("USD", "USDT", "USDC", "FDUSD", "BTC", "EUR")]
    [True, True, True, True, False, False]
    """
    return "USD" in quote


def order_events(
    orders: Sequence[Order],
    contracts: Mapping[str, Contract],
    received: Sequence[int] | int | None = None,
    ranks: Sequence[int] | None = None,
) -> dict[str, Events]:
    """Convert orders of known symbols into events by pair, in order of time.

    A contract of ``size`` c: linear amount = size × c in base units, worth amount × price; of an
    inverse one size × c is USD, and amount = that / price.

    :param orders: leave out before those whose symbol ``contracts`` does not have
    :param received: our time (ms UTC) of each order
    :param ranks: tells equal orders of one millisecond apart; default: counted among these orders.
        Where the exchange numbers its orders, their numbers are taken instead
    :raises LiquidationsError: if an order has a time, price or size that no liquidation can have,
        or its symbol is not known.
    """
    if not orders:
        return {}
    symbols, time, side, price, size, number = (
        list(column) for column in zip(*orders, strict=True)
    )
    if unknown := set(symbols).difference(contracts):
        raise LiquidationsError(f"contracts of unknown size: {', '.join(sorted(unknown))}")
    known = [contracts[symbol] for symbol in symbols]
    inverse = np.array([one.inverse for one in known])
    prices = np.array(price, dtype=np.float64)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):  # refused just below
        held = np.array(size, dtype=np.float64) * np.array([one.size for one in known])
        amount = np.where(inverse, held / prices, held)
        value = np.where(inverse, held, held * prices)
    times, sides = np.array(time, dtype=np.int64), np.array(side, dtype=np.int8)
    arrival = np.broadcast_to(np.asarray(times if received is None else received), times.shape)
    codes = {pair: code for code, pair in enumerate(dict.fromkeys(one.pair for one in known))}
    code = np.array([codes[one.pair] for one in known])
    rank: Any = ranks if None in number else number
    if rank is None:
        rank = count_equals(amount, prices, sides, times, code)
    # One pass over all pairs, then slices: a live batch has a few orders of each of many.
    order = np.lexsort((times, code))
    columns = (column[order] for column in (times, sides, prices, amount, value))
    whole = make_events(
        *columns, received=arrival[order], rank=np.asarray(rank, dtype=np.int64)[order], sort=False
    )
    ends = np.cumsum(np.bincount(code)).tolist()
    starts = (0, *ends)
    return {pair: whole.take(slice(starts[at], ends[at])) for pair, at in codes.items()}
