#!/usr/bin/env bash
# Remove the containers, the network, the images, and the volumes with all data.
. "$(dirname "$0")/common.sh"
docker compose --profile tools down --volumes --remove-orphans --rmi all
