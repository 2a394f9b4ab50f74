#!/usr/bin/env bash
# Copies this checkout to every host and installs it there, for TPU.
#
#   TPU_NAME=… ZONE=… scripts/launch/tpu/install.sh
set -euo pipefail
# shellcheck source=scripts/launch/tpu/settings.sh
source "$(dirname "${BASH_SOURCE[0]}")/settings.sh"

archive=$(mktemp --suffix=.tar.gz)
trap 'rm -f "$archive"' EXIT
git -C "$(dirname "${BASH_SOURCE[0]}")/../../.." archive --format=tar.gz --output="$archive" HEAD
gcloud compute tpus tpu-vm scp "$archive" "$TPU_NAME:massformer_jax.tar.gz" \
  --project="$PROJECT" --zone="$ZONE" --worker=all
# shellcheck disable=SC2016 # expanded there, not here
on_workers 'set -e
  rm -rf massformer_jax && mkdir massformer_jax
  tar -xzf massformer_jax.tar.gz -C massformer_jax
  python3 -c "import sys; sys.exit(sys.version_info < (3, 11))" || {
    echo "error: $(hostname) has $(python3 --version), 3.11 is needed: take a newer RUNTIME" >&2
    exit 1
  }
  python3 -m venv venv
  venv/bin/pip install --quiet "./massformer_jax[tpu]"
  echo "$(hostname): installed"'
