{{- /* Egress to the API server, under `egress`. Kubernetes has no name for it: by CIDR, or by port alone. */ -}}
{{- define "coffer.toApiServer" }}
    # The API server.
    - ports:
        {{- range .Values.networkPolicy.apiServer.ports }}
        - {protocol: TCP, port: {{ int64 . }}}
        {{- end }}
      {{- with .Values.networkPolicy.apiServer.cidrs }}
      to:
        {{- range . }}
        - ipBlock: {cidr: {{ . | quote }}}
        {{- end }}
      {{- end }}
{{- end }}

{{- /* Egress of who asks AWS. */ -}}
{{- define "coffer.toAws" }}
    # Names of AWS's endpoints.
    - ports:
        - {protocol: UDP, port: 53}
        - {protocol: TCP, port: 53}
      to:
        - namespaceSelector:
            {{- .Values.networkPolicy.dns.namespaceSelector | default (dict "matchLabels" (dict "kubernetes.io/metadata.name" "kube-system")) | toYaml | nindent 12 }}
          podSelector:
            {{- .Values.networkPolicy.dns.podSelector | default (dict "matchLabels" (dict "k8s-app" "kube-dns")) | toYaml | nindent 12 }}
    # AWS's endpoints{{ if not .Values.networkPolicy.aws.cidrs }}: no policy of Kubernetes knows them by name, so this is anybody's port 443{{ end }}.
    - ports:
        - {protocol: TCP, port: 443}
      {{- with .Values.networkPolicy.aws.cidrs }}
      to:
        {{- range . }}
        - ipBlock: {cidr: {{ . | quote }}}
        {{- end }}
      {{- end }}
    # The agent of EKS Pod Identity, on each node. Not 169.254.169.254: nobody here takes the node's own role.
    - ports:
        - {protocol: TCP, port: 80}
      to:
        - ipBlock: {cidr: 169.254.170.23/32}
        - ipBlock: {cidr: "fd00:ec2::23/128"}
    {{- with .Values.networkPolicy.extraEgress }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
{{- end }}

{{- /* Ingress for metrics, under `ingress`: (list $ PORT). Probes come from the pod's own node, which no policy holds up. */ -}}
{{- define "coffer.fromMetrics" }}
    {{- $port := index . 1 }}
    {{- with (index . 0).Values.networkPolicy.metrics.namespaceSelector }}
    # Who reads metrics.
    - ports:
        - {protocol: TCP, port: {{ int64 $port }}}
      from:
        - namespaceSelector:
            {{- toYaml . | nindent 12 }}
    {{- end }}
{{- end }}
