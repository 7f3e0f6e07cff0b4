"""The contract obeys buf's rules, and buf needs no network to say so."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from .support import ROOT, run_tool

Buf = Callable[..., "CompletedProcess[str]"]


@pytest.fixture
def buf(tmp_path: Path) -> Buf:
    # A proxy where nobody listens, and an empty cache: whatever reached for the network would fail.
    nowhere = "http://127.0.0.1:9"
    offline = {"HTTP_PROXY": nowhere, "HTTPS_PROXY": nowhere, "BUF_CACHE_DIR": str(tmp_path / "cache")}
    return lambda *arguments: run_tool("buf", *arguments, env=offline)


def test_the_contract_is_lint_free(buf: Buf) -> None:
    result = buf("lint")

    assert result.returncode == 0, result.stdout + result.stderr


def test_the_contract_is_formatted(buf: Buf) -> None:
    result = buf("format", "--diff", "--exit-code")

    assert result.returncode == 0, result.stdout + result.stderr


def test_the_contract_breaks_nothing_in_itself(buf: Buf, tmp_path: Path) -> None:
    image = tmp_path / "contract.binpb"

    built = buf("build", "--output", image)
    compared = buf("breaking", "--against", image)

    assert built.returncode == 0, built.stderr
    assert compared.returncode == 0, compared.stdout + compared.stderr


def test_a_renamed_field_is_refused(buf: Buf, tmp_path: Path) -> None:
    shutil.copytree(ROOT / "protos", tmp_path / "protos")
    shutil.copy(ROOT / "buf.yaml", tmp_path)
    job = tmp_path / "protos" / "jobstate" / "v1" / "job.proto"
    job.write_text(job.read_text("utf-8").replace("string source_id =", "string source_key ="), "utf-8")

    result = buf("breaking", tmp_path, "--against", ROOT)

    assert result.returncode != 0
    assert '"source_id"' in result.stdout
