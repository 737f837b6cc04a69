{{/* What makes this chart the aggregator's: the other templates ask for these by the chart's name. */}}

{{- define "aggregator.component" -}}aggregator{{- end -}}

{{- define "aggregator.containers" -}}{{- end -}}

{{- define "aggregator.args" -}}
[aggregator, run]
{{- end -}}

{{- define "aggregator.env" -}}
- name: CONSILIUM_LISTEN
  value: "0.0.0.0"
- name: MLFLOW_DISABLE_TELEMETRY
  value: "true"
- name: MLFLOW_ALLOW_PICKLE_DESERIALIZATION
  value: "false"
{{- if .Values.tracking.existingSecret }}
- name: CONSILIUM_TRACKING_URI
  valueFrom:
    secretKeyRef:
      name: {{ .Values.tracking.existingSecret }}
      key: {{ .Values.tracking.key }}
{{- else if .Values.mlflow.enabled }}
- name: CONSILIUM_TRACKING_URI
  value: http://{{ include "aggregator.mlflowName" . }}.{{ include "consilium.namespace" . }}.svc:5000
- name: MLFLOW_TRACKING_USERNAME
  valueFrom:
    secretKeyRef:
      name: {{ .Values.mlflow.auth.existingSecret }}
      key: username
- name: MLFLOW_TRACKING_PASSWORD
  valueFrom:
    secretKeyRef:
      name: {{ .Values.mlflow.auth.existingSecret }}
      key: password
{{- end }}
{{- end -}}

{{- define "aggregator.ports" -}}
- {name: grpc, containerPort: {{ .Values.service.port }}, protocol: TCP}
{{- end -}}

{{- define "aggregator.identityKeys" -}}
aggregator.key: aggregator.key
{{- end -}}

{{- define "aggregator.podExtras" -}}{{- end -}}

{{- define "aggregator.mounts" -}}{{- end -}}

{{- define "aggregator.volumes" -}}{{- end -}}
