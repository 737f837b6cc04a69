{{/* The parts that every pod of these charts is made of. The same file in both charts. */}}

{{/* Whose rights, whose secrets, and where it may run. (list . PLACEMENT): the values or a component's part of them. */}}
{{- define "consilium.podSettings" -}}
{{- $root := index . 0 -}}
{{- $placement := index . 1 -}}
serviceAccountName: {{ include "consilium.serviceAccountName" $root }}
automountServiceAccountToken: false
enableServiceLinks: false
securityContext:
  {{- toYaml $root.Values.podSecurityContext | nindent 2 }}
{{- with concat $root.Values.global.imagePullSecrets $root.Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- range $key := list "nodeSelector" "tolerations" "affinity" "topologySpreadConstraints" }}
{{- with index $placement $key }}
{{ $key }}:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}
{{- range $key := list "priorityClassName" "runtimeClassName" }}
{{- with index $placement $key }}
{{ $key }}: {{ . }}
{{- end }}
{{- end }}
{{- end -}}

{{/* Where libraries may write, through which proxy they go and whom they trust. */}}
{{- define "consilium.environment" -}}
- name: HOME
  value: /tmp
- name: TMPDIR
  value: /tmp
{{- range $name := list "httpProxy" "httpsProxy" "noProxy" }}
{{- with index $.Values.proxy $name }}
{{- $variable := $name | snakecase }}
- name: {{ $variable | upper }}
  value: {{ . | quote }}
- name: {{ $variable }}
  value: {{ . | quote }}
{{- end }}
{{- end }}
{{- if or .Values.caBundle.configMap .Values.caBundle.secret }}
- name: SSL_CERT_FILE
  value: /etc/consilium/ca/bundle.pem
- name: REQUESTS_CA_BUNDLE
  value: /etc/consilium/ca/bundle.pem
{{- end }}
{{- end -}}

{{- define "consilium.mounts" -}}
- name: tmp
  mountPath: /tmp
{{- if or .Values.caBundle.configMap .Values.caBundle.secret }}
- name: ca-bundle
  mountPath: /etc/consilium/ca
  readOnly: true
{{- end }}
{{- end -}}

{{- define "consilium.volumes" -}}
- name: tmp
  emptyDir:
    sizeLimit: {{ .Values.tmpSizeLimit }}
{{- with .Values.caBundle.configMap }}
- name: ca-bundle
  configMap:
    name: {{ . }}
    items: [{key: {{ $.Values.caBundle.key | quote }}, path: bundle.pem}]
{{- end }}
{{- with .Values.caBundle.secret }}
- name: ca-bundle
  secret:
    secretName: {{ . }}
    items: [{key: {{ $.Values.caBundle.key | quote }}, path: bundle.pem}]
{{- end }}
{{- end -}}

{{/* A Secret as a volume, with the named keys and no others. (list VOLUME SECRET KEYS); KEYS: key → file. */}}
{{- define "consilium.secretVolume" -}}
- name: {{ index . 0 }}
  secret:
    secretName: {{ index . 1 }}
    defaultMode: 0440
    items:
      {{- range $key, $file := index . 2 }}
      - {key: {{ $key | quote }}, path: {{ $file }}}
      {{- end }}
{{- end -}}

{{/* startup, liveness and readiness. (list PROBES PORT LIVE READY) */}}
{{- define "consilium.probes" -}}
{{- $probes := index . 0 -}}
{{- $port := index . 1 -}}
{{- range $kind, $path := dict "startup" (index . 2) "liveness" (index . 2) "readiness" (index . 3) }}
{{ $kind }}Probe:
  httpGet:
    path: {{ $path }}
    port: {{ $port }}
  {{- toYaml (index $probes $kind) | nindent 2 }}
{{- end }}
{{- end -}}

{{/* Containers of the operator's own. Who brings no securityContext has the chart's. (list . CONTAINERS) */}}
{{- define "consilium.containers" -}}
{{- $root := index . 0 -}}
{{- range index . 1 }}
- {{ toYaml (merge (dict) . (dict "securityContext" $root.Values.securityContext)) | nindent 2 | trim }}
{{- end }}
{{- end -}}

{{/* The peers of a network rule. (list CIDRS PEERS) */}}
{{- define "consilium.peers" -}}
{{- range index . 0 }}
- ipBlock:
    cidr: {{ . }}
{{- end }}
{{- with index . 1 }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* Rules that the pods of both charts share: names are looked up, and a proxy is reached where there is one. */}}
{{- define "consilium.egress" -}}
{{- with .Values.networkPolicy.dns }}
{{- if .peers }}
- to:
    {{- toYaml .peers | nindent 4 }}
  ports:
    {{- range .ports }}
    - {protocol: UDP, port: {{ . }}}
    - {protocol: TCP, port: {{ . }}}
    {{- end }}
{{- end }}
{{- end }}
{{- with .Values.proxy }}
{{- if .cidrs }}
- to:
    {{- include "consilium.peers" (list .cidrs list) | trim | nindent 4 }}
  ports:
    - {protocol: TCP, port: {{ .port }}}
{{- end }}
{{- end }}
{{- end -}}

{{/* Who may read /metrics: the monitoring, and the chart's own test pod. */}}
{{- define "consilium.metricsIngress" -}}
- from:
    {{- with .Values.networkPolicy.monitoring }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
    - podSelector:
        matchLabels:
          {{- include "consilium.selectorLabels" (list . "test") | nindent 10 }}
  ports:
    - {protocol: TCP, port: metrics}
{{- end -}}
