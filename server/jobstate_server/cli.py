"""``jobstate-server``: serve, migrate, copy, back up, check, check the settings, lifecycle."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

from jobstate_server.signals import Signals, Stopped
from jobstate_server.standard_streams import ensure_streams

if TYPE_CHECKING:
    from jobstate_server.config import Settings

    Commands = argparse._SubParsersAction[argparse.ArgumentParser]

_LIBRARIES = (
    "grpc_health",
    "grpc_reflection",
    "grpc_channelz",
    "peewee",
    "transitions",
    "apscheduler",
    "pydantic",
    "pythonjsonlogger",
)

PROGRESS_ROWS = 100_000
"""Rows between two lines of progress: some seconds of work. A multiple of the rows that are copied at once."""

PROGRESS_BYTES = 256 * 1024 * 1024
"""Bytes between two lines of progress: some seconds of work. A multiple of the pages that are copied at once."""

INTERRUPTED = 130
"""The exit code after Ctrl-C, as in shells: 128 plus the number of the signal."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line. Returns the exit code: 0 success, 1 failure, 2 wrong arguments, 130 Ctrl-C."""
    ensure_streams()
    options = _parser().parse_args(arguments)
    if options.command != "serve":
        return _run(options)
    signals = Signals()
    try:
        return _run(options, signals)
    except Stopped:
        return 0
    finally:
        signals.end(process_ends=arguments is None)


def _run(options: argparse.Namespace, signals: Signals | None = None) -> int:
    try:
        # Imported late, so that help is instant and a missing library gives a message instead of a traceback.
        from jobstate_server.config import BadSettings, load
        from jobstate_server.store.errors import CannotOpen
    except ModuleNotFoundError as error:
        if error.name in _LIBRARIES or (error.name or "").split(".")[0] in _LIBRARIES:
            return _fail(f"{error.name} is not installed; install the server with: pip install 'jobstate-grpc[server]'")
        raise
    if options.command == "lifecycle":
        from jobstate_server.domain.lifecycle import mermaid

        sys.stdout.write(mermaid())
        return 0
    if options.command == "copy":
        return _copy(options.source, options.destination)
    if options.command == "check" and options.file is not None:
        if options.store is not None:
            return _fail("check takes a FILE or --store, not both")
        return _check(f"sqlite:///{options.file}", str(options.file), recount=options.recount)
    no_settings = {"command", "config", "backup", "file", "recount"}
    flags = {key: value for key, value in vars(options).items() if key not in no_settings and value is not None}
    try:
        return _run_with(load(options.config, flags), options, signals)
    except (BadSettings, CannotOpen) as error:
        return _fail(str(error))


def _run_with(settings: Settings, options: argparse.Namespace, signals: Signals | None) -> int:
    """Run a command that goes by the settings."""
    from jobstate_server.store.urls import redacted, with_password

    match options.command:
        case "backup":
            return _back_up(settings, options.backup)
        case "check":
            url = with_password(settings.store, settings.store_password_file)
            return _check(url, redacted(settings.store), recount=options.recount)
        case "check-config":
            return _check_config(settings)
    return _migrate(settings) if signals is None else _serve(settings, signals)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="jobstate-server",
        description="Keeps the state of asynchronous jobs, over gRPC.",
        epilog="Every setting can also be in a TOML file (--config) or in the environment, such as JOBSTATE_LISTEN.",
    )
    parser.add_argument("--version", action="version", version=f"jobstate-server {_version()}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    serve = commands.add_parser("serve", help="serve until SIGTERM or SIGINT")
    migrate = commands.add_parser("migrate", help="bring the store's tables up to date, and stop")
    _add_copy(commands)
    backup, check = _add_backup(commands), _add_check(commands)
    check_config = commands.add_parser("check-config", help="print the settings in force, without secrets, and stop")
    commands.add_parser("lifecycle", help="print the state diagram of a job, in Mermaid")
    for command in (serve, migrate, backup, check, check_config):
        _add_settings(command)
    for command in (serve, check_config):
        _add_reach(command)
    return parser


def _add_copy(commands: Commands) -> None:
    copy = commands.add_parser("copy", help="copy a whole store into an empty one, of this kind or the other, and stop")
    copy.add_argument(
        "--from", dest="source", required=True, metavar="URL", help="the store to copy; no server may be using it"
    )
    copy.add_argument(
        "--to", dest="destination", required=True, metavar="URL", help="an empty store, made if there is none"
    )


def _add_backup(commands: Commands) -> argparse.ArgumentParser:
    backup = commands.add_parser("backup", help="make a checked copy of a SQLite store, which may be in use, and stop")
    backup.add_argument(
        "--to", dest="backup", type=Path, required=True, metavar="FILE", help="a file that does not exist yet"
    )
    return backup


def _add_check(commands: Commands) -> argparse.ArgumentParser:
    check = commands.add_parser("check", help="check that a store is whole, which may be in use, and stop")
    check.add_argument("file", type=Path, nargs="?", metavar="FILE", help="a SQLite file; otherwise the store")
    check.add_argument(
        "--recount", action="store_true", help="correct the statistics if they do not equal a recount of the jobs"
    )
    return check


def _add_settings(command: argparse.ArgumentParser) -> None:
    command.add_argument("--config", type=Path, metavar="FILE", help="a TOML file with settings")
    command.add_argument("--store", metavar="URL", help="where jobs are stored (default sqlite:///jobs.db)")
    command.add_argument("--log-format", choices=("text", "json"), help="how logs are written (default text)")
    command.add_argument("--log-level", choices=("debug", "info", "warning", "error"), help="default info")


def _add_reach(command: argparse.ArgumentParser) -> None:
    listen = "the address to serve on; port 0 takes a free one (default 127.0.0.1:50051)"
    command.add_argument("--listen", metavar="HOST:PORT", help=listen)
    command.add_argument(
        "--insecure",
        action=argparse.BooleanOptionalAction,
        help="allow an address that other machines can reach, without TLS",
    )


def _version() -> str:
    try:
        return version("jobstate-grpc")
    except PackageNotFoundError:
        return "of a source tree"


def _check_config(settings: Settings) -> int:
    from jobstate_server.check_config import settings_as_toml

    sys.stdout.write(settings_as_toml(settings))
    return 0


def _fail(message: str) -> int:
    print(f"jobstate-server: {message}", file=sys.stderr)
    return 1


def _migrate(settings: Settings) -> int:
    from jobstate_server.store.factory import clock_for, open_store
    from jobstate_server.store.urls import redacted, with_password

    url = with_password(settings.store, settings.store_password_file)
    open_store(url, clock_for(url)).close()
    print(f"jobstate: {redacted(settings.store)} is up to date")
    return 0


def _back_up(settings: Settings, destination: Path) -> int:
    from jobstate_server.store.errors import StoreError
    from jobstate_server.store.sqlite.backup import back_up
    from jobstate_server.store.urls import is_postgres

    if is_postgres(settings.store):
        return _fail("a PostgreSQL database is backed up with its own tools, such as pg_dump: see docs/operations.md")
    try:
        made = back_up(Path(settings.store.removeprefix("sqlite:///")), destination, _print_backup_progress)
    except StoreError as error:
        return _fail(f"no backup was made: {error}")
    except KeyboardInterrupt:
        _fail("interrupted: no backup was made")
        return INTERRUPTED
    print(f"jobstate: {made.path} is a whole store: {made.jobs:,} jobs, {made.events:,} events, {made.bytes:,} bytes")
    return 0


def _print_backup_progress(done: int, total: int) -> None:
    """Print a line after every ``PROGRESS_BYTES``. A small store prints none."""
    if done % PROGRESS_BYTES == 0 and done < total:
        print(f"{done:,} of {total:,} bytes", file=sys.stderr, flush=True)


def _check(url: str, name: str, *, recount: bool) -> int:
    from jobstate_server.store.check import check, correct_counts
    from jobstate_server.store.errors import StoreError

    checked = check(url)
    if recount and checked.has_miscounts_only:
        try:
            corrected = correct_counts(url)
        except StoreError as error:
            return _fail(f"the statistics of {name} were not corrected: {error}")
        for miscount in corrected:
            print(f"jobstate: corrected: {miscount}")
    elif checked.problems:
        hint = ["correct the statistics with --recount"] if checked.has_miscounts_only else []
        return _fail("\n  ".join([f"{name} is not a whole store:", *checked.problems, *hint]))
    print(f"jobstate: {name} is a whole store: {checked.jobs:,} jobs, {checked.events:,} events")
    return 0


def _copy(source: str, destination: str) -> int:
    from jobstate_server.store.copying.copy import copy_store
    from jobstate_server.store.errors import OutcomeUnknown, StoreError
    from jobstate_server.store.urls import redacted

    try:
        copied = copy_store(source, destination, _print_copy_progress)
    except OutcomeUnknown as error:
        return _fail(str(error))
    except StoreError as error:
        return _fail(f"nothing was copied: {error}")
    except KeyboardInterrupt:
        _fail("interrupted: nothing was copied, unless the copy had just ended; run it again to find out")
        return INTERRUPTED
    for table, rows in copied:
        print(f"{table:<10}{rows:>15,} rows")
    print(f"jobstate: {redacted(destination)} now holds everything that is in {redacted(source)}")
    return 0


def _print_copy_progress(table: str, done: int, total: int) -> None:
    """Print a line after every ``PROGRESS_ROWS``. A small store prints none."""
    if done % PROGRESS_ROWS == 0:
        print(f"{table}: {done:,} of {total:,} rows", file=sys.stderr, flush=True)


def _serve(settings: Settings, signals: Signals) -> int:
    # gRPC's core writes its own messages to standard error, and its threads block if nobody reads them.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    from jobstate_server.process import serve

    return serve(settings, signals)
