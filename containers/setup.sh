#!/usr/bin/env bash
# Build the images.
set -euo pipefail
cd "$(dirname "$0")"
docker compose --profile tools build
