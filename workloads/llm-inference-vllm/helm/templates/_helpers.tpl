{{- define "tuneyard.component" -}}serve{{- end -}}

{{- define "tuneyard.fullname" -}}
{{- $name := printf "llm-inference-vllm-%s" .Release.Name -}}
{{- /* a Service's name has no dots; two releases never share a name */ -}}
{{- if contains "." $name -}}
{{- $name = printf "%s-%s" ($name | replace "." "-" | trunc 54 | trimSuffix "-") (sha256sum $name | trunc 8) -}}
{{- end -}}
{{- include "tuneyard.shortened" (list $name 63) -}}
{{- end -}}

{{- /* The values that the process reads */ -}}
{{- define "tuneyard.document" -}}
{{- $values := deepCopy .Values -}}
{{- $_ := set $values "env_vars" (include "tuneyard.shownValues" (list . "env_vars") | fromJson) -}}
{{- toJson $values -}}
{{- end -}}

{{- /* A server of a Hub's model can do without the store's keys */ -}}
{{- define "tuneyard.serveEnv" -}}
{{- $secret := include "tuneyard.plain" (list . "bucket_storage" "credentials" "secret_name") -}}
{{- $adapters := include "tuneyard.texts" (list . "adapters") | fromJson -}}
{{- $optional := not (or (hasPrefix "s3://" (include "tuneyard.plain" (list . "model"))) $adapters) -}}
{{ include "tuneyard.siteEnv" . }}
{{ include "tuneyard.secretEnv" (list "AWS_ACCESS_KEY_ID" $secret (include "tuneyard.plain" (list . "bucket_storage" "credentials" "access_key_key")) $optional) }}
{{ include "tuneyard.secretEnv" (list "AWS_SECRET_ACCESS_KEY" $secret (include "tuneyard.plain" (list . "bucket_storage" "credentials" "secret_key_key")) $optional) }}
{{ include "tuneyard.secretEnv" (list "HF_TOKEN" (include "tuneyard.plain" (list . "hf_token" "secret_name")) (include "tuneyard.plain" (list . "hf_token" "key")) false) }}
{{ include "tuneyard.secretEnv" (list "TUNEYARD_API_KEY" (include "tuneyard.plain" (list . "apiKeySecret" "name")) (include "tuneyard.plain" (list . "apiKeySecret" "key")) false) }}
{{- end -}}

{{- /* A question to the server as the chart has it, with what the values change: list $ which default */ -}}
{{- define "tuneyard.probe" -}}
{{- $root := index . 0 -}}
{{- $probe := index . 2 -}}
{{- $given := dict -}}
{{- range $keys := list (list "probes" (index . 1)) (list (printf "%sProbe" (index . 1))) -}}
{{- range $key, $value := include "tuneyard.map" (prepend $keys $root) | fromJson -}}{{- $_ := set $given $key $value -}}{{- end -}}
{{- end -}}
{{- if pick $given "exec" "httpGet" "tcpSocket" "grpc" -}}
{{- $probe = omit $probe "exec" "httpGet" "tcpSocket" "grpc" -}}
{{- end -}}
{{- range $key, $value := $given -}}{{- $_ := set $probe $key $value -}}{{- end -}}
{{- include "tuneyard.json" $probe -}}
{{- end -}}
