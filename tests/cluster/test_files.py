"""The files of cluster/ against Ray's own schema and code, and each other; nothing is started."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from ray._private.ray_constants import get_runtime_env_default_excludes
from ray._private.runtime_env.packaging import _dir_travel, _get_excludes
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.runtime_env import RuntimeEnv

ROOT = Path(__file__).resolve().parents[2]
CLUSTER = ROOT / "cluster"
README = (CLUSTER / "README.md").read_text(encoding="utf-8")
LAUNCHER_FILES = ("aws.yaml", "onprem.yaml")


class Template(yaml.SafeLoader):
    """CloudFormation's YAML: `!Ref X` and the like are read as plain values."""


Template.add_multi_constructor("!", lambda loader, tag, node: f"!{tag} {node.value}")


def load(name: str) -> dict[str, Any]:
    return yaml.load((CLUSTER / name).read_text(encoding="utf-8"), Loader=Template)


ENTRYPOINT = load("kuberay-rayjob.yaml")["spec"]["entrypoint"]


def shell_lines(config: dict[str, Any]) -> list[str]:
    """Every command and Docker option of a cluster launcher's config."""
    return [
        *(line for key, lines in config.items() if key.endswith("_commands") for line in lines),
        *config.get("docker", {}).get("run_options", []),
    ]


# Files of `ray up`


@pytest.mark.parametrize("name", LAUNCHER_FILES)
def test_ray_takes_launcher_file(name):
    config = prepare_config(load(name))
    validate_config(config)
    workers = [kind for kind in config["available_node_types"].values() if kind["max_workers"]]
    assert workers and all(kind["max_workers"] <= config["max_workers"] for kind in workers)


@pytest.mark.parametrize("name", LAUNCHER_FILES)
def test_ray_refuses_a_typo(name):
    config = load(name)
    config["idle_timeout_minute"] = 5
    with pytest.raises(jsonschema.ValidationError, match="idle_timeout_minute"):
        validate_config(prepare_config(config))


def test_aws_workers_are_spot_gpu_machines_that_scale_to_zero_and_the_head_is_not():
    types = load("aws.yaml")["available_node_types"]
    assert types["worker"]["resources"]["GPU"] > 0 and types["worker"]["min_workers"] == 0
    assert types["worker"]["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}
    assert "GPU" not in types["head"]["resources"]
    assert "InstanceMarketOptions" not in types["head"]["node_config"]


def test_aws_nodes_use_the_closed_security_group_and_the_stacks_roles():
    # Without a group of ours Ray makes one that lets SSH in from everywhere.
    stack = load("aws-account.yaml")["Resources"]
    profiles = {
        resource["Properties"]["InstanceProfileName"]
        for resource in stack.values()
        if resource["Type"] == "AWS::IAM::InstanceProfile"
    }
    used = set()
    for kind in load("aws.yaml")["available_node_types"].values():
        assert kind["node_config"]["SecurityGroupIds"]
        used.add(kind["node_config"]["IamInstanceProfile"]["Name"])
    assert used == profiles
    ingress = stack["SecurityGroup"]["Properties"]["SecurityGroupIngress"]
    ingress = [*ingress, stack["BetweenNodes"]["Properties"]]
    assert [rule.get("CidrIp") for rule in ingress] == ["!Ref MyAddress", None]
    assert ingress[0]["FromPort"] == ingress[0]["ToPort"] == 22


# The token, and closed doors


def token_mounted(config: dict[str, Any]) -> bool:
    return any(
        remote.endswith("/.ray/auth_token") and local == "~/.ray/auth_token"
        for remote, local in config["file_mounts"].items()
    )


@pytest.mark.parametrize("name", LAUNCHER_FILES)
def test_launcher_nodes_demand_the_token(name):
    config = load(name)
    assert token_mounted(config)
    in_container = "--env RAY_AUTH_MODE=token" in config.get("docker", {}).get("run_options", [])
    starts = [line for line in shell_lines(config) if "ray start" in line]
    assert len(starts) == 2
    assert in_container or all("RAY_AUTH_MODE=token" in line for line in starts)


def test_kuberay_and_image_demand_the_token():
    cluster = load("kuberay-rayjob.yaml")["spec"]["rayClusterSpec"]
    assert cluster["authOptions"]["mode"] == "token"
    assert cluster["authOptions"]["secretName"] in README
    assert "RAY_AUTH_MODE=token" in (CLUSTER / "Dockerfile").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", [*LAUNCHER_FILES, "README.md"])
def test_dashboard_listens_on_loopback(name):
    text = (CLUSTER / name).read_text(encoding="utf-8")
    heads = re.findall(r"ray start --head [^\n]*(?:\n +--[^\n]*)*", text)
    assert heads and all("--dashboard-host=127.0.0.1" in head for head in heads)


@pytest.mark.parametrize("path", sorted(CLUSTER.glob("*")), ids=lambda path: path.name)
def test_nothing_is_published(path):
    if path.is_file():
        text = path.read_text(encoding="utf-8")
        words = r"NodePort|LoadBalancer|enableIngress|hostPort|EXPOSE"
        assert not re.findall(rf"0\.0\.0\.0|::/0|--publish|\s-p \d|{words}", text)


# What a job uploads


def uploaded(root: Path) -> dict[str, int]:
    """Files that `ray job submit` packs with cluster/runtime-env.yaml, and their sizes in bytes.

    .gitignore is left out of account: it would hide what the excludes miss.
    """
    environment = RuntimeEnv(**load("runtime-env.yaml"), working_dir=str(root))
    excludes = get_runtime_env_default_excludes() + environment["excludes"]
    files = {}

    def keep(path: Path) -> None:
        if path.is_file():
            files[path.relative_to(root).as_posix()] = path.stat().st_size

    _dir_travel(root, [_get_excludes(root, excludes)], keep, include_gitignore=False)
    return files


def test_upload_holds_the_code_and_little_else():
    files = uploaded(ROOT)
    assert {"projects/QIML/qiml/__init__.py", "configs/Base-QIML.yaml"} <= files.keys()
    assert {name.split("/")[0] for name in files} == {"cluster", "configs", "projects"}
    assert sum(files.values()) < 5e6


def test_upload_leaves_data_and_results_behind(tmp_path):
    wanted = ["cluster/train.py", "configs/kitti/a.yaml", "projects/QIML/qiml/data/kitti.py"]
    unwanted = [
        ".git/objects/ab/cd",
        ".venv/bin/python",
        "datasets/kitti/training/image_2/000000.png",
        "data/kitti/a.png",
        "output/model_final.pth",
        "outputs/a/metrics.json",
        "runs/a/events.out.tfevents.1",
        "tests/golden/a.npz",
        "docs/images/a.jpg",
        "projects/QIML/qiml/__pycache__/a.pyc",
        "projects/QIML/qiml.egg-info/PKG-INFO",
        "configs/model.pth",
        "model.pth",
    ]
    for name in [*wanted, *unwanted]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    assert sorted(uploaded(tmp_path)) == sorted(wanted)


def test_job_finds_the_package_in_the_upload():
    (path,) = load("runtime-env.yaml")["env_vars"]["PYTHONPATH"].split(":")
    assert (ROOT / path / "qiml" / "__init__.py").is_file()
    assert f"{path}/qiml/__init__.py" in uploaded(ROOT)


def test_nothing_is_installed_at_the_start_of_a_job():
    assert not {"pip", "uv", "conda"} & load("runtime-env.yaml").keys()


# The image


def test_image_copies_only_files_that_exist_and_docker_sends():
    dockerfile = (CLUSTER / "Dockerfile").read_text(encoding="utf-8")
    copies = re.findall(r"^COPY (.+)$", dockerfile, re.MULTILINE)
    copied = [name for line in copies for name in line.split()[:-1]]
    assert copied
    sent = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert "*" in sent
    for name in copied:
        assert (ROOT / name).exists(), name
        assert f"!{name}" in sent, name


def test_image_runs_without_root():
    users = re.findall(r"^USER (.+)$", (CLUSTER / "Dockerfile").read_text(), re.MULTILINE)
    assert users and users[-1] == "1000"


# What the README says


def test_readme_links_and_paths_exist():
    links = re.findall(r"\]\(([^):#]+)\)", README)
    assert links and all((CLUSTER / link).exists() for link in links)
    names = set(re.findall(r"(?<![\w/$.])(?:cluster|configs|tools)/[\w./-]+\.(?:py|yaml)", README))
    names |= set(re.findall(r"(?:cluster|configs)/[\w./-]+", ENTRYPOINT))
    assert {"cluster/runtime-env.yaml", "cluster/aws.yaml"} <= names
    missing = {name for name in names if not (ROOT / name).exists()}
    assert not missing


def test_readme_commands_are_shell():
    blocks = re.findall(r"^```bash\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    assert len(blocks) > 5
    for block in blocks:
        check = subprocess.run(["bash", "-n"], input=block, capture_output=True, text=True)
        assert check.returncode == 0, f"{check.stderr}\n{block}"


def commands(text: str, start: str) -> list[str]:
    """Command lines of a text that contain `start`, from there to their end, joined."""
    joined = re.sub(r"\\\n\s*", "", text)
    return re.findall(rf"^[^\n]*?({re.escape(start)}[^\n]*)$", joined, re.MULTILINE)


def options(command: str) -> set[str]:
    return set(re.findall(r"(?<!\S)(--[a-z-]+)", command))


def help_of(*command: str) -> set[str]:
    result = subprocess.run(
        [sys.executable, *command, "--help"], capture_output=True, text=True, cwd=ROOT, check=True
    )
    return set(re.findall(r"--[a-z][a-z-]+", result.stdout))


def test_train_takes_the_options_that_the_files_use():
    used = [*commands(README, "cluster/train.py --"), ENTRYPOINT]
    assert len(used) > 3
    table = set(re.findall(r"^\| `(--[a-z-]+)", README, re.MULTILINE)) | {"--cpus-per-worker"}
    assert table.union(*map(options, used)) <= help_of("cluster/train.py")


def test_make_synthetic_takes_the_options_of_the_readme():
    (command,) = commands(README, "tools/make_synthetic.py")
    assert options(command) <= help_of("tools/make_synthetic.py")


@pytest.mark.parametrize(
    "name", ["job submit", "job logs", "job stop", "job list", "start", "up", "get-auth-token"]
)
def test_ray_takes_the_options_that_the_files_use(name):
    from ray.scripts.scripts import cli

    command = cli
    for part in name.split():
        command = command.commands[part]
    known = {option for parameter in command.params for option in parameter.opts}
    text = README + "\n".join(
        line.replace("\n", " ") for file in LAUNCHER_FILES for line in shell_lines(load(file))
    )
    used = commands(text, f"ray {name} ")
    assert used
    for line in used:
        assert options(line.split(" -- ")[0]) <= known | {"--help"}, line
