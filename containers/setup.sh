#!/usr/bin/env bash
# Build the images.
. "$(dirname "$0")/common.sh"
docker compose --profile tools build
