# Shared by the scripts of this folder.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

fail() { printf '✗ %s\n' "$*" >&2; exit 1; }

command -v docker >/dev/null || fail "docker is not installed: https://docs.docker.com/engine/install"
docker compose version >/dev/null 2>&1 ||
  fail "docker has no \`docker compose\` (version 2): https://docs.docker.com/compose/install"
docker version >/dev/null 2>&1 ||
  fail "the Docker engine does not answer: is it running, and may this user connect to it?"
