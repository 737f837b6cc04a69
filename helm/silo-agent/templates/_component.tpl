{{/* What makes this chart the silo's: the other templates ask for these by the chart's name. */}}

{{- define "silo-agent.component" -}}agent{{- end -}}

{{- define "silo-agent.args" -}}
[silo, run]
{{- end -}}

{{- define "silo-agent.env" -}}{{- end -}}

{{- define "silo-agent.ports" -}}{{- end -}}

{{/* The data owner's page, on the agent's home. It has neither kit nor keys of its own, and no key of the owner's. */}}
{{- define "silo-agent.containers" -}}
{{- with .Values.desk }}
{{- if .enabled }}
- name: desk
  image: {{ include "consilium.image" (list $ $.Values.image) | quote }}
  imagePullPolicy: {{ $.Values.image.pullPolicy }}
  args: [silo, desk]
  env:
    - name: CONSILIUM_HOME
      value: /var/lib/consilium/home
    - name: CONSILIUM_DESK_HOST
      value: "0.0.0.0"
    - name: CONSILIUM_DESK_PORT
      value: "9470"
    - name: CONSILIUM_DESK_HEADER
      value: {{ .header | quote }}
    - name: CONSILIUM_DESK_PROXIES
      value: {{ join " " .proxyAddresses | quote }}
    - name: CONSILIUM_DESK_HOSTS
      value: {{ join " " .publicHosts | quote }}
    {{- include "consilium.environment" $ | nindent 4 }}
  ports:
    - {name: desk, containerPort: 9470, protocol: TCP}
  # It answers the proxy alone: whether it listens is all that can be asked.
  livenessProbe:
    tcpSocket: {port: desk}
    periodSeconds: 20
  readinessProbe:
    tcpSocket: {port: desk}
    periodSeconds: 10
  startupProbe:
    tcpSocket: {port: desk}
    periodSeconds: 5
    failureThreshold: 36
  resources:
    {{- toYaml .resources | nindent 4 }}
  securityContext:
    {{- toYaml $.Values.securityContext | nindent 4 }}
  volumeMounts:
    - name: home
      mountPath: /var/lib/consilium
    {{- with include "silo-agent.mounts" $ }}{{ . | trim | nindent 4 }}{{ end }}
    {{- include "consilium.mounts" $ | nindent 4 }}
{{- end }}
{{- end }}
{{- end -}}

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
