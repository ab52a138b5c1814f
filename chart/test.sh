#!/usr/bin/env bash
# Tests the URL shortener of a release, with any values: forwards a port, shortens and resolves a URL, and checks in the
# logs that the calls between plugins went through the host, unless DIRECT_CALLS is set.
. "$(dirname "$0")/common.sh"
need "${KUBECTL:-kubectl}" curl

step="find a ready pod of $RELEASE: is it installed?"
there=$(pods host)
[ -n "$there" ] || fail "could not $step"
pod=$(pods api | head -1)
[ -n "$pod" ] || fail "$RELEASE has no container api: this script tries the URL shortener"
kubectl wait --for=condition=Ready --timeout=60s "pod/$pod" >/dev/null
# A variable of the api container.
told() { kubectl get pod "$pod" -o jsonpath="{.spec.containers[?(@.name=='api')].env[?(@.name=='$1')].value}"; }
api_port=$(told PORT)
# What the containers of a name have written, in all pods.
logs() { for each in $(pods "$1"); do kubectl logs "$each" -c "$1" --since=2m; done; }

folder=$(mktemp -d)
forward=
trap 'if [ -n "$forward" ]; then kill "$forward" 2>/dev/null || true; fi; rm -rf "$folder"' EXIT
trap 'exit 143' HUP INT TERM

scheme=http
if [ -n "$(told TLS_CERT)" ]; then
  step="read the release's certificate"
  scheme=https
  secret=$(kubectl get pod "$pod" -o jsonpath="{.spec.volumes[?(@.name=='tls')].secret.secretName}")
  for key in ca.crt tls.crt tls.key; do
    kubectl get secret "$secret" -o "jsonpath={.data.${key/./\\.}}" | base64 -d >"$folder/$key"
  done
  # curl reads this file, in test-api.sh as well. It shows the release's own certificate, which the release may require.
  printf 'cacert = "%s/ca.crt"\ncert = "%s/tls.crt"\nkey = "%s/tls.key"\n' "$folder" "$folder" "$folder" >"$folder/.curlrc"
  export CURL_HOME=$folder
fi

step="forward a port to $pod"
# `exec`, so that $! is the id of kubectl, and not of a shell that waits for it.
(exec "${KUBECTL:-kubectl}" ${NAMESPACE:+--namespace "$NAMESPACE"} port-forward "pod/$pod" ":$api_port") >"$folder/log" 2>&1 &
forward=$!
port=
for _ in $(seq 100); do
  port=$(sed -n 's/^Forwarding from 127\.0\.0\.1:\([0-9]*\) .*/\1/p' "$folder/log")
  [ -z "$port" ] || break
  kill -0 "$forward" 2>/dev/null || fail "could not $step: $(cat "$folder/log")"
  sleep 0.1
done
[ -n "$port" ] || fail "could not $step"

step="use the api"
marked=https://example.com/$RANDOM$RANDOM
API_URL=$scheme://localhost:$port "$CHART/test-api.sh" "$marked"

if [ "$(told DIRECT_CALLS)" != true ]; then
  step="see the calls in the host's log"
  for route in ".* → .* /Store (service: storage)" ".* → .* /Log (service: logger)"; do
    logs host | grep "\[ROUTER\] $route" | tail -1 | grep . || fail "the host has not routed: $route"
  done
  through=", and its plugins talk through the host"
fi
step="see the line in the logger's log"
logs logger | grep "\[LOG\] STORE .* → $marked" || fail "the log of the logger does not have $marked"
echo "✅ $pod works${through:-}"
