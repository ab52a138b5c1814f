{{- /* Checks that the schema cannot make, or not with a message that says what to write. */ -}}
{{- define "cpg-trio.check" -}}
{{- include "cpg-trio.checkNames" . -}}
{{- include "cpg-trio.checkTopology" . -}}
{{- include "cpg-trio.checkPlugins" . -}}
{{- include "cpg-trio.checkEnv" . -}}
{{- include "cpg-trio.checkData" . -}}
{{- include "cpg-trio.checkService" . -}}
{{- $values := .Values -}}
{{- range list "podMonitor" "serviceMonitor" "rules" "dashboard" -}}
{{- if and (index $values.metrics .).enabled (not $values.metrics.enabled) -}}
{{- fail (printf "\n\nmetrics.%s.enabled is for metrics, and metrics.enabled is false: set it to true.\n" .) -}}
{{- end -}}
{{- end -}}
{{- include "cpg-trio.checkAutoscaling" . -}}
{{- if and (eq (toString $values.nativeSidecars) "true") (semverCompare "<1.28.0-0" .Capabilities.KubeVersion.Version) -}}
{{- fail (printf "\n\nnativeSidecars is true, but Kubernetes %s has no native sidecars: set it to auto or false.\n" .Capabilities.KubeVersion.Version) -}}
{{- end -}}
{{- end -}}

{{- define "cpg-trio.checkAutoscaling" -}}
{{- $values := .Values -}}
{{- range $unit := include "cpg-trio.units" . | fromJsonArray -}}
{{- $where := "" -}}
{{- if $unit.component }}{{- $where = ternary "host." (printf "%s's " $unit.component) $unit.host }}{{- end -}}
{{- with $unit.autoscaling -}}
{{- if and .enabled (gt (int .minReplicas) (int .maxReplicas)) -}}
{{- fail (printf "\n\n%sautoscaling.minReplicas is %d and autoscaling.maxReplicas %d: set minReplicas to at most maxReplicas.\n" $where (int .minReplicas) (int .maxReplicas)) -}}
{{- end -}}
{{- end -}}
{{- if $unit.autoscaling.enabled -}}
{{- $all := dict -}}
{{- if $unit.host }}{{- $_ := set $all "host" (include "cpg-trio.resources" (dict "root" $ "name" "host") | fromYaml) }}{{- end -}}
{{- range $unit.plugins -}}
{{- $_ := set $all .name (include "cpg-trio.resources" (dict "root" $ "name" .name "plugin" .) | fromYaml) -}}
{{- end -}}
{{- range $values.extraContainers -}}
{{- $_ := set $all .name (.resources | default dict) -}}
{{- end -}}
{{- range $name, $resources := $all -}}
{{- if not (or (dig "requests" "cpu" "" $resources) (dig "limits" "cpu" "" $resources)) -}}
{{- fail (printf "\n\nautoscaling.enabled goes by what is used of the CPU that is requested, and %s requests none: set %sresources%s.requests.cpu, or resources in the entry of an extra container.\n" $name (ternary "host." "" (and $unit.host (ne $unit.component ""))) (ternary "" (printf ".%s" $name) (and $unit.host (ne $unit.component "")))) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- /* What only one of the topologies has. */ -}}
{{- define "cpg-trio.checkTopology" -}}
{{- $etcd := .Values.etcd -}}
{{- $separate := include "cpg-trio.isSeparate" . -}}
{{- $plugins := include "cpg-trio.plugins" . | fromJsonArray -}}
{{- if and $etcd.enabled $etcd.endpoints -}}
{{- fail "\n\netcd.enabled sets an etcd up, and etcd.endpoints names another: set one of them.\n" -}}
{{- end -}}
{{- if not $separate -}}
{{- if include "cpg-trio.hasEtcd" . -}}
{{- fail "\n\nThe addresses in a pod of topology sidecar mean nothing to other hosts, so its host keeps its directory for itself and uses no etcd: take etcd.enabled and etcd.endpoints out, or set topology to separate.\n" -}}
{{- end -}}
{{- if .Values.host.autoscaling.enabled -}}
{{- fail "\n\nhost.autoscaling is for topology separate, and topology is sidecar: set autoscaling, or topology to separate.\n" -}}
{{- end -}}
{{- if .Values.host.tls.existingSecret -}}
{{- fail "\n\nhost.tls is for topology separate, and the containers of one pod share a certificate: set tls.existingSecret.\n" -}}
{{- end -}}
{{- range $plugin := $plugins -}}
{{- range list "replicas" "autoscaling" "tls" -}}
{{- if hasKey $plugin . -}}
{{- fail (printf "\n\nThe plugin %s has %s, which is for topology separate: take it out, or set topology to separate.\n" $plugin.name .) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- else -}}
{{- if and (not (include "cpg-trio.hasEtcd" .)) (gt (include "cpg-trio.mostPods" .Values.host | int) 1) -}}
{{- fail "\n\nThere is to be more than one host, and each would keep a directory of its own in a file: set etcd.enabled or etcd.endpoints, or host.replicas to 1.\n" -}}
{{- end -}}
{{- if and (not .Values.tls.existingSecret) (not .Values.allowPlaintext) -}}
{{- fail "\n\nWith topology separate, tokens and calls cross the cluster's network: set tls.existingSecret, or allowPlaintext=true if nobody else reads it.\n" -}}
{{- end -}}
{{- if and .Values.tls.existingSecret .Values.directCalls -}}
{{- fail "\n\ndirectCalls connect to the name in a plugin's certificate, which leads to any of its pods in topology separate: set directCalls to false, or leave tls.existingSecret out.\n" -}}
{{- end -}}
{{- range $plugins -}}
{{- if or (has .name (list "etcd" "postgresql" "metrics" "test" "identity" "dashboard")) (hasSuffix "-pods" .name) -}}
{{- fail (printf "\n\nThe plugin %s would have the name of another object of the release: give it another name.\n" .name) -}}
{{- end -}}
{{- if and (dig "existingSecret" "" (.tls | default dict)) (not $.Values.tls.existingSecret) -}}
{{- fail (printf "\n\nThe plugin %s has a certificate, and the others have none: set tls.existingSecret.\n" .name) -}}
{{- end -}}
{{- end -}}
{{- if and $etcd.enabled $etcd.existingSecret -}}
{{- fail "\n\netcd.existingSecret is a user of the etcd of etcd.endpoints, and the chart's own has no users: take it out.\n" -}}
{{- end -}}
{{- if and .Values.host.tls.existingSecret (not .Values.tls.existingSecret) -}}
{{- fail "\n\nThe host has a certificate, and the plugins have none: set tls.existingSecret.\n" -}}
{{- end -}}
{{- if $etcd.enabled -}}
{{- $there := lookup "apps/v1" "StatefulSet" .Release.Namespace (include "cpg-trio.etcd" .) -}}
{{- if and $there (ne (int $there.spec.replicas) (int $etcd.replicas)) -}}
{{- fail (printf "\n\netcd.replicas is %d, and the release has an etcd of %d: members join and leave by etcdctl only. Leave it as it was.\n" (int $etcd.replicas) (int $there.spec.replicas)) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- /* Values of a release of an older chart lack the newer keys. */ -}}
{{- define "cpg-trio.checkAge" -}}
{{- range list "topology" "etcd" "keys" "enrolment" "tls" "ingress" "gateway" "postgresql" "test" "host" "metrics" "tracing" "logs" -}}
{{- if not (hasKey $.Values .) -}}
{{- fail (printf "\n\nThere is no value %s: these are the values of an older version of this chart. Use --reset-then-reuse-values in place of --reuse-values.\n" .) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- /* Names that Kubernetes would refuse after it has created other objects. */ -}}
{{- define "cpg-trio.checkNames" -}}
{{- $name := include "cpg-trio.fullname" . -}}
{{- if not (regexMatch "^[a-z]([a-z0-9-]*[a-z0-9])?$" $name) -}}
{{- fail (printf "\n\nThe Service would be named %s. Its name begins with a letter, and has letters, digits and - only: set fullnameOverride.\n" $name) -}}
{{- end -}}
{{- range $label, $_ := .Values.podLabels -}}
{{- if regexMatch "^(app\\.kubernetes\\.io/(name|instance|version|managed-by)|helm\\.sh/chart)$" $label -}}
{{- fail (printf "\n\npodLabels sets %s, by which the chart finds its pods: take it out.\n" $label) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "cpg-trio.checkPlugins" -}}
{{- $values := .Values -}}
{{- $plugins := include "cpg-trio.plugins" . | fromJsonArray -}}
{{- $names := list "host" -}}
{{- $enrolled := list "tokens" "host.key" -}}
{{- range concat ($values.extraContainers | default list) ($values.extraInitContainers | default list) -}}
{{- $names = append $names .name -}}
{{- end -}}
{{- $ports := dict "8080" "the host" "9080" "the host's probes" "11080" "the host's metrics" -}}
{{- $images := .Values.images -}}
{{- range $plugins -}}
{{- if has .name $names -}}
{{- fail (printf "\n\nThere are two containers named %s: give the plugin another name.\n" .name) -}}
{{- end -}}
{{- $names = append $names .name -}}
{{- $own := include "cpg-trio.pluginName" . | lower -}}
{{- if has $own $enrolled -}}
{{- fail (printf "\n\nThe plugin %s has the name %s, which is another's in the Secret of the enrolment tokens: set plugin in its entry.\n" .name $own) -}}
{{- end -}}
{{- $enrolled = append $enrolled $own -}}
{{- if not (or (dig "repository" "" (.image | default dict)) (index $images .name)) -}}
{{- fail (printf "\n\nThe plugin %s has no image: set image.repository in its entry, or images.%s.\n" .name .name) -}}
{{- end -}}
{{- if include "cpg-trio.isSeparate" $ }}{{- $ports = dict }}{{- end -}}
{{- $taken := dict (.port | int | toString) .name (add 1000 (int .port) | toString) (printf "%s's probes" .name) (add 3000 (int .port) | toString) (printf "%s's metrics" .name) -}}
{{- if .public }}{{- $_ := set $taken (add 2000 (int .port) | toString) (printf "%s's control services" .name) -}}{{- end -}}
{{- range $port, $whose := $taken -}}
{{- if hasKey $ports $port -}}
{{- fail (printf "\n\nPort %s would be that of %s and of %s: give the plugin another port. Probes are at port + 1000, control services at port + 2000, metrics at port + 3000.\n" $port (index $ports $port) $whose) -}}
{{- end -}}
{{- $_ := set $ports $port $whose -}}
{{- end -}}
{{- end -}}
{{- range $plugin := $plugins -}}
{{- range $plugin.requires -}}
{{- if not (has . $names) -}}
{{- fail (printf "\n\nThe plugin %s requires %s, and there is none of that name: plugins are %s.\n" $plugin.name . (join ", " (rest $names))) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- range $name, $rank := include "cpg-trio.ranks" . | fromJson -}}
{{- if gt (int $rank) (len $plugins) -}}
{{- fail (printf "\n\nplugins require each other in a ring, of which %s is a part: take one of the requires out, so that there is an order in which they end.\n" $name) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "cpg-trio.checkEnv" -}}
{{- $values := .Values -}}
{{- $ours := list "PORT" "BIND" "PROBE_PORT" "PROBE_BIND" "SOCKET_DIR" "TLS_CERT" "TLS_KEY" "TLS_CA" "TLS_CLIENTS" "STATE_PATH" "STATE_URL" "STATE_PASSWORD" "STATE_PASSWORD_FILE" "ETCD_USER" "PEER_URL" "PEER_ADDRESS" "CPG_HOST_KEY" "CPG_HOST_KEY_FILE" "ENROLMENT_TOKENS" "ENROLMENT_TOKENS_FILE" "POLICY_FILE" "LIMITS" "RATE_LIMITS" "HOST_URL" "HOSTNAME" "CONTROL_PORT" "ENROLMENT_TOKEN" "ENROLMENT_TOKEN_FILE" "DIRECT_CALLS" "METRICS_BIND" "LOG_FORMAT" "LOG_LEVEL" "LOG_CALLS" "ADMIN_SOCKET" -}}
{{- $instead := dict "LIMITS" "limits" "RATE_LIMITS" "rates" "POLICY_FILE" "policy" "DIRECT_CALLS" "directCalls" "METRICS_BIND" "metrics.enabled" "LOG_FORMAT" "logs.format" "LOG_LEVEL" "logs.level" "LOG_CALLS" "logs.calls" "STATE_URL" "etcd" "ALLOW_PLAINTEXT" "allowPlaintext" -}}
{{- if include "cpg-trio.isSeparate" . }}{{- $ours = concat $ours (list "ALLOW_PLAINTEXT" "CONTROL_BIND") }}{{- end -}}
{{- $all := dict "host" (dict "env" (list)) -}}
{{- range include "cpg-trio.plugins" . | fromJsonArray -}}
{{- $data := .data | default dict -}}
{{- $_ := set $all .name (dict "env" (.env | default list) "data" (compact (list $data.fileEnv $data.databaseEnv))) -}}
{{- end -}}
{{- range $name, $_ := $values.env -}}
{{- if not (hasKey $all $name) -}}
{{- fail (printf "\n\nenv.%s is for no container: they are %s.\n" $name (keys $all | sortAlpha | join ", ")) -}}
{{- end -}}
{{- end -}}
{{- range $name, $_ := $values.resources -}}
{{- if not (hasKey $all $name) -}}
{{- fail (printf "\n\nresources.%s is for no container: they are %s.\n" $name (keys $all | sortAlpha | join ", ")) -}}
{{- end -}}
{{- end -}}
{{- range $container, $what := $all -}}
{{- range concat $what.env (index ($values.env | default dict) $container | default list) -}}
{{- if has .name ($what.data | default list) -}}
{{- fail (printf "\n\nenv.%s sets %s, which the chart sets: take it out, and set storage.databaseUrl or storage.databaseUrlSecret.\n" $container .name) -}}
{{- else if has .name $ours -}}
{{- fail (printf "\n\nenv.%s sets %s, which the chart sets: take it out%s.\n" $container .name (ternary (printf ", and set %s" (index $instead .name)) "" (hasKey $instead .name))) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "cpg-trio.checkData" -}}
{{- $storage := .Values.storage -}}
{{- $withData := list -}}
{{- range include "cpg-trio.plugins" . | fromJsonArray -}}
{{- if .data }}{{- $withData = append $withData . -}}{{- end -}}
{{- end -}}
{{- if gt (len $withData) 1 -}}
{{- fail (printf "\n\nThe plugins %s and %s both have data, and `storage` is for one: give the other a volume in its `volumes`, or a database in its `env`.\n" (index $withData 0).name (index $withData 1).name) -}}
{{- end -}}
{{- if and $storage.databaseUrl $storage.databaseUrlSecret.name -}}
{{- fail "\n\nstorage.databaseUrl and storage.databaseUrlSecret.name both say where the data is: set one of them.\n" -}}
{{- end -}}
{{- if and $storage.databaseUrl (not (regexMatch "^postgres(ql)?(\\+psycopg)?://[^/?]*[^/@?]/[^/?]+([?].*)?$" $storage.databaseUrl)) -}}
{{- fail "\n\nstorage.databaseUrl must be like postgresql://user:password@host:5432/database.\n" -}}
{{- end -}}
{{- if and (eq (toString .Values.postgresql.enabled) "true") (include "cpg-trio.hasNamedDatabase" .) -}}
{{- fail "\n\npostgresql.enabled sets a database up, and storage.databaseUrl or storage.databaseUrlSecret names another: set one of them.\n" -}}
{{- end -}}
{{- if and $storage.persistence.enabled (include "cpg-trio.hasNamedDatabase" .) -}}
{{- fail "\n\nstorage.persistence.enabled asks for a volume for SQLite, but the data is in the database that storage.databaseUrl or storage.databaseUrlSecret names: set one of them.\n" -}}
{{- end -}}
{{- if and (include "cpg-trio.hasSeveralPods" .) (include "cpg-trio.hasFile" .) -}}
{{- if not (include "cpg-trio.canUseDatabase" .) -}}
{{- fail (printf "\n\nThere is to be more than one pod, and each would keep %s's data in a file of its own. If it can use a database, name the variable for its URL in data.databaseEnv; otherwise have one pod.\n" (first $withData).name) -}}
{{- end -}}
{{- fail "\n\nThere is to be more than one pod, and postgresql.enabled is false: each pod would keep its data in a file of its own. Set postgresql.enabled to auto, or storage.databaseUrl or storage.databaseUrlSecret.name, or have one pod.\n" -}}
{{- end -}}
{{- $most := 0 -}}
{{- with include "cpg-trio.dataUnit" . | fromJson }}{{- $most = include "cpg-trio.mostPods" . | int }}{{- end -}}
{{- if and (gt $most 30) (include "cpg-trio.hasOwnPostgresql" .) (not .Values.postgresql.args) -}}
{{- fail (printf "\n\nThere are to be up to %d pods, and each takes up to 3 connections of the 100 that PostgreSQL has: set postgresql.args, as in [-c, max_connections=%d].\n" $most (add 20 (mul 4 $most))) -}}
{{- end -}}
{{- range $withData -}}
{{- include "cpg-trio.checkMoved" (dict "root" $ "plugin" .) -}}
{{- end -}}
{{- end -}}

{{- /* Refuse an upgrade that would lose a plugin's data: from a file to a database, or from a database to a file. */ -}}
{{- define "cpg-trio.checkMoved" -}}
{{- $root := .root -}}
{{- $data := .plugin.data -}}
{{- $release := $root.Release -}}
{{- /* The topology may be another one now. */ -}}
{{- $there := dict -}}
{{- range list (include "cpg-trio.fullname" $root) (include "cpg-trio.componentName" (dict "root" $root "component" .plugin.name)) -}}
{{- with lookup "apps/v1" "Deployment" $release.Namespace . }}{{- $there = . }}{{- end -}}
{{- end -}}
{{- $had := dict -}}
{{- range dig "spec" "template" "spec" "containers" list $there -}}
{{- if eq .name $.plugin.name -}}
{{- range .env }}{{- $_ := set $had .name (.value | default "") -}}{{- end -}}
{{- end -}}
{{- end -}}
{{- if include "cpg-trio.usesFile" . -}}
{{- if and (hasKey $had ($data.databaseEnv | default "")) (not $root.Values.storage.abandonDatabase) -}}
{{- fail (printf "\n\nThe data of %s is in a database, and the pod would begin with an empty file. Leave postgresql.enabled, storage.databaseUrl and storage.databaseUrlSecret as they were (helm get values %s --namespace %s), or set storage.abandonDatabase=true to discard the data.\n" .plugin.name $release.Name $release.Namespace) -}}
{{- end -}}
{{- else if and (hasKey $had ($data.fileEnv | default "")) (not $root.Values.storage.abandonFile) -}}
{{- $left := printf "The data of %s is in a file, %s, which the new pods would not have." .plugin.name (index $had $data.fileEnv) -}}
{{- if not (and $data.move (include "cpg-trio.hasOwnPostgresql" $root)) -}}
{{- fail (printf "\n\n%s Put it into the database yourself, and upgrade with storage.abandonFile=true then. If it is not worth that, set it at once, and the data is lost.\n" $left) -}}
{{- else if not (include "cpg-trio.isMoved" (dict "root" $root "there" $there)) -}}
{{- fail (printf "\n\n%s Move it first:\n\n  RELEASE=%s NAMESPACE=%s %s\n\nand run this upgrade again then. Or set storage.abandonFile=true, and it is lost.\n" $left $release.Name $release.Namespace $data.move) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- /* "true" if the data in the file has been moved. The annotation names the pod whose file was moved: another pod may
       have another file with newer data. */ -}}
{{- define "cpg-trio.isMoved" -}}
{{- with dig "metadata" "annotations" "cpg-trio/data-moved" "" .there -}}
{{- if lookup "v1" "Pod" $.root.Release.Namespace . -}}true{{- end -}}
{{- end -}}
{{- end -}}

{{- define "cpg-trio.checkService" -}}
{{- $service := .Values.service -}}
{{- $public := include "cpg-trio.publicPlugins" . | fromJsonArray -}}
{{- if and $service.nodePort (eq $service.type "ClusterIP") -}}
{{- fail "\n\nservice.nodePort is for services on the nodes: set service.type to NodePort or LoadBalancer, or leave service.nodePort out.\n" -}}
{{- end -}}
{{- if and (ne $service.type "LoadBalancer") (or $service.loadBalancerClass $service.loadBalancerIP $service.loadBalancerSourceRanges) -}}
{{- fail (printf "\n\nservice.loadBalancer… is for a load balancer, and service.type is %s: set it to LoadBalancer, or leave them out.\n" $service.type) -}}
{{- end -}}
{{- if and (eq $service.type "ClusterIP") $service.externalTrafficPolicy -}}
{{- fail "\n\nservice.externalTrafficPolicy is for services that are reached from outside: set service.type to NodePort or LoadBalancer, or leave it out.\n" -}}
{{- end -}}
{{- if and (or .Values.ingress.enabled .Values.gateway.enabled) (not $public) -}}
{{- fail "\n\nAn ingress or a gateway route leads to a public plugin, and there is none: set public in an entry of plugins.\n" -}}
{{- end -}}
{{- if and (or .Values.ingress.enabled .Values.gateway.enabled) .Values.tls.existingSecret (eq .Values.tls.clients "required") -}}
{{- fail "\n\ntls.clients is required, and what leads an ingress or a gateway route shows no certificate: set it to optional, or leave the ingress and the route out.\n" -}}
{{- end -}}
{{- if and .Values.ingress.enabled (not .Values.ingress.hosts) -}}
{{- fail "\n\ningress.enabled needs ingress.hosts, as in [{host: s.example.com, path: /}].\n" -}}
{{- end -}}
{{- if and .Values.gateway.enabled (not .Values.gateway.parentRefs) -}}
{{- fail "\n\ngateway.enabled needs gateway.parentRefs, as in [{name: my-gateway}].\n" -}}
{{- end -}}
{{- $ports := dict -}}
{{- range $public -}}
{{- $port := include "cpg-trio.servicePort" (dict "root" $ "plugin" .) -}}
{{- if and (eq .name "http") (ne .name (first $public).name) -}}
{{- fail "\n\nThe Service's first port is named http: give the public plugin http another name, or put it before the others.\n" -}}
{{- end -}}
{{- if and (hasKey $ports $port) (not (include "cpg-trio.isSeparate" $)) -}}
{{- fail (printf "\n\nThe Service would have port %s for %s and for %s: set servicePort in one of them.\n" $port (index $ports $port) .name) -}}
{{- end -}}
{{- $_ := set $ports $port .name -}}
{{- end -}}
{{- end -}}
