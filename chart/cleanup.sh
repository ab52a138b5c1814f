#!/usr/bin/env bash
# Uninstalls the release, and waits until nothing of it is left. A volume claim that is to be kept is named.
. "$(dirname "$0")/common.sh"
need "$HELM" "${KUBECTL:-kubectl}"

if helm status "$RELEASE" >/dev/null 2>&1; then
  step="uninstall $RELEASE"
  helm uninstall "$RELEASE" --wait --timeout "${TIMEOUT:-3m}" >/dev/null
else
  echo "$RELEASE is not installed"
fi
step="wait for what is left of $RELEASE"
kubectl delete pod -l "app.kubernetes.io/instance=$RELEASE" --ignore-not-found --wait --timeout=2m >/dev/null
left=$(kubectl get all,secret,serviceaccount,networkpolicy,pvc -l "app.kubernetes.io/instance=$RELEASE" -o name)
echo "✅ $RELEASE is gone${left:+, except (kept, with what is in it): $left}"
