#!/bin/bash
# Both stages on several hosts of a Slurm cluster: sbatch train-slurm.sh
# Change the lines under "Yours". A host that fails ends the step; Slurm then starts the job
# again, and each stage resumes from its last checkpoint on as many hosts as before.
#SBATCH --job-name=oct-jax
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --time=12:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=oct-jax-%j.log
set -euo pipefail

# Yours: an environment with oct_jax, the data and the run folder; on a disk that all hosts share.
source /shared/oct-jax/.venv/bin/activate
data=/shared/OCT2017
run=/shared/runs/mine

# Process 0 runs on the first host and opens the port; jobs that share a host differ in it.
coordinator=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
port=$((20000 + SLURM_JOB_ID % 10000))

train() {
    # Each process adds its own index, which Slurm gives it.
    # shellcheck disable=SC2016
    srun --kill-on-bad-exit=1 bash -c \
        'exec python -m oct_jax.train "$@" distributed='"$coordinator:$port"'/$SLURM_PROCID/$SLURM_NTASKS' \
        train "$@"
}

# A stage that is finished is not trained again.
if ! { train stage=frozen run="$run" data="$data" batch_size=128 &&
    train stage=finetune run="$run" batch_size=128; }; then
    # Not more than three times: what fails again and again will not mend itself.
    if ((${SLURM_RESTART_COUNT:-0} < 3)); then
        scontrol requeue "$SLURM_JOB_ID"
    fi
    exit 1
fi
