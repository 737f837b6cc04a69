{{/* What makes this chart the silo's: the other templates ask for these by the chart's name. */}}

{{- define "silo-agent.component" -}}agent{{- end -}}

{{- define "silo-agent.args" -}}
[silo, run]
{{- end -}}

{{- define "silo-agent.env" -}}{{- end -}}

{{- define "silo-agent.ports" -}}{{- end -}}

{{/* The data owner's key is in no Secret of the agent's: approvals are signed where that key is. */}}
{{- define "silo-agent.identityKeys" -}}
agent.key: agent.key
salt: salt
{{- end -}}

{{/* The aggregator's name without asking a name server. */}}
{{- define "silo-agent.podExtras" -}}
{{- with .Values.aggregator }}
{{- if .hostAlias }}
hostAliases:
  - ip: {{ .hostAlias | quote }}
    hostnames: [{{ .host | quote }}]
{{- end }}
{{- end }}
{{- end -}}

{{- define "silo-agent.mounts" -}}
{{- with .Values.data }}
{{- if .existingClaim }}
- name: data
  mountPath: /data
  readOnly: true
  {{- with .subPath }}
  subPath: {{ . }}
  {{- end }}
{{- end }}
{{- end }}
{{- end -}}

{{- define "silo-agent.volumes" -}}
{{- with .Values.data.existingClaim }}
- name: data
  persistentVolumeClaim:
    claimName: {{ . }}
    readOnly: true
{{- end }}
{{- end -}}
