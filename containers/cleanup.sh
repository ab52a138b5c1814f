#!/usr/bin/env bash
# Remove the containers, the network, the images, and the volume with everything that has been shortened.
. "$(dirname "$0")/common.sh"
docker compose --profile tools down --volumes --remove-orphans --rmi all
