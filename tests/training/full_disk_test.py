"""A disk that is really full: one line whatever was being written, and the rest is the same."""

import os
import shlex
import shutil
import subprocess
import sys

import pytest

from scripts import ROOT
from scripts.soak import kills

# A file system of this process and its children alone, which needs no rights.
UNSHARE = ("unshare", "--user", "--map-root-user", "--mount")
SCRIPT = """
mount -t tmpfs -o size={kilobytes}k tmpfs {disk} || exit 99
{command} --workdir={disk}/run >{log}.out 2>{log}.err
echo $?
mount -o remount,size=9m {disk} || exit 99
{command} --workdir={disk}/run >{log}.more.out 2>{log}.more.err
echo $?
cp -r {disk}/run {kept}
"""

pytestmark = [
    pytest.mark.slow,  # starts two trainings per size
    pytest.mark.skipif(
        not shutil.which("unshare") or subprocess.run([*UNSHARE, "true"]).returncode != 0,
        reason="this system makes no namespaces for users",
    ),
]


@pytest.fixture(scope="module")
def command(data_dir, tmp_path_factory):
    return [
        *(sys.executable, "-m", "tests.helpers.stand_in_training"),
        *("--config=tests/helpers/tiny_config.py", f"--config.data.data_dir={data_dir}"),
        *("--config.total_steps=6", "--config.eval_every=4", "--config.checkpoint_every=2"),
        *("--config.eval.pictures=1", "--config.batch_size=8"),
        f"--compilation_cache={tmp_path_factory.mktemp('compiled')}",
    ]


@pytest.fixture(scope="module")
def undisturbed(command, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("runs") / "undisturbed"
    subprocess.run([*command, f"--workdir={workdir}"], cwd=ROOT, check=True)
    return list(kills.end_of(workdir))


# What does not fit any more: the second state, or the best weights.
@pytest.mark.parametrize("kilobytes", [200, 380])
def test_one_line_and_the_rest_is_the_same(kilobytes, command, undisturbed, tmp_path):
    disk, kept, log = (tmp_path / name for name in ("disk", "kept", "log"))
    disk.mkdir()
    script = SCRIPT.format(
        kilobytes=kilobytes, disk=disk, kept=kept, log=log, command=shlex.join(command)
    )
    done = subprocess.run(
        [*UNSHARE, "sh", "-c", script], cwd=ROOT, env=os.environ, capture_output=True, text=True
    )
    assert done.returncode != 99, done.stderr
    errors = [
        line
        for line in (tmp_path / "log.err").read_text().splitlines()
        if not line.startswith(("preparing ", "… "))
    ]
    assert done.stdout.split() == ["5", "0"], errors
    (error,) = errors
    assert error.startswith(f"error: the disk of {disk / 'run'} is full; ")
    assert not kills.differences(kept, undisturbed)
