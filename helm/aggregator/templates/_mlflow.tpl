{{/* Names, image and environment of the MLflow server. */}}

{{- define "aggregator.mlflowName" -}}
{{ include "consilium.fullname" . }}-mlflow
{{- end -}}

{{- define "aggregator.mlflowImage" -}}
{{- $image := ternary .Values.mlflow.image .Values.image (ne .Values.mlflow.image.repository "") -}}
{{- include "consilium.image" (list . (merge (dict) $image (dict "registry" .Values.image.registry))) -}}
{{- end -}}

{{/* Names by which a browser or the aggregator may call the server; MLflow refuses all others. */}}
{{- define "aggregator.mlflowHosts" -}}
{{- $name := include "aggregator.mlflowName" . -}}
{{- $space := include "consilium.namespace" . -}}
{{- $hosts := list "localhost:5000" -}}
{{- range $host := list $name (printf "%s.%s" $name $space) (printf "%s.%s.svc" $name $space) (printf "%s.%s.svc.cluster.local" $name $space) -}}
{{- $hosts = append $hosts (printf "%s:5000" $host) -}}
{{- end -}}
{{- join "," (concat $hosts .Values.mlflow.allowedHosts) -}}
{{- end -}}

{{- define "aggregator.mlflowEnv" -}}
- name: MLFLOW_BACKEND_STORE_URI
  valueFrom:
    secretKeyRef:
      name: {{ .Values.mlflow.database.existingSecret }}
      key: {{ .Values.mlflow.database.key }}
- name: MLFLOW_FLASK_SERVER_SECRET_KEY
  valueFrom:
    secretKeyRef:
      name: {{ .Values.mlflow.auth.existingSecret }}
      key: flask-secret-key
- name: MLFLOW_AUTH_ADMIN_USERNAME
  valueFrom:
    secretKeyRef:
      name: {{ .Values.mlflow.auth.existingSecret }}
      key: username
- name: MLFLOW_AUTH_ADMIN_PASSWORD
  valueFrom:
    secretKeyRef:
      name: {{ .Values.mlflow.auth.existingSecret }}
      key: password
- name: MLFLOW_AUTH_CONFIG_PATH
  value: /etc/mlflow/basic_auth.ini
- name: MLFLOW_SERVER_ALLOWED_HOSTS
  value: {{ include "aggregator.mlflowHosts" . | quote }}
{{- with .Values.mlflow.corsAllowedOrigins }}
- name: MLFLOW_SERVER_CORS_ALLOWED_ORIGINS
  value: {{ join "," . | quote }}
{{- end }}
- name: MLFLOW_DISABLE_TELEMETRY
  value: "true"
- name: MLFLOW_ALLOW_PICKLE_DESERIALIZATION
  value: "false"
- name: MLFLOW_SERVER_ENABLE_JOB_EXECUTION
  value: "false"
{{ include "consilium.environment" . }}
{{- end -}}
