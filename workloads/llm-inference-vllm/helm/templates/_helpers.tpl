{{- define "tuneyard.component" -}}serve{{- end -}}

{{- define "tuneyard.fullname" -}}
{{- include "tuneyard.shortened" (list (printf "llm-inference-vllm-%s" .Release.Name) 63) -}}
{{- end -}}

{{- /* A question to the server: what the values give, else a completion: list $ which default */ -}}
{{- define "tuneyard.probe" -}}
{{- $root := index . 0 -}}
{{- $given := include "tuneyard.map" (list $root "probes" (index . 1)) | fromJson -}}
{{- toJson ($given | default (index . 2)) -}}
{{- end -}}
