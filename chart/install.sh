#!/usr/bin/env bash
# Installs or upgrades the chart, and waits until it is ready. Arguments are passed to helm: ./install.sh --set replicaCount=0
. "$(dirname "$0")/common.sh"
need "$HELM" "${KUBECTL:-kubectl}"

step="install $RELEASE; what happened is in: kubectl describe pod -l $INSTANCE"
# A values file, because --set-string here would override --set among the arguments.
printf 'image: {repository: "%s", tag: "%s"}\n' "$REGISTRY" "$TAG" |
  helm upgrade --install "$RELEASE" "$CHART" --values - --wait --timeout "${TIMEOUT:-5m}" "$@" >/dev/null

step="look at the pods"
echo "✅ Deployment successful!"
selected=$(selector)
kubectl get pods -l "$selected" -o jsonpath='{range .items[*]}Pod: {.metadata.name}{"\n"}{end}'
echo
kubectl get pods -l "$selected"
