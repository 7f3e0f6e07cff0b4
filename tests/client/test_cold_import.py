"""Importing the library costs little beside importing gRPC, and imports nothing that only some need."""

from __future__ import annotations

import os
import subprocess
import sys

MODULES_MAX = 2.0
"""Modules imported, as a multiple of gRPC's own. Times are for benchmarks; this does not depend on the machine."""

LATER = ("jobstate_client.aio", "jobstate_client.core.inspection", "jobstate_client.testing", "jobstate_server")
HEAVY = ("google.rpc", "grpc_status", "peewee", "pydantic", "pytest", "rich", "uuid")


def imported(statement: str) -> set[str]:
    """The modules that a fresh interpreter has after this."""
    program = f"import sys\n{statement}\nprint(*sys.modules)"
    paths = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, env=paths)
    return set(told.stdout.split())


def test_a_cold_import_takes_few_modules_beside_grpcs() -> None:
    grpcs, ours = imported("import grpc"), imported("import jobstate_client")

    assert len(ours) <= MODULES_MAX * len(grpcs)
    assert not [name for name in ours if name.startswith(LATER)]
    assert not [name for name in ours - grpcs if name in HEAVY]


def test_what_is_imported_later_is_found_all_the_same() -> None:
    ours = imported("from jobstate_client import AsyncClient, Health")

    assert {"jobstate_client.aio.client", "jobstate_client.core.inspection"} <= ours
