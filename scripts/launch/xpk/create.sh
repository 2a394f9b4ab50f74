#!/usr/bin/env bash
# Starts training on a cluster that `xpk cluster create` made (https://github.com/AI-Hypercomputer/xpk).
#
#   CLUSTER=… ZONE=… IMAGE=… TPU_TYPE=v6e-16 scripts/launch/xpk/create.sh \
#       --config=configs/massformer_r50.py --workdir=gs://BUCKET/run \
#       --config.data.data_dir=gs://BUCKET/data
#
# The same command continues a run, once the workload of the same name is deleted:
#   xpk workload delete --workload=massformer --cluster=… --zone=… --project=…
# Flags for xpk itself, such as --dry-run, go into XPK_FLAGS.
set -euo pipefail

if [[ $# == 0 ]]; then
  sed -n '2,10s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
  exit 2
fi
: "${CLUSTER:?is the cluster that xpk made}"
: "${ZONE:?is the zone of its chips}"
: "${IMAGE:?is the image with the package; see docs/pods.md}"
: "${PROJECT:=$(gcloud config get-value project 2>/dev/null)}"
: "${WORKLOAD:=massformer}"
: "${TPU_TYPE:=v6e-16}" # tpu7x-16 counts cores: 8 chips on 2 hosts
read -ra flags <<<"${XPK_FLAGS:-}"

# exec: the process gets SIGTERM itself. xpk restarts after 42 and 127 to 255 by itself; the others
# are a crash, the loss of another process, and a stop by SIGTERM.
xpk workload create --workload="$WORKLOAD" --cluster="$CLUSTER" --zone="$ZONE" \
  --project="$PROJECT" --tpu-type="$TPU_TYPE" --docker-image="$IMAGE" \
  --max-restarts=20 --restart-on-exit-codes=1,3,75 --termination-grace-period-seconds=120 \
  --command="exec python -u -m massformer_jax.main --distributed $(printf '%q ' "$@")" \
  "${flags[@]}"
