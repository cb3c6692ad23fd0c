{{/* Names and labels. */}}
{{- define "rds-csi.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 50 | trimSuffix "-" -}}
{{- end }}

{{/* A Service's name has 63 characters at most, and the longest is this with "-controller-metrics". */}}
{{- define "rds-csi.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 44 | trimSuffix "-" -}}
{{- else if contains (include "rds-csi.name" .) .Release.Name -}}
{{- .Release.Name | trunc 44 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "rds-csi.name" .) | trunc 44 | trimSuffix "-" -}}
{{- end -}}
{{- end }}

{{- define "rds-csi.selectorLabels" -}}
app.kubernetes.io/name: {{ include "rds-csi.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "rds-csi.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{ include "rds-csi.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* Without versions: an upgrade that changes nothing in a pod leaves it running. */}}
{{- define "rds-csi.podLabels" -}}
{{ include "rds-csi.selectorLabels" . }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "rds-csi.controller.serviceAccountName" -}}
{{- if .Values.controller.serviceAccount.create -}}
{{- default (printf "%s-controller" (include "rds-csi.fullname" .)) .Values.controller.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.controller.serviceAccount.name -}}
{{- end -}}
{{- end }}

{{- define "rds-csi.node.serviceAccountName" -}}
{{- if .Values.node.serviceAccount.create -}}
{{- default (printf "%s-node" (include "rds-csi.fullname" .)) .Values.node.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.node.serviceAccount.name -}}
{{- end -}}
{{- end }}

{{/* Images: REPOSITORY@DIGEST, or REPOSITORY:TAG. */}}
{{- define "rds-csi.image" -}}
{{- $repository := required "image.repository is needed: no image of rds-csi is published. Build it with the project's Containerfile, and push it to a registry that your nodes reach." .Values.image.repository -}}
{{- if .Values.image.digest -}}
{{- printf "%s@%s" $repository .Values.image.digest -}}
{{- else -}}
{{- printf "%s:%s" $repository (default .Chart.AppVersion .Values.image.tag) -}}
{{- end -}}
{{- end }}

{{/* Takes the `image` of a sidecar. */}}
{{- define "rds-csi.sidecarImage" -}}
{{- if .digest -}}
{{- printf "%s@%s" .repository .digest -}}
{{- else -}}
{{- printf "%s:%s" .repository .tag -}}
{{- end -}}
{{- end }}

{{/* The array: "true" or "". */}}
{{- define "rds-csi.array.isLocal" -}}
{{- if hasPrefix "local://" .Values.array.url -}}true{{- end -}}
{{- end }}

{{- define "rds-csi.array.isThere" -}}
{{- if or .Values.array.url .Values.array.several.urls -}}true{{- end -}}
{{- end }}

{{- define "rds-csi.array.url" -}}
{{- if .Values.array.several.urls -}}config:///etc/rds-csi/arrays.toml{{- else -}}{{ .Values.array.url }}{{- end -}}
{{- end }}

{{- define "rds-csi.array.secretName" -}}
{{- if .Values.array.existingSecret -}}
{{- .Values.array.existingSecret -}}
{{- else if .Values.array.secretFiles -}}
{{- printf "%s-array" (include "rds-csi.fullname" .) -}}
{{- end -}}
{{- end }}

{{- define "rds-csi.connector" -}}
{{- default (ternary "loop" "fabrics" (eq (include "rds-csi.array.isLocal" .) "true")) .Values.connector -}}
{{- end }}

{{/* What the settings of controller, node and sweep have in common, as environment variables, so that
     `kubectl exec … rds-csi status` (doctor, orphans, …) finds them too. */}}
{{- define "rds-csi.env" -}}
- name: RDS_CSI_DRIVER_NAME
  value: {{ .Values.driverName | quote }}
- name: RDS_CSI_NQN_PREFIX
  value: {{ .Values.nqnPrefix | quote }}
- name: RDS_CSI_CONNECTOR
  value: {{ include "rds-csi.connector" . | quote }}
- name: RDS_CSI_STATE_DIR
  value: {{ .Values.stateDir | quote }}
- name: RDS_CSI_LOG_FORMAT
  value: {{ .Values.logFormat | quote }}
- name: RDS_CSI_LOG_LEVEL
  value: {{ .Values.logLevel | quote }}
- name: RDS_CSI_NODE_ID
  valueFrom:
    fieldRef:
      fieldPath: spec.nodeName
{{- end }}

{{/* Whether the Kubernetes API is spoken to. */}}
{{- define "rds-csi.kubernetes" -}}
{{- ternary "auto" "off" .Values.kubernetesApi -}}
{{- end }}

{{/* What servers have beyond that. */}}
{{- define "rds-csi.serverEnv" -}}
- name: RDS_CSI_MAX_VOLUMES_PER_NODE
  value: {{ .Values.maxVolumesPerNode | quote }}
- name: RDS_CSI_SHUTDOWN_GRACE
  value: {{ .Values.shutdownGrace | quote }}
- name: RDS_CSI_KUBERNETES
  value: {{ include "rds-csi.kubernetes" . | quote }}
{{- if .Values.metrics.token.existingSecret }}
- name: RDS_CSI_HTTP_TOKEN_FILE
  value: {{ printf "/etc/rds-csi-metrics/token/%s" .Values.metrics.token.key | quote }}
{{- end }}
{{- if .Values.metrics.tls.existingSecret }}
- name: RDS_CSI_HTTP_TLS_CERT
  value: /etc/rds-csi-metrics/tls/tls.crt
- name: RDS_CSI_HTTP_TLS_KEY
  value: /etc/rds-csi-metrics/tls/tls.key
{{- end }}
{{- end }}

{{/* Token and certificate of the HTTP endpoint. */}}
{{- define "rds-csi.metrics.volumeMounts" -}}
{{- if .Values.metrics.token.existingSecret }}
- name: metrics-token
  mountPath: /etc/rds-csi-metrics/token
  readOnly: true
{{- end }}
{{- if .Values.metrics.tls.existingSecret }}
- name: metrics-tls
  mountPath: /etc/rds-csi-metrics/tls
  readOnly: true
{{- end }}
{{- end }}

{{- define "rds-csi.metrics.volumes" -}}
{{- if .Values.metrics.token.existingSecret }}
- name: metrics-token
  secret:
    secretName: {{ .Values.metrics.token.existingSecret }}
    defaultMode: 0440
{{- end }}
{{- if .Values.metrics.tls.existingSecret }}
- name: metrics-tls
  secret:
    secretName: {{ .Values.metrics.tls.existingSecret }}
    defaultMode: 0440
{{- end }}
{{- end }}

{{/* The address that the HTTP endpoint listens on. A pod of the host's network has the node's address: there it is
     loopback, and the kubelet, which lives on the node, probes that. */}}
{{- define "rds-csi.controller.httpHost" -}}
{{- ternary "127.0.0.1" "$(POD_IP)" .Values.controller.hostNetwork -}}
{{- end }}

{{- define "rds-csi.node.httpHost" -}}
{{- ternary "127.0.0.1" "$(POD_IP)" (eq .Values.metrics.nodeAddress "loopback") -}}
{{- end }}

{{/* Startup, liveness and readiness by the driver's own endpoint. Takes root, host ("" for the pod's address), port and
     livenessPort (of the livenessprobe sidecar, or 0). The first sweep may take 2 minutes; start-up gets 3. */}}
{{- define "rds-csi.probes" -}}
{{- $scheme := ternary "HTTPS" "HTTP" (ne .root.Values.metrics.tls.existingSecret "") -}}
startupProbe:
  httpGet:
    path: /healthz
    port: {{ .port }}
    scheme: {{ $scheme }}
    {{- with .host }}
    host: {{ . | quote }}
    {{- end }}
  periodSeconds: 5
  timeoutSeconds: 5
  failureThreshold: 36
livenessProbe:
  httpGet:
    path: /healthz
    {{- if .livenessPort }}
    port: {{ .livenessPort }}
    host: 127.0.0.1
    {{- else }}
    port: {{ .port }}
    scheme: {{ $scheme }}
    {{- with .host }}
    host: {{ . | quote }}
    {{- end }}
    {{- end }}
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 6
readinessProbe:
  httpGet:
    path: /readyz
    port: {{ .port }}
    scheme: {{ $scheme }}
    {{- with .host }}
    host: {{ . | quote }}
    {{- end }}
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 3
{{- end }}

{{/* The arguments that every controller sidecar takes. */}}
{{- define "rds-csi.sidecarArgs" -}}
- --csi-address=/csi/csi.sock
- --v={{ .Values.sidecars.logLevel }}
- --timeout={{ .Values.sidecars.timeout }}
- --retry-interval-max={{ .Values.sidecars.retryIntervalMax }}
- --kube-api-qps={{ .Values.sidecars.kubeApiQps }}
- --kube-api-burst={{ .Values.sidecars.kubeApiBurst }}
- --leader-election
- --leader-election-namespace={{ .Release.Namespace }}
- --leader-election-lease-duration={{ .Values.sidecars.leaderElection.leaseDuration }}
- --leader-election-renew-deadline={{ .Values.sidecars.leaderElection.renewDeadline }}
- --leader-election-retry-period={{ .Values.sidecars.leaderElection.retryPeriod }}
{{- end }}

{{/* Values that are each well, but not together. */}}
{{- define "rds-csi.check" -}}
{{- if and .Values.array.url .Values.array.several.urls -}}
{{- fail "array.url and array.several.urls are both given: choose one." -}}
{{- end -}}
{{- if and .Values.array.existingSecret .Values.array.secretFiles -}}
{{- fail "array.existingSecret and array.secretFiles are both given: choose one." -}}
{{- end -}}
{{- if and .Values.array.several.default (not (hasKey .Values.array.several.urls .Values.array.several.default)) -}}
{{- fail (printf "array.several.default is %q, which array.several.urls does not name." .Values.array.several.default) -}}
{{- end -}}
{{- range $name, $url := .Values.array.several.urls -}}
{{- if or (hasPrefix "local://" $url) (hasPrefix "config://" $url) -}}
{{- fail (printf "array.several.urls.%s is %s, which does not go with others: see docs/several-arrays.md." $name $url) -}}
{{- end -}}
{{- end -}}
{{- if and (gt (len .Values.array.several.urls) 1) (not .Values.array.several.default) -}}
{{- fail "array.several.urls names several arrays: give array.several.default, the one of volumes whose StorageClass names none." -}}
{{- end -}}
{{- if include "rds-csi.array.isLocal" . -}}
{{- if not .Values.array.local.hostPath -}}
{{- fail "array.url is a local array: give array.local.hostPath, the directory on the node that holds the image files. The controller then runs as root." -}}
{{- end -}}
{{- $directory := printf "%s/" (trimSuffix "/" (index (splitList "?" (trimPrefix "local://" .Values.array.url)) 0)) -}}
{{- if not (hasPrefix (printf "%s/" (trimSuffix "/" .Values.array.local.hostPath)) $directory) -}}
{{- fail (printf "array.url is in %s, which is not below array.local.hostPath (%s)." $directory .Values.array.local.hostPath) -}}
{{- end -}}
{{- if gt (int .Values.controller.replicas) 1 -}}
{{- fail "controller.replicas is above 1, but array.url is a local array: its files are on one node." -}}
{{- end -}}
{{- end -}}
{{- if and (eq .Values.metrics.nodeAddress "node") (not .Values.metrics.token.existingSecret) -}}
{{- fail "metrics.nodeAddress is node: whoever reaches a node would read its metrics. Give metrics.token.existingSecret, a Secret with a bearer token." -}}
{{- end -}}
{{- if and .Values.metrics.podMonitor.enabled (ne .Values.metrics.nodeAddress "node") -}}
{{- fail "metrics.podMonitor.enabled needs metrics.nodeAddress: node, or Prometheus cannot reach the nodes' metrics." -}}
{{- end -}}
{{- if and .Values.metrics.serviceMonitor.enabled (not .Values.metrics.service.enabled) -}}
{{- fail "metrics.serviceMonitor.enabled needs metrics.service.enabled." -}}
{{- end -}}
{{- if and .Values.metrics.service.enabled .Values.controller.hostNetwork -}}
{{- fail "metrics.service.enabled does not go with controller.hostNetwork: the controller's metrics are then on the node's loopback address." -}}
{{- end -}}
{{- if gt (len (printf "%s/plugins/%s/csi.sock" .Values.kubeletPath .Values.driverName)) 107 -}}
{{- fail "kubeletPath and driverName are too long together: a socket's path has at most 107 bytes." -}}
{{- end -}}
{{- range $url := append (values .Values.array.several.urls) .Values.array.url -}}
{{- if regexMatch "://[^/@]*:[^/@]*@" $url -}}
{{- fail "An array's URL has a password. Put it into the Secret (array.existingSecret), and name its file: password-file=/etc/rds-csi/password." -}}
{{- end -}}
{{- if contains "accept-first-host-key=yes" $url -}}
{{- fail "accept-first-host-key=yes writes to known-hosts, which is read-only here: put the array's host key into the Secret (ssh-keyscan)." -}}
{{- end -}}
{{- end -}}
{{- if and .Values.controller.hostNetwork (eq (int .Values.controller.httpPort) (int .Values.node.httpPort)) -}}
{{- fail (printf "controller.hostNetwork: controller and node would share port %d of the node's network, and the controller would find no node. Give controller.httpPort another one." (int .Values.node.httpPort)) -}}
{{- end -}}
{{- if and (eq .Values.node.registration "sidecar") (eq (int .Values.node.livenessProbePort) (int .Values.node.httpPort)) -}}
{{- fail "node.livenessProbePort and node.httpPort are one port of the node's network: choose two." -}}
{{- end -}}
{{- if .Values.sweep.daemonSet.enabled -}}
{{- if not .Values.sweep.interval -}}
{{- fail "sweep.daemonSet.enabled needs sweep.interval above 0: its pods would sweep once, end, and be started again for ever." -}}
{{- end -}}
{{- if eq (include "rds-csi.connector" .) "loop" -}}
{{- fail "sweep.daemonSet.enabled: the connector loop has no NVMe sessions that could be swept." -}}
{{- end -}}
{{- end -}}
{{- range .Values.storageClasses -}}
{{- if hasKey (default dict .parameters) "csi.storage.k8s.io/fstype" -}}
{{- fail (printf "storageClasses: %s has the parameter csi.storage.k8s.io/fstype: give fsType instead." .name) -}}
{{- end -}}
{{- if and .pool (hasKey (default dict .parameters) "pool") -}}
{{- fail (printf "storageClasses: %s has pool twice, once as a parameter: choose one." .name) -}}
{{- end -}}
{{- end -}}
{{- if and .Values.snapshots.groups (not .Values.snapshots.enabled) -}}
{{- fail "snapshots.groups needs snapshots.enabled." -}}
{{- end -}}
{{- end }}
