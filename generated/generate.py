"""Make the generated code anew from protos/: run by `make generate`, and by the tests that nothing has drifted.

One compiler for every language, the protoc of this environment, so that the bytes do not depend on the machine. The
plugins for Go and TypeScript are installed into .tools/ at the versions named here, with the toolchain of their
language; where that is absent the language is left as it is, and the others are made.
"""

from __future__ import annotations

import re
import runpy
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PROTOS = ROOT / "protos"
TOOLS = ROOT / ".tools"
SCRIPTS = Path(sysconfig.get_path("scripts"))
THIRD_PARTY = ROOT / "generated" / "third_party"
"""Protos of others, kept here so that the code made of them changes only when we want it to."""

PROTOC_GEN_GO = "google.golang.org/protobuf/cmd/protoc-gen-go@v1.36.12"
PROTOC_GEN_GO_GRPC = "google.golang.org/grpc/cmd/protoc-gen-go-grpc@v1.6.2"
PROTOC_GEN_ES = "@bufbuild/protoc-gen-es@2.13.0"
"""The newest for which Node 20 will do. Its code runs with any later @bufbuild/protobuf 2."""

ERROR_DETAILS = Path("google/rpc/error_details.proto")
"""What errors carry beside their code. Go, Python and Java have a package with it; npm has none, so ours brings it."""


class ToolchainAbsentError(Exception):
    """What a language's plugins are installed with is not on this machine."""


@dataclass(frozen=True)
class Language:
    """A language whose code is committed."""

    folder: str
    """Below generated/. Beside the generated code it may hold what is written by hand, such as a package's manifest."""
    made: tuple[str, ...]
    """The files and folders in it that are generated, and so replaced."""
    generate: Callable[[Path], None]
    """Writes the code below a folder. Raises ToolchainAbsentError."""


def generate_python(destination: Path) -> None:
    """Write the Python code of every proto below ``destination``, an import root.

    Only files that declare a service get gRPC stubs: protoc would give the others an empty shell.
    """
    plugins = {name: SCRIPTS / name for name in ("protoc-gen-mypy", "protoc-gen-mypy_grpc")}
    protos = _protos()
    services = [
        proto for proto in protos if re.search(r"^service\s", (PROTOS / proto).read_text("utf-8"), re.MULTILINE)
    ]
    _protoc(protos, f"--python_out={destination}", f"--mypy_out={destination}", plugins=plugins)
    _protoc(services, f"--grpc_python_out={destination}", f"--mypy_grpc_out={destination}", plugins=plugins)
    for folder in {proto.parent for proto in protos}:
        (destination / folder / "py.typed").touch()


def generate_go(destination: Path) -> None:
    """Write the Go code below ``destination``, the root of the module that go.mod there names."""
    plugins = {"protoc-gen-go": _go_plugin(PROTOC_GEN_GO), "protoc-gen-go-grpc": _go_plugin(PROTOC_GEN_GO_GRPC)}
    outputs = [f"--{kind}_out={destination}" for kind in ("go", "go-grpc")]
    options = [f"--{kind}_opt=paths=source_relative" for kind in ("go", "go-grpc")]
    _protoc(_protos(), *outputs, *options, plugins=plugins)


def generate_typescript(destination: Path) -> None:
    """Write JavaScript modules and their types below ``destination``, and an index of them, the package's entry."""
    output = [f"--es_out={destination}", "--es_opt=target=js+dts,import_extension=js"]
    _protoc([*_protos(), ERROR_DETAILS], *output, plugins={"protoc-gen-es": _npm_plugin(PROTOC_GEN_ES)})
    modules = [f"./{proto.with_suffix('').as_posix()}_pb.js" for proto in _protos()]
    index = "// Made by generated/generate.py.\n" + "".join(f'export * from "{module}";\n' for module in modules)
    for name in ("index.js", "index.d.ts"):
        (destination / name).write_text(index, "utf-8")


LANGUAGES = (
    Language("python", ("jobstate",), generate_python),
    Language("go", ("jobstate",), generate_go),
    Language("typescript", ("google", "index.d.ts", "index.js", "jobstate"), generate_typescript),
)


def _protos() -> list[Path]:
    """Every proto of ours, relative to its root."""
    return sorted(path.relative_to(PROTOS) for path in PROTOS.rglob("*.proto"))


def _protoc(protos: list[Path], *outputs: str, plugins: dict[str, Path]) -> None:
    # The plugins that are named, whatever the PATH says.
    named = [f"--plugin={name}={path}" for name, path in plugins.items()]
    roots = ["-I", str(PROTOS), "-I", str(THIRD_PARTY)]
    command = [sys.executable, "-m", "grpc_tools.protoc", *roots, *named, *outputs, *map(str, protos)]
    _run(command, "protoc failed")


def _go_plugin(package: str) -> Path:
    """The path of a plugin written in Go, installed unless it is there at this version."""
    path, _, version = package.partition("@")
    plugin = TOOLS / "bin" / path.rpartition("/")[2]
    if not _is_at(plugin, version):
        go = _toolchain("go", "https://go.dev/dl")
        _run(["env", f"GOBIN={plugin.parent}", go, "install", package], f"{package} could not be installed")
    return plugin


def _npm_plugin(package: str) -> Path:
    """The path of a plugin from npm, installed unless it is there at this version."""
    path, _, version = package.rpartition("@")
    plugin = TOOLS / "node_modules" / ".bin" / path.rpartition("/")[2]
    npm = _toolchain("npm", "https://nodejs.org")
    if not _is_at(plugin, version):
        TOOLS.mkdir(exist_ok=True)
        # A manifest of its own, or npm would look for one further up.
        (TOOLS / "package.json").write_text("{}\n", "utf-8")
        command = [npm, "install", "--prefix", str(TOOLS), "--no-audit", "--no-fund", "--save-exact", package]
        _run(command, f"{package} could not be installed")
    return plugin


def _toolchain(command: str, source: str) -> str:
    found = shutil.which(command)
    if found is None:
        raise ToolchainAbsentError(f"{command} is not installed; see {source}")
    return found


def _is_at(plugin: Path, version: str) -> bool:
    """Whether the plugin is there, at this version: all of ours say theirs."""
    if not plugin.exists():
        return False
    said = subprocess.run([plugin, "--version"], capture_output=True, text=True, check=False).stdout
    return said.split()[-1:] in ([version], [version.removeprefix("v")], [f"v{version}"])


def _run(command: list[str], trouble: str) -> None:
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    if finished.returncode != 0:
        raise SystemExit(f"{trouble}:\n{finished.stdout}{finished.stderr}")


def replace(language: Language) -> None:
    """Replace what is committed of a language, so that nothing outlives the proto it came from."""
    target = ROOT / "generated" / language.folder
    with tempfile.TemporaryDirectory() as folder:
        fresh = Path(folder)
        language.generate(fresh)
        for name in language.made:
            if (target / name).is_dir():
                shutil.rmtree(target / name)
        shutil.copytree(fresh, target, dirs_exist_ok=True)


def main() -> None:
    """Replace the code of every language whose toolchain is here, and say which is left out."""
    for language in LANGUAGES:
        try:
            replace(language)
        except ToolchainAbsentError as absent:
            print(f"generated/{language.folder} is left as it is: {absent}", file=sys.stderr)
    reference = runpy.run_path(str(ROOT / "docs" / "reference" / "generate.py"))
    reference["generate_reference"](ROOT / "docs" / "api.md")
    python = runpy.run_path(str(ROOT / "docs" / "reference" / "python.py"))
    python["generate_python_reference"](ROOT / "docs" / "python-api.md")


if __name__ == "__main__":
    main()
