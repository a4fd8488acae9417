"""Ask for known vulnerabilities of what is installed: ``make audit``.

Exits with 1 if a package that setup.cfg names is concerned. Others are shown only: which versions
of them are installed is Freqtrade's choice. Where the advisories can't be reached it says so, and
exits with 0.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import sysconfig
import urllib.request
import venv
from importlib.metadata import requires
from pathlib import Path
from typing import Any


ADVISORIES = "https://pypi.org/pypi/pip/23.2/json"
OWN = "freqtrade-liquidations"


def reachable() -> bool:
    """Tell whether PyPI answers with advisories; a mirror of packages does not."""
    try:
        with urllib.request.urlopen(ADVISORIES, timeout=10) as answer:
            return "vulnerabilities" in json.load(answer)
    except (OSError, ValueError):
        return False


def plain(name: str) -> str:
    """Write a package's name as all write it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def direct() -> set[str]:
    """Return the packages that setup.cfg names."""
    names = (re.match(r"[\w.-]+", line) for line in requires(OWN) or ())
    return {plain(found[0]) for found in names if found}


def judge(report: dict[str, Any], chosen: set[str]) -> tuple[int, list[str]]:
    """Return the exit code and the lines that say what was found.

    :param report: pip-audit's, as JSON
    :param chosen: the packages whose vulnerabilities stop us
    """
    known = [one for one in report["dependencies"] if "vulns" in one]
    if not known:
        return 0, ["nothing was audited: no package is known there"]
    code, lines = 0, []
    for one in known:
        ours = plain(one["name"]) in chosen
        for found in one["vulns"]:
            fixed = ", ".join(found["fix_versions"]) or "no version"
            whose = "ours" if ours else "of another package"
            lines.append(
                f"{one['name']} {one['version']}: {found['id']}, fixed in {fixed} ({whose})"
            )
            code |= ours
    return int(code), lines or [f"{len(known)} packages, none known to be vulnerable"]


def main() -> int:
    """Audit the environment that this runs in, with a pip-audit of its own."""
    if not reachable():
        print("audit: PyPI's advisories can't be reached from here, so nothing was audited")
        return 0
    folder = Path(sys.prefix, "audit")
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    install = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*install, "pip-audit>=2.9"], check=True)
    command = [python, "-m", "pip_audit", "--path", sysconfig.get_path("purelib")]
    command += ["--format", "json", "--progress-spinner", "off"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if not done.stdout:
        print(f"audit: pip-audit ended with {done.returncode}, so nothing was audited")
        return 0
    code, lines = judge(json.loads(done.stdout), direct())
    print("\n".join(f"audit: {line}" for line in lines))
    return code


if __name__ == "__main__":
    sys.exit(main())
