{{- define "tuneyard.component" -}}namespace{{- end -}}

{{- define "tuneyard.fullname" -}}
{{- .Release.Name -}}
{{- end -}}
