{{- /*
Whether a file of monitoring/ is about a part of this release: (list $ NAME). Rules about what is not there would say that
it is gone. A name that no part has goes with every release.
*/ -}}
{{- define "coffer.watched" }}
{{- $v := (index . 0).Values }}
{{- $parts := dict
  "coffer" (list $v.webhook)
  "coffer-webhook" (list $v.webhook)
  "coffer-csi" (list $v.csi $v.takeover)
  "coffer-provider" (list $v.provider)
  "coffer-notifier" (list $v.notifier)
  "coffer-kms" (list $v.kms)
}}
{{- $name := index . 1 }}
{{- if hasKey $parts $name }}
{{- range get $parts $name }}{{ if .enabled }}yes{{ end }}{{ end }}
{{- else }}yes{{ end }}
{{- end }}
