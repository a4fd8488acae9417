"""The history loop: sources are asked in parallel, and stored answer by answer.

Floor 3. A download is planned (``planner.py``), then run::

    request = Request({"binance": [Asked(("BTC/USDT:USDT",))]}, start, end, now)
    clients, without = find_clients(config, request)
    report = run(plan(store, request, clients), store, clients)

Each source has threads of its own, as many as it allows; they ask and read. One thread, the
caller's, writes: each answer, or page of one, in one transaction, and those of a source in the
order of its questions. So whatever ends the program leaves a store of which the beginning is there,
and the next run goes on with what is missing. What a job replaces (``Request.erase``) is removed in
the transaction that stores what comes in its place.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue

import numpy as np

from liquidations.archives import LIQUIDATIONS, Ask, Context, Options, Part, Wanted, service
from liquidations.candles import format_time
from liquidations.errors import LiquidationsError
from liquidations.event import Ints, common_intervals, merge_intervals
from liquidations.exchanges.frames import Contract
from liquidations.http import Absent, Client, NoAnswer, Reply, SourceEnds, Stopped
from liquidations.planner import HOUR, NO_TIME, Fault, Job, Lacking, Plan, covered_times, subtract
from liquidations.store import Store
from liquidations.writer import Inserted


#: Pages of one question at most.
MOST_PAGES = 2_000

#: So many questions in a row without an answer, and a source is out of order.
BROKEN = 4

#: Open interest is stored after so many answers: each time whole files are written.
MOST_CONTEXTS = 30

#: Between two looks of the writing thread (s).
LOOK = 0.2


@dataclass(slots=True)
class Progress:
    """Count what a source has done; ``ended`` says why it does no more."""

    source: str
    total: int
    done: int = 0
    calls: int = 0
    rows: int = 0
    bytes: int = 0
    ended: str = ""


@dataclass(slots=True)
class Outcome:
    """Say what a job brought: rows, what the source does not have, what failed or was not asked.

    ``coverage`` is what the source covers now of the job's time.
    """

    job: Job
    rows: Inserted = field(default_factory=Inserted)
    absent: list[str] = field(default_factory=list)
    answered: int = 0
    unasked: int = 0
    faults: dict[str, int] = field(default_factory=dict)
    coverage: Ints = field(default_factory=NO_TIME.copy)


@dataclass(slots=True)
class Report:
    """Say what a download brought; ``faults`` is empty if all that was asked was tried."""

    outcomes: list[Outcome]
    faults: list[Fault]


# --- the loop -----------------------------------------------------------------------------------


@dataclass(slots=True)
class _Answer:
    """Hold what came of one question, or of one page of it: only the ``last`` one ends it."""

    parts: list[Part | Context] = field(default_factory=list)
    made: int = 0
    last: bool = True
    absent: bool = False
    fault: str = ""
    broken: bool = False
    refused: bool = False
    unasked: bool = False


class _Source:
    """Ask one source's questions in threads, and hand the answers on in their order."""

    def __init__(
        self,
        client: Client,
        questions: Sequence[tuple[int, Ask, Wanted]],
        contracts: Callable[[], Mapping[str, Contract]],
        wake: SimpleQueue[str],
    ) -> None:
        self.client, self.questions = client, questions
        self.module = service(client.source)
        self.ended = ""
        #: Why nothing more is asked that needs a key.
        self.refused = ""
        self.error: BaseException | None = None
        self.next = 0
        self._contracts, self._wake = contracts, wake
        self._taken = 0
        self._broken = 0
        #: Refusals of the key so far; None once it was of use, or was found to be of use elsewhere.
        self._refusals: int | None = 0
        self._answers: dict[int, list[_Answer]] = {}
        self._lock = threading.Lock()
        width = max(1, min(client.about.parallel, len(questions)))
        # Answers wait for those before them; so many at most.
        self._room = threading.Semaphore(4 * width)
        # Daemons: nobody waits at the end for one that waits for a peer.
        self._threads = [threading.Thread(target=self._work, daemon=True) for _ in range(width)]
        for thread in self._threads:
            thread.start()

    def alive(self) -> bool:
        """Tell whether any thread may still bring an answer."""
        return any(thread.is_alive() for thread in self._threads)

    def ready(self) -> Iterator[tuple[int, Wanted, Ask, _Answer]]:
        """Return the answers that are next in order, as (job, wanted, ask, answer)."""
        while True:
            with self._lock:
                pages = self._answers.pop(self.next, None)
            if pages is None:
                return
            job, ask, wanted = self.questions[self.next]
            for page in pages:
                yield job, wanted, ask, page
            if pages[-1].last:
                self.next += 1
                self._room.release()

    def _work(self) -> None:
        try:
            while (number := self._take()) is not None:
                _, ask, wanted = self.questions[number]
                if self.refused and not ask.keyless:
                    self._hand_on(number, _Answer(unasked=True))
                    continue
                for answer in self._ask(ask, wanted):
                    self._hand_on(number, answer)
                self._judge(ask, answer)
        except Stopped:
            pass
        except BaseException as error:  # a mistake of ours: the writing thread raises it
            self.error = error
        self._wake.put(self.client.source)

    def _hand_on(self, number: int, answer: _Answer) -> None:
        with self._lock:
            self._answers.setdefault(number, []).append(answer)
        self._wake.put(self.client.source)

    def _judge(self, ask: Ask, answer: _Answer) -> None:
        """Decide by the answer to a question whether the source is asked any more."""
        with self._lock:
            self._broken = self._broken + 1 if answer.broken else 0
            if self._broken >= BROKEN:
                self.ended = f"{answer.fault}; {BROKEN} questions in a row had no answer"
            if ask.keyless or self._refusals is None:
                return
            if not answer.refused:
                if not (answer.fault or answer.absent or answer.unasked):
                    self._refusals = None
                return
            self._refusals += 1
            if self._refusals != BROKEN:
                return
        # A plan may cover the latest time only; a key that is wrong covers nothing.
        _, newest, wanted = next(one for one in self.questions[::-1] if not one[1].keyless)
        *_, found = self._ask(newest, wanted)
        with self._lock:
            if found.refused:
                self.refused = f"{answer.fault}; {BROKEN} questions in a row, and the newest one"
            else:
                self._refusals = None

    def _take(self) -> int | None:
        while not self._room.acquire(timeout=LOOK):
            if self._over():
                return None
        with self._lock:
            number = self._taken
            if self._over() or number >= len(self.questions):
                return None
            self._taken += 1
            return number

    def _over(self) -> bool:
        return bool(self.client.stop.is_set() or self.ended or self.error)

    def _ask(self, ask: Ask, wanted: Wanted) -> Iterator[_Answer]:
        """Ask one question, page by page; the last answer tells how it ended."""
        page: Ask | None = ask
        for number in range(MOST_PAGES):
            assert page is not None
            try:
                answer, page = self._page(page, wanted)
            except Absent:
                if self.module.CATALOGUE is None:
                    yield _Answer(absent=not number)
                else:  # what has a list of contracts is no folder of files
                    said = "it answers with status 404; see that its URL is right"
                    yield _Answer(fault=said, broken=True)
                return
            except NoAnswer as error:
                yield _Answer(fault=str(error), broken=error.broken, refused=error.refused)
                return
            except SourceEnds as error:
                with self._lock:
                    self.ended = str(error)
                yield _Answer(unasked=True)
                return
            yield answer
            if answer.last:
                return
        yield _Answer(fault=f"it has more than {MOST_PAGES} pages of this")

    def _page(self, ask: Ask, wanted: Wanted) -> tuple[_Answer, Ask | None]:
        def sizes() -> Mapping[str, Contract]:
            try:
                return self._contracts()
            except LiquidationsError as error:
                raise NoAnswer(str(error)) from error  # asking again does not help

        def read(reply: Reply) -> tuple[_Answer, Ask | None]:
            name = ask.path.split("/")[-1]
            options = Options("usd", wanted.period, sizes, made=reply.made, name=name)
            parts, following = self.module.answer(reply.data, ask, wanted, options)
            return _Answer(parts, reply.made, last=following is None), following

        return self.client.read(ask, read)


def run(
    planned: Plan,
    store: Store,
    clients: Mapping[str, Client],
    *,
    contracts: Callable[[], Mapping[str, Contract]] = dict,
    keep: Callable[[Sequence[Context]], object] | None = None,
    on_progress: Callable[[Mapping[str, Progress]], None] = lambda _: None,
) -> Report:
    """Ask all questions of a plan, and store what comes.

    It ends early if the caller's thread is interrupted; the store holds what was finished then.

    :param contracts: asks for the sizes of OKX's contracts; called once, if at all
    :param keep: stores open interest and funding
    :param on_progress: is told, several times a second, how far each source is
    :raises LiquidationsError: if the store can't be written.
    """
    outcomes = [Outcome(job) for job in planned.jobs]
    wake: SimpleQueue[str] = SimpleQueue()
    questions: dict[str, list[tuple[int, Ask, Wanted]]] = {}
    for number, job in enumerate(planned.jobs):
        questions.setdefault(job.source, []).extend((number, *pair) for pair in job.questions)
    told = {name: Progress(name, len(asked)) for name, asked in questions.items()}
    sizes = _Once(contracts)
    contexts: dict[int, list[Context]] = {}
    open_questions = [len(job.questions) for job in planned.jobs]
    running: dict[str, _Source] = {}
    try:
        for name, asked in questions.items():
            running[name] = _Source(clients[name], asked, sizes, wake)
        while running:
            with suppress(Empty):
                wake.get(timeout=LOOK)
            for name, source in list(running.items()):
                over = not source.alive()  # asked first: what it brought is there then
                for number, wanted, ask, answer in source.ready():
                    found = _store(store, outcomes[number], wanted, ask, answer, planned.erase)
                    several = contexts.setdefault(number, [])
                    several += found
                    open_questions[number] -= answer.last
                    if len(several) >= MOST_CONTEXTS or not open_questions[number]:
                        _keep(keep, contexts.pop(number), outcomes[number])
                    told[name].done += answer.last and not answer.unasked
                    told[name].rows += sum(map(_rows_of, answer.parts))
                if source.error is not None:
                    raise source.error
                progress, client = told[name], clients[name]
                progress.calls, progress.bytes = client.calls, client.bytes
                if over:
                    progress.ended = source.ended or source.refused
                    del running[name]
            on_progress(told)
    except BaseException:
        for client in clients.values():
            client.stop.set()
        raise
    finally:
        for number, several in contexts.items():
            _keep(keep, several, outcomes[number])
    faults = [*planned.faults]
    covered = covered_times(store)
    for outcome, left in zip(outcomes, open_questions, strict=True):
        job = outcome.job
        outcome.unasked += left
        spans = covered.get((job.exchange, job.pair, job.source, job.period), NO_TIME)
        outcome.coverage = merge_intervals(np.clip(spans, job.start, job.end))
        faults += [Fault(job.source, job.pair, *one) for one in outcome.faults.items()]
    for name, progress in told.items():
        if progress.ended:
            left = progress.total - progress.done
            unasked = f"; {left} of {progress.total} questions were not asked" if left else ""
            faults.append(Fault(name, "", progress.ended + unasked))
    faults += _all_absent(outcomes) + _not_listed(planned.lacking, outcomes)
    return Report(outcomes, faults)


class _Once:
    """Ask for the contract sizes once, whichever thread comes first; a failure is kept too."""

    def __init__(self, ask: Callable[[], Mapping[str, Contract]]) -> None:
        self._ask = ask
        self._lock = threading.Lock()
        self._found: Mapping[str, Contract] | LiquidationsError | None = None

    def __call__(self) -> Mapping[str, Contract]:
        with self._lock:
            if self._found is None:
                try:
                    self._found = self._ask()
                except LiquidationsError as error:
                    self._found = error
            if isinstance(self._found, LiquidationsError):
                raise self._found
            return self._found


def _rows_of(part: Part | Context) -> int:
    return len(part.rows) if isinstance(part, Part) else len(part.timestamp)


def _store(
    store: Store, outcome: Outcome, wanted: Wanted, ask: Ask, answer: _Answer, erase: bool
) -> list[Context]:
    """Store one answer in one transaction; return what is not ours to store.

    :param erase: what is stored of its time makes room for it, so far as that was asked for
    """
    if answer.unasked:
        outcome.unasked += 1
    elif answer.fault:
        what = f"{ask.label}: {answer.fault}" if ask.checksum else answer.fault
        outcome.faults[what] = outcome.faults.get(what, 0) + 1
    elif answer.absent:
        outcome.absent.append(ask.label or format_time(wanted.start))
    elif answer.last:
        outcome.answered += 1
    mine = (wanted.exchange, wanted.pair)
    parts = [
        part
        for part in answer.parts
        if isinstance(part, Part) and mine == (part.exchange, part.pair)
    ]
    if parts:
        with store.write() as writer:
            for part in parts:
                names = part.exchange, part.pair, part.source
                if erase:
                    asked = np.array([[wanted.start, wanted.end]])
                    spans = common_intervals(merge_intervals(part.coverage), asked)
                    writer.remove(*names, period=part.period, spans=spans)
                outcome.rows += writer.insert(
                    *names,
                    part.rows,
                    part.coverage,
                    period=part.period,
                    origins=part.origins,
                    recorded=answer.made,
                )
    return [part for part in answer.parts if isinstance(part, Context)]


def _keep(
    keep: Callable[[Sequence[Context]], object] | None, found: Sequence[Context], outcome: Outcome
) -> None:
    """Store open interest and funding, many at once: whole files are written."""
    if keep is None or not found:
        return
    try:
        keep(found)
    except LiquidationsError as error:
        outcome.faults[str(error)] = outcome.faults.get(str(error), 0) + 1


def _all_absent(outcomes: Sequence[Outcome]) -> list[Fault]:
    """Say which sources had nothing at all: a wrong pair can't be told from a wrong URL then."""
    faults = []
    for source in dict.fromkeys(one.job.source for one in outcomes):
        own = [one for one in outcomes if one.job.source == source]
        count = sum(len(one.absent) for one in own)
        if count and not any(one.answered or one.faults or one.job.known for one in own):
            pairs = ", ".join(dict.fromkeys(one.job.pair for one in own if one.absent))
            what = (
                f"it has none of the {count:,} files that were asked for (status 404); see that "
                "the pair and the source's URL are right, and that it goes so far back"
            )
            faults.append(Fault(source, pairs, what))
    return faults


def _not_listed(lacking: Iterable[Lacking], outcomes: Sequence[Outcome]) -> list[Fault]:
    """Say which pairs are wrong: those in no list, of which nothing was had without a list."""
    had = {(one.job.exchange, one.job.pair) for one in outcomes if one.answered}
    return [
        Fault(
            "",
            one.names[0],
            f"no source has it on {one.exchange}"
            + (f"; there is {', '.join(one.near)}" if one.near else "; is it written right?"),
        )
        for one in lacking
        if not any((one.exchange, name) in had for name in one.names)
    ]


# --- what is there now --------------------------------------------------------------------------


def uncovered(
    store: Store, outcomes: Sequence[Outcome]
) -> dict[tuple[str, str], list[tuple[int, int, bool]]]:
    """List what was asked for and no source and no feed covers, by exchange and pair.

    Time of which nobody was asked is left out; so is time that is not over, which is less than the
    longest period or an hour at the end.

    :return: (start, end, whether all who may have it have answered)
    """
    stored = covered_times(store)
    found: dict[tuple[str, str], list[tuple[int, int, bool]]] = {}
    ours = [one for one in outcomes if one.job.kind == LIQUIDATIONS]
    for exchange, pair in dict.fromkeys((one.job.exchange, one.job.pair) for one in ours):
        own = [one for one in ours if (one.job.exchange, one.job.pair) == (exchange, pair)]
        answered = not any(one.faults or one.unasked or one.job.locked for one in own)
        asked = merge_intervals(
            np.array([(w.start, w.end) for one in own for _, w in one.job.questions])
        )
        spans = [NO_TIME, *(c for names, c in stored.items() if names[:2] == (exchange, pair))]
        covered = merge_intervals(np.concatenate(spans))
        holes = subtract([(start, end) for start, end in asked.tolist()], covered)
        end = max(one.job.end for one in own)
        slack = max(HOUR, *(one.job.period for one in own))
        if holes and holes[-1][1] == end and holes[-1][1] - holes[-1][0] < slack:
            holes.pop()
        if holes:
            found[exchange, pair] = [(*hole, answered) for hole in holes]
    return found
