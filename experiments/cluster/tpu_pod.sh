#!/bin/bash
# Every chip of a TPU slice runs an equal share of a sweep's cells, in a process that knows nothing of the others.
#
#   gcloud compute tpus tpu-vm ssh NAME --zone ZONE --worker=all --command \
#     "cd /shared/ntkcl-jax && experiments/cluster/tpu_pod.sh benchmarks --streams cifar100 \
#      --data cifar100=/shared/cifar-100-python.tar.gz --weights /shared/vit_base.safetensors --out /shared/runs"
#
# The words after the script go to `python -m experiments.sweep`. --out must lie on a file system that all hosts share
# (Filestore or another NFS), for the table needs all results. JAX would take all chips of the slice for one program; the
# variables below make each process see one chip and wait for nobody.
# CHIPS: chips of a host (4; 8 on some v5e and v6e hosts, 1 on the smallest). TPU_WORKER_ID and TPU_WORKER_HOSTNAMES: this
# host's number from 0, and all hosts with commas between; where they aren't set, the machine's metadata say so.

set -euo pipefail

if [[ $# -eq 0 ]]; then
  echo "usage: $0 SWEEP --out SHARED [options of python -m experiments.sweep]" >&2
  exit 2
fi

chips=${CHIPS:-4}
python=${PYTHON:-.venv/bin/python}
metadata() { # what a machine of Google's knows of itself
  curl -sf -H 'Metadata-Flavor: Google' \
    "http://${GCE_METADATA_IP:-metadata.google.internal}/computeMetadata/v1/instance/attributes/$1" || {
    echo "$0: which host of how many? set TPU_WORKER_ID (from 0) and TPU_WORKER_HOSTNAMES (A,B,...)" >&2
    exit 2
  }
}
host=${TPU_WORKER_ID:-$(metadata agent-worker-number)}
hosts=${TPU_WORKER_HOSTNAMES:-$(metadata worker-network-endpoints)}
commas=${hosts//[^,]/}
shards=$(((${#commas} + 1) * chips))
workers=()
stopped=

stop() { # Ctrl-C or SIGTERM: let the workers leave their cells in order
  stopped=yes
  kill -TERM "${workers[@]}" 2>/dev/null || true
}
trap stop INT TERM

for ((chip = 0; chip < chips; chip++)); do
  port=$((8476 + chip))
  TPU_VISIBLE_CHIPS=$chip \
    TPU_CHIPS_PER_PROCESS_BOUNDS=1,1,1 \
    TPU_PROCESS_BOUNDS=1,1,1 \
    TPU_PROCESS_ADDRESSES=localhost:$port \
    TPU_PROCESS_PORT=$port \
    CLOUD_TPU_TASK_ID=0 \
    JAX_PLATFORMS=tpu \
    "$python" -m experiments.sweep "$@" --shard "$((host * chips + chip + 1))/$shards" --processes 1 --wait &
  workers+=($!)
done
if [[ $stopped ]]; then # while they were started: the last may not have been told
  stop
fi

code=0
for worker in "${workers[@]}"; do
  wait "$worker" || code=$?
done
wait # a signal ends `wait` early: stay until the workers have ended
exit "$code"
