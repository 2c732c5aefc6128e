"""cluster/kuberay-rayjob.yaml against KubeRay's fields, the image and itself; nothing is started."""

import json
import re
from collections import namedtuple
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.runtime_env import RuntimeEnv

ROOT = Path(__file__).resolve().parents[2]
CLUSTER = ROOT / "cluster"

# The fields in use, from the RayJob CRD of KubeRay 1.6.2 (ray-operator/config/crd/bases/ray.io_rayjobs.yaml).
# A dict: these fields and no others. A list: items of this kind. A set: one of these words. MapOf: any names.
MapOf = namedtuple("MapOf", "values")
NUMBER = (int, str)  # Kubernetes' quantities
RESOURCES = {"requests": MapOf(NUMBER), "limits": MapOf(NUMBER)}
CONTAINER_SECURITY = {"allowPrivilegeEscalation": bool, "capabilities": {"drop": [str]}}
POD = {
    "restartPolicy": {"Never", "OnFailure"},
    "terminationGracePeriodSeconds": int,
    "securityContext": {
        "runAsNonRoot": bool,
        "runAsUser": int,
        "runAsGroup": int,
        "fsGroup": int,
        "fsGroupChangePolicy": {"OnRootMismatch", "Always"},
        "seccompProfile": {"type": {"RuntimeDefault"}},
    },
    "containers": [
        {
            "name": str,
            "image": str,
            "securityContext": CONTAINER_SECURITY,
            "env": [{"name": str, "value": str}],
            "resources": RESOURCES,
            "volumeMounts": [{"name": str, "mountPath": str, "readOnly": bool}],
        }
    ],
    "volumes": [
        {
            "name": str,
            "emptyDir": {"medium": {"Memory"}, "sizeLimit": str},
            "persistentVolumeClaim": {"claimName": str, "readOnly": bool},
        }
    ],
    "tolerations": [{"key": str, "operator": {"Exists"}, "effect": {"NoSchedule"}}],
}
RAY_JOB = {
    "apiVersion": {"ray.io/v1"},
    "kind": {"RayJob"},
    "metadata": {"name": str},
    "spec": {
        "entrypoint": str,
        "runtimeEnvYAML": str,
        "submissionMode": {"K8sJobMode", "HTTPMode", "SidecarMode", "InteractiveMode"},
        "backoffLimit": int,
        "activeDeadlineSeconds": int,
        "shutdownAfterJobFinishes": bool,
        "ttlSecondsAfterFinished": int,
        "submitterPodTemplate": {"spec": POD},
        "rayClusterSpec": {
            "rayVersion": str,
            "authOptions": {"mode": {"token", "disabled"}, "secretName": str},
            "enableInTreeAutoscaling": bool,
            "autoscalerOptions": {"idleTimeoutSeconds": int, "securityContext": CONTAINER_SECURITY},
            "headGroupSpec": {"rayStartParams": MapOf(str), "template": {"spec": POD}},
            "workerGroupSpecs": [
                {
                    "groupName": str,
                    "replicas": int,
                    "minReplicas": int,
                    "maxReplicas": int,
                    "rayStartParams": MapOf(str),
                    "template": {"spec": POD},
                }
            ],
        },
    },
}


def violations(value: Any, schema: Any, where: str = "") -> Iterator[str]:
    """Places of `value` that `schema` does not know, or whose type is another."""
    if isinstance(schema, set):
        if value not in schema:
            yield f"{where} = {value!r}"
    elif isinstance(schema, MapOf):
        for key, item in value.items():
            yield from violations(item, schema.values, f"{where}.{key}")
    elif isinstance(schema, dict) and isinstance(value, dict):
        for key, item in value.items():
            place = f"{where}.{key}".lstrip(".")
            if key in schema:
                yield from violations(item, schema[key], place)
            else:
                yield place
    elif isinstance(schema, list) and isinstance(value, list):
        for number, item in enumerate(value):
            yield from violations(item, schema[0], f"{where}[{number}]")
    elif isinstance(schema, dict | list) or not isinstance(value, schema):
        yield f"{where} = {value!r}"
    elif isinstance(value, bool) and schema is int:
        yield f"{where} = {value!r}"


@pytest.fixture
def ray_job() -> dict[str, Any]:
    # A copy without aliases: what a test changes in one place should not change elsewhere.
    return json.loads(json.dumps(yaml.safe_load((CLUSTER / "kuberay-rayjob.yaml").read_text())))


def pods(ray_job: dict[str, Any]) -> list[dict[str, Any]]:
    """Pod specs of the head and of the workers."""
    cluster = ray_job["spec"]["rayClusterSpec"]
    groups = (cluster["headGroupSpec"], *cluster["workerGroupSpecs"])
    return [group["template"]["spec"] for group in groups]


def test_kuberay_knows_every_field(ray_job):
    assert not list(violations(ray_job, RAY_JOB))


def test_a_typo_in_the_ray_job_is_caught(ray_job):
    ray_job["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]["maxReplica"] = 4
    ray_job["spec"]["shutdownAfterJobFinishes"] = "true"
    ray_job["spec"]["backoffLimit"] = True
    ray_job["spec"]["submissionMode"] = "K8SJobMode"
    assert sorted(violations(ray_job, RAY_JOB)) == [
        "spec.backoffLimit = True",
        "spec.rayClusterSpec.workerGroupSpecs[0].maxReplica",
        "spec.shutdownAfterJobFinishes = 'true'",
        "spec.submissionMode = 'K8SJobMode'",
    ]


def test_ray_job_ends_and_cleans_up(ray_job):
    spec = ray_job["spec"]
    assert spec["shutdownAfterJobFinishes"] and spec["ttlSecondsAfterFinished"] > 0
    assert spec["activeDeadlineSeconds"] > 0 and spec["backoffLimit"] >= 0


def test_pods_drain_before_they_are_killed(ray_job):
    for pod in pods(ray_job):
        environment = {item["name"]: item["value"] for item in pod["containers"][0]["env"]}
        drain = float(environment["RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"])
        assert drain < pod["terminationGracePeriodSeconds"]


def test_pods_run_without_root(ray_job):
    for pod in [*pods(ray_job), ray_job["spec"]["submitterPodTemplate"]["spec"]]:
        assert pod["securityContext"]["runAsNonRoot"]
        assert all(
            container["securityContext"]["allowPrivilegeEscalation"] is False
            for container in pod["containers"]
        )


def test_pods_mount_what_they_declare_and_shared_memory(ray_job):
    for pod in pods(ray_job):
        (container,) = pod["containers"]
        mounts = {item["name"]: item["mountPath"] for item in container["volumeMounts"]}
        volumes = {item["name"]: item for item in pod["volumes"]}
        assert mounts.keys() == volumes.keys()
        assert mounts["shm"] == "/dev/shm" and volumes["shm"]["emptyDir"]["medium"] == "Memory"
        assert {"name": "DETECTRON2_DATASETS", "value": mounts["datasets"]} in container["env"]


def test_worker_pods_hold_the_range_of_workers_the_job_asks_for(ray_job):
    least, most = map(
        int, re.search(r"--num-workers (\d+):(\d+)", ray_job["spec"]["entrypoint"]).groups()
    )
    (group,) = ray_job["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    gpus = group["template"]["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"]
    assert (least, most) == (gpus * group["minReplicas"], gpus * group["maxReplicas"])
    assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]


def test_ray_job_runs_the_code_of_the_image(ray_job):
    environment = RuntimeEnv(**yaml.safe_load(ray_job["spec"]["runtimeEnvYAML"]))
    folder = environment["working_dir"].removeprefix("local://")
    assert f"WORKDIR {folder}\n" in (CLUSTER / "Dockerfile").read_text(encoding="utf-8")
    assert (
        environment["env_vars"]
        == yaml.safe_load((CLUSTER / "runtime-env.yaml").read_text())["env_vars"]
    )


def test_tested_ray_is_the_version_of_the_ray_job(ray_job):
    pinned = re.search(r"^ray==(.+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)[1]
    assert ray_job["spec"]["rayClusterSpec"]["rayVersion"] == pinned
