"""The command that copies the sample strategies, and that they travel with the package."""

import errno
import json
import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from conftest import REPOSITORY
from hypothesis import given
from hypothesis import strategies as st
from test_package import run as run_words
from test_package import wheel  # noqa: F401  (a fixture)

from liquidations.cli import run
from liquidations.commands.create_strategies import KEPT, NEW, UNCHANGED, copy_new


SAMPLES = {
    path.name: path.read_bytes()
    for path in sorted((REPOSITORY / "strategies").glob("*.py"))
    if path.name != "__init__.py"
}


@pytest.fixture
def userdir(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "user_data").mkdir()
    return tmp_path / "user_data"


def create(capsys, *words: str, code: int = 0) -> tuple[dict[str, str], str]:
    """Run the command, and return what it says of each file, and what it says to people."""
    assert run(["create-strategies", "--userdir", "user_data", *words]) == code
    printed = capsys.readouterr()
    cells = [line.split("│") for line in printed.out.splitlines() if "│" in line]
    return {row[1].strip(): row[2].strip() for row in cells}, printed.err


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_there_are_samples():
    assert {"LiquidationReversal.py", "LiquidationFreqAI.py"} <= set(SAMPLES)


def test_new_files_are_the_samples_byte_for_byte(userdir, capsys):
    said, err = create(capsys)
    assert said == dict.fromkeys(SAMPLES, "new")
    assert contents(userdir / "strategies") == SAMPLES
    assert "Folder: " in err
    assert "strategies" in err
    # They are as readable as any file that the user makes.
    (userdir / "mine").write_text("")
    modes = {path.stat().st_mode for path in (userdir / "strategies").iterdir()}
    assert modes == {(userdir / "mine").stat().st_mode}


def test_again_changes_nothing(userdir, capsys):
    create(capsys)
    before = [path.stat() for path in sorted((userdir / "strategies").iterdir())]
    said, err = create(capsys)
    assert said == dict.fromkeys(SAMPLES, "unchanged")
    assert "Kept" not in err
    after = [path.stat() for path in sorted((userdir / "strategies").iterdir())]
    assert [(one.st_ino, one.st_mtime_ns) for one in after] == [
        (one.st_ino, one.st_mtime_ns) for one in before
    ]


def test_a_changed_file_is_kept_and_named(userdir, capsys):
    (userdir / "strategies").mkdir()
    mine = userdir / "strategies" / "LiquidationReversal.py"
    mine.write_text("# mine\n")
    (userdir / "strategies" / "Other.py").write_text("# other\n")
    said, err = create(capsys)
    assert said == dict.fromkeys(SAMPLES, "new") | {"LiquidationReversal.py": "kept"}
    own = {"LiquidationReversal.py": b"# mine\n", "Other.py": b"# other\n"}
    assert contents(userdir / "strategies") == SAMPLES | own
    (line,) = [line for line in err.splitlines() if line.startswith("Kept")]
    assert str(Path("user_data/strategies/LiquidationReversal.py")) in line
    assert "run this again" in line
    # Moved away, as the line says, it makes room for the sample.
    mine.rename(userdir / "LiquidationReversal.py")
    said, _ = create(capsys)
    assert said == dict.fromkeys(SAMPLES, "unchanged") | {"LiquidationReversal.py": "new"}


def test_another_folder_by_flag_but_not_by_configuration(userdir, capsys):
    """So does Freqtrade's new-strategy."""
    config = json.loads((REPOSITORY / "config.json").read_text()) | {"strategy_path": "elsewhere"}
    (userdir.parent / "config.json").write_text(json.dumps(config))
    create(capsys, "-c", "config.json")
    assert contents(userdir / "strategies") == SAMPLES
    assert not (userdir.parent / "elsewhere").exists()
    (userdir / "strategies" / "LiquidationReversal.py").unlink()
    create(capsys, "--strategy-path", "made/here")
    assert contents(userdir.parent / "made" / "here") == SAMPLES
    assert not (userdir / "strategies" / "LiquidationReversal.py").exists()


def test_a_user_folder_that_is_not_there_is_not_made(userdir, capsys):
    userdir.rmdir()
    _, err = create(capsys, code=2)
    assert "ERROR: " in err
    assert "freqtrade create-userdir" in err
    assert not userdir.exists()


def test_a_folder_that_is_a_file_is_one_line(userdir, capsys):
    (userdir.parent / "file").write_text("")
    _, err = create(capsys, "--strategy-path", "file", code=2)
    (line,) = [line for line in err.splitlines() if line.startswith("ERROR")]
    assert "file can't be written: File exists" in line
    assert "--strategy-path" in line


def test_a_full_disk_leaves_nothing_half(userdir, capsys, monkeypatch):
    write = Path.write_bytes

    def half(path: Path, data: bytes) -> int:
        write(path, data[: len(data) // 2])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    monkeypatch.setattr(Path, "write_bytes", half)
    _, err = create(capsys, code=2)
    assert "No space left on device" in err
    assert contents(userdir / "strategies") == {}


def test_a_kill_leaves_no_half_strategy_and_the_next_run_completes(userdir, capsys):
    code = (
        "import os; os.link = lambda *names: os._exit(9); from liquidations.cli import run; "
        "run(['create-strategies', '--userdir', 'user_data'])"
    )
    done = subprocess.run([sys.executable, "-c", code], timeout=60, check=False)
    assert done.returncode == 9
    # What Freqtrade would read as a strategy ends in .py.
    assert not list((userdir / "strategies").glob("*.py"))
    said, _ = create(capsys)
    assert said == dict.fromkeys(SAMPLES, "new")


@given(first=st.binary(max_size=20), second=st.binary(max_size=20))
def test_what_is_there_first_stays(tmp_path_factory, first, second):
    target = tmp_path_factory.mktemp("copy") / "Strategy.py"
    assert copy_new(first, target) == NEW
    assert copy_new(second, target) == (UNCHANGED if first == second else KEPT)
    assert contents(target.parent) == {target.name: first}


def test_a_process_that_was_faster_is_not_overwritten(tmp_path, monkeypatch):
    monkeypatch.setattr(os.path, "lexists", lambda path: False)
    for name, found, expected in (("A.py", b"other", KEPT), ("B.py", b"sample", UNCHANGED)):
        (tmp_path / name).write_bytes(found)
        assert copy_new(b"sample", tmp_path / name) == expected
        assert (tmp_path / name).read_bytes() == found
    assert set(contents(tmp_path)) == {"A.py", "B.py"}


def test_what_is_no_file_is_kept(tmp_path):
    (tmp_path / "link.py").symlink_to(tmp_path / "nowhere")
    (tmp_path / "folder.py").mkdir()
    for name in ("link.py", "folder.py"):
        assert copy_new(b"sample", tmp_path / name) == KEPT
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder.py", "link.py"]
    assert not (tmp_path / "nowhere").exists()


def test_freqtrade_finds_each_copy(userdir, capsys):
    create(capsys)
    printed = run_words(
        sys.executable, "-m", "freqtrade", "list-strategies", "--userdir", userdir, "--no-color",
        cwd=userdir.parent,
    )  # fmt: skip
    rows = {line.split("│")[2].strip(): line for line in printed.splitlines() if "│" in line}
    assert set(rows) == set(SAMPLES)
    assert all("OK" in line for line in rows.values()), printed


def test_the_wheel_and_the_source_archive_hold_the_samples(wheel):  # noqa: F811
    with zipfile.ZipFile(wheel) as archive:
        held = {
            Path(name).name: archive.read(name)
            for name in archive.namelist()
            if name.startswith("liquidations/samples/")
        }
    held.pop("__init__.py")
    assert held == SAMPLES
    run_words(
        sys.executable, "-m", "build", "--sdist", "--outdir", wheel.parent,
        cwd=wheel.parent / "source",
    )  # fmt: skip
    (source,) = wheel.parent.glob("*.tar.gz")
    with tarfile.open(source) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {f"strategies/{name}" for name in SAMPLES} <= names


def test_installed_from_the_wheel_the_command_copies_its_own(wheel, userdir):  # noqa: F811
    """Into an empty folder, with the packages of this environment beside it."""
    site = userdir.parent / "site"
    run_words(
        sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", site, wheel,
        cwd=userdir.parent,
    )  # fmt: skip
    code = (
        f"import sys; sys.path.insert(0, {str(site)!r}); import liquidations; "
        "from liquidations.cli import run; print('from', liquidations.__file__); "
        "sys.exit(run(['create-strategies', '--userdir', 'user_data']))"
    )
    printed = run_words(sys.executable, "-c", code, cwd=userdir.parent)
    assert f"from {site}" in printed
    assert contents(userdir / "strategies") == SAMPLES
