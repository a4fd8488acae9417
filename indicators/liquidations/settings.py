"""The ``liquidations`` section of Freqtrade's config, checked. Floor 1.

Freqtrade accepts any section and checks none of ours, so a typo would pass silently: here it does
not.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from liquidations.errors import LiquidationsError
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
    FINGERPRINT: "set by the program",
}


@dataclass(frozen=True, slots=True)
class Settings:
    """Hold the checked settings; ``exchanges`` is never empty."""

    db_url: str
    exchanges: tuple[str, ...]
    inverse: bool = False
    min_coverage: float = 0.9
    min_exchanges: int = 1


def read_settings(config: Mapping[str, Any]) -> Settings:
    """Read and check the section of a Freqtrade configuration.

    :raises LiquidationsError: on an unknown key or exchange, a wrong type, or a value out of range.
    """
    section = config.get(SECTION, {})
    if not isinstance(section, Mapping):
        raise _wrong(None, section, 'an object such as {"min_coverage": 0.9}')
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
        raise _wrong("db_url", db_url, "a database URL such as sqlite:///liquidations.sqlite")
    inverse = section.get("inverse", False)
    if not isinstance(inverse, bool):
        raise _wrong("inverse", inverse, "true or false")
    exchanges = read_exchanges(section.get("exchanges"), config)
    return Settings(
        db_url,
        exchanges,
        inverse,
        read_min_coverage(section.get("min_coverage", 0.9)),
        _min_exchanges(section.get("min_exchanges", 1), len(exchanges)),
    )


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


def _wrong(key: str | None, value: Any, allowed: str) -> LiquidationsError:
    where = f'"{SECTION}"' + (f', "{key}"' if key else "")
    return LiquidationsError(f"config section {where}: got {value!r}, must be {allowed}")
