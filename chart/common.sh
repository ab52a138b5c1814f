# What the scripts here share. Each may be told, by the environment:
#
#   RELEASE (url-shortener)   the name of the release       NAMESPACE   where it is; the context's own if not given
#   REGISTRY                  where images are pushed to and pulled from, as in registry.example/team; none: the cluster
#                             has the images that this machine builds
#   TAG (the chart's)         the images' tag
#   KUBECTL, HELM, DOCKER     the programs, each one word; DOCKER may be podman
set -Eeuo pipefail
# By its path, so that files among the arguments are looked for where the script was called.
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

# The images, as the chart names them: its values are the one place where they are written.
images() { sed -n '/^images:/,/^$/s/^  [a-z]*: *//p' "$CHART/values.yaml"; }
image() { printf '%s%s:%s\n' "${REGISTRY:+${REGISTRY%/}/}" "$1" "$TAG"; }
namespace() { local own; own=${NAMESPACE:-$(kubectl config view --minify -o jsonpath='{..namespace}')}; echo "${own:-default}"; }

# What there is of the release. Its names follow from its values, so they are looked up. Beside those of other charts of
# one release, this chart's Deployment is the one with a container `host`.
deployments() {
  kubectl get deployment -l "$INSTANCE" \
    -o "jsonpath={range .items[*]}{$1}{' '}{.spec.template.spec.initContainers[*].name}{' '}{.spec.template.spec.containers[*].name}{'\n'}{end}" |
    awk '/ host( |$)/ && !found { print $1; found = 1 } END { exit !found }'
}
deployment() { deployments .metadata.name; }
selector() {
  local name
  name=$(deployments '.spec.selector.matchLabels.app\.kubernetes\.io/name')
  echo "app.kubernetes.io/name=$name,$INSTANCE"
}
service() { kubectl get service -l "$(selector)" -o jsonpath='{.items[0].metadata.name}'; }
