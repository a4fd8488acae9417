"""Write the table of sources into the documents, from what their modules say of themselves.

    python docs/sources.py            # rewrite the tables
    python docs/sources.py --check    # exit with 1 if one is out of date

A table stands between the lines ``<!-- sources -->`` and ``<!-- /sources -->``.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from liquidations.archives import ARCHIVES, About, archive


FOLDER = Path(__file__).parents[1]
DOCUMENTS = (FOLDER / "README.md", FOLDER / "docs" / "history.md")
BLOCK = re.compile(r"(<!-- sources -->\n).*?(<!-- /sources -->)", re.DOTALL)


def table() -> str:
    """Return the table as Markdown, a row for each source."""
    lines = [
        "| source | what | exchanges | how far back | complete? | key |",
        "|---|---|---|---|---|---|",
    ]
    for name in ARCHIVES:
        about = archive(name).ABOUT
        cells = (about.gives, ", ".join(about.exchanges), about.depth, about.complete, key(about))
        lines.append(f"| `{name}` | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def key(about: About) -> str:
    """Say which key a source needs, or that it is files only."""
    if not about.url:
        return "files only"
    if not about.key:
        return "none"
    less = "; less without" if about.key_optional else ""
    return f"`{about.key}`: {about.key_from}{less}"


def main() -> int:
    """Rewrite the documents, or tell whether they are up to date."""
    check, stale = "--check" in sys.argv, []
    for document in DOCUMENTS:
        text = document.read_text()
        if not BLOCK.search(text):
            raise SystemExit(f"{document.name} has no lines <!-- sources --> … <!-- /sources -->")
        new = BLOCK.sub(lambda found: found[1] + table() + found[2], text)
        if new != text:
            stale.append(document.name)
            if not check:
                document.write_text(new)
    print(f"{'out of date' if check else 'rewritten'}: {', '.join(stale) or 'none'}")
    return 1 if stale and check else 0


if __name__ == "__main__":
    sys.exit(main())
