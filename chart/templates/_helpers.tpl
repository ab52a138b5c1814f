{{- define "cpg-trio.name" -}}
{{- .Values.nameOverride | default .Chart.Name | trunc 52 | trimSuffix "-" -}}
{{- end -}}

{{- define "cpg-trio.fullname" -}}
{{- $name := include "cpg-trio.name" . -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 52 | trimSuffix "-" -}}
{{- else if contains $name .Release.Name -}}
{{- .Release.Name | trunc 52 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 52 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "cpg-trio.selector" -}}
app.kubernetes.io/name: {{ include "cpg-trio.name" . | quote }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
{{- end -}}

{{- /* The selector of a Deployment's pods. Given: root; component, "" for all that there are. */ -}}
{{- define "cpg-trio.unitSelector" -}}
{{- include "cpg-trio.selector" .root }}
{{- with .component }}
app.kubernetes.io/component: {{ . | quote }}
{{- end }}
{{- end -}}

{{- define "cpg-trio.postgresqlSelector" -}}
app.kubernetes.io/name: {{ printf "%s-postgresql" (include "cpg-trio.name" .) | quote }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
{{- end -}}

{{- define "cpg-trio.etcdSelector" -}}
app.kubernetes.io/name: {{ printf "%s-etcd" (include "cpg-trio.name" .) | quote }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
{{- end -}}

{{- /* Not the selector of the pods' own Service, whose ports are public. */ -}}
{{- define "cpg-trio.metricsSelector" -}}
app.kubernetes.io/name: {{ printf "%s-metrics" (include "cpg-trio.name" .) | quote }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
{{- end -}}

{{- /* Labels of an object that an operator or a sidecar selects. Given: root; own, labels of the values. */ -}}
{{- define "cpg-trio.monitorLabels" -}}
{{- include "cpg-trio.selector" .root }}
{{- with .own }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- /* Given: root; version, that of the software. */ -}}
{{- define "cpg-trio.labels" -}}
app.kubernetes.io/version: {{ include "cpg-trio.labelValue" .version | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service | quote }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" | include "cpg-trio.labelValue" | quote }}
{{- end -}}

{{- /* A label's value begins and ends with a letter or a digit, and has 63 characters at most. */ -}}
{{- define "cpg-trio.labelValue" -}}
{{- regexReplaceAll "^[^A-Za-z0-9]+|[^A-Za-z0-9]+$" (trunc 63 .) "" -}}
{{- end -}}

{{- /* The metadata of an object, without its name. Given: root; optional: labels (YAML) instead of the selector,
       component, version of the software, annotations (a dictionary). */ -}}
{{- define "cpg-trio.metadata" -}}
namespace: {{ .root.Release.Namespace | quote }}
labels:
  {{- .labels | default (include "cpg-trio.unitSelector" .) | nindent 2 }}
  {{- include "cpg-trio.labels" (dict "root" .root "version" (.version | default (include "cpg-trio.tag" .root))) | nindent 2 }}
{{- with merge (dict) (.annotations | default dict) (.root.Values.annotations | default dict) }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{- define "cpg-trio.tag" -}}
{{- include "cpg-trio.text" .Values.image.tag | default .Chart.AppVersion -}}
{{- end -}}

{{- /* A value as text. A number in a values file is a float, and would be written as 2.0261126e+07. */ -}}
{{- define "cpg-trio.text" -}}
{{- if kindIs "float64" . }}{{ int64 . }}{{ else }}{{ . | default "" }}{{ end -}}
{{- end -}}

{{- /* An image. Given: root; name, a key of `images`; image, the container's own values. */ -}}
{{- define "cpg-trio.image" -}}
{{- $own := .image | default dict -}}
{{- $folder := .root.Values.image.repository | trimSuffix "/" -}}
{{- $usual := printf "%s%s%s" $folder (ternary "/" "" (ne $folder "")) (index .root.Values.images .name | default "") -}}
{{- $own.repository | default $usual -}}
{{- if $own.digest }}@{{ $own.digest }}{{ else }}:{{ include "cpg-trio.text" $own.tag | default (include "cpg-trio.tag" .root) }}{{ end -}}
{{- end -}}

{{- define "cpg-trio.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- .Values.serviceAccount.name | default (include "cpg-trio.fullname" .) -}}
{{- else -}}
{{- .Values.serviceAccount.name | default "default" -}}
{{- end -}}
{{- end -}}

{{- /* All plugins, as JSON. */ -}}
{{- define "cpg-trio.plugins" -}}
{{- concat (.Values.plugins | default list) (.Values.extraPlugins | default list) | toJson -}}
{{- end -}}

{{- /* The public plugins, as JSON: the first has the Service's first port. */ -}}
{{- define "cpg-trio.publicPlugins" -}}
{{- $public := list -}}
{{- range include "cpg-trio.plugins" . | fromJsonArray -}}
{{- if .public }}{{- $public = append $public . -}}{{- end -}}
{{- end -}}
{{- $public | toJson -}}
{{- end -}}

{{- /* The Service's port for a public plugin. Given: root, plugin. */ -}}
{{- define "cpg-trio.servicePort" -}}
{{- $first := include "cpg-trio.publicPlugins" .root | fromJsonArray | first -}}
{{- .plugin.servicePort | default (ternary .root.Values.service.port .plugin.port (eq .plugin.name $first.name)) | int -}}
{{- end -}}

{{- /* The Service's port for the first public plugin. */ -}}
{{- define "cpg-trio.firstPort" -}}
{{- include "cpg-trio.servicePort" (dict "root" . "plugin" (include "cpg-trio.publicPlugins" . | fromJsonArray | first)) -}}
{{- end -}}

{{- /* A plugin's own name, which its enrolment token is for. */ -}}
{{- define "cpg-trio.pluginName" -}}
{{- .plugin | default (printf "%s-plugin" .name) -}}
{{- end -}}

{{- /* The stop order of plugins, as JSON by name: 1 for a plugin that no other requires; otherwise one more than the
       highest rank of those that require it. In a cycle the ranks exceed the number of plugins. */ -}}
{{- define "cpg-trio.ranks" -}}
{{- $plugins := include "cpg-trio.plugins" . | fromJsonArray -}}
{{- $ranks := dict -}}
{{- range $plugins }}{{- $_ := set $ranks .name 1 -}}{{- end -}}
{{- range $plugins -}}
{{- range $dependent := $plugins -}}
{{- range $dependent.requires -}}
{{- $_ := set $ranks . (max (index $ranks . | default 1) (add 1 (index $ranks $dependent.name))) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- $ranks | toJson -}}
{{- end -}}

{{- /* "true" if the host is a native sidecar, otherwise "". */ -}}
{{- define "cpg-trio.nativeSidecars" -}}
{{- if eq (toString .Values.nativeSidecars) "auto" -}}
{{- if semverCompare ">=1.29.0-0" .Capabilities.KubeVersion.Version -}}true{{- end -}}
{{- else if .Values.nativeSidecars -}}true{{- end -}}
{{- end -}}

{{- define "cpg-trio.isSeparate" -}}
{{- if eq .Values.topology "separate" -}}true{{- end -}}
{{- end -}}

{{- define "cpg-trio.unixSockets" -}}
{{- if and .Values.unixSockets (not (include "cpg-trio.isSeparate" .)) -}}true{{- end -}}
{{- end -}}

{{- /* The name of an object of one component. It has 63 characters at most. Given: root, component. */ -}}
{{- define "cpg-trio.componentName" -}}
{{- include "cpg-trio.fullname" .root | trunc (sub 62 (len .component) | int) | trimSuffix "-" -}}-{{ .component }}
{{- end -}}

{{- /* The Deployments, as JSON: one with everything, or one for the host and one for each plugin. Each has: name;
       component, "" for the one with everything; host, whether it has the host; plugins; replicas; autoscaling. */ -}}
{{- define "cpg-trio.units" -}}
{{- $plugins := include "cpg-trio.plugins" . | fromJsonArray -}}
{{- $units := list -}}
{{- if include "cpg-trio.isSeparate" . -}}
{{- $units = append $units (dict "name" (include "cpg-trio.hosts" .) "component" "host" "host" true "plugins" list "replicas" .Values.host.replicas "autoscaling" .Values.host.autoscaling) -}}
{{- range $plugins -}}
{{- $replicas := ternary $.Values.replicaCount .replicas (kindIs "invalid" .replicas) -}}
{{- $autoscaling := mergeOverwrite (deepCopy $.Values.autoscaling) (.autoscaling | default dict) -}}
{{- $units = append $units (dict "name" (include "cpg-trio.componentName" (dict "root" $ "component" .name)) "component" .name "host" false "plugins" (list .) "replicas" $replicas "autoscaling" $autoscaling) -}}
{{- end -}}
{{- else -}}
{{- $units = append $units (dict "name" (include "cpg-trio.fullname" .) "component" "" "host" true "plugins" ($plugins | default list) "replicas" .Values.replicaCount "autoscaling" .Values.autoscaling) -}}
{{- end -}}
{{- $units | toJson -}}
{{- end -}}

{{- /* The unit with the plugin that has data, as JSON; {} if none has. */ -}}
{{- define "cpg-trio.dataUnit" -}}
{{- $found := dict -}}
{{- range $unit := include "cpg-trio.units" . | fromJsonArray -}}
{{- range .plugins -}}
{{- if .data }}{{- $found = $unit -}}{{- end -}}
{{- end -}}
{{- end -}}
{{- $found | toJson -}}
{{- end -}}

{{- /* The most pods that a unit may have. */ -}}
{{- define "cpg-trio.mostPods" -}}
{{- ternary .autoscaling.maxReplicas .replicas .autoscaling.enabled | int -}}
{{- end -}}

{{- /* The hosts: the name of their Deployment, and of the Service whose look-up has the address of each. */ -}}
{{- define "cpg-trio.hosts" -}}
{{- include "cpg-trio.componentName" (dict "root" . "component" "host") -}}
{{- end -}}

{{- /* The Service whose look-up has the address of each pod of a plugin, for certificates. Given: root, component. */ -}}
{{- define "cpg-trio.pods" -}}
{{- include "cpg-trio.componentName" (dict "root" .root "component" (printf "%s-pods" .component)) -}}
{{- end -}}

{{- define "cpg-trio.scheme" -}}
{{- ternary "https" "http" (ne .Values.tls.existingSecret "") -}}
{{- end -}}

{{- /* The Secret with the certificate of a pod. Given: root, unit. */ -}}
{{- define "cpg-trio.tlsSecret" -}}
{{- $own := "" -}}
{{- if .unit.component -}}
{{- $own = (ternary .root.Values.host.tls ((first (append .unit.plugins dict)).tls | default dict) .unit.host).existingSecret -}}
{{- end -}}
{{- $own | default .root.Values.tls.existingSecret -}}
{{- end -}}

{{- define "cpg-trio.budgetVersion" -}}
{{- ternary "policy/v1" "policy/v1beta1" (semverCompare ">=1.21.0-0" .Capabilities.KubeVersion.Version) -}}
{{- end -}}

{{- /* The store that several hosts share. */ -}}

{{- define "cpg-trio.hasEtcd" -}}
{{- if or .Values.etcd.enabled .Values.etcd.endpoints -}}true{{- end -}}
{{- end -}}

{{- define "cpg-trio.etcd" -}}
{{- include "cpg-trio.componentName" (dict "root" . "component" "etcd") -}}
{{- end -}}

{{- /* Hosts and ports, separated by commas. */ -}}
{{- define "cpg-trio.etcdEndpoints" -}}
{{- $endpoints := .Values.etcd.endpoints | default list -}}
{{- if .Values.etcd.enabled -}}
{{- $name := include "cpg-trio.etcd" . -}}
{{- range until (int .Values.etcd.replicas) -}}
{{- $endpoints = append $endpoints (printf "%s-%d.%s:2379" $name . $name) -}}
{{- end -}}
{{- end -}}
{{- join "," $endpoints -}}
{{- end -}}

{{- /* Where the data is. Each is "true" or "". */ -}}

{{- define "cpg-trio.hasNamedDatabase" -}}
{{- if or .Values.storage.databaseUrl .Values.storage.databaseUrlSecret.name -}}true{{- end -}}
{{- end -}}

{{- /* Whether there may be more than one pod of the plugin with data. */ -}}
{{- define "cpg-trio.hasSeveralPods" -}}
{{- $unit := include "cpg-trio.dataUnit" . | fromJson -}}
{{- if and $unit (gt (include "cpg-trio.mostPods" $unit | int) 1) -}}true{{- end -}}
{{- end -}}

{{- /* auto: yes for more than one pod, and from then on, since the data is in it. */ -}}
{{- define "cpg-trio.hasOwnPostgresql" -}}
{{- $asked := toString .Values.postgresql.enabled -}}
{{- if eq $asked "true" -}}true
{{- else if and (eq $asked "auto") (include "cpg-trio.canUseDatabase" .) (not (include "cpg-trio.hasNamedDatabase" .)) -}}
{{- $there := and (not .Values.storage.abandonDatabase) (lookup "apps/v1" "StatefulSet" .Release.Namespace (include "cpg-trio.postgresql" .)) -}}
{{- if or (include "cpg-trio.hasSeveralPods" .) $there -}}true{{- end -}}
{{- end -}}
{{- end -}}

{{- define "cpg-trio.hasDatabase" -}}
{{- if or (include "cpg-trio.hasNamedDatabase" .) (include "cpg-trio.hasOwnPostgresql" .) -}}true{{- end -}}
{{- end -}}

{{- define "cpg-trio.canUseDatabase" -}}
{{- range include "cpg-trio.plugins" . | fromJsonArray -}}
{{- if dig "databaseEnv" "" (.data | default dict) }}true{{- end -}}
{{- end -}}
{{- end -}}

{{- /* Whether a plugin's data is in a file of the pod. */ -}}
{{- define "cpg-trio.hasFile" -}}
{{- range include "cpg-trio.plugins" . | fromJsonArray -}}
{{- if include "cpg-trio.usesFile" (dict "root" $ "plugin" .) }}true{{- end -}}
{{- end -}}
{{- end -}}

{{- define "cpg-trio.keepsData" -}}
{{- range include "cpg-trio.plugins" . | fromJsonArray -}}
{{- if .data }}true{{- end -}}
{{- end -}}
{{- end -}}

{{- /* Where a database's URL is: a reference to a key of a Secret, as YAML. */ -}}
{{- define "cpg-trio.databaseUrlRef" -}}
{{- if .Values.storage.databaseUrl -}}
name: {{ include "cpg-trio.fullname" . | quote }}
key: DATABASE_URL
{{- else if .Values.storage.databaseUrlSecret.name -}}
name: {{ .Values.storage.databaseUrlSecret.name | quote }}
key: {{ .Values.storage.databaseUrlSecret.key | quote }}
{{- else -}}
name: {{ .Values.postgresql.existingSecret | default (include "cpg-trio.postgresql" .) | quote }}
key: url
{{- end -}}
{{- end -}}

{{- define "cpg-trio.postgresql" -}}
{{- include "cpg-trio.fullname" . | trunc 41 | trimSuffix "-" -}}-postgresql
{{- end -}}

{{- /* Secrets of the chart. Each value is created once; an upgrade keeps it. */ -}}

{{- define "cpg-trio.identitySecret" -}}
{{- printf "%s-identity" (include "cpg-trio.fullname" .) -}}
{{- end -}}

{{- /* The value of a Secret in the cluster, or else a new one; in base64. Given: root, secret, key. */ -}}
{{- define "cpg-trio.kept" -}}
{{- $there := lookup "v1" "Secret" .root.Release.Namespace .secret | default dict -}}
{{- index ($there.data | default dict) .key | default (randAlphaNum 48 | b64enc) -}}
{{- end -}}

{{- define "cpg-trio.stateUrl" -}}
{{- $etcd := .Values.etcd -}}
{{- ternary "etcds://" "etcd://" (ne $etcd.tls.existingSecret "") -}}
{{- if $etcd.existingSecret -}}$(ETCD_USER)@{{- end -}}
{{- include "cpg-trio.etcdEndpoints" . -}}
{{- $etcd.prefix | default (printf "/%s/%s" .Release.Namespace (include "cpg-trio.fullname" .)) -}}
{{- if $etcd.tls.existingSecret -}}?ca=/etcd/tls/ca.crt&cert=/etcd/tls/tls.crt&key=/etcd/tls/tls.key{{- end -}}
{{- end -}}

{{- /* Security. */ -}}

{{- /* Given: all, settings of all containers; own, settings of this one. */ -}}
{{- define "cpg-trio.containerSecurity" -}}
{{- $usual := dict "allowPrivilegeEscalation" false "readOnlyRootFilesystem" true "capabilities" (dict "drop" (list "ALL")) -}}
{{- toYaml (mergeOverwrite $usual (deepCopy (.all | default dict)) (deepCopy (.own | default dict))) -}}
{{- end -}}

{{- /* Given: user, the id of user and group; own, settings that override the chart's. */ -}}
{{- define "cpg-trio.podSecurity" -}}
{{- $usual := dict "runAsNonRoot" true "runAsUser" .user "runAsGroup" .user "fsGroup" .user
      "fsGroupChangePolicy" "OnRootMismatch" "seccompProfile" (dict "type" "RuntimeDefault") -}}
{{- toYaml (mergeOverwrite $usual (deepCopy (.own | default dict))) -}}
{{- end -}}

{{- /* Containers. */ -}}

{{- /* A container of the pod. Given: root; name; port; plugin, its entry in `plugins`, empty for the host; sidecar;
       after, the ports of the containers that stop before it; rank, its place in the stop order. */ -}}
{{- define "cpg-trio.container" -}}
{{- $values := .root.Values -}}
{{- $plugin := .plugin | default dict -}}
{{- $separate := include "cpg-trio.isSeparate" .root -}}
{{- $open := or $separate $plugin.public -}}
- name: {{ .name | quote }}
  image: {{ include "cpg-trio.image" (dict "root" .root "name" .name "image" (ternary $plugin.image .root.Values.host.image (hasKey . "plugin"))) | quote }}
  imagePullPolicy: {{ $values.image.pullPolicy }}
  {{- with $plugin.command }}
  command:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with $plugin.args }}
  args:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- if .sidecar }}
  restartPolicy: Always
  {{- end }}
  ports:
    {{- if $open }}
    - containerPort: {{ .port | int }}
    {{- end }}
    {{- if and $separate $plugin.public }}
    - containerPort: {{ add (int .port) 2000 }}
    {{- end }}
    - containerPort: {{ add (int .port) 1000 }}
    {{- if $values.metrics.enabled }}
    - name: {{ include "cpg-trio.metricsPort" .port }}
      containerPort: {{ add (int .port) 3000 }}
    {{- end }}
  env:
    - name: PORT
      value: {{ .port | int | quote }}
    - name: BIND
      # "::" is all addresses, of IPv4 as well.
      value: {{ ternary "::" "localhost" (not (not $open)) | quote }}
    - name: PROBE_PORT
      value: {{ add (int .port) 1000 | quote }}
    {{- if include "cpg-trio.unixSockets" .root }}
    - name: SOCKET_DIR
      value: /sockets
    {{- end }}
    {{- if $values.tls.existingSecret }}
    - name: TLS_CERT
      value: /tls/tls.crt
    - name: TLS_KEY
      value: /tls/tls.key
    - name: TLS_CA
      value: /tls/ca.crt
    - name: TLS_CLIENTS
      value: {{ $values.tls.clients }}
    {{- end }}
    {{- if $values.metrics.enabled }}
    - name: METRICS_BIND
      value: {{ printf "[::]:%d" (add (int .port) 3000) | quote }}
    {{- end }}
    - name: LOG_FORMAT
      value: {{ $values.logs.format }}
    - name: LOG_LEVEL
      value: {{ $values.logs.level | quote }}
    {{- with $values.tracing.endpoint }}
    - name: OTEL_EXPORTER_OTLP_ENDPOINT
      value: {{ . | quote }}
    - name: OTEL_TRACES_SAMPLER
      value: parentbased_traceidratio
    - name: OTEL_TRACES_SAMPLER_ARG
      value: {{ $values.tracing.share | toString | quote }}
    {{- end }}
    {{- if .plugin }}
    {{- include "cpg-trio.pluginEnv" . | nindent 4 }}
    {{- else }}
    {{- include "cpg-trio.hostEnv" .root | nindent 4 }}
    {{- end }}
    {{- with concat ($plugin.env | default list) (index ($values.env | default dict) .name | default list) }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  {{- with $plugin.envFrom }}
  envFrom:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- if kindIs "map" $plugin.probes }}
  {{- range $kind, $probe := $plugin.probes }}
  {{- with $probe }}
  {{ $kind }}Probe:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- end }}
  {{- else }}
  {{- range $kind, $path := dict "startup" "/healthz" "readiness" "/readyz" "liveness" "/healthz" }}
  {{ $kind }}Probe:
    httpGet: { path: {{ $path }}, port: {{ add (int $.port) 1000 }} }
    {{- toYaml (index $values.probes $kind) | nindent 4 }}
  {{- end }}
  {{- end }}
  {{- if kindIs "map" $plugin.lifecycle }}
  {{- with $plugin.lifecycle }}
  lifecycle:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- else if not (or .sidecar (and $separate .plugin (not $plugin.public))) }}
  lifecycle:
    preStop:
      exec:
        command:
          {{- include "cpg-trio.preStop" . | nindent 10 }}
  {{- end }}
  {{- with include "cpg-trio.resources" . | fromYaml }}
  resources:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  securityContext:
    {{- include "cpg-trio.containerSecurity" (dict "all" $values.containerSecurityContext "own" $plugin.securityContext) | nindent 4 }}
  {{- with include "cpg-trio.mounts" . | fromYamlArray }}
  volumeMounts:
    {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end -}}

{{- /* The resources of a container, as YAML. Given: root; name; plugin, empty for the host. */ -}}
{{- define "cpg-trio.resources" -}}
{{- $ours := index (.root.Values.resources | default dict) .name | default dict -}}
{{- if and (not .plugin) (include "cpg-trio.isSeparate" .root) }}{{- $ours = .root.Values.host.resources | default dict }}{{- end -}}
{{- toYaml (mergeOverwrite (deepCopy (dig "resources" dict (.plugin | default dict))) (deepCopy $ours)) -}}
{{- end -}}

{{- define "cpg-trio.hostEnv" -}}
{{- if include "cpg-trio.hasEtcd" . -}}
{{- with .Values.etcd.existingSecret -}}
- name: ETCD_USER
  valueFrom: { secretKeyRef: { name: {{ . | quote }}, key: username } }
- name: STATE_PASSWORD_FILE
  value: /etcd/user/password
{{ end -}}
- name: STATE_URL
  value: {{ include "cpg-trio.stateUrl" . | quote }}
# Where the other hosts reach this one: at its address, by the name that is in its certificate.
- name: PEER_ADDRESS
  valueFrom: { fieldRef: { fieldPath: status.podIP } }
- name: PEER_URL
  value: {{ printf "%s://%s:8080" (include "cpg-trio.scheme" .) (include "cpg-trio.hosts" .) }}
{{- else -}}
- name: STATE_PATH
  value: /state/host.sqlite3
{{- end }}
{{- if and (include "cpg-trio.isSeparate" .) (not .Values.tls.existingSecret) }}
- name: ALLOW_PLAINTEXT
  value: "true"
{{- end }}
- name: CPG_HOST_KEY_FILE
  value: /keys/host.key
# For `kubectl exec … -c host -- cpg-trio status`. Only this container has the volume.
- name: ADMIN_SOCKET
  value: /state/admin/host.sock
- name: LOG_CALLS
  value: {{ .Values.logs.calls | toString | quote }}
{{- if .Values.enrolment.enabled }}
- name: ENROLMENT_TOKENS_FILE
  value: /enrolment/tokens
{{- end }}
{{- if .Values.policy }}
- name: POLICY_FILE
  value: /policy/policy.toml
{{- end }}
{{- with .Values.limits }}
- name: LIMITS
  value: {{ include "cpg-trio.pairs" . | quote }}
{{- end }}
{{- with .Values.rates }}
- name: RATE_LIMITS
  value: {{ include "cpg-trio.pairs" . | quote }}
{{- end }}
{{- end -}}

{{- define "cpg-trio.pairs" -}}
{{- $pairs := list -}}
{{- range $name, $value := . -}}
{{- $pairs = append $pairs (printf "%s=%s" $name (include "cpg-trio.text" $value)) -}}
{{- end -}}
{{- join "," $pairs -}}
{{- end -}}

{{- /* The name of a container's port for metrics. Given: its port. A name of a port has 15 characters at most. */ -}}
{{- define "cpg-trio.metricsPort" -}}
metrics-{{ int . }}
{{- end -}}

{{- /* The names of all ports for metrics, as JSON. */ -}}
{{- define "cpg-trio.metricsPorts" -}}
{{- $names := list (include "cpg-trio.metricsPort" 8080) -}}
{{- range include "cpg-trio.plugins" . | fromJsonArray -}}
{{- $names = append $names (include "cpg-trio.metricsPort" .port) -}}
{{- end -}}
{{- uniq $names | toJson -}}
{{- end -}}

{{- define "cpg-trio.pluginEnv" -}}
{{- $values := .root.Values -}}
{{- $separate := include "cpg-trio.isSeparate" .root -}}
- name: HOST_URL
  value: {{ include "cpg-trio.scheme" .root }}://{{ ternary (include "cpg-trio.hosts" .root) "localhost" (ne $separate "") }}:8080
# Where the host finds it; the runtime would say the pod's name, which the host may not use.
- name: HOSTNAME
  {{- if not $separate }}
  value: localhost
  {{- else if $values.tls.existingSecret }}
  # The name in its certificate. Its look-up has all pods of the plugin; the host takes the one that it hears from.
  value: {{ include "cpg-trio.pods" (dict "root" .root "component" .name) | quote }}
  {{- else }}
  valueFrom: { fieldRef: { fieldPath: status.podIP } }
  {{- end }}
{{- if .plugin.public }}
# {{ if $separate }}Where only hosts may connect{{ else }}On localhost, where only the host is{{ end }}: its other port is the one that the Service leads to.
- name: CONTROL_PORT
  value: {{ add (int .port) 2000 | quote }}
{{- if $separate }}
- name: CONTROL_BIND
  value: "::"
{{- end }}
{{- end }}
{{- if $values.enrolment.enabled }}
- name: ENROLMENT_TOKEN_FILE
  value: /enrolment/token
{{- end }}
{{- if $values.directCalls }}
- name: DIRECT_CALLS
  value: "true"
{{- end }}
{{- with .plugin.data }}
{{- if and .databaseEnv (include "cpg-trio.hasDatabase" $.root) }}
- name: {{ .databaseEnv | quote }}
  valueFrom:
    secretKeyRef:
      {{- include "cpg-trio.databaseUrlRef" $.root | nindent 6 }}
{{- else if .fileEnv }}
- name: {{ .fileEnv | quote }}
  value: {{ printf "%s/%s" .mountPath .file | quote }}
{{- end }}
{{- end }}
{{- end -}}

{{- define "cpg-trio.mounts" -}}
{{- $values := .root.Values -}}
{{- if not .plugin }}
- { name: state, mountPath: /state }
- { name: keys, mountPath: /keys, readOnly: true }
{{- if $values.policy }}
- { name: policy, mountPath: /policy, readOnly: true }
{{- end }}
{{- if $values.etcd.existingSecret }}
- { name: etcd-user, mountPath: /etcd/user, readOnly: true }
{{- end }}
{{- if $values.etcd.tls.existingSecret }}
- { name: etcd-tls, mountPath: /etcd/tls, readOnly: true }
{{- end }}
{{- end }}
{{- if $values.enrolment.enabled }}
- { name: "{{ .name }}-enrolment", mountPath: /enrolment, readOnly: true }
{{- end }}
{{- if include "cpg-trio.unixSockets" .root }}
- { name: sockets, mountPath: /sockets }
{{- end }}
{{- if $values.tls.existingSecret }}
- { name: tls, mountPath: /tls, readOnly: true }
{{- end }}
{{- with .plugin }}
{{- if include "cpg-trio.usesFile" (dict "root" $.root "plugin" .) }}
- { name: "{{ .name }}-data", mountPath: {{ .data.mountPath | quote }} }
{{- end }}
{{- /* Numbered, because a Secret's name may have a dot or be too long for the name of a volume. */}}
{{- range $index, $secret := .secrets }}
- { name: "{{ $.name }}-secret-{{ $index }}", mountPath: {{ .mountPath | quote }}, readOnly: true }
{{- end }}
{{- range $index, $volume := .volumes }}
- { name: "{{ $.name }}-volume-{{ $index }}", mountPath: {{ .mountPath | quote }} }
{{- end }}
{{- end }}
{{- end -}}

{{- /* "true" if a plugin keeps its data in a file. Given: root, plugin. */ -}}
{{- define "cpg-trio.usesFile" -}}
{{- with .plugin.data -}}
{{- if not (and .databaseEnv (include "cpg-trio.hasDatabase" $.root)) -}}true{{- end -}}
{{- end -}}
{{- end -}}

{{- /* A plugin that no other requires waits drainSeconds, until no new requests are sent to it. Each of the others waits
       until the plugins that require it have stopped: until their ports refuse connections. The wait has a limit, because
       a container that is restarted alone runs this as well. */ -}}
{{- define "cpg-trio.preStop" -}}
{{- $drain := int .root.Values.drainSeconds -}}
{{- if .after -}}
- timeout
- {{ add $drain (mul 10 (sub (int .rank) 1)) | quote }}
- bash
- -c
- 'sleep {{ $drain }}; for port in {{ join " " .after }}; do while (: </dev/tcp/localhost/$port) 2>/dev/null; do sleep 0.2; done; done'
{{- else -}}
- sleep
- {{ $drain | quote }}
{{- end -}}
{{- end -}}
