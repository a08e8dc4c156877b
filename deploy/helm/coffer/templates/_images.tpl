{{- /* An image's whole name: (list $ PROGRAM), with PROGRAM a key of `images`. A digest says more than a tag. */ -}}
{{- define "coffer.image" }}
{{- $root := index . 0 }}
{{- $image := index $root.Values.images (index . 1) }}
{{- with $root.Values.image.registry }}{{ trimSuffix "/" . }}/{{ end }}
{{- $image.repository }}
{{- if $image.digest }}@{{ $image.digest }}{{ else }}:{{ $root.Values.image.tag | default $root.Chart.AppVersion }}{{ end }}
{{- end }}
