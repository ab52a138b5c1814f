{{- define "shortener.name" -}}
{{- .Values.nameOverride | default .Chart.Name | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{- define "shortener.fullname" -}}
{{- $name := include "shortener.name" . -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 52 | trimSuffix "-" -}}
{{- else if contains $name .Release.Name -}}
{{- .Release.Name | trunc 52 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 52 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "shortener.selector" -}}
app.kubernetes.io/name: {{ include "shortener.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- /* What every object's metadata has. Given: the root. */ -}}
{{- define "shortener.metadata" -}}
namespace: {{ .Release.Namespace }}
labels:
  {{- include "shortener.selector" . | nindent 2 }}
  {{- include "shortener.labels" . | nindent 2 }}
{{- with .Values.annotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{- define "shortener.labels" -}}
app.kubernetes.io/version: {{ include "shortener.tag" . | trunc 63 | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 }}
{{- end -}}

{{- define "shortener.tag" -}}
{{- .Values.image.tag | default .Chart.AppVersion -}}
{{- end -}}

{{- /* An image. Given: a list of the root and its key in `images`. */ -}}
{{- define "shortener.image" -}}
{{- $root := index . 0 -}}
{{- $name := index $root.Values.images (index . 1) -}}
{{- with $root.Values.image.repository -}}{{ trimSuffix "/" . }}/{{- end -}}
{{ $name }}:{{ include "shortener.tag" $root }}
{{- end -}}

{{- define "shortener.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- .Values.serviceAccount.name | default (include "shortener.fullname" .) -}}
{{- else -}}
{{- .Values.serviceAccount.name | default "default" -}}
{{- end -}}
{{- end -}}

{{- /* "true" if the pairs are in a database outside the pod, otherwise "". */ -}}
{{- define "shortener.hasDatabase" -}}
{{- if or .Values.storage.databaseUrl .Values.storage.databaseUrlSecret.name -}}true{{- end -}}
{{- end -}}

{{- /* "true" if the host is a native sidecar, otherwise "". */ -}}
{{- define "shortener.nativeSidecars" -}}
{{- if eq (toString .Values.nativeSidecars) "auto" -}}
{{- if semverCompare ">=1.29.0-0" .Capabilities.KubeVersion.Version -}}true{{- end -}}
{{- else if .Values.nativeSidecars -}}true{{- end -}}
{{- end -}}

{{- define "shortener.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end -}}

{{- define "shortener.podSecurity" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
fsGroupChangePolicy: OnRootMismatch
seccompProfile:
  type: RuntimeDefault
{{- end -}}

{{- /* It listens at the pod's address, where the kubelet asks the probes, and it does so without TLS: what the four
       say to each other does not leave the pod, and the network policy lets nobody else in but at api's port. On a
       network that enforces no policies, others in the cluster reach the host, though they get nowhere without a
       token of its plugins, which nobody outside of the pod sees. */ -}}
{{- define "shortener.hostEnv" -}}
- name: STATE_PATH
  value: /state/host.sqlite3
- name: ALLOW_PLAINTEXT
  value: "true"
{{- end -}}

{{- /* One of the four containers. Given: root; name, the key in `images`; port; env, YAML; mounts, YAML;
       after, the port of whoever must have ended before this one is told to end (0: nobody, the cluster). */ -}}
{{- define "shortener.container" -}}
{{- $values := .root.Values -}}
- name: {{ .name }}
  image: {{ include "shortener.image" (list .root .name) | quote }}
  imagePullPolicy: {{ $values.image.pullPolicy }}
  {{- if .sidecar }}
  restartPolicy: Always
  {{- end }}
  ports:
    - name: {{ .name }}
      containerPort: {{ .port }}
  env:
    - name: PORT
      value: {{ .port | quote }}
    {{- if $values.unixSockets }}
    - name: SOCKET_DIR
      value: /sockets
    {{- end }}
    {{- with .env }}
    {{- . | nindent 4 }}
    {{- end }}
    {{- with index $values.env .name }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  startupProbe:
    httpGet: { path: /healthz, port: {{ .name }} }
    {{- toYaml $values.probes.startup | nindent 4 }}
  readinessProbe:
    httpGet: { path: /readyz, port: {{ .name }} }
    {{- toYaml $values.probes.readiness | nindent 4 }}
  livenessProbe:
    httpGet: { path: /healthz, port: {{ .name }} }
    {{- toYaml $values.probes.liveness | nindent 4 }}
  {{- if not .sidecar }}
  lifecycle:
    preStop:
      exec:
        command:
          {{- include "shortener.preStop" . | nindent 10 }}
  {{- end }}
  resources:
    {{- toYaml (index $values.resources .name) | nindent 4 }}
  securityContext:
    {{- include "shortener.containerSecurity" . | nindent 4 }}
  {{- if or .mounts $values.unixSockets }}
  volumeMounts:
    {{- with .mounts }}
    {{- . | nindent 4 }}
    {{- end }}
    {{- if $values.unixSockets }}
    - name: sockets
      mountPath: /sockets
    {{- end }}
  {{- end }}
{{- end -}}

{{- /* api waits until nobody sends it requests; each of the others until the one before it has ended, which it sees
       by knocking at its port: at no cost, since the pod still serves. Not for ever, since a container that is
       restarted alone runs this, too. */ -}}
{{- define "shortener.preStop" -}}
{{- $drain := int .root.Values.drainSeconds -}}
{{- if .after -}}
- timeout
- {{ add $drain 10 | quote }}
- bash
- -c
- 'sleep {{ $drain }}; while (: </dev/tcp/localhost/{{ .after }}) 2>/dev/null; do sleep 0.2; done'
{{- else -}}
- sleep
- {{ $drain | quote }}
{{- end -}}
{{- end -}}

{{- define "shortener.pluginEnv" -}}
- name: HOST_URL
  value: http://localhost:8080
# Where the host finds it; the runtime would say the pod's name, which the host may not use.
- name: HOSTNAME
  value: localhost
{{- end -}}

{{- define "shortener.apiEnv" -}}
{{ include "shortener.pluginEnv" . }}
# On localhost, where only the host is: api's other port is the one that the service leads to.
- name: CONTROL_PORT
  value: "9083"
{{- end -}}

{{- define "shortener.storageEnv" -}}
{{ include "shortener.pluginEnv" . }}
{{- if include "shortener.hasDatabase" . }}
- name: DATABASE_URL
  valueFrom:
    secretKeyRef:
      name: {{ .Values.storage.databaseUrlSecret.name | default (include "shortener.fullname" .) }}
      key: {{ if .Values.storage.databaseUrl }}DATABASE_URL{{ else }}{{ .Values.storage.databaseUrlSecret.key }}{{ end }}
{{- else }}
- name: STORAGE_PATH
  value: /data/urls.sqlite3
{{- end }}
{{- end -}}
