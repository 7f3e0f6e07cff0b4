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
from jobstate_server.domain.durations import DAY, SECOND

from ..support.server import serving


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for variable in [name for name in os.environ if name.upper().startswith("JOBSTATE_")]:
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


RECURRING = '[[recurring]]\nname = "nightly"\nschedule = "0 2 * * *"\njob_type = "import"\n'
DEEP = "{a = " * 100 + "1" + "}" * 100

BAD_RECURRING = {
    "no name": ('[[recurring]]\nschedule = "0 2 * * *"\njob_type = "import"', ["recurring[0].name", "required"]),
    "no schedule": ('[[recurring]]\nname = "a"\njob_type = "import"', ["recurring[0].schedule", "required"]),
    "no type": ('[[recurring]]\nname = "a"\nschedule = "* * * * *"', ["recurring[0].job_type", "required"]),
    "the name of another": (RECURRING * 3, ["recurring[2].name: 'nightly' is also that of recurring[0]"]),
    "an odd name": (
        RECURRING.replace('"nightly"', '"every night"'),
        ["recurring[0].name", "'every night' is not a name"],
    ),
    "a name that is no text": (RECURRING.replace('"nightly"', "3"), ["recurring[0].name", "must be a valid string"]),
    "a schedule that is none": (RECURRING.replace("0 2 * * *", "at two"), ["recurring[0].schedule", "2 fields"]),
    "a schedule that never comes": (RECURRING.replace("0 2 * *", "0 2 30 2"), ["recurring[0].schedule", "never comes"]),
    "a schedule without end": (
        RECURRING.replace("0 2", "0" + ",0" * 300 + " 2"),
        ["recurring[0].schedule: has 609 bytes, at most 512"],
    ),
    "an unknown zone": (
        RECURRING + RECURRING.replace("nightly", "b") + 'time_zone = "Europe/Bern"',
        ["recurring[1].time_zone: 'Europe/Bern' is not a time zone that this machine knows", "Europe/Berlin"],
    ),
    "a zone in capitals": (RECURRING + 'time_zone = "EUROPE/BERLIN"', ["recurring[0].time_zone", "IANA name"]),
    "a zone that is a path": (RECURRING + 'time_zone = "../zoneinfo/UTC"', ["recurring[0].time_zone", "IANA name"]),
    "an unknown type": (
        "strict_job_types = true\n" + RECURRING,
        ["recurring[0].job_type: there is no job type 'import', and strict_job_types is on"],
    ),
    "a type beyond all": ("max_job_types = 0\n" + RECURRING, ["recurring[0].job_type", "max_job_types is 0"]),
    "an odd type": (RECURRING.replace("import", "a b"), ["recurring[0].job_type", "'a b' is not a name"]),
    "too large metadata": (
        RECURRING + f'metadata = {{a = "{"x" * 70_000}"}}',
        ["recurring[0].metadata", "bytes encoded, at most 65536 are stored"],
    ),
    "a date": (
        RECURRING + "metadata = {of = [{day = 2026-01-01}]}",
        ["recurring[0].metadata: 'of[0].day'", "in quotes"],
    ),
    "an endless number": (RECURRING + "metadata = {a = inf}", ["recurring[0].metadata: 'a' must be a finite number"]),
    "a number beyond JSON": (
        RECURRING + "metadata = {a = 9007199254740992}",
        ["recurring[0].metadata: 'a'", "or a text"],
    ),
    "deep metadata": (RECURRING + f"metadata = {DEEP}", ["recurring[0].metadata", "is nested deeper than"]),
    "metadata that are no table": (RECURRING + 'metadata = "a"', ["recurring[0].metadata", "must be a table"]),
    "a long source": (RECURRING + f'source_id = "{"é" * 129}"', ["recurring[0].source_id", "258 bytes, at most 256"]),
    "a source with NUL": (RECURRING + 'source_id = "a\\u0000"', ["recurring[0].source_id", "must not contain NUL"]),
    "a long lane": (RECURRING + f'lane = "{"x" * 129}"', ["recurring[0].lane", "129 bytes, at most 128"]),
    "an odd label": (RECURRING + 'labels = {"a b" = "c"}', ["recurring[0].labels: the key 'a b' is not"]),
    "a long label": (RECURRING + f'labels = {{a = "{"x" * 65}"}}', ["recurring[0].labels: 'a' must have at most 64"]),
    "a label that is no text": (RECURRING + "labels = {a = 1}", ["recurring[0].labels.a", "must be a valid string"]),
    "too many labels": (
        RECURRING + "labels = {" + ", ".join(f'a{number} = "b"' for number in range(9)) + "}",
        ["recurring[0].labels: has 9 labels, at most 8"],
    ),
    "an odd priority": (RECURRING + 'priority = "3"', ["recurring[0].priority", "must be 'background' or"]),
    "an odd word for missed": (RECURRING + 'missed = "all"', ["recurring[0].missed", "must be 'none' or 'one'"]),
    "an unknown setting": (RECURRING + 'cron = "* * * * *"', ["recurring[0].cron", "no such setting"]),
    "one pair of brackets": (RECURRING.replace("[[", "[").replace("]]", "]"), ["recurring", "must be"]),
    "a wrong entry and a wrong setting": (
        'listen = "localhost"\n' + RECURRING + 'time_zone = "X/Y"',
        ["recurring[0].time_zone", "listen: 'localhost' is not HOST:PORT"],
    ),
}

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
    "caches too small": ("cache_bytes = 1000", ["cache_bytes", "16777216"]),
    "too few bytes": ("event_retention_bytes = 1000", ["event_retention_bytes", "1048576"]),
    "a bad listen": ('listen = "localhost"', ["listen", "'localhost' is not HOST:PORT"]),
    "a port too high": ('listen = "127.0.0.1:65536"', ["listen", "is not HOST:PORT"]),
    "everybody's address": ('listen = "0.0.0.0:50051"', ["listen", "other machines", "insecure"]),
    "too long a grace": ('restart_grace = "25h"', ["restart_grace", "at most 1d"]),
    "a stop that never ends": ('shutdown_grace = "2h"', ["shutdown_grace", "at most 1h"]),
    "a span beyond reason": ("job_retention = 1e18", ["job_retention", "at most 3650d"]),
    "a span beyond floats": (f"restart_grace = 1{'0' * 300}", ["restart_grace", "at most"]),
    "a text beyond floats": (f'restart_grace = "1{"0" * 400}d"', ["restart_grace", "at most"]),
    "a span without end": ("event_retention = inf", ["event_retention", "at most 3650d"]),
    "a span that is no number": ("event_retention = nan", ["event_retention", "at most 3650d"]),
    "a span before all time": ("restart_grace = -inf", ["restart_grace", "must not be negative"]),
    "digits of another script": ('restart_grace = "٣s"', ["restart_grace", "is not a span"]),
    "a list for a span": ("restart_grace = [1]", ["restart_grace", "must be a span"]),
    "too many bytes": ("event_retention_bytes = 9007199254740993", ["event_retention_bytes", "9007199254740992"]),
    "true for a number": ("max_job_types = true", ["max_job_types", "must be a number"]),
    "true for retries": ("[job_types.x]\nmax_retries = true", ["job_types.x.max_retries", "must be a number"]),
    "too many types": ("max_job_types = 100001", ["max_job_types", "100000"]),
    "a table that is none": ("job_types = 3", ["job_types", "must be"]),
    "a type that is no table": ("[job_types]\nx = 3", ["job_types.x", "must be a table of"]),
    "a host that is none": ('listen = "a b:1"', ["listen", "is not HOST:PORT"]),
    "an address without brackets": ('listen = "::1:50051"', ["listen", "in brackets"]),
    "a port of another script": ('listen = "127.0.0.1:²"', ["listen", "is not HOST:PORT"]),
    "a host with NUL": ('listen = "a\\u0000b:1"', ["listen", "is not HOST:PORT"]),
    "a store in memory": ('store = "sqlite:///:memory:"', ["store", "is not the path of a file"]),
    "a store by URI": ('store = "sqlite:///file:jobs.db?mode=memory"', ["store", "is not the path of a file"]),
    "a store with parameters": ('store = "sqlite:///jobs.db?mode=ro"', ["store", "is not the path of a file"]),
    "a store with NUL": ('store = "sqlite:///jobs\\u0000.db"', ["store", "is not the path of a file"]),
    "a store that is here": ('store = "sqlite:///."', ["store", "is a directory"]),
    "a store that is a directory": ('store = "sqlite:////var/lib/"', ["store", "is a directory"]),
    "a store of two slashes": ('store = "sqlite://jobs.db"', ["store", "'sqlite://jobs.db' is not a store"]),
    "a path for a store": ('store = "/var/lib/jobs.db"', ["store", "'/var/lib/jobs.db' is not a store"]),
    "another's store": ('store = "mysql:///jobs"', ["store", "'mysql:///jobs'", "sqlite:///jobs.db"]),
    "what is not TOML": ("listen = ", ["is not TOML"]),
    **{f"a recurring job with {what}": bad for what, bad in BAD_RECURRING.items()},
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
    "a negative timeout": (
        "JOBSTATE_JOB_TYPES__x__TIMEOUT",
        "-1s",
        "JOBSTATE_JOB_TYPES__x__TIMEOUT in the environment: job_types.x.timeout: must not be negative",
    ),
    "a type with capitals": (
        "JOBSTATE_JOB_TYPES__RenderVideo__MAX_RETRIES",
        "7",
        "write JOBSTATE_JOB_TYPES__rendervideo__MAX_RETRIES for 'rendervideo', and set types with capital letters in a"
        " file",
    ),
    "a type all in capitals": ("JOBSTATE_JOB_TYPES__EXTRA__MAX_RETRIES", "7", "JOBSTATE_JOB_TYPES__extra__MAX_RETRIES"),
    "a type with two underscores": ("JOBSTATE_JOB_TYPES__a__b__MAX_RETRIES", "7", "can only be set in a file"),
    "a type of no name": ("JOBSTATE_JOB_TYPES____MAX_RETRIES", "7", "JOBSTATE_JOB_TYPES__name_of_the_type__TIMEOUT"),
    "an unknown setting of a type": ("JOBSTATE_JOB_TYPES__x__RETRIES", "7", "JOBSTATE_JOB_TYPES__x__RETRIES, but"),
    "all types at once": ("JOBSTATE_JOB_TYPES", '{"x": {"max_retries": 1}}', "JOBSTATE_JOB_TYPES__name_of_the_type"),
    "all schedules at once": ("JOBSTATE_SCHEDULES", "notjson", "set each schedule separately"),
    "an unknown schedule": ("JOBSTATE_SCHEDULES__CLEAN_UP", "0 2 * * *", "JOBSTATE_SCHEDULES__CLEAN_UP, but"),
    "a part of what has none": ("JOBSTATE_LISTEN__X", "127.0.0.1:1", "JOBSTATE_LISTEN__X, but listen is not a table"),
    "lower case": ("jobstate_insecure", "true", "the environment sets jobstate_insecure; write JOBSTATE_INSECURE"),
    "a setting in lower case": ("JOBSTATE_insecure", "true", "write JOBSTATE_INSECURE"),
    "a schedule in lower case": ("JOBSTATE_SCHEDULES__cleanup", "0 2 * * *", "write JOBSTATE_SCHEDULES__CLEANUP"),
    "lower case and unknown": ("jobstate_lisen", "127.0.0.1:1", "jobstate_lisen, but there is no such setting"),
    "a port for a person": ("JOBSTATE_PORT", "50051", "JOBSTATE_PORT, but there is no such setting"),
    "empty": ("JOBSTATE_LISTEN", "", "'' is not HOST:PORT"),
}


@pytest.mark.parametrize(("variable", "value", "phrase"), BAD_VARIABLES.values(), ids=BAD_VARIABLES)
def test_a_variable_that_cannot_work_is_refused(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], variable: str, value: str, phrase: str
) -> None:
    monkeypatch.setenv(variable, value)

    assert phrase in refusal(capfd)


OF_KUBERNETES = {
    "JOBSTATE_SERVICE_HOST": "10.0.0.7",
    "JOBSTATE_SERVICE_PORT": "50051",
    "JOBSTATE_SERVICE_PORT_GRPC": "50051",
    "JOBSTATE_PORT": "tcp://10.0.0.7:50051",
    "JOBSTATE_PORT_50051_TCP": "tcp://10.0.0.7:50051",
    "JOBSTATE_PORT_50051_TCP_PROTO": "tcp",
    "JOBSTATE_PORT_50051_TCP_PORT": "50051",
    "JOBSTATE_PORT_50051_TCP_ADDR": "10.0.0.7",
    "JOBSTATE_POSTGRES_SERVICE_HOST": "10.0.0.8",
    "JOBSTATE_POSTGRES_PORT": "tcp://10.0.0.8:5432",
    "JOBSTATE_LISTEN_PORT_53_UDP": "udp://10.0.0.9:53",
}


def test_the_variables_that_kubernetes_sets_for_services_are_no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in OF_KUBERNETES.items():
        monkeypatch.setenv(name, value)

    assert config.load(None, {}) == Settings()


def test_a_bare_number_is_seconds_in_the_environment_in_a_file_and_as_text(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("JOBSTATE_SHUTDOWN_GRACE", "5")
    monkeypatch.setenv("JOBSTATE_JOB_TYPES__x__BASE_DELAY", "0.5")
    file = tmp_path / "jobstate.toml"
    file.write_text('restart_grace = 7\njob_retention = "3600"\njob_types.x.max_delay = 2.5')

    settings = config.load(file, {})

    assert (settings.shutdown_grace, settings.restart_grace, settings.job_retention) == (
        5 * SECOND,
        7 * SECOND,
        3600 * SECOND,
    )
    policy = settings.policies().policy("x")
    assert (policy.base_delay, policy.max_delay) == (SECOND // 2, 5 * SECOND // 2)


def test_every_problem_is_told_once_wherever_it_comes_from(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "jobstate.toml"
    file.write_text(
        'listen = "nowhere"\nstore = "mysql:///x"\nlog_level = "loud"\n[job_types.x]\ntimeout = "soon"\n'
        'base_delay = "never"\nmax_delay = "1ms"\njitter = 2\nmax_retries = "many"\nretries = 1\n'
        '[job_types.y]\nbase_delay = "3d"\nmax_retries = -1\n[schedules]\ncleanup = "0 2 * * 0"'
    )
    monkeypatch.setenv("JOBSTATE_RESTART_GRACE", "2d")
    monkeypatch.setenv("JOBSTATE_LISEN", "x")

    sentence = refusal(capfd, "--config", str(file))

    phrases = [
        "JOBSTATE_LISEN, but there is no such setting",
        "log_level: must be",
        "job_types.x.timeout: 'soon' is not a span",
        "job_types.x.base_delay: 'never' is not a span",
        "job_types.x.max_retries: must be a valid integer",
        "job_types.x.retries: there is no such setting",
        "job type 'x': jitter must be 0 to 1",
        "job type 'y': max_retries must be 0 to 1000; max_delay must not be below base_delay",
        "schedules.cleanup: '0 2 * * 0': '0' is not a weekday here",
        "JOBSTATE_RESTART_GRACE in the environment: restart_grace: must be at most 1d",
        "listen: 'nowhere' is not HOST:PORT",
        "store: 'mysql:///x' is not a store",
    ]
    assert [phrase for phrase in phrases if sentence.count(phrase) != 1] == []
    for wrong in ("must be 'none'", "Input should", "job type 'x': max_delay", "Value error"):
        assert wrong not in sentence


def test_what_is_compared_with_a_wrong_value_is_not_blamed(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "jobstate.toml"
    file.write_text(
        'listen = "0.0.0.0:1"\ninsecure = "perhaps"\n[job_types.default]\nbase_delay = "tiny"\nmax_delay = "1ms"\n'
        '[job_types.x]\nmax_delay = "1ms"'
    )

    sentence = refusal(capfd, "--config", str(file))

    assert "insecure: must be a valid boolean" in sentence
    assert "job_types.default.base_delay: 'tiny' is not a span" in sentence
    assert "other machines" not in sentence
    assert "below" not in sentence


def test_of_a_thousand_problems_twenty_are_told_and_the_others_counted(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "jobstate.toml"
    file.write_text("\n".join(f"setting_{number} = 1" for number in range(1_000)))

    assert refusal(capfd, "--config", str(file)).endswith("; and 980 more")


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
    monkeypatch.setenv("JOBSTATE_JOB_TYPES__extra__MAX_RETRIES", "5")

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
