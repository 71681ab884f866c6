"""The launch files in the documentation: they parse, and their words are the command's."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from oct_jax.commands.parsing import parse
from oct_jax.commands.settings import TrainConfig

FOLDER = Path(__file__).parent.parent / "docs" / "how-to"
SLURM, JOBSET = FOLDER / "train-slurm.sh", FOLDER / "train-jobset.yaml"


def read_jobset():
    """Its spec, its job's spec and the container."""
    spec = yaml.safe_load(JOBSET.read_text())["spec"]
    (job,) = spec["replicatedJobs"]
    job_spec = job["template"]["spec"]
    (container,) = job_spec["template"]["spec"]["containers"]
    return spec, job["name"], job_spec, container


def test_the_jobset_starts_one_process_for_each_index_and_names_the_first_host():
    spec, name, job, container = read_jobset()
    assert job["completionMode"] == "Indexed"
    assert job["completions"] == job["parallelism"]
    _, _, line = container["command"]
    program, *words = line.removeprefix("exec ").split("oct_jax.train ")
    assert program == "python -m "
    config = parse(TrainConfig, words[0].replace("$JOB_COMPLETION_INDEX", "3").split(), {})
    port = container["ports"][0]["containerPort"]
    host = f"oct-jax-{name}-0-0.{spec['network']['subdomain']}"
    assert config.distributed == f"{host}:{port}/3/{job['completions']}"


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_the_slurm_script_gives_every_process_the_first_hosts_address(tmp_path):
    calls = tmp_path / "calls"
    for name, body in {
        "scontrol": '[ "$1" = show ] && printf "node7\\nnode8\\n"',
        # A host's part of srun: the command, with the index and the number of processes.
        "srun": 'shift; SLURM_PROCID=1 SLURM_NTASKS=2 "$@"',
        "python": f'echo "$@" >> {calls}',
    }.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{body}\n")
        (tmp_path / name).chmod(0o755)
    script = SLURM.read_text().replace("/shared/oct-jax/.venv/bin/activate", "/dev/null")
    (tmp_path / "job.sh").write_text(script)
    subprocess.run(
        ["bash", str(tmp_path / "job.sh")],
        check=True,
        env={
            "PATH": f"{tmp_path}:/usr/bin:/bin",
            "SLURM_JOB_ID": "12345",
            "SLURM_JOB_NODELIST": "node[7-8]",
        },
    )
    lines = [line.removeprefix("-m oct_jax.train ") for line in calls.read_text().splitlines()]
    configs = [parse(TrainConfig, line.split(), {}) for line in lines]
    assert [config.stage for config in configs] == ["frozen", "finetune"]
    assert {config.distributed for config in configs} == {"node7:22345/1/2"}
    assert re.search(r"#SBATCH --ntasks-per-node=1\n", SLURM.read_text())
