"""What kustomize renders is what Kubernetes accepts, and says of the server what the server says of itself."""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import warnings
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from pavane.server.config import ServerConfig, add_flags, from_flags
from pavane.server.http_port import PATHS

K8S = Path(__file__).parents[2] / "deploy" / "k8s"
OVERLAYS = sorted(path.name for path in (K8S / "overlays").iterdir())
Document = dict[str, Any]

pytestmark = pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not installed")


def render(folder: Path) -> list[Document]:
    done = subprocess.run(
        ["kubectl", "kustomize", str(folder)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == "", "a warning is a failure"
    return list(yaml.safe_load_all(done.stdout))


@pytest.fixture(scope="module", params=OVERLAYS)
def documents(request: pytest.FixtureRequest) -> list[Document]:
    return render(K8S / "overlays" / request.param)


@pytest.fixture(scope="module")
def with_keda(tmp_path_factory: pytest.TempPathFactory) -> list[Document]:
    folder = tmp_path_factory.mktemp("k8s") / "k8s"
    shutil.copytree(K8S, folder)
    overlay = folder / "overlays" / "cpu" / "kustomization.yaml"
    text = overlay.read_text().replace("  - autoscaling.yaml\n", "")
    overlay.write_text(text.replace("components:\n", "components:\n  - ../../components/keda\n"))
    return render(overlay.parent)


def check(document: Document) -> None:
    group, _, version = document["apiVersion"].rpartition("/")
    own = K8S / "schemas" / f"{document['kind'].lower()}-{group}-{version}.json"
    if own.exists():
        jsonschema.validate(document, json.loads(own.read_text()))
    else:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            kubernetes_validate.validate(document, kubernetes_validate.latest_version(), strict=True)


def one(documents: list[Document], kind: str, name: str = "pavane") -> Document:
    (found,) = [d for d in documents if d["kind"] == kind and d["metadata"]["name"] == name]
    return found


def server(documents: list[Document]) -> Document:
    (container,) = one(documents, "Deployment")["spec"]["template"]["spec"]["containers"]
    assert isinstance(container, dict)
    return container


def variables(documents: list[Document]) -> dict[str, str]:
    return {item["name"]: item.get("value", "2") for item in server(documents)["env"]}


def test_every_document_is_valid(documents: list[Document]) -> None:
    for document in documents:
        check(document)


def test_keda_instead(with_keda: list[Document]) -> None:
    for document in with_keda:
        check(document)
    kinds = [document["kind"] for document in with_keda]
    assert "ScaledObject" in kinds
    assert "HorizontalPodAutoscaler" not in kinds, "two scalers of one deployment"


def test_a_wrong_field_is_found(documents: list[Document]) -> None:
    for kind in ("Deployment", "ServiceMonitor"):
        document = one(documents, kind)
        wrong = {**document, "spec": {**document["spec"], "replica": 1}}
        with pytest.raises((kubernetes_validate.ValidationError, jsonschema.ValidationError)):
            check(wrong)


def test_the_variables_are_settings_that_the_server_takes(documents: list[Document], tmp_path: Path) -> None:
    given = {name: value for name, value in variables(documents).items() if name.startswith("PAVANE_")}
    known = {f"PAVANE_{name.upper()}" for name in ServerConfig.__dataclass_fields__}
    assert set(given) <= known
    parser = argparse.ArgumentParser()
    add_flags(parser, given)
    config = from_flags(parser.parse_args([]))
    assert config.host == "0.0.0.0"


def test_the_arguments_are_flags_that_the_server_takes(documents: list[Document]) -> None:
    parser = argparse.ArgumentParser()
    add_flags(parser, {})
    command, *flags = server(documents)["args"]
    assert command == "serve"
    _, unknown = parser.parse_known_args(flags)
    assert unknown in ([], ["--device", "cuda"])


def test_what_is_served_is_what_the_job_fetches(documents: list[Document]) -> None:
    (fetch,) = one(documents, "Job", "pavane-fetch-model")["spec"]["template"]["spec"]["containers"]
    assert fetch["args"] == [variables(documents)["PAVANE_MODEL"]]
    assert fetch["image"] == server(documents)["image"]


def test_a_gpu_each() -> None:
    documents = render(K8S / "overlays" / "gpu")
    container, deployment = server(documents), one(documents, "Deployment")["spec"]
    pod = deployment["template"]["spec"]
    assert container["image"] == "pavane:cuda"
    assert container["args"] == ["serve", "--device", "cuda"]
    for amounts in container["resources"].values():
        assert amounts["nvidia.com/gpu"] == "1"
    assert [taint["key"] for taint in pod["tolerations"]] == ["nvidia.com/gpu"]
    assert pod["nodeSelector"] == {"nvidia.com/gpu.present": "true"}
    assert deployment["strategy"]["rollingUpdate"] == {"maxSurge": 0, "maxUnavailable": 1}
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    mounts = {mount["mountPath"]: volumes[mount["name"]] for mount in container["volumeMounts"]}
    assert mounts["/dev/shm"]["emptyDir"]["medium"] == "Memory"
    assert "emptyDir" in mounts["/tmp"], "for what Triton compiles"
    assert "persistentVolumeClaim" in mounts["/models"]


def test_probes_ports_and_patience(documents: list[Document]) -> None:
    container, defaults = server(documents), ServerConfig()
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert ports == {"grpc": defaults.port, "http": defaults.metrics_port}
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        assert container[probe]["httpGet"]["path"] in PATHS
        assert container[probe]["httpGet"]["port"] == "http"
    pause = int(container["lifecycle"]["preStop"]["exec"]["command"][1])
    drain = int(variables(documents)["PAVANE_DRAIN_TIMEOUT"])
    grace = one(documents, "Deployment")["spec"]["template"]["spec"]["terminationGracePeriodSeconds"]
    assert pause + drain + 10 <= grace


def test_nobody_is_root_or_writes_the_root(documents: list[Document]) -> None:
    pods = [d["spec"]["template"]["spec"] for d in documents if d["kind"] in ("Deployment", "Job")]
    assert len(pods) == 2
    for pod in pods:
        assert pod["securityContext"]["runAsNonRoot"]
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert pod["automountServiceAccountToken"] is False
        for container in pod["containers"]:
            context = container["securityContext"]
            assert context["readOnlyRootFilesystem"]
            assert not context["allowPrivilegeEscalation"]
            assert context["capabilities"] == {"drop": ["ALL"]}
            assert {"requests", "limits"} <= container["resources"].keys()


def test_scaling_goes_by_what_waits_for_room(documents: list[Document]) -> None:
    names = [m["pods"]["metric"]["name"] for m in one(documents, "HorizontalPodAutoscaler")["spec"]["metrics"]]
    assert names == ["pavane_num_requests_waiting", "pavane_kv_cache_usage_perc"]


def test_the_policy_lets_in_clients_and_scrapes_only(documents: list[Document]) -> None:
    policy = one(documents, "NetworkPolicy", "pavane-server")["spec"]
    assert policy["egress"] == [] or "egress" not in policy
    assert "Egress" in policy["policyTypes"]
    assert all(rule["from"] for rule in policy["ingress"])
    assert [port["port"] for rule in policy["ingress"] for port in rule["ports"]] == ["grpc", "http"]
