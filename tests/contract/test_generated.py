"""The committed code is what the committed protos generate, and its packages ask for what it was made for."""

from __future__ import annotations

import json
import re
import runpy
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from ..interop.toolchains import need
from .support import ROOT, run_tool

GENERATED = ROOT / "generated"
GENERATOR = runpy.run_path(str(GENERATED / "generate.py"))
LANGUAGES: dict[str, Any] = {language.folder: language for language in GENERATOR["LANGUAGES"]}

TOOLCHAINS = {"python": None, "go": "go", "typescript": "npm"}
"""What a language's plugins are installed with."""

INSTALL = "`make generate` installs its plugins with it"

# The first run of a machine downloads the plugins, and compiles those for Go.
pytestmark = pytest.mark.timeout(300)


def files_below(root: Path) -> dict[str, bytes]:
    paths = (path for path in root.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in paths}


def committed(folder: str) -> dict[str, bytes]:
    """What is generated of a language's folder."""
    made = LANGUAGES[folder].made
    files = files_below(GENERATED / folder).items()
    return {name: content for name, content in files if name.partition("/")[0] in made}


@pytest.mark.parametrize("folder", LANGUAGES)
def test_regenerating_changes_nothing(folder: str, tmp_path: Path) -> None:
    if (tool := TOOLCHAINS[folder]) is not None:
        need(tool, install=INSTALL)

    LANGUAGES[folder].generate(tmp_path)

    fresh, old = files_below(tmp_path), committed(folder)
    stale = sorted(name for name in fresh.keys() | old.keys() if fresh.get(name) != old.get(name))
    assert not stale, "run `make generate`"


def test_without_the_toolchain_of_a_language_the_others_are_made(tmp_path: Path) -> None:
    for folder in ("protos", "docs/reference"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    shutil.copytree(GENERATED, tmp_path / "generated", ignore=shutil.ignore_patterns("__pycache__", "java"))
    before = files_below(tmp_path / "generated")
    for stale in (tmp_path / "generated" / "python").rglob("job_pb2.py*"):
        stale.write_text("# Of an older contract.\n", "utf-8")

    command = [sys.executable, str(tmp_path / "generated" / "generate.py")]
    finished = subprocess.run(command, env={"PATH": str(tmp_path)}, capture_output=True, text=True, check=False)

    assert finished.returncode == 0, finished.stderr
    assert finished.stderr.splitlines() == [
        "generated/go is left as it is: go is not installed; see https://go.dev/dl",
        "generated/typescript is left as it is: npm is not installed; see https://nodejs.org",
    ]
    assert files_below(tmp_path / "generated") == before


def test_buf_makes_the_same_files_without_a_network(tmp_path: Path) -> None:
    """By buf.gen.yaml. Their bytes differ a little: buf leaves its own marks in descriptors and comments."""
    for folder in ("go", "typescript"):
        need(str(TOOLCHAINS[folder]), install=INSTALL)
        (tmp_path / folder).mkdir()
        LANGUAGES[folder].generate(tmp_path / folder)  # Installs the plugins, on a machine that has none yet.
    nowhere = "http://127.0.0.1:9"
    offline = {"HTTP_PROXY": nowhere, "HTTPS_PROXY": nowhere, "BUF_CACHE_DIR": str(tmp_path / "cache")}

    finished = run_tool("buf", "generate", "--output", tmp_path / "buf", env=offline)

    assert finished.returncode == 0, finished.stderr
    for folder in ("go", "typescript"):
        ours = {name for name in committed(folder) if name.startswith("jobstate/")}
        assert files_below(tmp_path / "buf" / folder).keys() == ours


def test_the_npm_package_asks_for_the_runtime_that_its_code_was_made_for() -> None:
    package = json.loads((GENERATED / "typescript" / "package.json").read_text("utf-8"))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    lock = json.loads((ROOT / "client/examples/typescript/package-lock.json").read_text("utf-8"))

    assert package["version"] == project["version"]
    assert package["peerDependencies"] == {"@bufbuild/protobuf": "^" + GENERATOR["PROTOC_GEN_ES"].rpartition("@")[2]}
    assert set(package["files"]) == set(LANGUAGES["typescript"].made)
    assert lock["packages"]["node_modules/@jobstate/grpc"]["version"] == package["version"]


def test_the_go_module_asks_for_the_runtime_that_its_code_was_made_for() -> None:
    module = (GENERATED / "go" / "go.mod").read_text("utf-8")
    (path,) = re.findall(
        r'go_package = "(.*?)/jobstate/v1;', (ROOT / "protos/jobstate/v1/job.proto").read_text("utf-8")
    )
    (required,) = re.findall(r"google\.golang\.org/protobuf (\S+)", module)

    assert re.findall(r"^module (\S+)$", module, re.MULTILINE) == [path]
    assert required == GENERATOR["PROTOC_GEN_GO"].rpartition("@")[2]
