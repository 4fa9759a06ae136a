{{- define "tuneyard.component" -}}finetune{{- end -}}

{{- /* The key with the user's environment variables */ -}}
{{- define "tuneyard.envKey" -}}env{{- end -}}

{{- define "tuneyard.fullname" -}}
{{- $v := include "tuneyard.resolved" . | fromJson -}}
{{- $name := include "tuneyard.shortened" (list .Release.Name 63) -}}
{{- if and (ne $v.nodes "1") (not (regexMatch "^[a-z]([-a-z0-9]*[a-z0-9])?$" $name)) -}}
{{- fail (printf "Invalid release name '%s'. With several nodes it is also a host name. Allowed: lowercase letters, digits and '-', beginning with a letter." $name) -}}
{{- end -}}
{{- $name -}}
{{- end -}}

{{- /* Without checkpointsRemote, the release's name decides where the results go */ -}}
{{- define "tuneyard.document" -}}
{{- $values := deepCopy .Values -}}
{{- if not (get $values "checkpointsRemote") -}}
{{- $_ := set $values "checkpointsRemote" (printf "default-bucket/experiments/%s" .Release.Name) -}}
{{- end -}}
{{- $_ := set $values "env" (include "tuneyard.publicEnv" . | fromJson) -}}
{{- toJson $values -}}
{{- end -}}

{{- define "tuneyard.trainEnv" -}}
{{- $v := include "tuneyard.resolved" . | fromJson -}}
{{ include "tuneyard.siteEnv" . }}
- {name: TUNEYARD_WAIT_SECONDS, value: {{ quote $v.waitSeconds }}}
{{- if ne $v.nodes "1" }}
- {name: TUNEYARD_NODES, value: {{ quote $v.nodes }}}
- {name: TUNEYARD_NODE_SERVICE, value: {{ include "tuneyard.fullname" . | quote }}}
- {name: TUNEYARD_NODE_ADDRESS, valueFrom: {fieldRef: {fieldPath: status.podIP}}}
{{ include "tuneyard.secretEnv" (list "TUNEYARD_NODES_KEY" $v.nodesSecret.name $v.nodesSecret.key) }}
{{- end }}
{{ include "tuneyard.secretEnv" (list "AWS_ACCESS_KEY_ID" $v.bucketCredentialsSecret.name $v.bucketCredentialsSecret.accessKeyKey) }}
{{ include "tuneyard.secretEnv" (list "AWS_SECRET_ACCESS_KEY" $v.bucketCredentialsSecret.name $v.bucketCredentialsSecret.secretKeyKey) }}
{{ include "tuneyard.secretEnv" (list "HF_TOKEN" $v.hfTokenSecret.name $v.hfTokenSecret.key) }}
{{- end -}}

{{- /* The sum of quantities, exact where they share a unit, else in bytes: list quantity... */ -}}
{{- define "tuneyard.sum" -}}
{{- $units := dict "" 1 "k" 1000 "M" 1000000 "G" 1000000000 "T" 1000000000000 "P" 1000000000000000 "E" 1000000000000000000 "m" 0.001 "Ki" 1024 "Mi" 1048576 "Gi" 1073741824 "Ti" 1099511627776 "Pi" 1125899906842624 "Ei" 1152921504606846976 -}}
{{- $bytes := 0 -}}
{{- $unit := "" -}}
{{- $number := 0 -}}
{{- $same := true -}}
{{- range $index, $quantity := . -}}
{{- $suffix := regexFind "[A-Za-z]*$" $quantity -}}
{{- $amount := trimSuffix $suffix $quantity | float64 -}}
{{- if and $index (ne $unit $suffix) -}}{{- $same = false -}}{{- end -}}
{{- $unit = $suffix -}}
{{- $number = addf $number $amount -}}
{{- $bytes = addf $bytes (mulf $amount (get $units $suffix)) -}}
{{- end -}}
{{- if and $same (eq (floor $number) $number) -}}
{{- printf "%.0f%s" $number $unit -}}
{{- else -}}
{{- printf "%.0f" (ceil $bytes) -}}
{{- end -}}
{{- end -}}
