#!/usr/bin/env bash
# Shorten and resolve a URL with curl and with the client, and check in the logs that the calls went through the host.
. "$(dirname "$0")/common.sh"

say() { printf '%s\n' "$*"; }

# Wait for a matching line in the log of a service: Docker may show a line a moment after it was written.
logged() {
  local log
  for _ in {1..50}; do
    log=$(docker compose logs --no-log-prefix "$1")
    if grep -E "$2" <<<"$log" | tail -n 1; then return; fi
    sleep 0.1
  done
  fail "the log of $1 has no line like: $2"
}

published=$(docker compose port api 8083) || fail "the api is not running: ./run.sh starts it"
api="http://localhost:${published##*:}/api.v1.API"
url="https://example.com/?q=plugins&n=$RANDOM"

answer=$(curl -fsS -G -X POST --data-urlencode "url=$url" "$api/Shorten")
code=$(sed -n 's/.*"short_code": "\([0-9a-f]*\)".*/\1/p' <<<"$answer")
[ -n "$code" ] || fail "Shorten answered: $answer"
say "✓ shortened: $answer"

answer=$(curl -fsS "$api/Resolve?code=$code")
[ "$answer" = "{\"url\": \"$url\"}" ] || fail "Resolve answered: $answer"
say "✓ resolved: $answer"

answer=$(docker compose run --rm -T client resolve "$code")
grep -qF "URL: $url" <<<"$answer" || fail "the client answered: $answer"
say "$answer"

logged host '\[ROUTER\] api-plugin-[0-9a-f]+ → storage-plugin-[0-9a-f]+ /Store'
logged host '\[ROUTER\] storage-plugin-[0-9a-f]+ → logger-plugin-[0-9a-f]+ /Log'
logged logger "\[LOG\] STORE $code "
logged logger "\[LOG\] GET $code "
say "✓ the calls went through the host"
