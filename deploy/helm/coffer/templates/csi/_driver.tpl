{{- /* The node driver's DaemonSet, under either name of a driver: (list $ NAME COMPONENT FLAGS). */ -}}
{{- define "coffer.driver" }}
{{- $root := index . 0 }}
{{- $name := index . 1 }}
{{- $component := index . 2 }}
{{- $port := $component.metricsPort | default 9466 | int64 }}
{{- $kubelet := $root.Values.csi.kubeletDir }}
apiVersion: apps/v1
kind: DaemonSet
metadata:
  name: {{ $name }}
  namespace: {{ $root.Release.Namespace | toYaml }}
  {{- include "coffer.labels" (list $root $name) }}
spec:
  selector:
    matchLabels: {app.kubernetes.io/name: {{ $name }}}
  # A driver that is away holds up only pods that start on its node; those that run keep their files.
  updateStrategy:
    type: RollingUpdate
    rollingUpdate: {maxUnavailable: {{ include "coffer.count" $component.maxUnavailable }}}
  template:
    metadata:
      {{- include "coffer.podMetadata" (list $root $name $component) }}
    spec:
      serviceAccountName: coffer-csi
      {{- if and (eq $name "coffer-csi-takeover") (not $component.nodeSelector) }}
      # For the move node by node:
      # nodeSelector: {coffer.dev/takeover: "yes"}
      {{- end }}
      {{- with $component.priorityClassName }}
      # Without it no pod with secrets starts on the node: the last to be evicted, the last that the kernel kills.
      priorityClassName: {{ toYaml . }}
      {{- end }}
      # Every node that can: not Fargate, which has no privileged containers; the sidecar is for its pods.
      {{- include "coffer.placement" (list $root $component) }}
      # For calls under way: 5 s at most. Volumes stay mounted.
      terminationGracePeriodSeconds: 15
      containers:
        - name: coffer-csi
          {{- include "coffer.containerImage" (list $root "injector") }}
          args:
            - csi
            {{- range index . 3 }}
            {{ . }}
            {{- end }}
            {{- include "coffer.listen" (list $root $port) }}
            {{- if ne $kubelet "/var/lib/kubelet" }}
            - {{ printf "--kubelet-dir=%s" $kubelet | toYaml }}
            {{- end }}
            {{- if $component.syncSecrets.enabled }}
            - --sync-secrets
            {{- else }}
            # Copies what classes list as `secretObjects` into etcd; needs the ClusterRole coffer-csi-sync-secrets, bound:
            # - --sync-secrets
            {{- end }}
            {{- include "coffer.commonArgs" (list $root $component) }}
          env:
            - {name: NODE_NAME, valueFrom: {fieldRef: {fieldPath: spec.nodeName}}}
            - {name: POD_NAMESPACE, valueFrom: {fieldRef: {fieldPath: metadata.namespace}}}
            {{- include "coffer.region" $root }}
            {{- include "coffer.commonEnv" (list $root $component) }}
          ports:
            - {name: http, containerPort: {{ $port }}}
          # It answers while it runs; nothing that it waits for, AWS and the API server, is mended by a restart.
          livenessProbe:
            httpGet: {port: http, path: /livez}
            periodSeconds: 10
            timeoutSeconds: 5
            failureThreshold: 6
          # The kubelet knows the driver.
          readinessProbe:
            httpGet: {port: http, path: /readyz}
            periodSeconds: 5
            timeoutSeconds: 5
          securityContext:
            # What it mounts has to appear on the host, and in the pods that the kubelet starts there (`Bidirectional`
            # below), which Kubernetes gives to privileged containers only. No seccomp profile beside it: a runtime applies
            # none to these.
            privileged: true
            # Root of the image, and of the kubelet's folder.
            runAsUser: 0
            runAsGroup: 0
            readOnlyRootFilesystem: true
          # No limit on memory: what is written to the tmpfs of all volumes counts here, and a driver that is killed for it
          # holds up the node; each volume is bounded by --max-volume-size. None on CPU: it is idle but for starts.
          resources:
            {{- toYaml $component.resources | nindent 12 }}
          volumeMounts:
            # At the same path as on the host: its sockets and the pods' volumes are both in it.
            - {name: kubelet, mountPath: {{ $kubelet }}, mountPropagation: Bidirectional}
            {{- include "coffer.moreMounts" (list $component 12) }}
      volumes:
        - name: kubelet
          hostPath: {path: {{ $kubelet }}, type: Directory}
        {{- include "coffer.moreVolumes" (list $component 8) }}
{{- end }}

{{- /* The region of volumes that name none, under `env`. */ -}}
{{- define "coffer.region" }}
{{- with .Values.aws.region }}
            - {name: AWS_REGION, value: {{ . }}}
{{- else }}
            # Else as the node's label says. Name it where nodes have no label topology.kubernetes.io/region.
            # - {name: AWS_REGION, value: eu-west-1}
{{- end }}
{{- end }}
