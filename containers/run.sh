#!/usr/bin/env bash
# Start the host and the plugins, and return when all are ready. Arguments are passed to `docker compose up`.
. "$(dirname "$0")/common.sh"
docker compose up --detach --wait --wait-timeout 60 "$@"
docker compose ps --format 'table {{.Service}}\t{{.Status}}\t{{.Ports}}'
