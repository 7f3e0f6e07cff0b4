"""``check-config`` prints the settings in force, without secrets, and refuses what ``serve`` would refuse."""

from __future__ import annotations

import os
import time
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest

from jobstate_server import cli, config
from jobstate_server.config import JobTypeSettings, Settings


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for variable in [name for name in os.environ if name.upper().startswith("JOBSTATE_")]:
        monkeypatch.delenv(variable)
    monkeypatch.chdir(tmp_path)


FILE = """
listen = "127.0.0.1:0"
restart_grace = "1500ms"
event_retention = 7200
strict_job_types = true
log_format = "json"

[schedules]
cleanup = "30 3 * * sun"

[job_types."odd:name.x"]
timeout = "none"
max_retries = 7
base_delay = "0.25ms"

[job_types.RenderVideo]
timeout = "90min"
jitter = 0.5
auto_retry = false
"""


def test_what_it_prints_is_a_settings_file_of_the_settings_in_force(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "jobstate.toml").write_text(FILE)
    monkeypatch.setenv("JOBSTATE_LOG_LEVEL", "debug")

    assert cli.main(["check-config", "--config", "jobstate.toml", "--store", "sqlite:///other.db"]) == 0
    told = capsys.readouterr().out
    (tmp_path / "told.toml").write_text(told)
    monkeypatch.delenv("JOBSTATE_LOG_LEVEL")
    again = config.load(tmp_path / "told.toml", {})

    monkeypatch.setenv("JOBSTATE_LOG_LEVEL", "debug")
    asked = config.load(tmp_path / "jobstate.toml", {"store": "sqlite:///other.db"})
    assert {**dict(again), "job_types": None} == {**dict(asked), "job_types": None}
    assert again.policies().all() == asked.policies().all()
    # Nothing is left out, and nothing is made.
    printed = tomllib.loads(told)
    unset = {name for name in Settings.model_fields if f"# {name} is unset" in told}
    assert printed.keys() | unset == set(Settings.model_fields)
    assert all(table.keys() == set(JobTypeSettings.model_fields) for table in printed["job_types"].values())
    assert 'restart_grace = "1500ms"' in told
    assert 'event_retention = "2h"' in told
    assert 'base_delay = "0.250ms"' in told
    assert not (tmp_path / "other.db").exists()


RECURRING = """
[[recurring]]
name = "nightly-import"
schedule = "30 2 * * *"
time_zone = "Europe/Berlin"
job_type = "import"
source_id = "a \\"b\\""
priority = "high"
lane = ""
labels = {team = "data"}
missed = "none"
metadata = {"odd key" = "é\\u007f", full = false, of = {days = [1, 2.5, "x"]}}

[[recurring]]
name = "hourly"
schedule = "0 * * * *"
job_type = "report"
"""


def test_each_recurring_entry_is_printed_with_its_next_three_instants(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "jobstate.toml").write_text(RECURRING)
    monkeypatch.setattr(time, "time_ns", lambda: 1_774_702_800_000_000_000)  # 2026-03-28 13:00 UTC

    assert cli.main(["check-config", "--config", "jobstate.toml"]) == 0
    told = capsys.readouterr().out
    (tmp_path / "told.toml").write_text(told)

    again, asked = (config.load(tmp_path / name, {}) for name in ("told.toml", "jobstate.toml"))
    assert again.recurring == asked.recurring
    assert [line for line in told.splitlines() if line.startswith("# next")] == [
        "# next: Sun 2026-03-29 03:00 CEST (2026-03-29 01:00 UTC)",
        "# next: Mon 2026-03-30 02:30 CEST (2026-03-30 00:30 UTC)",
        "# next: Tue 2026-03-31 02:30 CEST (2026-03-31 00:30 UTC)",
        "# next: Sat 2026-03-28 14:00 UTC",
        "# next: Sat 2026-03-28 15:00 UTC",
        "# next: Sat 2026-03-28 16:00 UTC",
    ]


def test_the_example_of_recurring_jobs_is_accepted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = Path(__file__).parents[2] / "docs/recurring.md"
    example = page.read_text("utf-8").partition("```toml\n")[2].partition("```")[0]
    (tmp_path / "jobstate.toml").write_text(example)

    assert cli.main(["check-config", "--config", "jobstate.toml"]) == 0
    assert [entry["name"] for entry in tomllib.loads(capsys.readouterr().out)["recurring"]] == [
        "nightly-import",
        "hourly-report",
    ]


def test_recurring_jobs_in_the_environment_are_refused(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JOBSTATE_RECURRING", "[]")

    assert cli.main(["check-config"]) == 1
    assert "JOBSTATE_RECURRING, but recurring jobs can only be set in a file" in capsys.readouterr().err


def test_no_secret_is_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for url in (
        "postgresql://ann:sesame@db.internal:5433/jobs",
        "postgresql://ann@db.internal:5433/jobs?password=sesame",
    ):
        assert cli.main(["check-config", "--store", url]) == 0
        told = capsys.readouterr().out
        assert 'store = "postgresql://ann@db.internal:5433/jobs"' in told
        assert "sesame" not in told


@pytest.mark.parametrize(
    ("arguments", "phrase"),
    [
        (["--listen", "0.0.0.0:1"], "other machines"),
        (["--store", "mysql:///jobs"], "is not a store"),
        (["--store", "postgresql://ann:a@b@host/jobs"], "percent-encoded"),
        (["--store", "postgresql://ann@[host/jobs"], "its URL cannot be read"),
        (["--config", "nowhere.toml"], "cannot read nowhere.toml"),
    ],
)
def test_what_serve_would_refuse_is_refused(
    capsys: pytest.CaptureFixture[str], arguments: list[str], phrase: str
) -> None:
    assert cli.main(["check-config", *arguments]) == 1

    out, err = capsys.readouterr()
    assert out == ""
    assert phrase in err


def test_the_version_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["--version"])

    assert ended.value.code == 0
    assert capsys.readouterr().out == f"jobstate-server {version('jobstate-grpc')}\n"
