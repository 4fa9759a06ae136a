{{- define "tuneyard.component" -}}deliver{{- end -}}

{{- define "tuneyard.fullname" -}}
{{- include "tuneyard.shortened" (list .Release.Name 63) -}}
{{- end -}}

{{- /* No key of this chart sets environment variables */ -}}
{{- define "tuneyard.envKey" -}}{{- end -}}

{{- define "tuneyard.document" -}}
{{- toJson .Values -}}
{{- end -}}

{{- /* The environment of the dataScript: the store's keys are not in it */ -}}
{{- define "tuneyard.scriptEnv" -}}
{{- $v := include "tuneyard.resolved" . | fromJson -}}
{{ include "tuneyard.siteEnv" . }}
{{ include "tuneyard.secretEnv" (list "HF_TOKEN" $v.hfTokenSecret.name $v.hfTokenSecret.key) }}
{{- end -}}

{{- define "tuneyard.deliverEnv" -}}
{{- $v := include "tuneyard.resolved" . | fromJson -}}
{{ include "tuneyard.scriptEnv" . }}
{{ include "tuneyard.secretEnv" (list "AWS_ACCESS_KEY_ID" $v.bucketCredentialsSecret.name $v.bucketCredentialsSecret.accessKeyKey) }}
{{ include "tuneyard.secretEnv" (list "AWS_SECRET_ACCESS_KEY" $v.bucketCredentialsSecret.name $v.bucketCredentialsSecret.secretKeyKey) }}
{{- end -}}
