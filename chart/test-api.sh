#!/usr/bin/env bash
# Shortens a URL and resolves its code at API_URL (default: http://localhost:8083, as ./port-forward.sh forwards it).
. "$(dirname "$0")/common.sh"
need curl

api=${API_URL:-http://localhost:8083}/api.v1.API
url=${1:-https://example.com}

step="shorten $url at $api: is ./port-forward.sh running?"
shortened=$(curl --silent --show-error --fail-with-body --max-time 10 --get -X POST --data-urlencode "url=$url" "$api/Shorten")
echo "Shortened: $shortened"
code=$(sed -n 's/.*"short_code": *"\([0-9a-f]*\)".*/\1/p' <<<"$shortened")
[ -n "$code" ] || fail "there is no code in $shortened"

step="resolve $code"
resolved=$(curl --silent --show-error --fail-with-body --max-time 10 "$api/Resolve?code=$code")
echo "Resolved:  $resolved"
[ "$resolved" = "{\"url\": \"$url\"}" ] || fail "$code resolves to $resolved, not to $url"
echo "✅ $url ⇄ $code"
