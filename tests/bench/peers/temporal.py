"""Temporal's standalone activities, on a SQLite file and on PostgreSQL: its server, and one sample of it."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import psycopg

from ..bench import wait
from . import install
from .install import TEMPORAL, TEMPORAL_SERVER
from .services import PeerFailed, background, contrib_postgres, contrib_version, free_port, listens, sample
from .setting import Run, Setting, Trial, Work

_SERVES_WITHIN_S = 60
_SERVICES = ("frontend", "history", "matching", "worker")
_NO_LIMIT = 1_000_000
_UNLIMITED = (
    "frontend.rps",
    "frontend.namespaceRPS",
    "frontend.namespaceRPS.visibility",
    "history.rps",
    "matching.rps",
    "frontend.persistenceMaxQPS",
    "history.persistenceMaxQPS",
    "matching.persistenceMaxQPS",
)
"""Its limits of calls per second, so that they are not what is measured."""

_PARTITIONS = ("matching.numTaskqueueReadPartitions", "matching.numTaskqueueWritePartitions")
"""Of a queue: one, as one server has to look after it."""

Stores = dict[str, dict[str, Any]]
"""How the server finds its default store and the one for lists, by their names."""


def _file_stores(folder: Path) -> Stores:
    """As in the server's own development-sqlite-file.yaml, in which every commit is fsynced."""
    attributes = {"cache": "private", "setup": "true", "journal_mode": "wal", "synchronous": "2"}
    store = {
        "pluginName": "sqlite",
        "databaseName": str(folder / "temporal.db"),
        "connectAddr": "localhost",
        "connectProtocol": "tcp",
        "connectAttributes": attributes,
        "maxConns": 1,
        "maxIdleConns": 1,
        "maxConnLifetime": "1h",
    }
    return {"default": store, "visibility": store}


def _postgres_stores(url: str) -> Stores:
    """As in the server's own development-postgres12.yaml, with its tables made by its own tool."""
    (socket,) = parse_qs(urlsplit(url).query)["host"]
    stores: Stores = {}
    for name, schema, connections in (("default", "temporal", 20), ("visibility", "visibility", 2)):
        database = f"temporal_{schema}"
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {database}".encode())
        stores[name] = {
            "pluginName": "postgres12_pgx",
            "databaseName": database,
            "connectAddr": "localhost:5432",
            "connectProtocol": "tcp",
            "connectAttributes": {"host": socket},
            "user": "postgres",
            "maxConns": connections,
            "maxIdleConns": connections,
            "maxConnLifetime": "1h",
        }
        tool: list[str | Path] = [install.temporal_server() / "sql", "--plugin", "postgres12_pgx", "--user", "postgres"]
        tool += ["--endpoint", "localhost", "--port", "5432", "--database", database]
        tool += ["--connect-attributes", f"host={socket}"]
        _schema([*tool, "setup-schema", "--version", "0.0"])
        _schema([*tool, "update-schema", "--schema-name", f"postgresql/v12/{schema}"])
    return stores


def _schema(command: list[str | Path]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise PeerFailed(f"{' '.join(map(str, command))} failed:\n{done.stdout}{done.stderr}"[-2000:])


def _configuration(folder: Path, stores: Stores, shards: int) -> tuple[Path, int]:
    """Write what the server is started with (JSON is YAML); returns the file, and the port that it is to serve on."""
    dynamic = folder / "dynamic.yaml"
    values = dict.fromkeys(_UNLIMITED, _NO_LIMIT) | dict.fromkeys(_PARTITIONS, 1)
    dynamic.write_text(json.dumps({key: [{"value": value}] for key, value in values.items()}), encoding="utf-8")
    rpc = {name: {"grpcPort": free_port(), "membershipPort": free_port()} for name in _SERVICES}
    port = rpc["frontend"]["grpcPort"]
    address = f"127.0.0.1:{port}"
    cluster = {"enabled": True, "initialFailoverVersion": 1, "rpcName": "frontend", "rpcAddress": address}
    configuration = {
        "log": {"stdout": True, "level": "warn"},
        "persistence": {
            "defaultStore": "default",
            "visibilityStore": "visibility",
            "numHistoryShards": shards,
            "datastores": {name: {"sql": store} for name, store in stores.items()},
        },
        "global": {"membership": {"maxJoinDuration": "30s", "broadcastAddress": "127.0.0.1"}},
        "services": {name: {"rpc": {**ports, "bindOnLocalHost": True}} for name, ports in rpc.items()},
        "clusterMetadata": {
            "enableGlobalNamespace": False,
            "failoverVersionIncrement": 10,
            "masterClusterName": "active",
            "currentClusterName": "active",
            "clusterInformation": {"active": cluster},
        },
        "dcRedirectionPolicy": {"policy": "noop"},
        "publicClient": {"hostPort": address},
        "dynamicConfigClient": {"filepath": str(dynamic), "pollInterval": "10s"},
    }
    path = folder / "temporal.yaml"
    path.write_text(json.dumps(configuration, indent=1), encoding="utf-8")
    return path, port


@contextmanager
def _server(folder: Path, stores: Stores, shards: int) -> Iterator[str]:
    """Temporal's server with all its services in one process; the value is its address."""
    configuration, port = _configuration(folder, stores, shards)
    log = folder / "temporal.log"
    command: list[str | Path] = [install.temporal_server() / "server", "--config-file", configuration]
    with background([*command, "--allow-no-auth", "start"], log, cwd=folder) as process:
        for _ in range(_SERVES_WITHIN_S * 10):
            if listens(port):
                break
            if process.poll() is not None:
                raise PeerFailed(f"Temporal ended: {log.read_text('utf-8')[-2000:]}")
            wait(0.1)
        else:
            raise PeerFailed(f"Temporal did not serve: {log.read_text('utf-8')[-2000:]}")
        yield f"127.0.0.1:{port}"


def _sample(address: str, work: Work, in_flight: int) -> float:
    return sample([install.temporal(), address, *map(str, (work.jobs, work.reports, in_flight))], work.jobs)


def _run(trial: Trial, in_flight: int, shards: int, *, on_postgres: bool) -> Run:
    def run(work: Work) -> float:
        folder = trial.new("temporal")
        folder.mkdir()
        if not on_postgres:
            with _server(folder, _file_stores(folder), shards) as address:
                return _sample(address, work, in_flight)
        with contrib_postgres() as url, _server(folder, _postgres_stores(url), shards) as address:
            return _sample(address, work, in_flight)

    return run


def _settings(trial: Trial, store: str, versions: str, ways: list[tuple[str, Run]], jobs: int) -> list[Setting]:
    trial.say(f"  Temporal, {store}:")
    name, run = trial.best(ways, jobs // 4)
    of = f"Temporal {TEMPORAL_SERVER['go.temporal.io/server']}, Go SDK {TEMPORAL['go.temporal.io/sdk']}, {versions}"
    way = f"{store}; one activity in each call; {name}"
    return [Setting("Temporal, standalone activities", of, way, "yes", run, jobs)]


def temporal_on_file(trial: Trial) -> list[Setting]:
    """One activity in a call, which is the only way to start one; its server has one connection to the file."""
    install.temporal_server()
    install.temporal()
    ways = [(f"{number} under way", _run(trial, number, 1, on_postgres=False)) for number in (64, 256)]
    return _settings(trial, "SQLite file, WAL, synchronous FULL", "the SQLite that it brings", ways, 600)


def temporal_on_postgres(trial: Trial) -> list[Setting]:
    """The same with its tables on PostgreSQL."""
    versions = f"PostgreSQL {contrib_version()}"
    install.temporal_server()
    install.temporal()
    ways = [
        (f"{number} under way, history shards: {shards}", _run(trial, number, shards, on_postgres=True))
        for number in (64, 256)
        for shards in (4, 16)
    ]
    return _settings(trial, "PostgreSQL", versions, ways, 2_000)
