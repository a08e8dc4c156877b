{{- /* Where it is asked for its health on its own node: of every address, loopback is one. */ -}}
{{- define "coffer.kms.asked" }}
{{- $host := .Values.kms.healthHost }}
{{- get (dict "0.0.0.0" "127.0.0.1" "::" "::1") $host | default $host }}
{{- end }}

{{- /* The static pod, as a file for /etc/kubernetes/manifests. It is no object of the release: a kubelet runs it by itself. */ -}}
{{- define "coffer.kms.pod" }}
{{- $kms := .Values.kms }}
{{- $port := int64 $kms.healthPort }}
{{- $host := $kms.healthHost }}
{{- $asked := include "coffer.kms.asked" . }}
{{- $probe := printf "host: %s, port: %d" (ternary (quote $asked) $asked (contains ":" $asked)) $port }}
{{- $contexts := 0 }}
{{- range $kms.extraArgs }}{{ if hasPrefix "--encryption-context=" . }}{{ $contexts = add1 $contexts }}{{ end }}{{ end -}}
apiVersion: v1
kind: Pod
metadata:
  name: coffer-kms
  namespace: kube-system
  labels:
    {{- toYaml (merge (dict "component" "coffer-kms" "tier" "control-plane") (deepCopy $kms.podLabels)) | nindent 4 }}
  {{- with $kms.podAnnotations }}
  annotations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
spec:
  # As the API server itself: the last to be evicted, the last that the kernel kills for memory. The number stands beside
  # the name as in kubeadm's own manifests, for no admission fills it in for a static pod.
  priorityClassName: system-node-critical
  priority: 2000001000
  # There is no pod network before there is an API server; and the instance's metadata with a hop limit of 1 is in reach.
  hostNetwork: true
  # The node's name servers. The cluster's own are behind the API server.
  dnsPolicy: Default
  # Longer than --shutdown-grace.
  terminationGracePeriodSeconds: 10
  securityContext:
    # Root without any capability. The kubelet makes the socket's directory as root's, and the socket is then root's too,
    # 0600: of all processes of the node only root's reach it, and kubeadm's API server is one of them. Without
    # capabilities this root may do what the owner of that one directory may, and no more.
    runAsUser: 0
    runAsGroup: 0
    seccompProfile:
      {{- toYaml $kms.seccompProfile | nindent 6 }}
  containers:
    - name: coffer-kms
      image: {{ include "coffer.image" (list $ "kms") | toYaml }}
      # The image has to be on the node or in a registry that the kubelet itself can log in to: imagePullSecrets are
      # objects of an API server that may not be there.
      imagePullPolicy: {{ .Values.image.pullPolicy | default "IfNotPresent" }}
      args:
        - serve
        - {{ printf "--key=%s" $kms.key | toYaml }}
        {{- with $kms.region }}
        - {{ printf "--region=%s" . | toYaml }}
        {{- end }}
        {{- with $kms.encryptionContext }}
        {{- $pairs := list }}
        {{- range $name, $value := . }}{{ $pairs = append $pairs (printf "%s=%s" $name $value) }}{{ end }}
        # Leave it out where the old plugin had none: data is read with the context it was written with, or not at all.
        - {{ printf "--encryption-context=%s" (join "," $pairs) | quote }}
        {{- else }}
        {{- if $contexts }}
        # Each key has its own at the same place.
        - --encryption-context=
        {{- end }}
        {{- end }}
        - {{ printf "--listen=%s/socket.sock" $kms.socketDir | toYaml }}
        {{- if eq $host $asked }}
        # With hostNetwork the default, `:8080`, would be open to the network, and 8080 is often taken.
        {{- else }}
        # Open to the nodes' network, where a firewall is to let in whoever scrapes: it tells the ARNs of keys.
        {{- end }}
        - {{ ternary (printf "--health-port=[%s]:%d" $host $port) (printf "--health-port=%s:%d" $host $port) (contains ":" $host) | toYaml }}
        {{- with .Values.log.level }}
        - {{ printf "--log-level=%s" . | toYaml }}
        {{- end }}
        {{- with .Values.log.format }}
        - {{ printf "--log-format=%s" . | toYaml }}
        {{- end }}
        {{- range $kms.extraArgs }}
        - {{ . | quote }}
        {{- end }}
      {{- if or $kms.extraEnv .Values.monitoring.emfNamespace }}
      env:
        {{- with .Values.monitoring.emfNamespace }}
        - {name: COFFER_EMF_NAMESPACE, value: {{ . | quote }}}
        {{- end }}
        {{- with $kms.extraEnv }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
      {{- end }}
      {{- if eq $asked "127.0.0.1" "::1" }}
      # Each asks on loopback{{ if eq $host $asked }}, for the port is open there only{{ end }}.
      {{- end }}
      startupProbe:
        httpGet: { {{- $probe }}, path: /livez}
        periodSeconds: 1
        failureThreshold: 60
      # /livez, never /healthz: a KMS that is away is not mended by a restart, which would only forget what is cached.
      livenessProbe:
        httpGet: { {{- $probe }}, path: /livez}
        periodSeconds: 10
        timeoutSeconds: 5
        failureThreshold: 6
      # Shown by `kubectl get pod`; nothing waits for it, as no Service leads here.
      readinessProbe:
        httpGet: { {{- $probe }}, path: /readyz}
        periodSeconds: 10
        timeoutSeconds: 5
      # About 10 MiB in use. No limit on CPU: a plugin that is held back holds back the API server's start.
      resources:
        {{- toYaml $kms.resources | nindent 8 }}
      securityContext:
        allowPrivilegeEscalation: false
        readOnlyRootFilesystem: true
        capabilities: {drop: [ALL]}
      volumeMounts:
        - name: socket
          mountPath: {{ $kms.socketDir }}
        {{- include "coffer.moreMounts" (list $kms 8) }}
  volumes:
    - name: socket
      hostPath: {path: {{ $kms.socketDir }}, type: DirectoryOrCreate}
    {{- include "coffer.moreVolumes" (list $kms 4) }}
{{- end }}
