{{- /*
Labels of an object, under its `metadata`: (list $ NAME EXTRA), both of the latter may be missing. The name alone selects
pods, so that a release can take over what the plain manifests have made, and the other way round.
*/ -}}
{{- define "coffer.labels" }}
{{- $root := index . 0 }}
{{- $labels := dict }}
{{- if $root.Values.releaseLabels }}
{{- $_ := set $labels "app.kubernetes.io/instance" $root.Release.Name }}
{{- $_ := set $labels "app.kubernetes.io/managed-by" $root.Release.Service }}
{{- $_ := set $labels "app.kubernetes.io/part-of" "coffer" }}
{{- $_ := set $labels "app.kubernetes.io/version" (replace "+" "_" $root.Chart.AppVersion) }}
{{- $_ := set $labels "helm.sh/chart" (printf "%s-%s" $root.Chart.Name $root.Chart.Version | replace "+" "_") }}
{{- end }}
{{- $labels = merge $labels (deepCopy $root.Values.commonLabels) }}
{{- if gt (len .) 2 }}{{- $labels = merge (deepCopy (index . 2)) $labels }}{{- end }}
{{- if gt (len .) 1 }}{{- with index . 1 }}{{- $_ := set $labels "app.kubernetes.io/name" . }}{{- end }}{{- end }}
{{- with $labels }}
  labels:
    {{- toYaml . | nindent 4 }}
{{- end }}
{{- end }}

{{- /* `metadata` of a pod's template: (list $ NAME COMPONENT). */ -}}
{{- define "coffer.podMetadata" }}
{{- $component := index . 2 }}
      labels:
        {{- $own := dict "app.kubernetes.io/name" (index . 1) }}
        {{- toYaml (merge $own (deepCopy ($component.podLabels | default dict)) (deepCopy (index . 0).Values.commonLabels)) | nindent 8 }}
      {{- with $component.podAnnotations }}
      annotations:
        {{- toYaml . | nindent 8 }}
      {{- end }}
{{- end }}

{{- /* Annotations of a service account, under its `metadata`: the account's values. */ -}}
{{- define "coffer.accountAnnotations" }}
{{- with .annotations }}
  annotations:
    {{- toYaml . | nindent 4 }}
{{- end }}
{{- end }}
