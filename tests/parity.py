"""Compare what a bot was given, candle by candle, with what a backtest of the same candles gives.

``python tests/parity.py --runs 7`` plays a simulated market to ``freqtrade trade`` in dry-run, in
real time, with orders just before the close, a cut, a silence and orders that come late. It keeps
each frame that the strategy made. Then ``freqtrade backtesting`` reads the same store, and every
number must be the same to the bit. The exit code is 1 if one is not.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from rich.console import Console
from rich.table import Table

from liquidations.cli import run as liquidations
from liquidations.event import MINUTE, SIDES, SIMULATED, Events, make_events
from liquidations.sandbox import Sandbox, symbol
from liquidations.sandbox_server import environment, serving
from liquidations.sandbox_stream import Fault
from liquidations.store import Store


REPOSITORY = Path(__file__).parents[1]
PAIRS = ("BTC/USDT:USDT", "ETH/USDT:USDT")

#: The bot must be up so long (s) before the first close that counts.
LEAD = 45

#: An order is published so long (ms) after its own time.
PUSH_DELAY = 400

#: What Freqtrade ends with after a SIGINT.
INTERRUPTED = 130

#: From so many rows on, no reading of a frame depends on where the frame begins.
STARTUP = 200

#: Seconds after a fault within which the feed must be back: of a silence it learns after 5 s, and
#: it dials again and again, each time waiting longer.
BACK = 15


class Planned(NamedTuple):
    """Plan a fault: so many seconds from a close, counted from the first one."""

    kind: str
    close: int
    start: float
    length: float


#: One fault of each kind, for three closes.
SHORT = {
    "delay": Planned("delay", 1, -4, 8),
    "cut": Planned("cut", 1, -7, 12),
    "silence": Planned("silence", 1, -40, 12),
}

#: All of them, for seven. Of two candles in a row with late orders one begins a candle of two
#: minutes, which must have them; a cut of a few seconds leaves that one known.
LONG = (
    SHORT["silence"],
    Planned("delay", 2, -4, 8),
    Planned("delay", 3, -4, 8),
    Planned("cut", 4, -7, 20),
)


@dataclass
class Session:
    """Hold what one session left behind: frames, rows of the store, and what was played."""

    folder: Path
    last_close: int
    faults: Sequence[Fault]
    #: How often each order was sent: its symbol, time, side, price and amount.
    sent: Counter[tuple[str, int, int, float, float]] = field(default_factory=Counter)
    #: All orders of the market while it was played, those included that a silence swallowed.
    played: Mapping[str, Events] = field(default_factory=dict)
    connections: int = 0
    stopped: int = 0
    exit_code: int = 0
    #: From SIGINT to the end of the process (s), and what of it came after Freqtrade's last word.
    exit_seconds: float = 0.0
    after_freqtrade: float = 0.0
    log: str = ""
    problems: list[str] = field(default_factory=list)

    @property
    def frames(self) -> Path:
        return self.folder / "frames"

    def frames_of(self, pair: str, mode: str) -> list[pd.DataFrame]:
        """Return the frames of a pair in the order in which they were made."""
        files = sorted(self.frames.glob(f"{file_name(pair)}-{mode}-*.feather"))
        return [pd.read_feather(file) for file in files]

    def check(self, right: bool, problem: str) -> None:
        if not right:
            self.problems.append(problem)


def file_name(pair: str) -> str:
    return pair.replace("/", "_").replace(":", "_")


# --- the market -----------------------------------------------------------------------------------


def make_market(folder: Path) -> None:
    """Simulate two pairs around now, and put many orders into what is still to come."""
    code = liquidations(
        ["simulate", "--now", "--userdir", str(folder), "--days", "1", "--ahead", "1"]
        + ["-t", "1m", "1h", "-p", *PAIRS]
    )
    assert code == 0
    with Store(f"sqlite:///{folder}/dry-run/exchange.sqlite") as store:
        for seed, pair in enumerate(PAIRS):
            candles = pd.read_feather(
                folder / f"dry-run/data/futures/{file_name(pair)}-1m-futures.feather"
            )
            with store.write() as writer:
                orders = dense(candles, seed)
                writer.insert("binance", pair, SIMULATED, orders, np.empty((0, 2), np.int64))


def dense(candles: pd.DataFrame, seed: int) -> Events:
    """Make an order every two seconds from now on, and four around each close."""
    random = np.random.default_rng(seed)
    opens = candles["date"].to_numpy("datetime64[ms]").astype(np.int64)
    rows = np.flatnonzero(opens >= time.time() * 1000 - MINUTE)
    anywhere = opens[rows, None] + random.integers(0, MINUTE, (len(rows), 30))
    around = opens[rows, None] + MINUTE + np.array([-900, -50, -1, 0])
    times = np.concatenate((anywhere, around), axis=1)
    price = np.repeat(candles["close"].to_numpy()[rows], times.shape[1])
    times = np.sort(times.ravel())
    amount = random.lognormal(9, 1.5, len(times)) / price
    # Sides come in turns of some seconds, so that the ratio is not always a half.
    side = (random.random(len(times)) < 0.5 + 0.4 * np.sin(times / 47_000)).astype(np.int8)
    return make_events(times, side, price, amount, amount * price)


# --- the bot --------------------------------------------------------------------------------------


def freqtrade(folder: Path, command: str, *arguments: str) -> list[str]:
    """Write the command line of the unmodified Freqtrade, as a user has it."""
    words = [sys.executable, "-m", "freqtrade", command, "--no-color"]
    words += ["-c", str(REPOSITORY / "config.json"), "--userdir", str(folder / "user_data")]
    words += ["--datadir", str(folder / "dry-run" / "data"), "--strategy", "ParityRecorder"]
    return [*words, *arguments]


def variables(folder: Path, port: int) -> dict[str, str]:
    own = {
        "FREQTRADE__LIQUIDATIONS__DB_URL": f"sqlite:///{folder}/dry-run/liquidations.sqlite",
        "FREQTRADE__EXCHANGE__PAIR_WHITELIST": json.dumps(PAIRS),
        "FREQTRADE__STRATEGY_PATH": str(REPOSITORY / "tests" / "strategies"),
        "PARITY_FRAMES": str(folder / "frames"),
        "COLUMNS": "200",
    }
    return os.environ | environment(port, played=True) | own


@contextmanager
def process(words: list[str], env: dict[str, str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run a process that does not survive us, its output in a file."""
    with log.open("wb") as output:
        child = subprocess.Popen(words, env=env, stdout=output, stderr=subprocess.STDOUT)
        try:
            yield child
        finally:
            if child.poll() is None:
                child.kill()
            child.wait()


def wait_until(right: Callable[[], bool], child: subprocess.Popen[bytes], end: float) -> bool:
    """Wait for something until ``end`` (s since 1970), or until the process ends."""
    while not right():
        if time.time() > end or child.poll() is not None:
            return False
        time.sleep(0.2)
    return True


def play(folder: Path, runs: int, planned: Sequence[Planned]) -> Session:
    """Play the market to a bot until it has seen so many closes, and end it with SIGINT."""
    make_market(folder)
    for name in ("frames", "user_data/strategies", "user_data/data", "user_data/logs"):
        (folder / name).mkdir(parents=True)
    first = -(-int(time.time() + LEAD) // 60) * 60
    faults = [Fault(one.kind, first + 60 * one.close + one.start, one.length) for one in planned]
    session = Session(folder, 1000 * (first + 60 * (runs - 1)), faults)
    options: dict[str, Any] = {
        "pairs": list(PAIRS),
        "liquidations": f"sqlite:///{folder}/dry-run/exchange.sqlite",
        "push_delay": PUSH_DELAY,
    }
    whole = Sandbox(folder / "dry-run" / "data", **options).tape
    session.played = {
        name: whole.events.take(whole.symbol == place) for place, name in enumerate(whole.symbols)
    }
    sandbox = Sandbox(folder / "dry-run" / "data", faults=faults, **options)
    listen(sandbox, session)
    with serving(sandbox) as port:
        env, log = variables(folder, port), folder / "trade.log"
        with process(freqtrade(folder, "trade", "--db-url", "sqlite://"), env, log) as bot:

            def seen() -> bool:
                last = {pair: last_open(session, pair) for pair in PAIRS}
                return min(last.values()) >= session.last_close - MINUTE

            done = wait_until(seen, bot, session.last_close / 1000 + 30)
            session.check(done, "the bot has not seen the last candle")
            # One more batch of orders, so that the store is compared in the middle of a minute.
            time.sleep(3)
            session.stopped, began = int(time.time() * 1000), time.monotonic()
            if bot.poll() is None:
                bot.send_signal(signal.SIGINT)
            with suppress(subprocess.TimeoutExpired):
                bot.wait(30)
            session.exit_seconds = time.monotonic() - began
            session.after_freqtrade = time.time() - log.stat().st_mtime
        session.exit_code, session.log = bot.returncode, log.read_text()
        if done:
            backtest(session, env)
    return session


def last_open(session: Session, pair: str) -> int:
    """Return the open (ms) of the last candle of the newest frame."""
    files = sorted(session.frames.glob(f"{file_name(pair)}-dry_run-*.feather"))
    return opens_of(pd.read_feather(files[-1], columns=["date"]))[-1] if files else 0


def opens_of(frame: pd.DataFrame) -> np.ndarray:
    return frame["date"].to_numpy("datetime64[ms]").astype(np.int64)


def listen(sandbox: Sandbox, session: Session) -> None:
    """Note each connection and each order that is sent."""
    connect, frame = sandbox.connect, sandbox.tape.frame

    def connected(tail: str = "") -> Any:
        session.connections += 1
        return connect(tail)

    def sent(row: int, now: int) -> str:
        session.sent[identity(sandbox.tape.events, row, order_symbol(row))] += 1
        return frame(row, now)

    def order_symbol(row: int) -> str:
        return sandbox.tape.symbols[sandbox.tape.symbol[row]]

    sandbox.connect, sandbox.tape.frame = connected, sent  # type: ignore[method-assign]


def identity(events: Events, row: int, name: str) -> tuple[str, int, int, float, float]:
    return (
        name,
        int(events.timestamp[row]),
        int(events.side[row]),
        float(events.price[row]),
        float(events.amount[row]),
    )


def backtest(session: Session, env: dict[str, str]) -> None:
    """Backtest the same candles: those of the bot's first frame and all that followed."""
    first = min(opens_of(session.frames_of(pair, "dry_run")[0])[0] for pair in PAIRS)
    start = first // 1000 + 60 * STARTUP
    timerange = f"{start}-{(session.last_close - MINUTE) // 1000}"
    words = freqtrade(
        session.folder, "backtesting", "--timerange", timerange, "--cache", "none",
        "--export", "none",
    )  # fmt: skip
    done = subprocess.run(words, env=env, capture_output=True, text=True, check=False)
    session.check(done.returncode == 0, f"backtesting ended with {done.returncode}")
    if done.returncode:
        print(done.stdout[-3000:] + done.stderr[-3000:], file=sys.stderr)


# --- the comparison -------------------------------------------------------------------------------


def different(one: pd.Series, other: pd.Series) -> np.ndarray:
    """Tell where two columns differ by a bit; NaN equals NaN."""
    if one.dtype != other.dtype:
        return np.ones(len(one), dtype=bool)
    mine, theirs = one.to_numpy(), other.to_numpy()
    if mine.dtype != np.float64:
        return mine != theirs
    unknown = np.isnan(mine) & np.isnan(theirs)
    return (mine.view(np.int64) != theirs.view(np.int64)) & ~unknown


def compare(session: Session, pair: str) -> dict[int, bool]:
    """Compare every frame of a bot with the backtest's; return which last candles were equal."""
    frames, tests = session.frames_of(pair, "dry_run"), session.frames_of(pair, "backtest")
    session.check(len(tests) == 1, f"{pair}: {len(tests)} frames of the backtest")
    if not tests:
        return {}
    late = tests[-1].set_index(opens_of(tests[-1]))
    equal = {}
    for frame in frames:
        opens = opens_of(frame)
        known = np.isin(opens, late.index)
        session.check(known[STARTUP:].all(), f"{pair}: the backtest has fewer candles than the bot")
        own = frame[known].reset_index(drop=True)
        there = late.loc[opens[known]].reset_index(drop=True)
        wrong = np.zeros(len(own), dtype=bool)
        for name in frame.columns.drop("date"):
            session.check(name in there, f"{pair}: the backtest has no column {name}")
            if name not in there:
                continue
            rows = different(own[name], there[name])
            if not name.startswith("liq_"):
                rows[:STARTUP] = False  # a reading looks back to before the frame
            for row in np.flatnonzero(rows)[:3]:
                session.problems.append(
                    f"{pair} {clock(opens[known][row])} in the frame of {clock(opens[-1])}: "
                    f"{name} was {own[name].tolist()[row]!r}, "
                    f"is {there[name].tolist()[row]!r} in the backtest"
                )
            wrong |= rows
        equal[int(opens[-1])] = not wrong.any()
    return equal


def clock(time_ms: int) -> str:
    return pd.Timestamp(time_ms, unit="ms").strftime("%H:%M")


class Row(NamedTuple):
    """Hold a live order as it stands in the store."""

    identity: tuple[str, int, int, float, float]
    value_usd: float
    known: int


def ask(session: Session, question: str) -> list[tuple[Any, ...]]:
    """Read the bot's store, past the program."""
    file = session.folder / "dry-run" / "liquidations.sqlite"
    with closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True)) as connection:
        return connection.execute(question).fetchall()


def stored(session: Session) -> list[Row]:
    """Return what was collected."""
    rows = ask(
        session,
        "SELECT pair, timestamp, side, price, amount, value_usd, known "
        "FROM liq_event JOIN liq_series ON id = series_id",
    )
    return [Row((symbol(pair), *same), value, known) for pair, *same, value, known in rows]


def covered(session: Session) -> list[tuple[int, int]]:
    """Return when the feed listened."""
    return ask(session, 'SELECT start, "end" FROM liq_feed_coverage ORDER BY start')


def check_store(session: Session, rows: Sequence[Row]) -> None:
    """Check that what is stored is what was sent, once each, and that coverage says the truth."""
    own = Counter(row.identity for row in rows)
    twice = [one for one, number in own.items() if number > 1]
    session.check(not twice, f"{len(twice)} orders are stored twice, such as {twice[:1]}")
    unsent = own.keys() - session.sent.keys()
    session.check(not unsent, f"{len(unsent)} orders are stored that were not sent")
    spans = covered(session)
    session.check(bool(spans), "no coverage is stored")
    if not spans:
        return
    begin = spans[0][0]
    # What is sent to a connection that the feed is giving up may be lost, and so may what is on its
    # way when the bot ends; but of that time it must not say that it listened.
    false, lost = 0, 0
    for name, events in session.played.items():
        for row in range(len(events)):
            at, there = int(events.timestamp[row]), identity(events, row, name) in own
            if any(start <= at < end for start, end in spans):
                false += not there
            elif begin <= at < session.stopped - 3_000:
                near = [
                    fault
                    for fault in session.faults
                    if 1000 * fault.start - 3_000 <= at
                    <= 1000 * (fault.start + fault.length + BACK)
                ]  # fmt: skip
                lost += not there and not near
    session.check(not false, f"{false} orders are missing although the feed says it listened")
    session.check(not lost, f"{lost} orders were lost far from any fault")


def check_candles(session: Session, rows: Sequence[Row]) -> int:
    """Sum the stored orders by hand: a candle has those that were known when it closed.

    :return: how many orders came too late for their minute, but not for a longer candle
    """
    late: set[Row] = set()
    begin = min((start for start, _ in covered(session)), default=0)
    for pair in PAIRS:
        own = [row for row in rows if row.identity[0] == symbol(pair)]
        for frame in session.frames_of(pair, "dry_run"):
            last, newest = frame.iloc[-1], int(opens_of(frame)[-1]) + MINUTE
            for end, length in (("", 1), ("_2m", 2), ("_5m", 5)):
                close = newest // (length * MINUTE) * length * MINUTE
                start = close - length * MINUTE
                # Before, orders were imported.
                if np.isnan(last[f"liq_total{end}"]) or start < begin:
                    continue
                known = [
                    row for row in own if start <= row.identity[1] < close and row.known <= close
                ]
                late.update(row for row in known if row.known)
                for side, name in enumerate(SIDES):
                    due = sum(row.value_usd for row in known if row.identity[2] == side)
                    told = last[f"liq_{name}{end}"]
                    session.check(
                        bool(np.isclose(told, due, rtol=1e-12)),
                        f"{pair} {clock(start)}: liq_{name}{end} is {told}, the orders known by "
                        f"{clock(close)} sum to {due}",
                    )
    return len(late)


def check_faults(session: Session, rows: Sequence[Row], frames: Sequence[pd.DataFrame]) -> None:
    """Check that each fault left its mark, or the session has shown nothing."""
    totals = {int(opens_of(frame)[-1]): frame["liq_total"].iloc[-1] for frame in frames}
    for fault in session.faults:
        at = int(1000 * fault.start) // MINUTE * MINUTE
        if fault.kind == "delay":
            late = [row for row in rows if row.known and at <= row.identity[1] < at + MINUTE]
            session.check(bool(late), f"no order of {clock(at)} came late")
        else:
            session.check(
                at in totals and bool(np.isnan(totals[at])),
                f"a {fault.kind} in {clock(at)} left its candle known: {totals.get(at)}",
            )
    session.check(not np.isnan(list(totals.values())).all(), "every candle is unknown")


def report(session: Session, rows: Sequence[Row], equal: Mapping[str, Mapping[int, bool]]) -> Table:
    """Show each candle: what the bot read at its close, and what the backtest reads."""
    names = ("Candle", "Pair", "Coverage", "Bot: USD", "Backtest: USD", "Late orders", "Frame")
    table = Table(*names, title="SIMULATED", title_justify="left")
    for pair in PAIRS:
        tests = session.frames_of(pair, "backtest")
        late = tests[-1].set_index(opens_of(tests[-1])) if tests else pd.DataFrame()
        for frame in session.frames_of(pair, "dry_run"):
            last, at = frame.iloc[-1], int(opens_of(frame)[-1])
            after = [
                row
                for row in rows
                if row.known
                and row.identity[0] == symbol(pair)
                and at <= row.identity[1] < at + MINUTE
            ]
            same = equal.get(pair, {}).get(at)
            table.add_row(
                clock(at),
                pair,
                f"{last['liq_coverage']:.3f}",
                f"{last['liq_total']:,.2f}",
                f"{late['liq_total'].get(at, np.nan):,.2f}" if len(late) else "",
                str(len(after)),
                f"{len(frame)} × {len(frame.columns)} {'equal' if same else 'DIFFERENT'}",
            )
    return table


def judge(session: Session, console: Console) -> int:
    """Compare and check everything, print it, and return the exit code."""
    troubles = ("Traceback", " - ERROR - ", " - CRITICAL - ")
    bad = [line for line in session.log.splitlines() if any(word in line for word in troubles)]
    session.check(not bad, f"the bot's log has {len(bad)} errors: {bad[:1]}")
    session.check(session.exit_code == INTERRUPTED, f"the bot ended with {session.exit_code}")
    # It takes 2 s; on a busy machine Python takes longer to forget what it has imported.
    session.check(session.exit_seconds < 10, f"the bot took {session.exit_seconds:.1f} s to end")
    rows = stored(session)
    equal = {pair: compare(session, pair) for pair in PAIRS}
    check_store(session, rows)
    longer = check_candles(session, rows)
    if len(session.faults) == len(LONG):
        session.check(longer > 0, "no late order is in a longer candle that closed after it came")
    check_faults(session, rows, session.frames_of(PAIRS[0], "dry_run"))
    console.print(report(session, rows, equal))
    for fault in session.faults:
        start = pd.Timestamp(fault.start, unit="s").strftime("%H:%M:%S")
        console.print(f"Fault: {fault.kind} at {start} for {fault.length:g} s")
    late = sum(row.known > 0 for row in rows)
    console.print(
        f"{len(rows)} orders stored of {session.sent.total()} sent, {late} of them late, "
        f"{longer} of those in a longer candle; "
        f"{session.connections} connections; the bot ended {session.exit_seconds:.1f} s after "
        f"SIGINT, {session.after_freqtrade:.1f} s after Freqtrade's last word"
    )
    if not session.problems:
        frames = sum(map(len, equal.values()))
        console.print(f"parity: {frames} frames of the bot are equal to the backtest's, to the bit")
        return 0
    for problem in session.problems[:20]:
        console.print(f"parity: {problem}")
    if len(session.problems) > 20:
        console.print(f"parity: and {len(session.problems) - 20} more")
    print("\n".join(session.log.splitlines()[-40:]), file=sys.stderr)
    return 1


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument(
        "--runs", type=int, help="Closes to see. Default, and at least: 7, with --fault 3."
    )
    parser.add_argument(
        "--fault", choices=SHORT, help="Only this one, at the second close; 3 runs are enough."
    )
    parser.add_argument("--keep", type=Path, help="A new folder that keeps frames, log and stores.")
    args = parser.parse_args(arguments)
    planned = (SHORT[args.fault],) if args.fault else LONG
    needed = 3 if args.fault else 7
    runs = needed if args.runs is None else args.runs
    if runs < needed:
        parser.error(f"--runs must be at least {needed} here")
    # A shell gives an ignored SIGINT to what it runs behind a &, and so to the bot.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # the bot must not outlive us
    folder = args.keep or Path(tempfile.mkdtemp(prefix="parity-"))
    folder.mkdir(parents=True, exist_ok=True)
    console = Console(width=None if sys.stdout.isatty() else 120)
    try:
        return judge(play(folder.resolve(), runs, planned), console)
    finally:
        if args.keep is None:
            shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
