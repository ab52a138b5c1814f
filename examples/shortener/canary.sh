#!/bin/sh
# A plugin in a shell script: it needs sh, sed and curl. All the time it shortens a URL and resolves it again,
# through the host, and reports whether that works. `cpg-trio up` gives it HOST_URL and ENROLMENT_TOKEN_FILE.
set -u
url=https://example.com/canary

# Calls a method of the host, or of a plugin through the host: `call PATH JSON`. What proves who it is goes to curl by
# standard input, as other users can read a command line.
call() {
  curl --silent --show-error --fail-with-body --max-time 5 --config - \
    --header 'content-type: application/json' --data "$2" "$HOST_URL$1" <<EOF
$proof
EOF
}

# Prints a field of an answer: `field NAME JSON`.
field() { printf '%s' "$2" | sed -n 's/.*"'"$1"'": *"\([^"]*\)".*/\1/p'; }

report() { call /connectplugin.v1.PluginLifecycle/ReportHealth "{\"state\": \"HEALTH_STATE_$1\", $2}" >/dev/null; }

proof="header = \"X-Plugin-Enrolment: $(cat "$ENROLMENT_TOKEN_FILE")\""
answer=$(call /connectplugin.v1.HandshakeService/Handshake '{
  "coreProtocolVersion": 1, "appProtocolVersion": 1,
  "magicCookieKey": "CONNECT_PLUGIN", "magicCookieValue": "d3f40b3c2e1a5f8b9c4d7e6a1b2c3d4e",
  "selfId": "canary", "selfVersion": "1.0.0", "clientMetadata": {"provides": "", "requires": "api"}}') || {
  echo "the host has not let me in: $answer"
  exit 1
}
proof="header = \"X-Plugin-Runtime-ID: $(field runtimeId "$answer")\"
header = \"Authorization: Bearer $(field runtimeToken "$answer")\""

# How often the host asks to be told. It is in milliseconds, and `sleep` takes seconds.
every=$(field heartbeat_interval_ms "$answer")
every=$((every / 1000)).$(printf %03d $((every % 1000)))

trap 'report UNHEALTHY "\"reason\": \"stopping\", \"leaving\": true"; exit 0' TERM INT
before=
while :; do
  if answer=$(call /services/api/-/Shorten "{\"url\": \"$url\"}" 2>&1) &&
    answer=$(call /services/api/-/Resolve "{\"code\": \"$(field shortCode "$answer")\"}" 2>&1) &&
    [ "$(field url "$answer")" = "$url" ]; then
    now='shortens and resolves'
    state='HEALTHY "reason": ""'
  else
    now="does not work: $(printf %s "$answer" | tail -n 1)"
    state='DEGRADED "reason": "the shortener does not work", "unavailableDependencies": ["api"]'
  fi
  [ "$now" = "$before" ] || echo "the shortener $now"
  before=$now
  report "${state%% *}" "${state#* }" || exit 1 # the host does not know it any more: a new one is let in again
  sleep "$every" &
  wait $! # which a signal ends at once
done
