"""The proxies that docs/operations.md configures, as it does, before a server that can vanish without a word."""

from __future__ import annotations

import asyncio
import os
import re
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ..support.ports import ReservedPort
from ..support.tcp_proxy import TcpProxy, tcp_proxy
from .support import PATIENCE_S, ROOT
from .toolchains import need

LISTENS, UPSTREAM = "50050", "127.0.0.1:50051"
"""The port of the proxy, and the address of the server, in the documentation."""

KINDS = ("nginx", "haproxy")


def documented(kind: str) -> str:
    """The configuration of docs/operations.md."""
    page = (ROOT / "docs" / "operations.md").read_text("utf-8")
    (block,) = re.findall(rf"^```{kind}\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    return str(block)


class LossyUpstream:
    """A way to the server whose connections can all fall silent, while new ones are as good as ever."""

    def __init__(self, server: str) -> None:
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._over = asyncio.Event()
        self._proxy: TcpProxy | None = None
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self._serve(server),), daemon=True)
        self._thread.start()
        assert self._ready.wait(PATIENCE_S)

    async def _serve(self, server: str) -> None:
        async with tcp_proxy(server) as self._proxy:
            self._ready.set()
            await self._over.wait()

    @property
    def address(self) -> str:
        assert self._proxy is not None
        return self._proxy.address

    def lose(self) -> None:
        """Let every connection that there is fall silent."""
        assert self._proxy is not None
        lost = threading.Event()

        def lose() -> None:
            assert self._proxy is not None
            self._proxy.lose()
            lost.set()

        self._loop.call_soon_threadsafe(lose)
        assert lost.wait(PATIENCE_S)

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._over.set)
        self._thread.join(PATIENCE_S)
        self._loop.close()


@contextmanager
def proxy(kind: str, upstream: str, directory: Path) -> Iterator[str]:
    """The address of a proxy with the documented configuration, but for its port and the server's address."""
    program = need(kind, install=f"on Debian: apt-get install {kind}")
    port = ReservedPort()
    text = documented(kind)
    assert LISTENS in text
    assert UPSTREAM in text
    text = text.replace(UPSTREAM, upstream)
    log = (directory / f"{kind}.log").open("wb")
    if kind == "nginx":
        text = _whole(text.replace(f"listen {LISTENS}", f"listen {port.address}"), directory)
        command = [program, "-p", directory, "-c", directory / "nginx.conf", "-g", "daemon off; master_process off;"]
    else:
        text = text.replace(f"bind :{LISTENS}", f"bind {port.address}")
        command = [program, "-db", "-f", directory / "haproxy.conf"]
    (directory / f"{kind}.conf").write_text(text, "utf-8")
    process = subprocess.Popen([str(word) for word in command], stdout=log, stderr=log)
    try:
        _wait_for(port.number, process, directory / f"{kind}.log")
        yield port.address
    finally:
        process.terminate()
        process.wait(PATIENCE_S)
        log.close()


def _whole(conf: str, directory: Path) -> str:
    """What Debian's nginx.conf has around a file of conf.d, with nothing outside this directory."""
    paths = "".join(
        f"{kind}_temp_path {directory}/{kind}; " for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    user = "user root; " if os.geteuid() == 0 else ""
    return (
        f"{user}pid {directory}/nginx.pid; error_log stderr; events {{ worker_connections 768; }}\n"
        f"http {{ access_log off; {paths}\n{conf}\n}}\n"
    )


def _wait_for(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    limit = time.monotonic() + PATIENCE_S
    while time.monotonic() < limit:
        assert process.poll() is None, log.read_text("utf-8")
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except ConnectionRefusedError:
            with suppress(subprocess.TimeoutExpired):
                process.wait(0.01)
        else:
            return
    raise AssertionError(log.read_text("utf-8"))
