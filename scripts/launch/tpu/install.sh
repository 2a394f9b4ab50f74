#!/usr/bin/env bash
# Copies the last commit of this checkout to every host and installs it there, for TPU and gs://.
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
# The hosts run Ubuntu 22.04, whose Python 3.10 is too old. uv brings one of its own.
# shellcheck disable=SC2016 # expanded there, not here
on_workers 'set -e
  rm -rf massformer_jax && mkdir massformer_jax
  tar -xzf massformer_jax.tar.gz -C massformer_jax
  python3 -m pip install --quiet --user uv
  python3 -m uv venv --quiet --clear --python 3.12 venv
  python3 -m uv pip install --quiet --python venv/bin/python "./massformer_jax[tpu,gcs]"
  echo "$(hostname): installed"'
