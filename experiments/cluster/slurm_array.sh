#!/bin/bash
# A SLURM array of workers: each has one GPU and runs cells of a sweep until none is left.
#
#   sbatch --array=1-8 experiments/cluster/slurm_array.sh benchmarks --streams cifar100 \
#     --data cifar100=/data/cifar-100-python.tar.gz --weights /data/vit_base_patch16_224.augreg_in21k.safetensors
#
# The words after the script go to `python -m experiments.sweep`. The size of the array is how many work at a time; it
# has nothing to do with the number of cells, which the workers claim through the run folders (experiments/sweep/claims.py).
# Three minutes before the time limit a worker gets SIGTERM and gives its cell back; at most the steps since its last
# checkpoint (compute.checkpoint_every_steps) are done again. SLURM restarts preempted jobs (--requeue); after the time
# limit give the same line again. Submit from the repository root, on a disk that all nodes share.

#SBATCH --job-name=ntkcl-sweep
#SBATCH --array=1-4
#SBATCH --ntasks=1
#SBATCH --gres=gpu:1
#SBATCH --cpus-per-task=8
#SBATCH --mem=64G
#SBATCH --time=24:00:00
#SBATCH --signal=TERM@180
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=slurm-%x-%A_%a.log

set -euo pipefail

if [[ $# -eq 0 ]]; then
  echo "usage: sbatch --array=1-N $0 SWEEP [options of python -m experiments.sweep]" >&2
  exit 2
fi

cd "${SLURM_SUBMIT_DIR:-.}"
python=${PYTHON:-.venv/bin/python}

# srun hands SIGTERM to the worker; --wait keeps it until no cell runs anywhere, to take over from a node that dies.
srun "$python" -m experiments.sweep "$@" --processes 1 --wait
