"""The ``liquidations`` section of Freqtrade's config, checked. Floor 1.

Freqtrade accepts any section and checks none of ours, so a typo would pass silently: here it does
not.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from liquidations.archives import ARCHIVES
from liquidations.errors import LiquidationsError, mask
from liquidations.exchanges import EXCHANGES


SECTION = "liquidations"

#: The key that the program sets itself: see ``provider.prepare_liquidations``.
FINGERPRINT = "fingerprint"

KEYS = {
    "db_url": "database URL, default sqlite:///<user_data_dir>/liquidations.sqlite",
    "exchanges": f'"all" or a list of {", ".join(EXCHANGES)}; default the bot\'s exchange',
    "inverse": "true adds the inverse contracts of the same base; default false",
    "min_coverage": "share of a candle, 0 to 1, that must have been observed; default 0.9",
    "min_exchanges": "how many exchanges must have observed a candle; default 1",
    "collect": 'whether a bot collects: true (its pairs), "market" (all contracts) '
    "or false (nothing; a separate collector does); default true",
    "settle": "seconds, 0.5 to 30, to wait for the exchanges after a candle's close; default 1.5",
    "compact_after": "hours, 1 or more, after which a collector packs what came live; default 24",
    "keep_events": "days, 1 or more, after which a collector drops single liquidations, imported "
    "ones too, not their one-minute sums; default null: never",
    "as_of": "true reads what was known when each candle closed, false what is known now; "
    "default true",
    "prefer": "sources that outrank others where several tell a candle, the first one most; "
    "default none, then the finest one wins",
    "vintage": 'of bars that a vendor has revised: "first", as they were when they were first '
    'fetched, or "last"; default "first"',
    "sources": 'by source of history, its "key", or its "url" if it is not the usual one',
    "ccxt_config": 'by exchange, what its ccxt client is given, such as {"okx": {"httpsProxy": '
    '"http://..."}}; the bot\'s own exchange also gets its own',
    "simulated": "true marks what is collected as invented; the sandbox sets it",
    FINGERPRINT: "set by the program",
}


#: Of a vendor's bars.
VINTAGES = ("first", "last")

#: Names of sources: those of history, the exchanges' own, and those of plain files.
_SOURCES = (*EXCHANGES, *ARCHIVES)


@dataclass(frozen=True, slots=True)
class Settings:
    """Hold the checked settings; ``exchanges`` is never empty."""

    db_url: str = field(repr=False)  # it may hold a password
    exchanges: tuple[str, ...]
    inverse: bool = False
    min_coverage: float = 0.9
    min_exchanges: int = 1
    collect: bool = True
    market: bool = False
    settle: float = 1.5
    as_of: bool = True
    simulated: bool = False
    prefer: tuple[str, ...] = ()
    vintage: str = "first"
    compact_after: float = 24.0
    keep_events: float | None = None


def read_settings(config: Mapping[str, Any]) -> Settings:
    """Read and check the section of a Freqtrade configuration.

    :raises LiquidationsError: on an unknown key or exchange, a wrong type, or a value out of range.
    """
    section = config.get(SECTION, {})
    if not isinstance(section, Mapping):
        raise _wrong(None, type(section).__name__, 'an object such as {"min_coverage": 0.9}')
    for key in section:
        if key not in KEYS:
            near = difflib.get_close_matches(str(key), KEYS, n=1)
            hint = f'; did you mean "{near[0]}"?' if near else "."
            allowed = ", ".join(name for name in KEYS if name != FINGERPRINT)
            raise LiquidationsError(
                f'config section "{SECTION}": unknown key "{key}"{hint} Allowed: {allowed}'
            )
    db_url = section.get("db_url", default_db_url(config))
    if not isinstance(db_url, str) or "://" not in db_url:
        shown = mask(db_url) if isinstance(db_url, str) else db_url
        raise _wrong("db_url", shown, "a database URL such as sqlite:///liquidations.sqlite")
    flags = {"inverse": False, "as_of": True, "simulated": False}
    for key, default in flags.items():
        flags[key] = section.get(key, default)
        if not isinstance(flags[key], bool):
            raise _wrong(key, flags[key], "true or false")
    collect = section.get("collect", True)
    if not isinstance(collect, bool) and collect != "market":
        raise _wrong("collect", collect, 'true, false or "market"')
    vintage = section.get("vintage", "first")
    if vintage not in VINTAGES:
        raise _wrong("vintage", vintage, " or ".join(f'"{name}"' for name in VINTAGES))
    _ccxt_section(config)
    _sources_section(config)
    exchanges = read_exchanges(section.get("exchanges"), config)
    return Settings(
        db_url,
        exchanges,
        min_coverage=read_min_coverage(section.get("min_coverage", 0.9)),
        min_exchanges=_min_exchanges(section.get("min_exchanges", 1), len(exchanges)),
        collect=collect is not False,
        market=collect == "market",
        settle=_number("settle", section.get("settle", 1.5), "seconds", 0.5, 30),
        prefer=_prefer(section.get("prefer", ())),
        vintage=vintage,
        compact_after=_number("compact_after", section.get("compact_after", 24), "hours", 1),
        keep_events=_keep_events(section.get("keep_events")),
        **flags,
    )


def secret_keys() -> tuple[str, ...]:
    """Name what nobody else may see of the section, each by its path of keys."""
    own = (f"sources.{name}.{key}" for name in ARCHIVES for key in ("key", "url"))
    return tuple(f"{SECTION}.{key}" for key in ("db_url", "ccxt_config", *own))


def read_source(config: Mapping[str, Any], source: str) -> dict[str, str]:
    """Read what the section says of a source of history: its ``key`` and ``url``, if it does."""
    found = _sources_section(config).get(source, {})
    return {name: str(value) for name, value in found.items()}


def read_ccxt_config(config: Mapping[str, Any], exchange: str) -> dict[str, Any]:
    """Read what the ccxt client of an exchange is given: the bot's own, and the section's."""
    section = _ccxt_section(config)
    bots = config.get("exchange", {})
    shared = ("ccxt_config", "ccxt_async_config") if bots.get("name") == exchange else ()
    found: dict[str, Any] = {}
    for part in (*(bots.get(name) or {} for name in shared), section.get(exchange, {})):
        found = _merged(found, part)
    # A public feed needs no key, and what is not there can't leak.
    secret = {"apiKey", "secret", "password", "uid", "walletAddress", "privateKey"}
    return {name: value for name, value in found.items() if name not in secret}


def _ccxt_section(config: Mapping[str, Any]) -> Mapping[str, Any]:
    section = config.get(SECTION, {}).get("ccxt_config", {})
    allowed = f"an object of objects, by one of {', '.join(EXCHANGES)}"
    if not isinstance(section, Mapping):
        raise _wrong("ccxt_config", type(section).__name__, allowed)
    for name, own in section.items():
        if name not in EXCHANGES or not isinstance(own, Mapping):
            # Names only: what is in there may be a key.
            raise _wrong("ccxt_config", name, allowed)
    return section


def _sources_section(config: Mapping[str, Any]) -> Mapping[str, Any]:
    section = config.get(SECTION, {}).get("sources", {})
    allowed = f"an object of objects, by one of {', '.join(ARCHIVES)}"
    if not isinstance(section, Mapping):
        raise _wrong("sources", type(section).__name__, allowed)
    for name, own in section.items():
        if name not in ARCHIVES or not isinstance(own, Mapping):
            raise _wrong("sources", name, allowed)
        for key, value in own.items():
            # What is wrong may be a key: it is not shown. Freqtrade reads digits in an environment
            # variable as a number.
            text = isinstance(value, str | int) and not isinstance(value, bool)
            if key not in ("key", "url") or not text:
                raise _wrong(f"sources.{name}", key, '"key" and "url", both texts')
    return section


def _prefer(value: Any) -> tuple[str, ...]:
    allowed = f"a list of sources, such as {', '.join(dict.fromkeys(_SOURCES))}"
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise _wrong("prefer", value, allowed)
    if len(set(map(str, value))) != len(value):
        raise _wrong("prefer", value, f"{allowed}, each once")
    for name in value:
        if not isinstance(name, str) or not name:
            raise _wrong("prefer", name, allowed)
        near = difflib.get_close_matches(name, _SOURCES, n=1, cutoff=0.75)
        if name not in _SOURCES and near:  # files of one's own may bear any name
            raise _wrong("prefer", name, f'{allowed}; did you mean "{near[0]}"?')
    return tuple(value)


def _merged(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """Merge two objects in depth, as ccxt merges its configuration; the other one wins."""
    both = dict(one)
    for name, value in other.items():
        inside = isinstance(value, Mapping) and isinstance(both.get(name), Mapping)
        both[name] = _merged(both[name], value) if inside else value
    return both


def default_db_url(config: Mapping[str, Any]) -> str:
    """Return the URL of the SQLite file in the user data folder."""
    return f"sqlite:///{Path(config.get('user_data_dir', 'user_data')) / 'liquidations.sqlite'}"


def read_exchanges(value: Any, config: Mapping[str, Any]) -> tuple[str, ...]:
    """Check a choice of exchanges: None is the bot's own, ``"all"`` every one, or a list."""
    if value is None:
        own = config.get("exchange", {}).get("name")
        if own not in EXCHANGES:
            what = f"the exchange {own!r} has no known feed" if own else "no exchange is named"
            raise LiquidationsError(
                f"{what}; choose from "
                f'{", ".join(EXCHANGES)} with "exchanges" in the config section "{SECTION}" '
                "or with --exchange"
            )
        return (own,)
    if value == "all":
        return EXCHANGES
    names = [value] if isinstance(value, str) else value
    if not isinstance(names, Sequence) or not names or len(set(map(str, names))) != len(names):
        raise _wrong("exchanges", value, f'"all" or a list of {", ".join(EXCHANGES)}')
    for name in names:
        if name not in EXCHANGES:
            near = difflib.get_close_matches(str(name), EXCHANGES, n=1)
            hint = f'; did you mean "{near[0]}"?' if near else "."
            raise LiquidationsError(
                f'unknown exchange {name!r}{hint} Known: {", ".join(EXCHANGES)}, or "all"'
            )
    return tuple(names)


def read_min_coverage(value: Any) -> float:
    """Check a share of a candle."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise _wrong("min_coverage", value, "a number from 0 to 1")
    return float(value)


def _min_exchanges(value: Any, chosen: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= chosen:
        raise _wrong("min_exchanges", value, f"a whole number from 1 to {chosen} (those chosen)")
    return value


def _keep_events(value: Any) -> float | None:
    return None if value is None else _number("keep_events", value, "days", 1)


def _number(key: str, value: Any, unit: str, least: float, most: float = 100_000) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
        raise _wrong(key, value, f"a number of {unit} from {least:g} to {most:g}")
    return float(value)


def _wrong(key: str | None, value: Any, allowed: str) -> LiquidationsError:
    where = f'"{SECTION}"' + (f', "{key}"' if key else "")
    return LiquidationsError(f"config section {where}: got {value!r}, must be {allowed}")
