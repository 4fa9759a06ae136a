{{- define "tuneyard.component" -}}finetune{{- end -}}

{{- define "tuneyard.fullname" -}}
{{- $name := include "tuneyard.shortened" (list .Release.Name 63) -}}
{{- if and (ne (include "tuneyard.whole" (list . "nodes")) "1") (not (regexMatch "^[a-z]([-a-z0-9]*[a-z0-9])?$" $name)) -}}
{{- fail (printf "the release's name is %q: with several nodes it is a host's name too, so it begins with a letter and has no dots" $name) -}}
{{- end -}}
{{- $name -}}
{{- end -}}

{{- /* The values that the process reads: whoever launches a run names where its results go */ -}}
{{- define "tuneyard.document" -}}
{{- $values := deepCopy .Values -}}
{{- if not (get $values "checkpointsRemote") -}}
{{- $_ := set $values "checkpointsRemote" (printf "default-bucket/experiments/%s" .Release.Name) -}}
{{- end -}}
{{- $_ := set $values "env" (include "tuneyard.shownValues" (list . "env") | fromJson) -}}
{{- toJson $values -}}
{{- end -}}

{{- define "tuneyard.trainEnv" -}}
{{- $secret := include "tuneyard.plain" (list . "bucketCredentialsSecret" "name") -}}
{{ include "tuneyard.siteEnv" . }}
- {name: TUNEYARD_WAIT_SECONDS, value: {{ include "tuneyard.whole" (list . "waitSeconds") | quote }}}
{{- $nodes := include "tuneyard.whole" (list . "nodes") }}
{{- if ne $nodes "1" }}
- {name: TUNEYARD_NODES, value: {{ quote $nodes }}}
- {name: TUNEYARD_NODE_SERVICE, value: {{ include "tuneyard.fullname" . | quote }}}
- {name: TUNEYARD_NODE_ADDRESS, valueFrom: {fieldRef: {fieldPath: status.podIP}}}
{{ include "tuneyard.secretEnv" (list "TUNEYARD_NODES_KEY" (include "tuneyard.plain" (list . "nodesSecret" "name")) (include "tuneyard.plain" (list . "nodesSecret" "key")) false) }}
{{- end }}
{{ include "tuneyard.secretEnv" (list "AWS_ACCESS_KEY_ID" $secret (include "tuneyard.plain" (list . "bucketCredentialsSecret" "accessKeyKey")) false) }}
{{ include "tuneyard.secretEnv" (list "AWS_SECRET_ACCESS_KEY" $secret (include "tuneyard.plain" (list . "bucketCredentialsSecret" "secretKeyKey")) false) }}
{{ include "tuneyard.secretEnv" (list "HF_TOKEN" (include "tuneyard.plain" (list . "hfTokenSecret" "name")) (include "tuneyard.plain" (list . "hfTokenSecret" "key")) false) }}
{{- end -}}

{{- /* A work volume holds the base model and the data, and the checkpoints on their way */ -}}
{{- define "tuneyard.workSize" -}}
{{- include "tuneyard.sum" (list (include "tuneyard.plain" (list . "downloadsReservedSize")) (include "tuneyard.plain" (list . "checkpointsReservedSize"))) -}}
{{- end -}}

{{- /* The sum of two quantities, exact where they have the same unit, else in bytes */ -}}
{{- define "tuneyard.sum" -}}
{{- $units := dict "" 1 "k" 1000 "M" 1000000 "G" 1000000000 "T" 1000000000000 "P" 1000000000000000 "E" 1000000000000000000 "m" 0.001 "Ki" 1024 "Mi" 1048576 "Gi" 1073741824 "Ti" 1099511627776 "Pi" 1125899906842624 "Ei" 1152921504606846976 -}}
{{- $bytes := 0 -}}
{{- $unit := "" -}}
{{- $number := 0 -}}
{{- $same := true -}}
{{- range $index, $quantity := . -}}
{{- $mine := regexFind "[A-Za-z]*$" $quantity -}}
{{- $many := trimSuffix $mine $quantity | float64 -}}
{{- if and $index (ne $unit $mine) -}}{{- $same = false -}}{{- end -}}
{{- $unit = $mine -}}
{{- $number = addf $number $many -}}
{{- $bytes = addf $bytes (mulf $many (get $units $mine)) -}}
{{- end -}}
{{- if and $same (eq (floor $number) $number) -}}
{{- printf "%.0f%s" $number $unit -}}
{{- else -}}
{{- printf "%.0f" (ceil $bytes) -}}
{{- end -}}
{{- end -}}
