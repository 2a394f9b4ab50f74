#!/usr/bin/env bash
# Asks training to save and stop, on all hosts, and waits for it; start.sh continues.
set -euo pipefail
# shellcheck source=scripts/launch/tpu/settings.sh
source "$(dirname "${BASH_SOURCE[0]}")/settings.sh"

on_workers 'systemctl --user stop massformer && tail -n 1 massformer.log'
