#!/bin/bash
# A SLURM array that runs a sweep: each task has one GPU and an equal share of the cells.
#
#   sbatch --array=1-8 experiments/cluster/slurm_array.sh benchmarks --streams cifar100 \
#     --data cifar100=/data/cifar-100-python.tar.gz --weights /data/vit_base_patch16_224.augreg_in21k.safetensors
#
# The words after the script go to `python -m experiments.sweep`, which reads its share from the task's number; the size
# of the array is how many work at a time, and has nothing to do with the number of cells. Three minutes before the time
# limit a task gets SIGTERM and leaves its cell; at most the steps since its last checkpoint
# (compute.checkpoint_every_steps) are done again. SLURM restarts preempted tasks (--requeue); after the time limit give
# the same line again, or, for tasks 3 and 7 of 8 alone, `SHARDS=8 sbatch --array=3,7` and the rest of it. Submit from
# the repository root, on a disk that all nodes share.

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
share=()
if [[ ${SHARDS:-} ]]; then share=(--shard "$SLURM_ARRAY_TASK_ID/$SHARDS"); fi

# srun hands SIGTERM to the command; --wait: a task that was requeued may find its cell still held by its predecessor.
srun "$python" -m experiments.sweep "$@" "${share[@]}" --processes 1 --wait
