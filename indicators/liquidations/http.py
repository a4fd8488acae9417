"""Ask one source over HTTP: as often as it allows, again where that may help, to the end. Floor 3.

What goes wrong is told by its consequence: :class:`Absent` (the source has none of this),
:class:`NoAnswer` (this question has no answer, others may), :class:`SourceEnds` (nobody answers
here now). The user's key goes into one header of requests to the source's own host, nowhere else.
"""

from __future__ import annotations

import hashlib
import html
import math
import random
import re
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC
from email.utils import parsedate_to_datetime
from importlib.metadata import version
from json import JSONDecodeError, loads
from typing import Any, TypeVar
from urllib.parse import quote, urljoin, urlsplit

import requests
from urllib3.exceptions import HTTPError

from liquidations.archives import About, Ask
from liquidations.archives.vendors import KeyRefused, TooMany
from liquidations.candles import format_time
from liquidations.errors import LiquidationsError


#: Seconds to connect, and to wait for the next bytes.
TIMEOUT = (10.0, 60.0)

#: How often one question is asked at most, and one whose answer can't be read, or has another
#: checksum.
TRIES, TRIES_OF_ANSWER = 6, 3

#: The first pause between two tries, and the longest (s).
PAUSE, LONGEST_PAUSE = 1.0, 60.0

#: A source that asks to wait longer than this (s) is left alone.
LONGEST_WAIT = 300.0

#: Seconds that one answer may take to arrive, however it trickles.
LONGEST_ANSWER = 900.0

#: Bytes of one answer, unpacked. The largest day of single liquidations has some MB.
MOST_BYTES = 256_000_000

MOST_REDIRECTS = 5

_CHUNK = 65_536
_TOO_MANY = (418, 429)
_AGAIN = (408, 425, 500, 502, 503, 504, 520, 521, 522, 523, 524)
_PACKED = (".gz", ".zip")

_T = TypeVar("_T")


class Absent(Exception):
    """Say that the source has none of this."""


class Stopped(Exception):
    """Say that the download was stopped meanwhile."""


class NoAnswer(LiquidationsError):
    """Say why a question has no answer.

    ``broken`` tells that the source itself may be out of order, so that others will fail too;
    ``refused`` that it does not give this to the user's key.
    """

    def __init__(self, message: str, *, broken: bool = False, refused: bool = False) -> None:
        super().__init__(message)
        self.broken, self.refused = broken, refused


class SourceEnds(LiquidationsError):
    """Say why there is nothing more to be had of a source now."""


@dataclass(frozen=True, slots=True)
class Reply:
    """Hold an answer, and when (ms UTC) it was made at the earliest."""

    data: bytes
    made: int


def pause(tries: int, share: float) -> float:
    """Return how many seconds to wait after so many tries: doubled each time, within bounds.

    :param share: 0 to 1, so that those who failed together do not come back together

    >>> [pause(tries, 1.0) for tries in (1, 2, 3, 10)], pause(3, 0.0)
    ([1.0, 2.0, 4.0, 60.0], 2.0)
    """
    return min(PAUSE * 2.0 ** (tries - 1), LONGEST_PAUSE) * (0.5 + share / 2)


def retry_after(text: str | None, now: float) -> float | None:
    """Read the header ``Retry-After``, seconds or a date, as seconds from ``now`` (s UTC).

    A date that names no zone is in UTC, as HTTP has it.

    >>> retry_after("90", 0.0), retry_after("Thu, 01 Jan 1970 00:01:00", 20.0)
    (90.0, 40.0)
    >>> retry_after(None, 0.0), retry_after("soon", 0.0)
    (None, None)
    """
    if text is None:
        return None
    try:
        wait = float(text)
    except ValueError:
        try:
            wait = _seconds(text) - now
        except (OverflowError, TypeError, ValueError):
            return None
    return max(wait, 0.0) if math.isfinite(wait) else None


def _seconds(date: str) -> float:
    """Read a date of HTTP as seconds UTC."""
    found = parsedate_to_datetime(date)
    return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()


class Throttle:
    """Hand out the moments at which a source may be asked, ``gap`` seconds apart.

    ``clock`` tells the time in seconds.
    """

    def __init__(self, gap: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.gap = gap
        self._clock = clock
        self._next = clock()
        self._lock = threading.Lock()

    def reserve(self) -> float:
        """Take the next moment; return how many seconds it is away."""
        with self._lock:
            now = self._clock()
            at = max(now, self._next)
            self._next = at + self.gap
            return at - now

    def hold(self, seconds: float) -> None:
        """Hand out none for so long."""
        with self._lock:
            self._next = max(self._next, self._clock() + seconds)


class Client:
    """Ask one source.

    :param about: what its module says of it
    :param url: of the service, if it is not the usual one
    :param key: the user's
    :param stop: ends all waiting when it is set
    :raises LiquidationsError: if the URL or the key can't be one; the key is not shown.
    """

    def __init__(
        self,
        source: str,
        about: About,
        *,
        url: str = "",
        key: str = "",
        stop: threading.Event | None = None,
    ) -> None:
        self.source, self.about = source, about
        self.url = url or about.url
        self.stop = stop or threading.Event()
        #: Questions asked and bytes received so far.
        self.calls, self.bytes = 0, 0
        self._key = key.strip()
        try:
            scheme, host, _ = _origin(self.url)
        except ValueError:
            scheme = host = None
        if scheme not in ("http", "https") or not host:
            raise LiquidationsError(
                f"the URL of the source {source} must begin with https:// and name a host"
            )
        if not all("!" <= sign <= "~" for sign in self._key):
            raise LiquidationsError(
                f"the key of the source {source} holds a blank or a sign that no key has; copy it "
                "again from the vendor's page"
            )
        written = {self._key, self._key.replace("/", "\\/"), html.escape(self._key)}
        written |= {quote(self._key), quote(self._key, safe="")}
        self._mask = re.compile("|".join(map(re.escape, written)), re.IGNORECASE)
        gap = 60.0 / about.per_minute if about.per_minute else 0.0
        self._throttle = Throttle(gap)
        self._count = threading.Lock()
        self._session = requests.Session()
        adapter = requests.adapters.HTTPAdapter(pool_maxsize=max(about.parallel, 1))
        self._session.mount("https://", adapter)
        self._session.mount("http://", adapter)
        self._session.headers["User-Agent"] = (
            f"freqtrade-liquidations/{version('freqtrade-liquidations')}"
        )
        # Without one of ours, requests would send what a .netrc has for the host.
        self._session.auth = lambda request: request

    def close(self) -> None:
        """Close the connections."""
        self._session.close()

    @property
    def has_key(self) -> bool:
        """Tell whether there is a key."""
        return bool(self._key)

    def masked(self, text: str) -> str:
        """Write a vendor's text in at most 200 printable characters, without the key.

        The key is hidden in capitals and small letters, and escaped as in URLs, JSON and HTML, too.
        """
        if self._key:
            text = self._mask.sub("***", text)
        text = " ".join("".join(s if s.isprintable() else " " for s in text).split())
        return text if len(text) <= 200 else f"{text[:199]}…"

    def get(self, ask: Ask) -> Reply:
        """Ask one question until it is answered, and verify the checksum if there is one.

        :raises Absent: if the source has none of this.
        :raises NoAnswer: if there is no answer.
        :raises SourceEnds: if the source is not to be asked any more.
        :raises Stopped: if ``stop`` was set.
        """
        for _ in range(TRIES_OF_ANSWER):
            reply = self._get(ask.path, ask.query, keyed=not ask.keyless)
            if not ask.checksum:
                return reply
            try:
                said = self._get(ask.checksum, {}, keyed=not ask.keyless).data
            except Absent:
                raise NoAnswer("the file with its checksum is missing, so it was refused") from None
            if (
                said[:64].decode("ascii", "replace").lower()
                == hashlib.sha256(reply.data).hexdigest()
            ):
                return reply
        raise NoAnswer(
            f"its checksum is wrong, {TRIES_OF_ANSWER} times: what arrives is not what the source "
            "published, so it was refused"
        )

    def read(self, ask: Ask, reader: Callable[[Reply], _T]) -> _T:
        """Ask one question until its answer can be read.

        :param reader: reads it; what it raises beyond these says that it is no answer to that
        :raises Absent, NoAnswer, SourceEnds, Stopped: as :meth:`get`
        """
        tries = 0
        while True:
            reply = self.get(ask)
            tries += 1
            try:
                return reader(reply)
            except (NoAnswer, SourceEnds):
                raise
            except KeyRefused as error:
                said = self.masked(str(error))
                raise SourceEnds(f"the key is refused ({said}); check it") from error
            except TooMany as error:
                if tries >= TRIES:
                    said = f"{self.masked(str(error))}, {TRIES} times; try again later"
                    raise NoAnswer(said, broken=True) from error
                self._back_off(tries, 0.0)
            except LiquidationsError as error:
                # A file with the right checksum is what the source has.
                if ask.checksum or tries >= TRIES_OF_ANSWER:
                    page = not ask.checksum and reply.data[:64].lstrip()[:1] == b"<"
                    raise NoAnswer(self.masked(str(error)), broken=page) from error
                self._back_off(tries, None)

    def _wait(self, seconds: float) -> None:
        if self.stop.wait(seconds):
            raise Stopped

    def _get(self, path: str, query: Mapping[str, str], *, keyed: bool) -> Reply:
        url = f"{self.url.rstrip('/')}/{path.lstrip('/')}"
        for tries in range(1, TRIES + 1):
            try:
                response, made = self._send(url, query, keyed)
                with response:
                    status = response.status_code
                    body = self._body(response, packed=path.endswith(_PACKED))
                    wait = retry_after(response.headers.get("Retry-After"), time.time())
            # What they say may hold the URL; their kind is enough.
            except (requests.RequestException, HTTPError, OSError, ValueError) as error:
                problem = _kind(error)
                wait = None
            else:
                if status == 200:
                    return Reply(body, made)
                problem = f"it answers with status {status}"
                self._judge(status, body, wait, keyed and self.has_key)
            if tries < TRIES:
                self._back_off(tries, wait)
        raise NoAnswer(f"{problem}, {TRIES} times; try again later", broken=True)

    def _judge(self, status: int, body: bytes, wait: float | None, keyed: bool) -> None:
        """Raise what a status other than 200 means, if asking again does not help."""
        if status == 404:
            raise Absent
        said = self._said(body)
        if status in (401, 403):
            if keyed and self.about.key_optional:  # what it covers is the plan's
                why = "check the key, and what its plan covers"
                raise NoAnswer(f"it is refused (status {status}{said}); {why}", refused=True)
            if keyed:
                raise SourceEnds(f"the key is refused (status {status}{said}); check it")
            need = f"; it may need a key: {how_to_key(self.source, self.about)}"
            raise SourceEnds(
                f"it refuses to answer (status {status}{said}){need if self.about.key else ''}"
            )
        if status in _TOO_MANY or status in _AGAIN:
            if wait is not None and wait > LONGEST_WAIT:
                until = format_time(int((time.time() + wait) * 1000))
                raise SourceEnds(f"it wants to be left alone until {until} UTC; run again then")
            return
        raise NoAnswer(f"it answers with status {status}{said}")

    def _back_off(self, tries: int, wait: float | None) -> None:
        """Wait before a question is asked again: as long as was said, and never too short."""
        own = pause(tries, random.random())
        if wait is not None:
            own = max(own, wait)
            self._throttle.hold(own)  # it means all of us
        self._wait(own)

    def _send(
        self, url: str, query: Mapping[str, str], keyed: bool
    ) -> tuple[requests.Response, int]:
        """Send one question, and follow where it is sent on to; the key stays with its host."""
        # A file is to arrive as it was published: its checksum is of the packed bytes.
        packed = urlsplit(url).path.endswith(_PACKED)
        headers = {"Accept-Encoding": "identity" if packed else "gzip"}
        params: Mapping[str, str] | None = query
        for _ in range(MOST_REDIRECTS + 1):
            own = keyed and self._key and _origin(url) == _origin(self.url)
            self._wait(self._throttle.reserve())
            with self._count:
                self.calls += 1
            asked = time.time_ns() // 1_000_000
            response = self._session.get(
                url,
                params=params,
                headers={**headers, **(self._key_header() if own else {})},
                stream=True,
                allow_redirects=False,
                timeout=TIMEOUT,
            )
            if not response.is_redirect:
                # Each packing within another one multiplies what few bytes become.
                if "," in response.headers.get("Content-Encoding", ""):
                    response.close()
                    raise NoAnswer("it is packed several times over, so it was refused")
                return response, _made(asked, response)
            url, params = urljoin(response.url, response.headers["Location"]), None
            response.close()
            if urlsplit(url).scheme not in ("http", "https"):
                raise NoAnswer("it redirects to what is no web page, so it was refused")
        raise NoAnswer("it redirects in a circle")

    def _key_header(self) -> dict[str, str]:
        name, _, value = self.about.header.partition(":")
        return {name.strip(): value.strip().replace("{key}", self._key)}

    def _body(self, response: requests.Response, *, packed: bool) -> bytes:
        most = min(MOST_BYTES, self.about.most)
        chunks, size, end = [], 0, time.monotonic() + LONGEST_ANSWER
        for chunk in response.raw.stream(_CHUNK, decode_content=not packed):
            size += len(chunk)
            with self._count:
                self.bytes += len(chunk)
            if size > most:
                raise NoAnswer(f"it is longer than {most / 1e6:,.0f} MB, so it was refused")
            if time.monotonic() > end:
                raise requests.exceptions.ReadTimeout
            if self.stop.is_set():
                raise Stopped
            chunks.append(chunk)
        return b"".join(chunks)

    def _said(self, body: bytes) -> str:
        """Write what a vendor says in an error answer, if it is for people."""
        text = body[:4_000].decode("utf-8", "replace")
        if text.lstrip().startswith("<"):
            return ", with a web page"
        try:
            found = loads(text)
        except (JSONDecodeError, RecursionError):
            found = None
        if isinstance(found, dict):
            text = str(next((found[n] for n in ("message", "msg", "error") if n in found), text))
        return f": {said}" if (said := self.masked(text)) else ""


def how_to_key(source: str, about: About) -> str:
    """Say where to get the key of a source, and how to give it."""
    return (
        f"get one ({about.key_from}), then "
        f'set the environment variable {about.key}, or "sources": {{"{source}": {{"key": "..."}}}} '
        'in the config section "liquidations"'
    )


def _origin(url: str) -> tuple[Any, ...]:
    parts = urlsplit(url)
    port = parts.port or {"http": 80, "https": 443}.get(parts.scheme)
    return parts.scheme, parts.hostname, port


def _made(asked: int, response: requests.Response) -> int:
    """Return when an answer was made at the earliest: by our clock, or by theirs if it is behind.

    A clock of ours that is ahead would let a period pass for over that is not.
    """
    try:
        theirs = _seconds(response.headers["Date"])
    except (KeyError, OverflowError, TypeError, ValueError):
        return asked
    return min(asked, int(theirs * 1000))


def _kind(error: Exception) -> str:
    """Say what went wrong on the way, without the words of the library."""
    if isinstance(error, requests.exceptions.ProxyError):
        return "the proxy can't be reached"
    if isinstance(error, requests.exceptions.SSLError):
        return "its certificate can't be verified"
    if isinstance(error, requests.exceptions.Timeout) or "Timeout" in type(error).__name__:
        return "it does not answer in time"
    if isinstance(error, requests.exceptions.ConnectionError):
        return "it can't be reached"
    return f"the connection broke ({type(error).__name__})"
