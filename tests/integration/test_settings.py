"""Settings come from flags, environment and file, in that order; what cannot work refuses to start in one sentence."""

from __future__ import annotations

import os
import socket
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from jobstate_server import cli, config
from jobstate_server.config import Settings
from jobstate_server.domain.clock import DAY, SECOND

from ..support.server import serving


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for variable in [name for name in os.environ if name.startswith("JOBSTATE_")]:
        monkeypatch.delenv(variable)
    monkeypatch.chdir(tmp_path)


def refusal(capfd: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The sentence with which ``serve`` refuses to start."""
    code = cli.main(["serve", *arguments])
    out, err = capfd.readouterr()
    assert code == 1
    assert out == ""
    assert "Traceback" not in err
    (line,) = err.splitlines()
    assert line.startswith("jobstate-server: ")
    return line.removeprefix("jobstate-server: ")


BAD_FILES = {
    "an unknown key": ('lisen = "127.0.0.1:1"', ["lisen", "no such setting"]),
    "an unknown key of a job type": ("[job_types.x]\nretries = 3", ["job_types.x.retries", "no such setting"]),
    "an unknown schedule": ('[schedules]\nclean_up = "* * * * *"', ["schedules.clean_up", "no such setting"]),
    "max_delay below base_delay": (
        '[job_types.clean_transcript]\nbase_delay = "40s"',
        ["clean_transcript", "max_delay must not be below base_delay"],
    ),
    "a negative timeout": ('[job_types.x]\ntimeout = "-1s"', ["job_types.x.timeout", "must not be negative"]),
    "a timeout of zero": ("[job_types.x]\ntimeout = 0", ["'x'", "timeout must be above 0"]),
    "too many retries": ("[job_types.x]\nmax_retries = 1001", ["'x'", "max_retries must be 0 to 1000"]),
    "too much jitter": ("[job_types.x]\njitter = 1.5", ["'x'", "jitter must be 0 to 1"]),
    "jitter that is no number": ("[job_types.x]\njitter = nan", ["jitter"]),
    "an odd job type": ('[job_types."a b"]\nmax_retries = 1', ["'a b'", "not a name for a job type"]),
    "a span of no unit": ('restart_grace = "30 parsecs"', ["restart_grace", "'30 parsecs' is not a span"]),
    "a span that is true": ("restart_grace = true", ["restart_grace", "must be a span"]),
    "a schedule that is none": ('[schedules]\ncleanup = "at two"', ["schedules.cleanup", "not a crontab expression"]),
    "a retention too short": ('job_retention = "59min"', ["job_retention", "1h or more"]),
    "an event retention too short": ('event_retention = "1s"', ["event_retention", "1min or more"]),
    "too few bytes": ("event_retention_bytes = 1000", ["event_retention_bytes", "1048576"]),
    "a bad listen": ('listen = "localhost"', ["listen", "'localhost' is not HOST:PORT"]),
    "a port too high": ('listen = "127.0.0.1:65536"', ["listen", "is not HOST:PORT"]),
    "everybody's address": ('listen = "0.0.0.0:50051"', ["listen", "other machines", "insecure"]),
    "another's store": ('store = "mysql:///jobs"', ["store", "'mysql:///jobs'", "sqlite:///jobs.db"]),
    "what is not TOML": ("listen = ", ["is not TOML"]),
}


@pytest.mark.parametrize(("content", "phrases"), BAD_FILES.values(), ids=BAD_FILES)
def test_a_file_that_cannot_work_is_refused_in_a_sentence_that_names_file_and_setting(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], content: str, phrases: list[str]
) -> None:
    file = tmp_path / "jobstate.toml"
    file.write_text(content)

    sentence = refusal(capfd, "--config", str(file))

    assert str(file) in sentence
    assert [phrase for phrase in phrases if phrase not in sentence] == []
    assert list(tmp_path.iterdir()) == [file]


def test_two_problems_are_told_at_once(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "jobstate.toml"
    file.write_text('lisen = "x"\nrestart_grace = "soon"')

    sentence = refusal(capfd, "--config", str(file))

    assert "lisen" in sentence
    assert "restart_grace" in sentence


def test_a_file_that_is_not_there_is_named(capfd: pytest.CaptureFixture[str]) -> None:
    assert refusal(capfd, "--config", "nowhere.toml") == "cannot read nowhere.toml: No such file or directory"


def test_a_file_that_is_not_text_is_named(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "jobstate.toml"
    file.write_bytes(b"\xff\xfe\x00")

    assert str(file) in refusal(capfd, "--config", str(file))


BAD_VARIABLES = {
    "unknown": ("JOBSTATE_LISEN", "127.0.0.1:1", "JOBSTATE_LISEN, but there is no such setting"),
    "unknown and nested": ("JOBSTATE_SCHEDULE__CLEANUP", "", "JOBSTATE_SCHEDULE__CLEANUP"),
    "a bad value": ("JOBSTATE_RESTART_GRACE", "-3s", "restart_grace: must not be negative"),
    "a bad listen": ("JOBSTATE_LISTEN", "here", "'here' is not HOST:PORT"),
    "a negative timeout": ("JOBSTATE_JOB_TYPES__X__TIMEOUT", "-1s", "must not be negative"),
}


@pytest.mark.parametrize(("variable", "value", "phrase"), BAD_VARIABLES.values(), ids=BAD_VARIABLES)
def test_a_variable_that_cannot_work_is_refused(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], variable: str, value: str, phrase: str
) -> None:
    monkeypatch.setenv(variable, value)

    assert phrase in refusal(capfd)


def test_an_address_that_others_reach_needs_insecure(capfd: pytest.CaptureFixture[str]) -> None:
    sentence = refusal(capfd, "--listen", "0.0.0.0:0")

    assert "0.0.0.0:0 can be reached from other machines" in sentence
    assert config.load(None, {"listen": "0.0.0.0:0", "insecure": True}).address() == ("0.0.0.0", 0)


@pytest.mark.parametrize("listen", ["127.0.0.1:0", "127.9.9.9:1", "localhost:2", "[::1]:3"])
def test_loopback_needs_no_leave(listen: str) -> None:
    assert config.load(None, {"listen": listen}).listen == listen


# Precedence.


def test_flags_win_over_the_environment_and_the_environment_over_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "jobstate.toml"
    file.write_text(
        'listen = "127.0.0.1:1"\nlog_level = "error"\nrestart_grace = "1s"\n'
        '[job_types.clean_transcript]\nmax_retries = 7\ntimeout = "none"'
    )
    monkeypatch.setenv("JOBSTATE_LISTEN", "127.0.0.1:2")
    monkeypatch.setenv("JOBSTATE_LOG_LEVEL", "debug")
    monkeypatch.setenv("JOBSTATE_JOB_TYPES__EXTRA__MAX_RETRIES", "5")

    settings = config.load(file, {"listen": "127.0.0.1:3"})

    assert (settings.listen, settings.log_level, settings.restart_grace) == ("127.0.0.1:3", "debug", SECOND)
    policy = settings.policies().policy("clean_transcript")
    assert (policy.max_retries, policy.timeout, policy.base_delay) == (7, None, SECOND)
    assert settings.policies().policy("extra").max_retries == 5


def test_the_environment_can_name_the_file_and_a_flag_can_name_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("one", "other"):
        (tmp_path / name).write_text(f'store = "sqlite:///{name}.db"')
    monkeypatch.setenv("JOBSTATE_CONFIG", str(tmp_path / "one"))

    assert config.load(None, {}).store == "sqlite:///one.db"
    assert config.load(tmp_path / "other", {}).store == "sqlite:///other.db"


def test_unset_settings_have_their_documented_defaults() -> None:
    settings = config.load(None, {})

    assert settings == Settings()
    assert (settings.listen, settings.store) == ("127.0.0.1:50051", "sqlite:///jobs.db")
    assert (settings.shutdown_grace, settings.restart_grace) == (10 * SECOND, 30 * SECOND)
    assert (settings.job_retention, settings.event_retention) == (30 * DAY, 7 * DAY)
    assert (settings.event_retention_bytes, settings.max_job_types) == (2 * 1024**3, 1_000)


# The store.


def store(path: Path) -> list[str]:
    """Flags for a store at a path, on any port."""
    return ["--store", f"sqlite:///{path}", "--listen", "127.0.0.1:0"]


def test_a_database_of_a_newer_schema_is_refused_and_left_alone(path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["migrate", "--store", f"sqlite:///{path}"]) == 0
    capfd.readouterr()
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE schema SET version = 99, usable_from = 98")
    before = path.read_bytes()

    sentence = refusal(capfd, *store(path))

    assert "schema 99" in sentence
    assert "upgrade jobstate-server" in sentence
    assert path.read_bytes() == before


def test_migrate_brings_a_store_up_to_date_and_says_so(path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for _ in range(2):
        assert cli.main(["migrate", "--store", f"sqlite:///{path}"]) == 0
        assert capfd.readouterr() == (f"jobstate: sqlite:///{path} is up to date\n", "")


async def test_a_second_server_on_the_same_file_is_refused(path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    async with serving(path):
        code = cli.main(["migrate", "--store", f"sqlite:///{path}"])

    assert code == 1
    assert f"another jobstate-server is using {path}" in capfd.readouterr().err


def test_a_port_that_is_taken_is_named(path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]

        sentence = refusal(capfd, *store(path), "--listen", f"127.0.0.1:{port}")

    assert sentence == f"cannot listen on 127.0.0.1:{port}: Address already in use; choose another with --listen"


def test_an_address_that_is_not_of_this_machine_is_named(path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    sentence = refusal(capfd, *store(path), "--listen", "192.0.2.1:0", "--insecure")

    assert sentence.startswith("cannot listen on 192.0.2.1:0: Cannot assign requested address")


def test_a_directory_that_is_not_there_is_named(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    sentence = refusal(capfd, *store(tmp_path / "nowhere" / "jobs.db"))

    assert f"there is no directory {tmp_path}/nowhere" in sentence
    assert list(tmp_path.iterdir()) == []


def test_a_path_below_a_file_is_no_directory(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()

    assert f"there is no directory {tmp_path}/file" in refusal(capfd, *store(tmp_path / "file" / "jobs.db"))


@contextmanager
def read_only_directory(tmp_path: Path) -> Iterator[Path]:
    """A directory in which this user may make no file. The superuser may everywhere but in the kernel's own."""
    if os.geteuid() == 0:
        yield Path("/sys/kernel")
        return
    directory = tmp_path / "read-only"
    directory.mkdir(mode=0o500)
    yield directory


def test_a_read_only_directory_is_named(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with read_only_directory(tmp_path) as directory:
        sentence = refusal(capfd, *store(directory / "jobs.db"))

    assert f"cannot use {directory}/jobs.db as a store: the directory must be writable" in sentence


@pytest.mark.parametrize("content", [b"no database, but long enough" * 100, b"SQLite format 3\0" * 99])
def test_a_file_that_is_no_database_is_refused_and_left_alone(
    path: Path, capfd: pytest.CaptureFixture[str], content: bytes
) -> None:
    path.write_bytes(content)

    sentence = refusal(capfd, *store(path))

    assert sentence.startswith(f"cannot use {path} as a store: ")
    assert path.read_bytes() == content


def test_a_directory_is_no_store(path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path.mkdir()

    assert refusal(capfd, *store(path)).startswith(f"cannot use {path} as a store: ")
