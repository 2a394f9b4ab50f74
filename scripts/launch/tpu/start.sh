#!/usr/bin/env bash
# Starts training on every host of the slice, in the background; starts it again where it stopped.
#
#   TPU_NAME=… ZONE=… scripts/launch/tpu/start.sh --config=configs/massformer_r50.py \
#       --workdir=gs://BUCKET/run --config.data.data_dir=gs://BUCKET/data
#
# Workdir and data are in a bucket, or in a shared file system that is mounted on each host.
set -euo pipefail
# shellcheck source=scripts/launch/tpu/settings.sh
source "$(dirname "${BASH_SOURCE[0]}")/settings.sh"

if [[ $# == 0 ]]; then
  sed -n '2,7s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
  exit 2
fi
arguments=$(printf '%q ' "$@")
# systemd keeps it running when the connection ends, sends SIGTERM when the host is shut down, and
# starts it again after a lost host (3) or a crash. What is wrong in the command line (2), and a
# loss that is not finite (4), stay as they are.
on_workers "set -e
  systemctl --user reset-failed massformer 2>/dev/null || true
  sudo loginctl enable-linger \"\$USER\"
  systemd-run --user --unit=massformer --same-dir --collect \
    --property=Restart=on-failure --property=RestartSec=20 \
    --property='RestartPreventExitStatus=2 4 5' --property=SuccessExitStatus=75 \
    --property=TimeoutStopSec=120 --property=StandardOutput=append:\$HOME/massformer.log \
    --property=StandardError=append:\$HOME/massformer.log \
    --setenv=PYTHONUNBUFFERED=1 \
    \$HOME/venv/bin/python -m massformer_jax.main --distributed $arguments"
