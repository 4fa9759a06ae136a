{{- define "tuneyard.component" -}}deliver{{- end -}}

{{- define "tuneyard.fullname" -}}
{{- include "tuneyard.shortened" (list .Release.Name 63) -}}
{{- end -}}

{{- /* The values that the process reads */ -}}
{{- define "tuneyard.document" -}}
{{- toJson .Values -}}
{{- end -}}

{{- /* What the dataScript may know: nothing of the store */ -}}
{{- define "tuneyard.scriptEnv" -}}
{{ include "tuneyard.siteEnv" . }}
{{ include "tuneyard.secretEnv" (list "HF_TOKEN" (include "tuneyard.plain" (list . "hfTokenSecret" "name")) (include "tuneyard.plain" (list . "hfTokenSecret" "key")) false) }}
{{- end -}}

{{- define "tuneyard.deliverEnv" -}}
{{- $secret := include "tuneyard.plain" (list . "bucketCredentialsSecret" "name") -}}
{{ include "tuneyard.scriptEnv" . }}
{{ include "tuneyard.secretEnv" (list "AWS_ACCESS_KEY_ID" $secret (include "tuneyard.plain" (list . "bucketCredentialsSecret" "accessKeyKey")) false) }}
{{ include "tuneyard.secretEnv" (list "AWS_SECRET_ACCESS_KEY" $secret (include "tuneyard.plain" (list . "bucketCredentialsSecret" "secretKeyKey")) false) }}
{{- end -}}
