"""The files in docs/deploy start what they say: they parse, fit their schemas, and agree with the server's settings."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from jobstate_server.config import Settings, load
from jobstate_server.domain.durations import SECOND

from .support import ROOT

# Not among what the other tests need; where it is missing that shows as a skip.
yaml = pytest.importorskip("yaml", reason="needs PyYAML")

DEPLOY = ROOT / "docs" / "deploy"
PREFIX = "JOBSTATE_"


def objects() -> list[dict[str, Any]]:
    """The Kubernetes objects."""
    return list(yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text("utf-8")))


def the(kind: str) -> dict[str, Any]:
    """The only object of a kind."""
    (found,) = [item for item in objects() if item["kind"] == kind]
    return found


def container() -> dict[str, Any]:
    (found,) = the("Deployment")["spec"]["template"]["spec"]["containers"]
    return dict(found)


def compose() -> dict[str, Any]:
    return dict(yaml.safe_load((DEPLOY / "compose.yaml").read_text("utf-8")))


def settings_in(environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Settings:
    """What a server makes of these variables."""
    for name, value in environment.items():
        if name.startswith(PREFIX):
            monkeypatch.setenv(name, value)
    return load(None, {})


def seconds(span: str) -> int:
    """Seconds of a span of Compose."""
    found = re.fullmatch(r"(\d+)(s|m)", span)
    assert found is not None
    return int(found[1]) * (60 if found[2] == "m" else 1)


def test_every_kubernetes_object_fits_its_schema() -> None:
    validate = pytest.importorskip("kubernetes_validate", reason="needs kubernetes-validate")

    for item in objects():
        validate.validate(item, validate.latest_version(), strict=True)


def test_kubernetes_sends_calls_and_probes_to_where_the_server_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    server = container()
    plain = {entry["name"]: entry["value"] for entry in server["env"] if "value" in entry}
    settings = settings_in(plain, monkeypatch)
    _, port = settings.address()
    (service_port,) = the("Service")["spec"]["ports"]
    (named,) = server["ports"]

    assert settings.insecure
    assert named["containerPort"] == service_port["port"] == port
    assert service_port["targetPort"] == named["name"]
    assert the("Service")["spec"]["clusterIP"] == "None"
    for probe in ("readinessProbe", "startupProbe"):
        # With no service named, gRPC's health is the server's own.
        assert server[probe]["grpc"] == {"port": port}
    assert server["livenessProbe"]["tcpSocket"] == {"port": port}
    assert server["args"] == ["serve"]
    assert the("Deployment")["spec"]["template"]["spec"]["enableServiceLinks"] is False


def test_kubernetes_waits_longer_than_the_server_takes_to_stop_and_keeps_most_replicas(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pod = the("Deployment")["spec"]["template"]["spec"]
    plain = {entry["name"]: entry["value"] for entry in container()["env"] if "value" in entry}
    settings = settings_in(plain, monkeypatch)

    assert pod["terminationGracePeriodSeconds"] >= settings.shutdown_grace // SECOND + 5
    assert the("Deployment")["spec"]["strategy"]["rollingUpdate"]["maxUnavailable"] == 0
    assert 0 < the("PodDisruptionBudget")["spec"]["minAvailable"] < the("Deployment")["spec"]["replicas"]


def test_kubernetes_takes_the_store_from_a_secret_and_selects_the_same_pods_everywhere() -> None:
    (store,) = [entry for entry in container()["env"] if entry["name"] == "JOBSTATE_STORE"]
    deployment, labels = the("Deployment")["spec"], the("Deployment")["spec"]["template"]["metadata"]["labels"]

    assert set(store["valueFrom"]) == {"secretKeyRef"}
    assert deployment["selector"]["matchLabels"] == labels
    assert the("Service")["spec"]["selector"] == labels
    assert the("PodDisruptionBudget")["spec"]["selector"]["matchLabels"] == labels
    assert the("NetworkPolicy")["spec"]["podSelector"]["matchLabels"] == labels


def test_compose_starts_postgresql_and_three_replicas_that_share_it(monkeypatch: pytest.MonkeyPatch) -> None:
    services = compose()["services"]
    replicas = {name: service for name, service in services.items() if name != "postgres"}

    assert len(replicas) == 3
    published = [port for service in replicas.values() for port in service["ports"]]
    assert len(set(published)) == 3
    for service in replicas.values():
        settings = settings_in(service["environment"], monkeypatch)
        (port,) = service["ports"]
        assert settings.store == "postgresql://jobstate@postgres/jobstate"
        assert port.startswith("127.0.0.1:"), "reachable from this machine alone, for there is no TLS"
        assert int(port.rpartition(":")[2]) == settings.address()[1]
        assert seconds(service["stop_grace_period"]) >= settings.shutdown_grace // SECOND + 5
        assert service["depends_on"] == {"postgres": {"condition": "service_healthy"}}
    database = services["postgres"]["environment"]
    assert (database["POSTGRES_USER"], database["POSTGRES_DB"]) == ("jobstate", "jobstate")


def test_compose_builds_from_this_repository() -> None:
    for name, service in compose()["services"].items():
        if name == "postgres":
            continue
        context = (DEPLOY / service["build"]["context"]).resolve()
        assert context == ROOT
        assert (context / service["build"]["dockerfile"]).is_file()


def test_the_dockerfile_copies_everything_that_the_package_is_built_from() -> None:
    text = (DEPLOY / "Dockerfile").read_text("utf-8")
    copied = {Path(name) for line in re.findall(r"^COPY (.+) \S+$", text, re.MULTILINE) for name in line.split()}

    assert all((ROOT / path).exists() for path in copied)
    wheel = (ROOT / "pyproject.toml").read_text("utf-8")
    (packages,) = re.findall(r"^\[tool\.hatch\.build\.targets\.wheel\]\npackages = \[(.+)\]$", wheel, re.MULTILINE)
    for package in re.findall(r'"([^"]+)"', packages):
        assert any(Path(package).is_relative_to(path) for path in copied), package
    for needed in ("pyproject.toml", "README.md", "LICENSE", "protos"):
        assert Path(needed) in copied
