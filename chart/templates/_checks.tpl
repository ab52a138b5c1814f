{{- /* What the schema cannot refuse, or not with a message that says what to write instead. */ -}}
{{- define "shortener.check" -}}
{{- $values := .Values -}}
{{- $most := ternary $values.autoscaling.maxReplicas $values.replicaCount $values.autoscaling.enabled -}}
{{- if and (gt (int $most) 1) (not (include "shortener.hasDatabase" .)) -}}
{{- fail (printf "\n\n%s is %d, but each pod would keep its pairs in an SQLite file of its own: a URL that is shortened by one pod would not resolve at the others.\nSet storage.databaseUrl or storage.databaseUrlSecret.name, so that all pods share a PostgreSQL database, or have one pod.\n" (ternary "autoscaling.maxReplicas" "replicaCount" $values.autoscaling.enabled) (int $most)) -}}
{{- end -}}
{{- if and $values.storage.databaseUrl $values.storage.databaseUrlSecret.name -}}
{{- fail "\n\nstorage.databaseUrl and storage.databaseUrlSecret.name both say where the pairs are: set one of them.\n" -}}
{{- end -}}
{{- if and $values.storage.databaseUrl (not (regexMatch "^postgres(ql)?(\\+psycopg)?://[^/]*[^/@]/[^/]+$" $values.storage.databaseUrl)) -}}
{{- fail "\n\nstorage.databaseUrl must be like postgresql://user:password@host:5432/database.\n" -}}
{{- end -}}
{{- if and $values.storage.persistence.enabled (include "shortener.hasDatabase" .) -}}
{{- fail "\n\nstorage.persistence.enabled asks for a volume for SQLite, but the pairs are in the database that storage.databaseUrl or storage.databaseUrlSecret names: set one of them.\n" -}}
{{- end -}}
{{- if and $values.service.nodePort (eq $values.service.type "ClusterIP") -}}
{{- fail "\n\nservice.nodePort is for services on the nodes: set service.type to NodePort or LoadBalancer, or leave service.nodePort out.\n" -}}
{{- end -}}
{{- if and $values.autoscaling.enabled (gt (int $values.autoscaling.minReplicas) (int $values.autoscaling.maxReplicas)) -}}
{{- fail (printf "\n\nautoscaling.minReplicas is %d and autoscaling.maxReplicas %d: set minReplicas to at most maxReplicas.\n" (int $values.autoscaling.minReplicas) (int $values.autoscaling.maxReplicas)) -}}
{{- end -}}
{{- range $container, $list := $values.env -}}
{{- range $list -}}
{{- if has .name (list "PORT" "HOST_URL" "HOSTNAME" "STATE_PATH" "ALLOW_PLAINTEXT" "CONTROL_PORT" "SOCKET_DIR" "STORAGE_PATH" "DATABASE_URL") -}}
{{- fail (printf "\n\nenv.%s sets %s, which the chart sets: take it out%s.\n" $container .name (ternary ", and set storage.databaseUrl or storage.databaseUrlSecret" "" (eq .name "DATABASE_URL"))) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- if and (eq (toString $values.nativeSidecars) "true") (semverCompare "<1.28.0-0" .Capabilities.KubeVersion.Version) -}}
{{- fail (printf "\n\nnativeSidecars is true, but Kubernetes %s has no native sidecars: set it to auto or false.\n" .Capabilities.KubeVersion.Version) -}}
{{- end -}}
{{- end -}}
