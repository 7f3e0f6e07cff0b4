"""The TLS options, with a server that has a certificate and asks for the client's."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest

from jobstate.v1 import job_service_pb2 as pb

from .support import run_alone

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the certificate")


class Types(grpc.GenericRpcHandler):
    """Answers ListJobTypes, and nothing else."""

    def service(self, details: grpc.HandlerCallDetails) -> Any:
        """How a call is handled."""
        if details.method != "/jobstate.v1.JobService/ListJobTypes":
            return None
        return grpc.unary_unary_rpc_method_handler(
            lambda request, context: pb.ListJobTypesResponse(strict_job_types=True),
            request_deserializer=pb.ListJobTypesRequest.FromString,
            response_serializer=pb.ListJobTypesResponse.SerializeToString,
        )


@pytest.fixture(scope="module")
def pems(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a certificate for ``jobs.example`` that stands for itself, and its key."""
    folder = tmp_path_factory.mktemp("pems")
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
         "-subj", "/CN=jobs.example", "-addext", "subjectAltName=DNS:jobs.example",
         "-keyout", str(folder / "key.pem"), "-out", str(folder / "certificate.pem")],
        check=True,
        capture_output=True,
    )  # fmt: skip
    return folder


@pytest.fixture
def address(pems: Path) -> Iterator[str]:
    """Where such a server is."""
    certificate, key = (pems / "certificate.pem").read_bytes(), (pems / "key.pem").read_bytes()
    credentials = grpc.ssl_server_credentials([(key, certificate)], certificate, require_client_auth=True)
    server = grpc.server(ThreadPoolExecutor(2), handlers=[Types()])
    port = server.add_secure_port("127.0.0.1:0", credentials)
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(None)


def test_a_server_with_a_certificate_is_reached_with_ours(address: str, pems: Path) -> None:
    trust = ["--tls-root-certificates", str(pems / "certificate.pem"), "--tls-server-name", "jobs.example"]
    own = ["--tls-certificate", str(pems / "certificate.pem"), "--tls-private-key", str(pems / "key.pem")]
    reached = run_alone("--server", address, *trust, *own, "types", "--json")
    unknown = run_alone("--server", address, *trust, "--timeout", "2s", "types", "--json")

    assert (reached.code, reached.err) == (0, "")
    assert reached.json == {"job_types": [], "strict_job_types": True}
    assert unknown.code == 3


def test_a_certificate_of_another_name_is_not_trusted(address: str, pems: Path) -> None:
    pem = str(pems / "certificate.pem")
    own = ["--tls-certificate", pem, "--tls-private-key", str(pems / "key.pem")]
    result = run_alone("--server", address, "--tls-root-certificates", pem, *own, "--timeout", "2s", "types")

    assert (result.code, result.out) == (2, "")
    assert "--tls-server-name NAME" in result.err


def test_a_certificate_that_is_not_trusted_is_not_taken_for_a_server_that_is_not_there(address: str) -> None:
    result = run_alone("--server", address, "--tls", "--timeout", "2s", "types")

    assert (result.code, result.out) == (2, "")
    assert "is not trusted" in result.err
    assert "--tls-root-certificates FILE" in result.err


def test_a_server_that_asks_for_a_certificate_suggests_the_options_of_tls(address: str) -> None:
    result = run_alone("--server", address, "--timeout", "2s", "types")

    assert (result.code, result.out) == (3, "")
    assert "give --tls" in result.err
