"""No part of a password is printed, whatever the URL of the store looks like."""

from __future__ import annotations

import os
from pathlib import Path

import psycopg
import pytest

from jobstate_server import cli
from jobstate_server.clock import SystemClock
from jobstate_server.store.errors import CannotOpen
from jobstate_server.store.factory import open_store
from jobstate_server.store.urls import redacted, with_password

from ..support.postgres import postgres_server

FIRST, LAST = "Sesame", "Opensky"
"""The two parts of the password, around what must be percent-encoded."""

PLACE = "127.0.0.1:1/jobs"

URLS = [
    # As it should be.
    f"postgresql://ann:{FIRST}{LAST}@{PLACE}",
    f"postgres://ann:{FIRST}{LAST}@{PLACE}",
    f"postgresql://ann:{FIRST}%40{LAST}@{PLACE}",
    f"postgresql://ann:{FIRST}%2F{LAST}@{PLACE}",
    f"postgresql://ann:{FIRST}%23{LAST}@{PLACE}",
    f"postgresql://:{FIRST}{LAST}@{PLACE}",
    f"postgresql://ann:{FIRST}{LAST}@[::1]:1/jobs",
    f"postgresql://ann:{FIRST}{LAST}@127.0.0.1:1,127.0.0.1:2/jobs",
    f"postgresql://ann:{FIRST}{LAST}@/jobs?host=/nowhere",
    f"postgresql://{PLACE}?user=ann&password={FIRST}{LAST}",
    f"postgresql://ann@{PLACE}?password={FIRST}{LAST}&connect_timeout=1",
    f"postgresql://ann@{PLACE}?sslpassword={FIRST}{LAST}",
    f"postgresql://ann:{FIRST}@{PLACE}?password={LAST}",
    f"postgresql://ann@{PLACE}?application_name=x&options={FIRST}{LAST}",
    # Not percent-encoded.
    *(f"postgresql://ann:{FIRST}{sign}{LAST}@{PLACE}" for sign in "#?@[]/:&= ;'\"\\%"),
    f"postgresql://ann@x:{FIRST}@{LAST}@{PLACE}",
    f"postgresql://ann@{PLACE}?password={FIRST}&{LAST}",
    f"postgresql://ann@{PLACE}?pass word={FIRST}{LAST}",
    # Slips.
    f"postgresql:ann:{FIRST}{LAST}@{PLACE}",
    f"postgresql:/ann:{FIRST}{LAST}@{PLACE}",
    f"postgresql//ann:{FIRST}{LAST}@{PLACE}",
    f"postgresq://ann:{FIRST}{LAST}@{PLACE}",
    f"PostgreSQL://ann:{FIRST}{LAST}@{PLACE}",
    f" postgresql://ann:{FIRST}{LAST}@{PLACE}",
    f"postgresql+psycopg://ann:{FIRST}{LAST}@{PLACE}",
    f"mysql://ann:{FIRST}{LAST}@{PLACE}",
    f"ann:{FIRST}{LAST}@{PLACE}",
    f"postgresql://ann:{FIRST}{LAST}",
    f"postgresql://ann:{FIRST}{LAST}@{PLACE}?pasword={FIRST}",
    f"host=127.0.0.1 port=1 dbname=jobs user=ann password={FIRST}{LAST}",
    f"dbname=jobs password='{FIRST} {LAST}'",
    f"sqlite://ann:{FIRST}{LAST}@jobs.db",
]


@pytest.mark.parametrize("url", URLS)
def test_no_part_of_a_password_is_told(url: str, capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for command in (
        ["migrate", "--store", url],
        ["serve", "--store", url, "--listen", "127.0.0.1:0"],
        ["copy", "--from", url, "--to", f"sqlite:///{tmp_path}/new.db"],
        ["copy", "--from", f"sqlite:///{tmp_path}/none.db", "--to", url],
        ["backup", "--store", url, "--to", f"{tmp_path}/backup.db"],
    ):
        assert cli.main(command) == 1
    out, err = capfd.readouterr()

    assert out == ""
    for told in (err, redacted(url)):
        assert FIRST not in told
        assert LAST not in told
    assert "Traceback" not in err


def test_there_are_forty_of_them() -> None:
    assert len(URLS) == len(set(URLS)) >= 40


SHOWN = {
    "postgresql://ann:secret@db-a:1,db-b:2/jobs?sslmode=require": "postgresql://ann@db-a:1,db-b:2/jobs",
    "postgres://db.internal/jobs": "postgresql://db.internal/jobs",
    "postgresql://ann@db-a,db-b:5433/jobs": "postgresql://ann@db-a,db-b:5433/jobs",
    "postgresql://ann@[::1]:5433/jobs": "postgresql://ann@[::1]:5433/jobs",
    "postgresql:///jobs?host=/run/postgresql": "postgresql:///jobs?host=/run/postgresql",
    "postgresql://": "postgresql:///",
    "sqlite:////var/lib/jobstate/jobs.db": "sqlite:////var/lib/jobstate/jobs.db",
    "postgresql://ann:[@host": "postgresql://ann@host/",
}


@pytest.mark.parametrize(("url", "told"), SHOWN.items())
def test_where_a_url_leads_is_told(url: str, told: str) -> None:
    assert redacted(url) == told


# The password in a file.


def test_a_password_in_a_file_is_the_one_that_is_used(tmp_path: Path) -> None:
    file = tmp_path / "password"
    odd = "a b@c/d?e#f%g&h=i[é"
    file.write_text(odd + "\n", "utf-8")

    for url in ("postgresql://ann@host/jobs", "postgresql://ann@host/jobs?sslmode=prefer", "postgres://host"):
        parts = psycopg.conninfo.conninfo_to_dict(with_password(url, file))
        assert parts["password"] == odd
        assert parts["host"] == "host"
    assert with_password("postgresql://host", None) == "postgresql://host"


def test_a_store_opens_with_its_password_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text("anything: this server trusts everybody")

    store = open_store(with_password(postgres_server().new_store(), file), SystemClock())

    store.close()


@pytest.mark.parametrize("content", [b"", b"\n", b"two\nlines", b"a\0b", b"x" * 1_025])
def test_a_file_that_holds_no_password_is_refused_without_what_it_holds(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "password"
    file.write_bytes(content)

    with pytest.raises(CannotOpen, match="must contain a password of 1 to 1024 bytes and nothing else") as refused:
        with_password("postgresql://host", file)

    assert str(refused.value).count("\n") == 0


def test_a_password_file_that_is_not_there_or_not_needed_is_refused(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JOBSTATE_STORE_PASSWORD_FILE", os.fspath(tmp_path / "none"))
    assert cli.main(["migrate", "--store", "postgresql://host/jobs"]) == 1
    assert f"store_password_file: cannot read {tmp_path}/none: No such file" in capfd.readouterr().err
    assert cli.main(["migrate", "--store", f"sqlite:///{tmp_path}/jobs.db"]) == 1
    assert "store_password_file: only a PostgreSQL store has a password" in capfd.readouterr().err

    (tmp_path / "none").write_text("secret")
    assert cli.main(["migrate", "--store", f"postgresql://ann:{FIRST}@host/jobs"]) == 1
    assert "already has a password" in capfd.readouterr().err
