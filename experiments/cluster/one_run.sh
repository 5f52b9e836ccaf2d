#!/bin/bash
# One training run on several nodes under SLURM: a process for each node, which takes all of the node's GPUs.
#
#   sbatch --nodes=2 experiments/cluster/one_run.sh cifar100 --data.path /data/cifar-100-python.tar.gz \
#     --weights /data/vit_base.safetensors --run-dir /shared/runs/cifar100 --compute.dtype bfloat16
#
# The words after the script go to `ntkcl train`. --run-dir must lie on storage that all nodes share. A requeued job, or
# the same line given again, goes on from the last checkpoint; the number of nodes may be another then.

#SBATCH --job-name=ntkcl-train
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gres=gpu:8
#SBATCH --cpus-per-task=64
#SBATCH --mem=0
#SBATCH --time=24:00:00
#SBATCH --signal=TERM@180
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=slurm-%x-%j.log

set -euo pipefail

run_dir=
words=("$@")
for ((i = 0; i < ${#words[@]}; i++)); do
  if [[ ${words[i]} == --run-dir ]]; then run_dir=${words[i + 1]:-}; fi
done
if [[ -z $run_dir ]]; then
  echo "usage: sbatch --nodes=N $0 PRESET --run-dir SHARED [options of ntkcl train]" >&2
  exit 2
fi

cd "${SLURM_SUBMIT_DIR:-.}"
ntkcl=${NTKCL:-.venv/bin/ntkcl}
resume=()
if [[ -e $run_dir ]]; then resume=(--resume); fi

# --kill-on-bad-exit: when a node dies, the others have nothing to wait for
srun --kill-on-bad-exit=1 "$ntkcl" train "$@" "${resume[@]}" --hosts.coordinator auto
