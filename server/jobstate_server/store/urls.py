"""The URLs of stores: which kind each names, its password, and how it is shown."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

from jobstate_server.store.errors import CannotOpen

PASSWORD_BYTES_MAX = 1_024
"""A password in a file; more is another file."""

_HARMLESS = {
    "user": re.compile(r"[\w.+-]*"),
    "host": re.compile(r"[\w.:,/-]*"),
    "port": re.compile(r"[0-9,]*"),
    "dbname": re.compile(r"[\w.+-]*"),
}
"""What is told of a URL, where it looks like what it is. A password that was not percent-encoded is read as any of
these, in part."""


def is_postgres(url: str) -> bool:
    """Whether the URL names a PostgreSQL database."""
    return url.startswith(("postgresql://", "postgres://"))


@contextmanager
def postgres_driver() -> Iterator[None]:
    """Tell what to do where PostgreSQL's driver is not installed."""
    try:
        yield
    except ImportError as error:
        raise CannotOpen(
            f"PostgreSQL's driver cannot be loaded ({error}); install it with: pip install 'jobstate-grpc[postgres]'"
        ) from error


def with_password(url: str, file: Path | None) -> str:
    """The URL with the password that a file holds, a newline at its end left out; as it is when there is no file.

    Raises:
        CannotOpen: the file cannot be read, or holds no password, or the URL has one already.
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
        raise CannotOpen(f"store_password_file: {file} must hold a password of 1 to 1024 bytes, and nothing else")
    if (_parsed(url) or {}).get("password"):
        raise CannotOpen("store_password_file: the store's URL has a password already; leave one of them out")
    return f"{url}{'&' if '?' in url else '?'}password={quote(password, safe='')}"


def check_url(url: str) -> None:
    """Whether a store can be there at all; nothing is opened. Raises CannotOpen."""
    if is_postgres(url):
        with postgres_driver():
            from jobstate_server.store.postgres.connection import parsed  # noqa: PLC0415
        parsed(url)


def redacted(url: str) -> str:
    """The URL for logs and messages: where it leads, as libpq reads it, and nothing that could be a secret."""
    if not is_postgres(url):
        return url if url.startswith("sqlite:///") else "…"
    parts = _parsed(url)
    told = {} if parts is None else {name: str(parts.get(name) or "") for name in _HARMLESS}
    if not told or not all(rule.fullmatch(told[name]) for name, rule in _HARMLESS.items()):
        return "postgresql://…"
    user = f"{told['user']}@" if told["user"] else ""
    if told["host"].startswith("/"):
        return f"postgresql://{user}/{told['dbname']}?host={told['host']}"
    ports = told["port"].split(",")
    hosts = told["host"].split(",")
    # One port is that of every host.
    each = ports if len(ports) == len(hosts) else ports[:1] * len(hosts)
    places = [
        f"{_bracketed(host)}:{port}" if port else _bracketed(host) for host, port in zip(hosts, each, strict=True)
    ]
    return f"postgresql://{user}{','.join(places)}/{told['dbname']}"


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _parsed(url: str) -> dict[str, Any] | None:
    """What libpq reads in the URL, None when it cannot, or is not there."""
    try:
        import psycopg  # noqa: PLC0415 - only who uses PostgreSQL has it
    except ImportError:
        return None
    try:
        return dict(psycopg.conninfo.conninfo_to_dict(url))
    except (psycopg.Error, ValueError):
        return None
