{{- /* Where a pod may run, and what it may cost others: (list $ COMPONENT), under the pod's `spec`. */ -}}
{{- define "coffer.placement" }}
{{- $root := index . 0 }}
{{- $component := index . 1 }}
{{- with $root.Values.image.pullSecrets }}
      imagePullSecrets:
        {{- range . }}
        - name: {{ . | quote }}
        {{- end }}
{{- end }}
{{- with $component.nodeSelector }}
      nodeSelector:
        {{- toYaml . | nindent 8 }}
{{- end }}
{{- with $component.tolerations }}
      tolerations:
        {{- toYaml . | nindent 8 }}
{{- end }}
{{- with $component.affinity }}
      affinity:
        {{- toYaml . | nindent 8 }}
{{- end }}
{{- end }}

{{- /* What finds the region of a node, under the `rules` of a role. */ -}}
{{- define "coffer.regionRule" }}
{{- if not .Values.aws.region }}
  # The region of the node: its label. Not needed where AWS_REGION or --region says it.
  - apiGroups: [""]
    resources: [nodes]
    verbs: [get]
{{- end }}
{{- end }}

{{- /* The image of a container, and when it is pulled: (list $ PROGRAM), under the container. */ -}}
{{- define "coffer.containerImage" }}
          image: {{ include "coffer.image" . | toYaml }}
          {{- with (index . 0).Values.image.pullPolicy }}
          imagePullPolicy: {{ . }}
          {{- end }}
{{- end }}

{{- /* Flags that all programs have, and those of the user's: (list $ COMPONENT), under the container's `args`. */ -}}
{{- define "coffer.commonArgs" }}
{{- $root := index . 0 }}
{{- with $root.Values.log.level }}
            - {{ printf "--log-level=%s" . | toYaml }}
{{- end }}
{{- with $root.Values.log.format }}
            - {{ printf "--log-format=%s" . | toYaml }}
{{- end }}
{{- range (index . 1).extraArgs }}
            - {{ . | quote }}
{{- end }}
{{- end }}

{{- /* Variables likewise, under `env`. */ -}}
{{- define "coffer.commonEnv" }}
{{- with (index . 0).Values.monitoring.emfNamespace }}
            - {name: COFFER_EMF_NAMESPACE, value: {{ . | quote }}}
{{- end }}
{{- with (index . 1).extraEnv }}
            {{- toYaml . | nindent 12 }}
{{- end }}
{{- end }}

{{- /* Volumes of the user's, under a container's `volumeMounts` and a pod's `volumes`: (list COMPONENT INDENT). */ -}}
{{- define "coffer.moreMounts" }}
{{- with (index . 0).extraVolumeMounts }}
{{- toYaml . | nindent (index $ 1) }}
{{- end }}
{{- end }}
{{- define "coffer.moreVolumes" }}
{{- with (index . 0).extraVolumes }}
{{- toYaml . | nindent (index $ 1) }}
{{- end }}
{{- end }}

{{- /* Where a program listens: (list $ PORT). */ -}}
{{- define "coffer.address" }}
{{- $address := (index . 0).Values.bindAddress }}
{{- if contains ":" $address }}[{{ $address }}]{{ else }}{{ $address }}{{ end }}:{{ index . 1 | int64 }}
{{- end }}

{{- /* The flag for health and metrics, where it is not the program's own default: (list $ PORT). */ -}}
{{- define "coffer.listen" }}
{{- $address := include "coffer.address" . }}
{{- if ne $address "0.0.0.0:9466" }}
            - {{ printf "--listen=%s" $address | quote }}
{{- end }}
{{- end }}

{{- /* A number of nodes, or a percentage of them. A number of a values file is a float, which large would be 1e+06. */ -}}
{{- define "coffer.count" }}
{{- if kindIs "string" . }}{{ . }}{{ else }}{{ int64 . }}{{ end }}
{{- end }}
