# What the scripts here share. Each may be told, by the environment:
#
#   RELEASE (url-shortener)   the name of the release       NAMESPACE   where it is; the context's own if not given
#   REGISTRY                  where images are pushed to and pulled from, as in registry.example/team; none: the cluster
#                             has the images that this machine builds
#   TAG (the chart's)         the images' tag
#   KUBECTL, HELM, DOCKER     the programs; DOCKER may be podman
set -Eeuo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

RELEASE=${RELEASE:-url-shortener} REGISTRY=${REGISTRY:-}
HELM=${HELM:-helm} DOCKER=${DOCKER:-docker}
TAG=${TAG:-$(sed -n 's/^appVersion: *"\{0,1\}\([^"]*\)"\{0,1\}$/\1/p' Chart.yaml)}
SELECTOR=app.kubernetes.io/name=url-shortener,app.kubernetes.io/instance=$RELEASE
step="begin"

kubectl() { command "${KUBECTL:-kubectl}" ${NAMESPACE:+--namespace "$NAMESPACE"} "$@"; }
helm() { command "$HELM" ${NAMESPACE:+--namespace "$NAMESPACE"} "$@"; }
need() { for program in "$@"; do command -v "$program" >/dev/null || fail "$program is not installed"; done; }
fail() { printf '❌ %s\n' "$*" >&2; trap - ERR; exit 1; }
trap '((BASH_SUBSHELL)) || fail "could not $step"' ERR

# The images, as the chart names them: its values are the one place where they are written.
images() { sed -n '/^images:/,/^$/s/^  [a-z]*: *//p' values.yaml; }
image() { printf '%s%s:%s\n' "${REGISTRY:+${REGISTRY%/}/}" "$1" "$TAG"; }
service() { kubectl get service -l "$SELECTOR" -o jsonpath='{.items[0].metadata.name}'; }
