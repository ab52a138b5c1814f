{{- /* A Deployment. Given: root; unit, one of cpg-trio.units. */ -}}
{{- define "cpg-trio.deployment" -}}
{{- $unit := .unit -}}
{{- with .root -}}
{{- $plugins := $unit.plugins -}}
{{- $ranks := include "cpg-trio.ranks" . | fromJson -}}
{{- $sidecar := and (not $unit.component) (include "cpg-trio.nativeSidecars" .) -}}
{{- $hasFile := and $unit.host $unit.component (not (include "cpg-trio.hasEtcd" .)) -}}
{{- $hasData := not $unit.component -}}
{{- $ports := list -}}
{{- $longest := 1 -}}
{{- $public := list -}}
{{- range $plugins }}
{{- $ports = append $ports (int .port) }}
{{- $longest = max $longest (add 1 (int (index $ranks .name))) }}
{{- if .public }}{{- $public = append $public . }}{{- end }}
{{- if .data }}{{- $hasData = true }}{{- end }}
{{- if include "cpg-trio.usesFile" (dict "root" $.root "plugin" .) }}{{- $hasFile = true }}{{- end }}
{{- end }}
{{- $host := dict "root" . "name" "host" "port" 8080 "sidecar" $sidecar "after" $ports "rank" $longest -}}
apiVersion: apps/v1
kind: Deployment
metadata:
  name: {{ $unit.name | quote }}
  {{- include "cpg-trio.metadata" (dict "root" . "component" $unit.component) | nindent 2 }}
spec:
  {{- $there := lookup "apps/v1" "Deployment" .Release.Namespace $unit.name }}
  {{- if not $unit.autoscaling.enabled }}
  replicas: {{ $unit.replicas | int }}
  {{- else if $there }}
  # As many as there are, which is for the autoscaler to change; without it there would be one at once.
  replicas: {{ dig "spec" "replicas" 1 $there | int }}
  {{- end }}
  selector:
    matchLabels:
      {{- include "cpg-trio.unitSelector" (dict "root" . "component" $unit.component) | nindent 6 }}
  strategy:
    {{- if $hasFile }}
    # Two pods at once would each have a file of their own, or write to one volume.
    type: Recreate
    {{- else }}
    type: RollingUpdate
    rollingUpdate: { maxUnavailable: 0, maxSurge: 1 }
    {{- end }}
  template:
    metadata:
      labels:
        {{- include "cpg-trio.unitSelector" (dict "root" . "component" $unit.component) | nindent 8 }}
        {{- include "cpg-trio.labels" (dict "root" . "version" (include "cpg-trio.tag" .)) | nindent 8 }}
        {{- with .Values.podLabels }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
      annotations:
        {{- with $public }}
        kubectl.kubernetes.io/default-container: {{ (first .).name | quote }}
        {{- end }}
        {{- with and $hasData .Values.storage.databaseUrl }}
        # A new URL is a new pod.
        checksum/database: {{ sha256sum . }}
        {{- end }}
        {{- if and .Values.metrics.enabled .Values.metrics.annotations }}
        prometheus.io/scrape: "true"
        prometheus.io/port: {{ ternary 11080 (add 3000 (first (append $ports 8080))) $unit.host | quote }}
        prometheus.io/path: /metrics
        {{- end }}
        {{- with .Values.podAnnotations }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
    spec:
      serviceAccountName: {{ include "cpg-trio.serviceAccountName" . | quote }}
      automountServiceAccountToken: false
      enableServiceLinks: false
      terminationGracePeriodSeconds: {{ max (int .Values.terminationGracePeriodSeconds) (add (int .Values.drainSeconds) (mul 10 (max 2 (add 1 (len $plugins))))) }}
      {{- with .Values.priorityClassName }}
      priorityClassName: {{ . | quote }}
      {{- end }}
      {{- with .Values.imagePullSecrets }}
      imagePullSecrets:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      securityContext:
        {{- include "cpg-trio.podSecurity" (dict "user" 10001 "own" .Values.podSecurityContext) | nindent 8 }}
      {{- if or $sidecar .Values.extraInitContainers }}
      initContainers:
        {{- with .Values.extraInitContainers }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
        {{- if $sidecar }}
        {{- include "cpg-trio.container" $host | nindent 8 }}
        {{- end }}
      {{- end }}
      containers:
        {{- if and $unit.host (not $sidecar) }}
        {{- include "cpg-trio.container" $host | nindent 8 }}
        {{- end }}
        {{- range $plugin := $plugins }}
        {{- $after := list }}
        {{- range $plugins }}
        {{- if has $plugin.name (.requires | default list) }}{{- $after = append $after (int .port) }}{{- end }}
        {{- end }}
        {{- include "cpg-trio.container" (dict "root" $.root "name" .name "port" .port "plugin" . "after" $after "rank" (index $ranks .name)) | nindent 8 }}
        {{- end }}
        {{- with .Values.extraContainers }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
      {{- with include "cpg-trio.volumes" (dict "root" . "unit" $unit) }}
      volumes:
        {{- trim . | nindent 8 }}
      {{- end }}
      {{- if .Values.topologySpread.enabled }}
      topologySpreadConstraints:
        - maxSkew: 1
          topologyKey: {{ .Values.topologySpread.topologyKey | quote }}
          whenUnsatisfiable: ScheduleAnyway
          labelSelector:
            matchLabels:
              {{- include "cpg-trio.unitSelector" (dict "root" . "component" $unit.component) | nindent 14 }}
      {{- end }}
      {{- with .Values.nodeSelector }}
      nodeSelector:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      {{- with .Values.tolerations }}
      tolerations:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      {{- with .Values.affinity }}
      affinity:
        {{- toYaml . | nindent 8 }}
      {{- end }}
{{- end }}
{{- end -}}

{{- /* The volumes of a pod. Given: root; unit. */ -}}
{{- define "cpg-trio.volumes" -}}
{{- $unit := .unit -}}
{{- with .root -}}
{{- if $unit.host }}
# What the host knows of its plugins: a host that is restarted alone comes back with them.
- name: state
  emptyDir: { sizeLimit: {{ include "cpg-trio.text" .Values.state.sizeLimit | quote }} }
# Each container has those of its own secrets only.
- name: keys
  secret:
    secretName: {{ .Values.keys.existingSecret | default (include "cpg-trio.identitySecret" .) | quote }}
    defaultMode: 0440
    items: [{ key: host.key, path: host.key }]
{{- end }}
{{- if .Values.enrolment.enabled }}
{{- $secret := .Values.enrolment.existingSecret | default (include "cpg-trio.identitySecret" .) }}
{{- if $unit.host }}
- name: host-enrolment
  secret:
    secretName: {{ $secret | quote }}
    defaultMode: 0440
    items: [{ key: tokens, path: tokens }]
{{- end }}
{{- range $unit.plugins }}
- name: "{{ .name }}-enrolment"
  secret:
    secretName: {{ $secret | quote }}
    defaultMode: 0440
    items: [{ key: {{ include "cpg-trio.pluginName" . | quote }}, path: token }]
{{- end }}
{{- end }}
{{- if and $unit.host .Values.policy }}
- name: policy
  configMap:
    name: {{ include "cpg-trio.fullname" . | quote }}
{{- end }}
{{- with include "cpg-trio.tlsSecret" (dict "root" . "unit" $unit) }}
- name: tls
  secret:
    secretName: {{ . | quote }}
    defaultMode: 0440
{{- end }}
{{- if include "cpg-trio.unixSockets" . }}
# By which the containers call each other. A socket takes no room.
- name: sockets
  emptyDir: { sizeLimit: 1Mi }
{{- end }}
{{- range $plugin := $unit.plugins }}
{{- if include "cpg-trio.usesFile" (dict "root" $.root "plugin" .) }}
- name: "{{ .name }}-data"
  {{- if $.root.Values.storage.persistence.enabled }}
  persistentVolumeClaim:
    claimName: {{ $.root.Values.storage.persistence.existingClaim | default (include "cpg-trio.fullname" $.root) | quote }}
  {{- else }}
  emptyDir: {{ ternary (dict "sizeLimit" (include "cpg-trio.text" $.root.Values.storage.sizeLimit)) dict (ne "" (include "cpg-trio.text" $.root.Values.storage.sizeLimit)) | toJson }}
  {{- end }}
{{- end }}
{{- range $index, $secret := .secrets }}
- name: "{{ $plugin.name }}-secret-{{ $index }}"
  secret:
    secretName: {{ .name | quote }}
    defaultMode: 0440
{{- end }}
{{- range $index, $volume := .volumes }}
- name: "{{ $plugin.name }}-volume-{{ $index }}"
  {{- toYaml .source | nindent 2 }}
{{- end }}
{{- end }}
{{- if and $unit.host .Values.etcd.existingSecret }}
- name: etcd-user
  secret:
    secretName: {{ .Values.etcd.existingSecret | quote }}
    defaultMode: 0440
    items: [{ key: password, path: password }]
{{- end }}
{{- if and $unit.host .Values.etcd.tls.existingSecret }}
- name: etcd-tls
  secret:
    secretName: {{ .Values.etcd.tls.existingSecret | quote }}
    defaultMode: 0440
{{- end }}
{{- with .Values.extraVolumes }}
{{- toYaml . | nindent 0 }}
{{- end }}
{{- end }}
{{- end -}}
