# What the other scripts here work on. Every value can be set in the environment instead.
# shellcheck shell=bash
: "${TPU_NAME:=massformer}"
: "${PROJECT:=$(gcloud config get-value project 2>/dev/null)}"
: "${ZONE:=us-west4-a}"
: "${ACCELERATOR:=v5litepod-16}" # 16 chips on 4 hosts
: "${RUNTIME:=v2-alpha-tpuv5-lite}" # belongs to the accelerator
: "${SPOT:=1}" # cheaper, and may be taken away at any time; 0 for on demand
export TPU_NAME PROJECT ZONE ACCELERATOR RUNTIME SPOT

# Runs a command on every host of the slice, or on those that --worker=I names.
on_workers() {
  local workers=all
  if [[ ${1:-} == --worker=* ]]; then
    workers=${1#--worker=}
    shift
  fi
  gcloud compute tpus tpu-vm ssh "$TPU_NAME" --project="$PROJECT" --zone="$ZONE" \
    --worker="$workers" --command="$1"
}
