{{- define "tuneyard.component" -}}serve{{- end -}}

{{- /* The key with the user's environment variables */ -}}
{{- define "tuneyard.envKey" -}}env_vars{{- end -}}

{{- define "tuneyard.fullname" -}}
{{- $name := printf "llm-inference-vllm-%s" .Release.Name -}}
{{- /* A Service's name has no dots; the hash keeps two releases apart */ -}}
{{- if contains "." $name -}}
{{- $name = printf "%s-%s" ($name | replace "." "-" | trunc 54 | trimSuffix "-") (sha256sum $name | trunc 8) -}}
{{- end -}}
{{- include "tuneyard.shortened" (list $name 63) -}}
{{- end -}}

{{- define "tuneyard.document" -}}
{{- $values := deepCopy .Values -}}
{{- $_ := set $values "env_vars" (include "tuneyard.publicEnv" . | fromJson) -}}
{{- toJson $values -}}
{{- end -}}

{{- /* A server of a Hub model runs without the store's keys */ -}}
{{- define "tuneyard.serveEnv" -}}
{{- $v := include "tuneyard.resolved" . | fromJson -}}
{{- $optional := not (or (hasPrefix "s3://" (toString $v.model)) $v.adapters) -}}
{{ include "tuneyard.siteEnv" . }}
{{ include "tuneyard.secretEnv" (list "AWS_ACCESS_KEY_ID" $v.bucket_storage.credentials.secret_name $v.bucket_storage.credentials.access_key_key $optional) }}
{{ include "tuneyard.secretEnv" (list "AWS_SECRET_ACCESS_KEY" $v.bucket_storage.credentials.secret_name $v.bucket_storage.credentials.secret_key_key $optional) }}
{{ include "tuneyard.secretEnv" (list "HF_TOKEN" $v.hf_token.secret_name $v.hf_token.key) }}
{{ include "tuneyard.secretEnv" (list "TUNEYARD_API_KEY" $v.apiKeySecret.name $v.apiKeySecret.key) }}
{{- end -}}

{{- /* A probe: the chart's own with the values of `probes` and of the earlier key (`startupProbe`): list $ name probe */ -}}
{{- define "tuneyard.probe" -}}
{{- $v := include "tuneyard.resolved" (index . 0) | fromJson -}}
{{- $name := index . 1 -}}
{{- $probe := index . 2 -}}
{{- $given := dict -}}
{{- range list (index $v.probes $name) (index $v (printf "%sProbe" $name)) -}}
{{- range $key, $value := . -}}
{{- if not (kindIs "invalid" $value) -}}{{- $_ := set $given $key $value -}}{{- end -}}
{{- end -}}
{{- end -}}
{{- if pick $given "exec" "httpGet" "tcpSocket" "grpc" -}}
{{- $probe = omit $probe "exec" "httpGet" "tcpSocket" "grpc" -}}
{{- end -}}
{{- range $key, $value := $given -}}{{- $_ := set $probe $key $value -}}{{- end -}}
{{- include "tuneyard.json" $probe -}}
{{- end -}}
