#!/usr/bin/env bash
# Remove the containers, the network, the images, and the volume with everything that has been shortened.
set -euo pipefail
cd "$(dirname "$0")"
docker compose --profile tools down --volumes --remove-orphans --rmi all
