#!/usr/bin/env bash
# Gives the slice back, with everything on its hosts' own disks.
set -euo pipefail
# shellcheck source=scripts/launch/tpu/settings.sh
source "$(dirname "${BASH_SOURCE[0]}")/settings.sh"

gcloud compute tpus queued-resources delete "$TPU_NAME" \
  --project="$PROJECT" --zone="$ZONE" --force
