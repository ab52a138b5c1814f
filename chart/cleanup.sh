#!/usr/bin/env bash
# Uninstalls the release, waits until its objects are gone, and lists what is kept, such as a volume claim.
. "$(dirname "$0")/common.sh"
need "$HELM" "${KUBECTL:-kubectl}"

KINDS=all,configmap,secret,serviceaccount,persistentvolumeclaim,networkpolicy,ingress,poddisruptionbudget,horizontalpodautoscaler
# The objects of the release, each with its resource policy.
there() {
  kubectl get "$KINDS" -l "$INSTANCE" --ignore-not-found -o \
    'jsonpath={range .items[*]}{.kind}/{.metadata.name} {.metadata.annotations.helm\.sh/resource-policy}{"\n"}{end}'
}

# A cluster without the Gateway API has no such kind.
if kubectl api-resources --api-group=gateway.networking.k8s.io -o name | grep -q ^httproutes; then
  KINDS+=,httproutes.gateway.networking.k8s.io
fi
step="see whether $RELEASE is installed"
if said=$(helm status "$RELEASE" 2>&1); then
  step="uninstall $RELEASE"
  helm uninstall "$RELEASE" --wait --timeout "${TIMEOUT:-5m}" >/dev/null
elif [[ $said == *"not found"* ]]; then
  echo "$RELEASE is not installed"
else
  fail "could not $step: $said"
fi
step="wait for what is left of $RELEASE"
kubectl delete pod -l "$INSTANCE" --ignore-not-found --wait --timeout=2m >/dev/null
for _ in $(seq 120); do
  left=$(there)
  others=$(awk 'NF == 1 { print $1 }' <<<"$left")
  [ -n "$others" ] || break
  sleep 0.5
done
[ -z "$others" ] || fail "of $RELEASE there is still: ${others//$'\n'/ }"
kept=$(awk '$2 == "keep" { print $1 }' <<<"$left")
echo "✅ $RELEASE is gone${kept:+, except (kept, with what is in it): ${kept//$'\n'/ }}"
