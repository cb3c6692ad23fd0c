{{/* How Prometheus scrapes an endpoint. Takes root and monitor. */}}
{{- define "rds-csi.scrape" -}}
path: /metrics
{{- with .root.Values.metrics.token.existingSecret }}
authorization:
  credentials:
    name: {{ . }}
    key: {{ $.root.Values.metrics.token.key }}
{{- end }}
{{- if .root.Values.metrics.tls.existingSecret }}
scheme: https
tlsConfig:
  insecureSkipVerify: {{ .root.Values.metrics.tls.insecureSkipVerify }}
  {{- with .root.Values.metrics.tls.serverName }}
  serverName: {{ . }}
  {{- end }}
  {{- with .root.Values.metrics.tls.ca }}
  ca:
    secret:
      {{- toYaml . | nindent 6 }}
  {{- end }}
{{- end }}
{{- with .monitor.relabelings }}
relabelings:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .monitor.metricRelabelings }}
metricRelabelings:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}
