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

{{- /* The image of a container, and when it is pulled: (list $ PROGRAM), under the container. */ -}}
{{- define "coffer.containerImage" }}
          image: {{ include "coffer.image" . }}
          {{- with (index . 0).Values.image.pullPolicy }}
          imagePullPolicy: {{ . }}
          {{- end }}
{{- end }}

{{- /* Flags that all programs have, and those of the user's: (list $ COMPONENT), under the container's `args`. */ -}}
{{- define "coffer.commonArgs" }}
{{- $root := index . 0 }}
{{- with $root.Values.log.level }}
            - --log-level={{ . }}
{{- end }}
{{- with $root.Values.log.format }}
            - --log-format={{ . }}
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
