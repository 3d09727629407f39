"""A real API server with etcd and the Deployment controllers; the test is scheduler and kubelet, or the real scheduler and kwok are."""

from __future__ import annotations

import functools
import hashlib
import json
import socket
import ssl
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Container
from pathlib import Path
from typing import Any, Final

import yaml
from lightkube import AsyncClient, KubeConfig
from lightkube.config.models import Cluster, User

from heteroscale.servers import process
from heteroscale.servers.process import ProcessId

ROOT: Final = Path(__file__).parents[2]
BUILD: Final = ROOT / "infra" / "kubernetes" / "apiserver"
ADMIN: Final = "admin-of-this-test"
STRATEGIC: Final = "application/strategic-merge-patch+json"
READY_LIMIT_S: Final = 60.0
BUILD_LIMIT_S: Final = 640.0  # after that the tests that need it are skipped: a CI run has 13 minutes
_ETCD_ADDRESSES: Final = (
    "--listen-client-urls {client} --advertise-client-urls {client} "
    "--listen-peer-urls {peer} --initial-advertise-peer-urls {peer} --initial-cluster default={peer}"
)
_API_FLAGS: Final = (
    "--etcd-servers={etcd} --bind-address=127.0.0.1 --advertise-address=127.0.0.1 --endpoint-reconciler-type=none "
    "--secure-port={port} --tls-cert-file={folder}/cert.pem --tls-private-key-file={folder}/key.pem --cert-dir={folder} "
    "--service-cluster-ip-range=10.0.0.0/24 --service-account-issuer=https://localhost --service-account-key-file={folder}/key.pem "
    "--service-account-signing-key-file={folder}/key.pem --token-auth-file={folder}/tokens.csv --authorization-mode=RBAC "
    "--disable-admission-plugins=ServiceAccount"
)
_MANAGER_FLAGS: Final = {
    "kube-controller-manager": "--kubeconfig={folder}/kubeconfig --leader-elect=false --secure-port=0 "
    "--node-monitor-grace-period=600s --controllers=deployment-controller,replicaset-controller,node-lifecycle-controller",
    "kube-scheduler": "--kubeconfig={folder}/kubeconfig --leader-elect=false --secure-port=0",
}
_KWOK_FLAGS: Final = "--manage-all-nodes=false --manage-nodes-with-annotation-selector=kwok.x-k8s.io/node=fake"
_PATHS: Final = {
    "Namespace": "/api/v1/namespaces",
    "ServiceAccount": "/api/v1/namespaces/{ns}/serviceaccounts",
    "Node": "/api/v1/nodes",
    "Role": "/apis/rbac.authorization.k8s.io/v1/namespaces/{ns}/roles",
    "RoleBinding": "/apis/rbac.authorization.k8s.io/v1/namespaces/{ns}/rolebindings",
    "ClusterRole": "/apis/rbac.authorization.k8s.io/v1/clusterroles",
    "ClusterRoleBinding": "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings",
    "Deployment": "/apis/apps/v1/namespaces/{ns}/deployments",
    "Service": "/api/v1/namespaces/{ns}/services",
    "HorizontalPodAutoscaler": "/apis/autoscaling/v2/namespaces/{ns}/horizontalpodautoscalers",
}


def binaries() -> tuple[bool, str]:
    """Whether API server, etcd and controllers were built, and where they are or how to build them."""
    log = ROOT / ".cache" / "kubernetes" / "build.log"
    cure = f"not built{f' in time, see {log}' if log.exists() else ' (no Go?)'}; infra/kubernetes/apiserver/build.sh builds it"
    return _built(("etcd", "kube-apiserver", "controllers"), cure)


def whole_cluster() -> tuple[bool, str]:
    """Whether the scheduler, the controller manager and kwok were built besides."""
    return _built(("kube-scheduler", "kube-controller-manager", "kwok"), "opt-in: make kubernetes builds it")


def _built(names: tuple[str, ...], cure: str) -> tuple[bool, str]:
    found = _binaries()
    return (True, str(found)) if all((found / name).exists() for name in names) else (False, cure)


def await_build() -> None:
    """Wait for a build that is under way beside the tests, within its limit."""
    mark = _binaries() / "building"
    try:
        builder, limit_s = int(mark.read_text()), mark.stat().st_mtime + BUILD_LIMIT_S
    except (OSError, ValueError):
        return
    while mark.exists() and Path(f"/proc/{builder}").exists() and not binaries()[0] and time.time() < limit_s:
        time.sleep(0.5)


def _binaries() -> Path:
    sources = [BUILD / "go.sum", BUILD / "controllers" / "main.go"]
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()[:12]
    return ROOT / ".cache" / "kubernetes" / digest


class KubeServers:
    """Started in `folder`; `stop` ends what this started. `whole`: with the real scheduler and kubelets that kwok plays."""

    def __init__(self, folder: Path, *, whole: bool = False) -> None:
        self._folder = folder
        self._whole = whole
        self._processes: dict[str, ProcessId] = {}
        self._etcd = ""
        self._port = 0

    def start(self) -> None:
        """etcd, API server, controllers; returns when namespaces can be made."""
        folder = self._folder
        client, peer, self._port = _free_port(), _free_port(), _free_port()
        (folder / "tokens.csv").write_text(f'{ADMIN},admin,1,"system:masters"\n')
        key = str(folder / "key.pem")
        cert = ["-days", "2", "-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-out", str(folder / "cert.pem"), *cert],
            check=True,
            capture_output=True,
        )
        etcd = f"http://127.0.0.1:{client}"
        peers = f"http://127.0.0.1:{peer}"
        self._run("etcd", "--data-dir", str(folder / "etcd"), "--unsafe-no-fsync", *_ETCD_ADDRESSES.format(client=etcd, peer=peers).split())
        self._etcd = etcd
        self._serve_api()
        self.kubeconfig(folder / "kubeconfig", ADMIN)
        if not self._whole:
            self._run("controllers", str(folder / "kubeconfig"))
            return
        for program in ("kube-controller-manager", "kube-scheduler"):
            self._run(program, *_MANAGER_FLAGS[program].format(folder=folder).split())
        stages = [f"--config={path}" for path in sorted(_binaries().glob("*.yaml"))]
        self._run("kwok", f"--kubeconfig={folder / 'kubeconfig'}", *_KWOK_FLAGS.split(), *stages)

    @property
    def url(self) -> str:
        """Of the API server."""
        return f"https://127.0.0.1:{self._port}"

    def kubeconfig(self, path: Path, token: str) -> None:
        """A file for clients with somebody's token."""
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "c",
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
            "clusters": [{"name": "c", "cluster": {"server": self.url, "insecure-skip-tls-verify": True}}],
            "users": [{"name": "u", "user": {"token": token}}],
        }
        path.write_text(yaml.safe_dump(config))

    def client(self, token: str) -> AsyncClient:
        """A client with somebody's token."""
        config = KubeConfig.from_one(cluster=Cluster(server=self.url, insecure=True), user=User(token=token))
        return AsyncClient(config=config, field_manager="heteroscale", trust_env=False)

    def apply(self, document: dict[str, Any]) -> None:
        """Create an object, as the administrator; one that is there already is left."""
        path = _PATHS[document["kind"]].format(ns=document["metadata"].get("namespace"))
        self.call("POST", path, document, fine=(409,))

    def token_of(self, account: str, namespace: str) -> str:
        """A token of a service account."""
        path = f"/api/v1/namespaces/{namespace}/serviceaccounts/{account}/token"
        body = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"expirationSeconds": 3600}}
        token: str = self.call("POST", path, body)["status"]["token"]
        return token

    def be_kubelet(self, namespace: str) -> None:
        """Bind pods to free nodes that their nodeSelector fits (a node takes one), make those bound ready, let go those deleted."""
        pods = self.call("GET", f"/api/v1/namespaces/{namespace}/pods")["items"]
        taken = {pod["spec"].get("nodeName") for pod in pods}
        for pod in pods:
            name = pod["metadata"]["name"]
            path = f"/api/v1/namespaces/{namespace}/pods/{name}"
            if pod["metadata"].get("deletionTimestamp"):
                self.call("DELETE", f"{path}?gracePeriodSeconds=0", fine=(404,))
            elif not pod["spec"].get("nodeName"):
                node = self._fitting(pod["spec"].get("nodeSelector") or {}, taken)
                if node is not None:
                    taken.add(node)
                    binding = {"apiVersion": "v1", "kind": "Binding", "metadata": {"name": name}, "target": {"kind": "Node", "name": node}}
                    self.call("POST", f"{path}/binding", binding, fine=(404, 409))
            elif status := _kubelet_status(pod):
                self.call("PATCH", f"{path}/status", {"status": status}, fine=(404,), kind=STRATEGIC)

    def _fitting(self, selector: dict[str, str], taken: Container[str]) -> str | None:
        for node in self.call("GET", "/api/v1/nodes")["items"]:
            labels = node["metadata"].get("labels") or {}
            name: str = node["metadata"]["name"]
            if name not in taken and all(labels.get(key) == value for key, value in selector.items()):
                return name
        return None

    def call(
        self, method: str, path: str, body: dict[str, Any] | None = None, *, fine: tuple[int, ...] = (), kind: str = "application/json"
    ) -> dict[str, Any]:
        """One request as the administrator."""
        headers = {"Authorization": f"Bearer {ADMIN}", "Content-Type": kind}
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data=data, method=method, headers=headers)  # noqa: S310 - our own server
        try:
            with urllib.request.urlopen(request, timeout=10, context=_unchecked()) as response:  # noqa: S310 - our own server
                found: dict[str, Any] = json.loads(response.read())
                return found
        except urllib.error.HTTPError as error:
            with error:
                if error.code in fine:
                    return {}
                raise AssertionError(f"{method} {path}: {error.code} {error.read().decode()}") from error

    def stop(self) -> None:
        """End what was started, last first."""
        while self._processes:
            process.stop(self._processes.popitem()[1], deadline_s=5.0)

    def restart_api(self) -> None:
        """The API server ends, and one with nothing in its memory takes its place; returns when it answers."""
        process.stop(self._processes.pop("kube-apiserver"), deadline_s=5.0)
        self._serve_api()

    def _serve_api(self) -> None:
        self._run("kube-apiserver", *_API_FLAGS.format(etcd=self._etcd, port=self._port, folder=self._folder).split())
        self._until_ready()

    def _run(self, program: str, *arguments: str) -> None:
        log = self._folder / f"{program}.log"
        self._processes[program] = process.start([str(_binaries() / program), *arguments], log=log)

    def _until_ready(self) -> None:
        deadline = time.monotonic() + READY_LIMIT_S
        while True:
            try:
                self.call("GET", "/api/v1/namespaces/default")
            except (OSError, AssertionError):
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.2)
            else:
                return


def _kubelet_status(pod: dict[str, Any]) -> dict[str, Any]:
    """What a kubelet says of a pod whose containers are up: it is ready when its readiness gates are."""
    said = {one["type"]: one["status"] for one in pod["status"].get("conditions") or []}
    gates = [one["conditionType"] for one in pod["spec"].get("readinessGates") or []]
    ready = "True" if all(said.get(gate) == "True" for gate in gates) else "False"
    wanted = {"ContainersReady": "True", "Ready": ready}
    if all(said.get(kind) == status for kind, status in wanted.items()):
        return {}
    address = "10.1.0." + str(int(hashlib.sha256(pod["metadata"]["name"].encode()).hexdigest(), 16) % 250 + 1)
    conditions = [{"type": kind, "status": status} for kind, status in wanted.items()]
    return {"phase": "Running", "podIP": address, "podIPs": [{"ip": address}], "conditions": conditions}


@functools.cache
def _unchecked() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port
