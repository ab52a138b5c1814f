#!/usr/bin/env bash
# Builds the images, and copies them to REGISTRY, or without one to the cluster.
# Arguments are passed to `docker build`, and PIP_INDEX_URL as well, the URL of a package index.
. "$(dirname "$0")/common.sh"
need "$DOCKER"

for name in $(images); do
  step="build $name"
  echo "Building $(image "$name")"
  "$DOCKER" build --quiet --target "$name" --tag "$(image "$name")" --file "$CHART/../containers/Dockerfile" --build-arg PIP_INDEX_URL "$@" "$CHART/.." >/dev/null
done

to_kind() { kind load docker-image "$1" --name "${context#kind-}"; }
to_minikube() { minikube image load "$1"; }
to_registry() { "$DOCKER" push --quiet "$1" >/dev/null; }

context=$(kubectl config current-context 2>/dev/null || true)
if [ -n "$REGISTRY" ]; then bring=to_registry where="pushed to $REGISTRY"
else case $context in
  kind-*) bring=to_kind where="in the kind cluster ${context#kind-}" ;;
  minikube) bring=to_minikube where="in minikube" ;;
  *) bring=true where="in this machine's Docker, which the cluster must share (if not, set REGISTRY)" ;;
esac; fi
for name in $(images); do
  step="bring $(image "$name") to the cluster"
  "$bring" "$(image "$name")"
done

echo "✅ All images are $where"
for name in $(images); do echo "  $(image "$name")"; done
