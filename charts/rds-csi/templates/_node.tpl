{{/* What the node plugin and the sweep of its own have in common. */}}
{{- define "rds-csi.node.tolerations" -}}
{{- if .Values.node.tolerateAllTaints -}}
tolerations:
  - operator: Exists
{{- else -}}
tolerations:
  # The driver itself takes this taint away: it has to get there first.
  - key: {{ .Values.driverName }}/agent-not-ready
    operator: Exists
  {{- with .Values.node.tolerations }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end -}}
{{- end }}

{{- define "rds-csi.sweepEnv" -}}
- name: RDS_CSI_GRACE
  value: {{ .Values.sweep.grace | quote }}
- name: RDS_CSI_SWEEP_UNUSED
  value: {{ .Values.sweep.unused | quote }}
{{- end }}

{{/* The host's directories, each where the host has it. */}}
{{- define "rds-csi.node.volumeMounts" -}}
- name: dev
  mountPath: /dev
- name: sys
  mountPath: /sys
- name: state
  mountPath: {{ .Values.stateDir }}
- name: tmp
  mountPath: /tmp
{{- if .Values.node.hostPaths.etcNvme }}
- name: etc-nvme
  mountPath: /etc/nvme
  readOnly: true
{{- end }}
{{- if .Values.node.hostPaths.modules }}
- name: modules
  mountPath: /lib/modules
  readOnly: true
{{- end }}
{{- if .Values.node.hostPaths.udev }}
- name: udev
  mountPath: /run/udev
  readOnly: true
{{- end }}
{{- end }}

{{- define "rds-csi.node.volumes" -}}
- name: dev
  hostPath:
    path: /dev
    type: Directory
- name: sys
  hostPath:
    path: /sys
    type: Directory
- name: state
  hostPath:
    path: {{ .Values.stateDir }}
    type: DirectoryOrCreate
- name: tmp
  emptyDir:
    sizeLimit: 64Mi
{{- with .Values.node.hostPaths.etcNvme }}
- name: etc-nvme
  hostPath:
    path: {{ . }}
    type: DirectoryOrCreate
{{- end }}
{{- with .Values.node.hostPaths.modules }}
- name: modules
  hostPath:
    path: {{ . }}
    # Not looked at before: a node with all in its kernel may have no such directory, and its pod must start there too.
    type: ""
{{- end }}
{{- with .Values.node.hostPaths.udev }}
- name: udev
  hostPath:
    path: {{ . }}
    type: DirectoryOrCreate
{{- end }}
{{- end }}

{{/* The driver's socket is root's alone. */}}
{{- define "rds-csi.node.sidecarSecurityContext" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
runAsUser: 0
capabilities:
  drop: [ALL]
seccompProfile:
  type: RuntimeDefault
{{- end }}

{{/* The end of a controller sidecar's container. Takes root and sidecar. */}}
{{- define "rds-csi.sidecarRest" -}}
securityContext:
  {{- toYaml .root.Values.controller.securityContext | nindent 2 }}
resources:
  {{- toYaml .sidecar.resources | nindent 2 }}
volumeMounts:
  - name: socket
    mountPath: /csi
{{- end }}
