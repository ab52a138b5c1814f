# Shared by the scripts of this folder. They read from the environment:
#
#   RELEASE                name of the release (default: url-shortener)
#   NAMESPACE              its namespace (default: that of the kubectl context)
#   REGISTRY               registry of the images, as in registry.example/team (default: none; the cluster uses the images
#                          of this machine)
#   TAG                    tag of the images (default: the chart's appVersion)
#   KUBECTL, HELM, DOCKER  the programs, each one word; DOCKER may be podman
set -Eeuo pipefail
# The scripts do not change the directory, so that file names among the arguments stay right.
CHART=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

RELEASE=${RELEASE:-url-shortener} REGISTRY=${REGISTRY:-}
HELM=${HELM:-helm} DOCKER=${DOCKER:-docker}
TAG=${TAG:-$(sed -n 's/^appVersion: *"\{0,1\}\([^"]*\)"\{0,1\}$/\1/p' "$CHART/Chart.yaml")}
INSTANCE=app.kubernetes.io/instance=$RELEASE
step="begin"

kubectl() { command "${KUBECTL:-kubectl}" ${NAMESPACE:+--namespace "$NAMESPACE"} "$@"; }
helm() { command "$HELM" ${NAMESPACE:+--namespace "$NAMESPACE"} "$@"; }
need() { for program in "$@"; do type -P "$program" >/dev/null || fail "$program is not installed"; done; }
fail() { printf '❌ %s\n' "$*" >&2; trap - ERR; exit 1; }
trap '((BASH_SUBSHELL)) || fail "could not $step"' ERR

# The names of the images, from the chart's values.
images() { sed -n '/^images:/,/^$/s/^  [a-z]*: *//p' "$CHART/values.yaml"; }
image() { printf '%s%s:%s\n' "${REGISTRY:+${REGISTRY%/}/}" "$1" "$TAG"; }
namespace() { local own; own=${NAMESPACE:-$(kubectl config view --minify -o jsonpath='{..namespace}')}; echo "${own:-default}"; }

# The names of objects depend on the release's values, so they are looked up. A release may have Deployments of other
# charts; this chart's are the one with a container `host`, and, in topology separate, those beside it.
with_container() { awk -v name="$1" '{ for (i = 2; i <= NF; i++) if ($i == name && !found) { print $1; found = 1 } } END { exit !found }'; }
# What the Deployment with a container has at a path.
deployments() {
  kubectl get deployment -l "$INSTANCE" \
    -o "jsonpath={range .items[*]}{$2}{' '}{.spec.template.spec.initContainers[*].name}{' '}{.spec.template.spec.containers[*].name}{'\n'}{end}" |
    with_container "$1"
}
deployment() { deployments "${1:-host}" .metadata.name; }
selector() {
  local name
  name=$(deployments host '.spec.selector.matchLabels.app\.kubernetes\.io/name')
  echo "app.kubernetes.io/name=$name,$INSTANCE"
}
# The running pods that have a container.
pods() {
  kubectl get pods -l "$(selector)" --field-selector=status.phase=Running \
    -o "jsonpath={range .items[*]}{.metadata.name}{' '}{.spec.initContainers[*].name}{' '}{.spec.containers[*].name}{'\n'}{end}" |
    awk -v name="$1" '{ for (i = 2; i <= NF; i++) if ($i == name) { print $1; next } }'
}
# The Service of the first public plugin: the first that has an address.
service() { kubectl get service -l "$(selector)" -o jsonpath='{range .items[*]}{.spec.clusterIP}{" "}{.metadata.name}{"\n"}{end}' | awk '$1 != "None" { print $2; exit }'; }
