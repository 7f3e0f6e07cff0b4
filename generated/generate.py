"""Make the generated code anew from protos/: run by `make generate`, and by the test that nothing has drifted."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PROTOS = ROOT / "protos"
PACKAGE = Path("jobstate")


def generate(destination: Path) -> None:
    """Write the Python code of every proto below ``destination``, an import root.

    Only files that declare a service get gRPC stubs: protoc would give the others an empty shell.
    """
    protos = sorted(PROTOS.rglob("*.proto"))
    services = [proto for proto in protos if re.search(r"^service\s", proto.read_text("utf-8"), re.MULTILINE)]
    _protoc(protos, f"--python_out={destination}", f"--mypy_out={destination}")
    _protoc(services, f"--grpc_python_out={destination}", f"--mypy_grpc_out={destination}")
    for folder in {proto.relative_to(PROTOS).parent for proto in protos}:
        (destination / folder / "py.typed").touch()


def _protoc(protos: list[Path], *outputs: str) -> None:
    # The plugins of this very environment, whatever the PATH says.
    scripts = Path(sysconfig.get_path("scripts"))
    plugins = [f"--plugin={name}={scripts / name}" for name in ("protoc-gen-mypy", "protoc-gen-mypy_grpc")]
    command = [sys.executable, "-m", "grpc_tools.protoc", "-I", str(PROTOS), *plugins, *outputs, *map(str, protos)]
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    if finished.returncode != 0:
        raise SystemExit(f"protoc failed:\n{finished.stdout}{finished.stderr}")


def main() -> None:
    """Replace generated/python, so that nothing outlives the proto it came from."""
    with tempfile.TemporaryDirectory() as folder:
        generate(Path(folder))
        target = ROOT / "generated" / "python" / PACKAGE
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(Path(folder) / PACKAGE, target)


if __name__ == "__main__":
    main()
