#!/usr/bin/env bash
# Asks for a slice and waits until it is there: minutes, or days where chips are scarce.
#
#   TPU_NAME=… ZONE=… ACCELERATOR=v5litepod-16 RUNTIME=v2-alpha-tpuv5-lite scripts/launch/tpu/create.sh
set -euo pipefail
# shellcheck source=scripts/launch/tpu/settings.sh
source "$(dirname "${BASH_SOURCE[0]}")/settings.sh"

tier=()
if [[ $SPOT == 1 ]]; then
  tier=(--spot)
fi
gcloud compute tpus queued-resources create "$TPU_NAME" --node-id="$TPU_NAME" \
  --project="$PROJECT" --zone="$ZONE" --accelerator-type="$ACCELERATOR" \
  --runtime-version="$RUNTIME" "${tier[@]}"

while true; do
  state=$(gcloud compute tpus queued-resources describe "$TPU_NAME" \
    --project="$PROJECT" --zone="$ZONE" --format='value(state.state)')
  printf '%s  %s\n' "$(date +%H:%M:%S)" "$state"
  case $state in
    ACTIVE) break ;;
    FAILED | SUSPENDED)
      echo "error: the request for $TPU_NAME ended as $state; scripts/launch/tpu/delete.sh removes it" >&2
      exit 1
      ;;
  esac
  sleep 30
done
