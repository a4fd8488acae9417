"""OKX liquidation orders as the REST endpoint answers them: single events, about the last 24 h.

A file is one page ``{"code", "msg", "data": [{"instId", "uly", "details": [...]}]}`` or a list of
pages, newest first, overlapping or not. No key. Complete as far as OKX reports at all (a lower
bound, see ``exchanges/okx.py``). Contract sizes come from the exchange's instruments.

Coverage: from the oldest to the newest order of the pages of one file. The endpoint does not say
that a page's time range was empty, so nothing outside is known.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import numpy as np

from liquidations.archives import Options, Part, parse_json
from liquidations.errors import LiquidationsError, OtherAnswer
from liquidations.event import Events
from liquidations.exchanges.okx import orders


_SHAPE = (
    'expected OKX\'s answer {"code": "0", "data": [{"instId": …, "details": […]}]} '
    "or a list of such pages"
)


def read(data: bytes, options: Options) -> list[Part]:
    """Read one page or a list of pages into one part per contract.

    Each page is read on its own, so that a row that two overlapping pages share gets the same key
    in both and is stored once, while two equal orders within one page stay two. Two equal orders
    on either side of a page's edge can't be told from an overlap and count once.

    :raises LiquidationsError: on another shape, an error answer, or an unknown contract.
    """
    answer = parse_json(data)
    pages = answer if isinstance(answer, list) else [answer]
    contracts = options.contracts()
    events: dict[str, list[Events]] = defaultdict(list)
    for page in pages:
        if not isinstance(page, dict) or not isinstance(page.get("data"), list):
            raise LiquidationsError(_SHAPE)
        if page.get("code") != "0":
            raise LiquidationsError(
                f"OKX answered with the error {page.get('code')!r}: {page.get('msg')!r}; "
                "fetch this page again"
            )
        details: dict[str, list[Any]] = defaultdict(list)
        for group in page["data"]:
            if not isinstance(group, dict) or not isinstance(group.get("details"), list):
                raise OtherAnswer(f"this is another answer of OKX; {_SHAPE}")
            details[str(group.get("instId"))] += group["details"]
        for name, rows in details.items():
            if name not in contracts:
                raise LiquidationsError(
                    f"the size of a contract of {name!r} is unknown; known: "
                    f"{', '.join(sorted(contracts)) or 'none'}. Give it with --markets FILE, or "
                    "leave --markets away to ask the exchange"
                )
            events[name].append(orders(rows, contracts[name]))
    parts = []
    for name, found in events.items():
        whole = Events.concat(found)
        if len(whole):
            span = np.array([[whole.timestamp.min(), whole.timestamp.max() + 1]])
            parts.append(Part("okx", contracts[name].pair, "okx", whole, span))
    return parts
