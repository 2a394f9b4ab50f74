#!/usr/bin/env bash
# Asks for a slice and waits until it is there: minutes, or days where chips are scarce.
#
#   TPU_NAME=massformer ZONE=us-west4-a ACCELERATOR=v5litepod-16 scripts/launch/tpu/create.sh
#
# SPOT=0 asks for chips that are not taken away. RUNTIME follows from ACCELERATOR if it is not set.
# If the request cannot be met within VALID_FOR (24h), it fails, and costs nothing.
set -euo pipefail
# shellcheck source=scripts/launch/tpu/settings.sh
source "$(dirname "${BASH_SOURCE[0]}")/settings.sh"
: "${ACCELERATOR:=v5litepod-16}" # 16 chips on 4 hosts
: "${SPOT:=1}"                   # cheaper, and may be taken away at any time
: "${VALID_FOR:=24h}"

# From the list of runtimes in the documentation of Cloud TPU. Its interface does not know 7x.
case $ACCELERATOR in
  v5litepod-*) runtime=v2-alpha-tpuv5-lite ;;
  v5p-*) runtime=v2-alpha-tpuv5 ;;
  v6e-*) runtime=v2-alpha-tpuv6e ;;
  tpu7x-*)
    echo "error: chips of 7x are rented through GKE; see scripts/launch/xpk and docs/pods.md" >&2
    exit 2
    ;;
  *) runtime='' ;;
esac
: "${RUNTIME:=$runtime}"
if [[ -z $RUNTIME ]]; then
  echo "error: no runtime is known for ACCELERATOR=$ACCELERATOR; set RUNTIME, too" >&2
  exit 2
fi

tier=()
if [[ $SPOT == 1 ]]; then
  tier=(--spot)
fi
gcloud compute tpus queued-resources create "$TPU_NAME" --node-id="$TPU_NAME" \
  --project="$PROJECT" --zone="$ZONE" --accelerator-type="$ACCELERATOR" \
  --runtime-version="$RUNTIME" --valid-until-duration="$VALID_FOR" "${tier[@]}"

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
