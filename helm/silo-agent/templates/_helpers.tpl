{{/*
Names, labels and images. This file and _pod.tpl are the same in both charts; _component.tpl says what differs.
Named templates that take more than the root take a list: (list . "mlflow").
*/}}

{{- define "consilium.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 43 | trimSuffix "-" -}}
{{- end -}}

{{/* At most 43 characters: the longest suffix and the hash that a StatefulSet adds to a label still fit into 63. */}}
{{- define "consilium.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 43 | trimSuffix "-" -}}
{{- else -}}
{{- $name := include "consilium.name" . -}}
{{- if contains $name .Release.Name -}}
{{- .Release.Name | trunc 43 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 43 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "consilium.namespace" -}}
{{- default .Release.Namespace .Values.namespaceOverride -}}
{{- end -}}

{{/* What selects pods; never changes between versions. (list . COMPONENT) */}}
{{- define "consilium.selectorLabels" -}}
{{- $root := index . 0 -}}
app.kubernetes.io/name: {{ include "consilium.name" $root }}
app.kubernetes.io/instance: {{ $root.Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end -}}

{{/* Labels of a pod: a new chart around the same software replaces no pod. (list . COMPONENT) */}}
{{- define "consilium.podLabels" -}}
{{- $root := index . 0 -}}
{{ include "consilium.selectorLabels" . }}
app.kubernetes.io/version: {{ $root.Chart.AppVersion | quote }}
app.kubernetes.io/part-of: consilium
{{- with $root.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* Labels of an object. (list . COMPONENT) */}}
{{- define "consilium.labels" -}}
{{- $root := index . 0 -}}
{{ include "consilium.podLabels" . }}
app.kubernetes.io/managed-by: {{ $root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" $root.Chart.Name ($root.Chart.Version | replace "+" "_") }}
{{- end -}}

{{/* name, namespace and labels. (list . COMPONENT SUFFIX) */}}
{{- define "consilium.metadata" -}}
{{- $root := index . 0 -}}
name: {{ include "consilium.fullname" $root }}{{ index . 2 }}
namespace: {{ include "consilium.namespace" $root }}
labels:
  {{- include "consilium.labels" (list $root (index . 1)) | nindent 2 }}
{{- end -}}

{{- define "consilium.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "consilium.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{/* A digest, where there is one, is what is pulled. (list . IMAGE) */}}
{{- define "consilium.image" -}}
{{- $root := index . 0 -}}
{{- $image := index . 1 -}}
{{- $registry := default $image.registry $root.Values.global.imageRegistry -}}
{{- if $image.digest -}}
{{- printf "%s/%s@%s" $registry $image.repository $image.digest -}}
{{- else -}}
{{- printf "%s/%s:%s" $registry $image.repository (default $root.Chart.AppVersion $image.tag) -}}
{{- end -}}
{{- end -}}
