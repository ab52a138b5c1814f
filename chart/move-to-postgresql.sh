#!/usr/bin/env bash
# Sets up PostgreSQL as the chart does, and moves the pairs of a release on SQLite into it, before an upgrade to more pods.
# Until that upgrade, codes resolve and new URLs are refused. Running it again is safe.
# Arguments are passed to helm, such as --set postgresql.persistence.size=20Gi; pass them to the upgrade as well.
. "$(dirname "$0")/common.sh"
need "$HELM" "${KUBECTL:-kubectl}"

step="find the one pod of $RELEASE: is it installed?"
deployment=$(deployment storage)
about() { kubectl get deployment "$deployment" -o "jsonpath={$1}"; }
[ "$(about .spec.replicas)" = 1 ] || fail "$deployment is not to have one pod, and each has a file of its own"
pod=$(pods storage | xargs)
[[ -n $pod && $pod != *" "* ]] || fail "$deployment has not one pod that runs, but: ${pod:-none}"
kubectl wait --for=condition=Ready --timeout=60s "pod/$pod" >/dev/null

step="set PostgreSQL up"
rendered() {
  helm get values "$RELEASE" -o yaml |
    helm template "$RELEASE" "$CHART" --values - --set postgresql.enabled=true --show-only templates/postgresql.yaml "$@"
}
manifests=$(rendered "$@")
database=$(sed -n '/^kind: StatefulSet$/,/^spec:/s/^  name: "\(.*\)"$/\1/p' <<<"$manifests")
# The database has been created with the password of an existing Secret, so that Secret is kept.
there=$(kubectl get secret "$database" --ignore-not-found -o name)
if [ -n "$there" ] && grep -q '^kind: Secret$' <<<"$manifests"; then
  manifests=$(rendered "$@" --set "postgresql.existingSecret=$database")
fi
# Marked as Helm's objects, so that its upgrades may change them.
kubectl annotate --local -f - -o yaml \
  "meta.helm.sh/release-name=$RELEASE" "meta.helm.sh/release-namespace=$(namespace)" <<<"$manifests" |
  kubectl apply --server-side --field-manager=helm --force-conflicts -f - >/dev/null
kubectl rollout status "statefulset/$database" --timeout="${TIMEOUT:-5m}"

# The annotation names the pod, since a later pod may have another file.
step="move the pairs; may $pod connect to $database?"
secret=$(kubectl get statefulset "$database" -o jsonpath='{.spec.template.spec.volumes[?(@.name=="secret")].secret.secretName}')
kubectl get secret "$secret" -o jsonpath='{.data.url}' | base64 -d |
  kubectl exec -i "$pod" -c storage -- python -c "$(cat "$CHART/move.py")"
kubectl annotate --overwrite "deployment/$deployment" "cpg-trio/data-moved=$pod" >/dev/null
echo "✅ The pairs are in $database. Now upgrade, as in: ./install.sh --set replicaCount=3"
