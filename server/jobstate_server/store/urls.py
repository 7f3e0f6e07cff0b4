"""Store URLs: which backend each names, the password, and the form for logs."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

from jobstate_server.store.errors import CannotOpen

PASSWORD_BYTES_MAX = 1_024
"""The longest password accepted from a file. A larger file is a wrong file."""

_HARMLESS = {
    "user": re.compile(r"[\w.+-]*"),
    "host": re.compile(r"[\w.:,/-]*"),
    "port": re.compile(r"[0-9,]*"),
    "dbname": re.compile(r"[\w.+-]*"),
}
"""The parts of a URL that may be logged, and how each must look. libpq may read a piece of a password that is not
percent-encoded as any of these parts."""


def is_postgres(url: str) -> bool:
    """Whether the URL names a PostgreSQL database."""
    return url.startswith(("postgresql://", "postgres://"))


@contextmanager
def postgres_driver() -> Iterator[None]:
    """Report how to install PostgreSQL's driver when it is missing."""
    try:
        yield
    except ImportError as error:
        raise CannotOpen(
            f"PostgreSQL's driver cannot be loaded ({error}); install it with: pip install 'jobstate-grpc[postgres]'"
        ) from error


def with_password(url: str, file: Path | None) -> str:
    """The URL with the password from a file, without a newline at its end. Without a file, the URL as it is.

    Raises:
        CannotOpen: the file cannot be read or has no password, or the URL has one already.
    """
    if file is None:
        return url
    try:
        with file.open("rb") as content:
            password = content.read(PASSWORD_BYTES_MAX + 1)
    except OSError as error:
        raise CannotOpen(f"store_password_file: cannot read {file}: {error.strerror}") from error
    password = password.removesuffix(b"\n").removesuffix(b"\r")
    if not password or len(password) > PASSWORD_BYTES_MAX or b"\0" in password or b"\n" in password:
        raise CannotOpen(f"store_password_file: {file} must contain a password of 1 to 1024 bytes and nothing else")
    if (_parsed(url) or {}).get("password"):
        raise CannotOpen("store_password_file: the store's URL already has a password; remove one of them")
    return f"{url}{'&' if '?' in url else '?'}password={quote(password, safe='')}"


def check_url(url: str) -> None:
    """Check that the URL can name a store, without opening it. Raises CannotOpen."""
    if is_postgres(url):
        with postgres_driver():
            # The driver is installed only with PostgreSQL support.
            from jobstate_server.store.postgres.connection import parsed  # noqa: PLC0415
        parsed(url)


def redacted(url: str) -> str:
    """The URL for logs and messages: user, host and database as libpq reads them, and nothing that may be secret."""
    if not is_postgres(url):
        return url if url.startswith("sqlite:///") else "…"
    parts = _parsed(url)
    shown = {} if parts is None else {name: str(parts.get(name) or "") for name in _HARMLESS}
    if not shown or not all(rule.fullmatch(shown[name]) for name, rule in _HARMLESS.items()):
        return "postgresql://…"
    user = f"{shown['user']}@" if shown["user"] else ""
    if shown["host"].startswith("/"):
        return f"postgresql://{user}/{shown['dbname']}?host={shown['host']}"
    ports = shown["port"].split(",")
    hosts = shown["host"].split(",")
    # A single port applies to every host.
    each = ports if len(ports) == len(hosts) else ports[:1] * len(hosts)
    places = [
        f"{_bracketed(host)}:{port}" if port else _bracketed(host) for host, port in zip(hosts, each, strict=True)
    ]
    return f"postgresql://{user}{','.join(places)}/{shown['dbname']}"


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _parsed(url: str) -> dict[str, Any] | None:
    """The parts of the URL as libpq reads them; None when libpq cannot read it or is not installed."""
    try:
        import psycopg  # noqa: PLC0415 - installed only with PostgreSQL support
    except ImportError:
        return None
    try:
        return dict(psycopg.conninfo.conninfo_to_dict(url))
    except (psycopg.Error, ValueError):
        return None
