"""h2load: a load generator in C, for the rows whose calls are all the same."""

from __future__ import annotations

import re
import resource
import shutil
import subprocess
from pathlib import Path

from .http2 import framed
from .messages import SERVICE, Request
from .samples import Sample

MISSING = "make bench needs h2load: install it with `apt-get install nghttp2-client` (Debian) or `brew install nghttp2`"

_FINISHED = re.compile(r"finished in ([\d.]+)(us|ms|s)\b")
_DONE = re.compile(r"requests: (\d+) total, \d+ started, \d+ done, (\d+) succeeded, (\d+) failed")
_UNITS = {"us": 1e-6, "ms": 1e-3, "s": 1.0}


def is_installed() -> bool:
    """Whether there is an h2load to run."""
    return shutil.which("h2load") is not None


def version() -> str:
    """As it tells."""
    return subprocess.run(["h2load", "--version"], capture_output=True, text=True, check=True).stdout.strip()


def run(
    address: str, request: Request, count: int, folder: Path, *, connections: int = 4, in_flight: int = 16
) -> Sample:
    """Make one call ``count`` times, ``in_flight`` at a time on each connection."""
    body, log = folder / "h2load.body", folder / "h2load.log"
    body.write_bytes(framed(request.body))
    log.unlink(missing_ok=True)
    command = ["h2load", "-n", str(count), "-c", str(connections), "-m", str(in_flight), "-d", str(body)]
    command += ["-H", "content-type: application/grpc", "-H", "te: trailers", f"--log-file={log}"]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    told = subprocess.run(
        [*command, f"http://{address}{SERVICE}{request.method}"], capture_output=True, text=True, check=True
    ).stdout
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    finished, done = _FINISHED.search(told), _DONE.search(told)
    if finished is None or done is None or done[2] != done[1]:
        raise RuntimeError(f"h2load did not do what it was to do:\n{told}")
    cpu = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
    # Its log tells of each call when it began, the status, and the microseconds that it took.
    took = [int(line.split("\t")[2]) / 1e6 for line in log.read_text("ascii").splitlines()]
    return Sample(count, float(finished[1]) * _UNITS[finished[2]], 0.0, cpu, [], took)
