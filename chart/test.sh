#!/usr/bin/env bash
# Tries the release by itself: forwards a port, shortens and resolves a URL, and sees that the calls between the plugins
# have gone through the host.
. "$(dirname "$0")/common.sh"
need "${KUBECTL:-kubectl}" curl

step="find a ready pod of $RELEASE: is it installed?"
pod=$(kubectl get pods -l "$SELECTOR" --field-selector=status.phase=Running -o jsonpath='{.items[0].metadata.name}')
kubectl wait --for=condition=Ready --timeout=60s "pod/$pod" >/dev/null

step="forward a port to $pod"
log=$(mktemp)
"${KUBECTL:-kubectl}" ${NAMESPACE:+--namespace "$NAMESPACE"} port-forward "pod/$pod" :8083 >"$log" 2>&1 &
forward=$!
trap 'kill $forward 2>/dev/null || true; rm -f "$log"' EXIT
for _ in $(seq 100); do
  port=$(sed -n 's/^Forwarding from 127\.0\.0\.1:\([0-9]*\) .*/\1/p' "$log")
  [ -z "$port" ] || break
  kill -0 $forward 2>/dev/null || fail "could not $step: $(cat "$log")"
  sleep 0.1
done
[ -n "$port" ] || fail "could not $step"

step="use the api"
marked=https://example.com/$RANDOM$RANDOM
API_URL=http://localhost:$port ./test-api.sh "$marked"

step="see the calls in the host's log"
for route in "api-plugin-.* → storage-plugin-.* /Store (service: storage)" "storage-plugin-.* → logger-plugin-.* /Log (service: logger)"; do
  kubectl logs "$pod" -c host --since=2m | grep "\[ROUTER\] $route" | tail -1 | grep . || fail "the host has not routed: $route"
done
step="see the line in the logger's log"
kubectl logs "$pod" -c logger --since=2m | grep "\[LOG\] STORE .* → $marked" || fail "the logger was not told of $marked"
echo "✅ $pod works, and its plugins talk through the host"
