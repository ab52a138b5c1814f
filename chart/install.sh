#!/usr/bin/env bash
# Installs the chart, or upgrades it, and waits until it is ready. Arguments go to helm: ./install.sh --set replicaCount=0
. "$(dirname "$0")/common.sh"
need "$HELM" "${KUBECTL:-kubectl}"

step="install $RELEASE; what happened is in: kubectl describe pod -l $INSTANCE"
# As values, which every --set among the arguments goes before; --set-string would go before --set.
printf 'image: {repository: "%s", tag: "%s"}\n' "$REGISTRY" "$TAG" |
  helm upgrade --install "$RELEASE" "$CHART" --values - --wait --timeout "${TIMEOUT:-5m}" "$@" >/dev/null

step="look at the pods"
echo "✅ Deployment successful!"
selected=$(selector)
kubectl get pods -l "$selected" -o jsonpath='{range .items[*]}Pod: {.metadata.name}{"\n"}{end}'
echo
kubectl get pods -l "$selected"
