{{- define "tuneyard.component" -}}deliver{{- end -}}

{{- define "tuneyard.fullname" -}}
{{- include "tuneyard.shortened" (list .Release.Name 63) -}}
{{- end -}}

{{- define "tuneyard.hubEnv" -}}
{{- $secret := include "tuneyard.plain" (list . "hfTokenSecret" "name") -}}
{{- with $secret -}}
{{- include "tuneyard.secretEnv" (list "HF_TOKEN" . (include "tuneyard.plain" (list $ "hfTokenSecret" "key")) false) -}}
{{- end -}}
{{- end -}}
