# Which slice the other scripts here work on. Every value can be set in the environment instead.
# shellcheck shell=bash
: "${TPU_NAME:=massformer}"
: "${PROJECT:=$(gcloud config get-value project 2>/dev/null)}"
: "${ZONE:=us-west4-a}"
export TPU_NAME PROJECT ZONE

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
