#!/usr/bin/env bash
# Makes the api reachable at http://localhost:8083 (or at PORT) until Ctrl-C.
. "$(dirname "$0")/common.sh"
need "${KUBECTL:-kubectl}"

step="find the service of $RELEASE: is it installed?"
name=$(service)
step="forward port ${PORT:-8083}"
scheme=$(kubectl get service "$name" -o jsonpath='{.spec.ports[0].appProtocol}')
echo "The api is at ${scheme:-http}://localhost:${PORT:-8083} until Ctrl-C; ./test-api.sh, in another terminal, tries it."
# `exec`, so that a signal to this script ends kubectl.
exec "${KUBECTL:-kubectl}" ${NAMESPACE:+--namespace "$NAMESPACE"} port-forward "service/$name" "${PORT:-8083}:http"
