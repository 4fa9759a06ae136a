{{- define "tuneyard.component" -}}finetune{{- end -}}

{{- define "tuneyard.fullname" -}}
{{- include "tuneyard.shortened" (list .Release.Name 63) -}}
{{- end -}}

{{- /* A work volume holds the base model and the data, and the checkpoints on their way */ -}}
{{- define "tuneyard.workSize" -}}
{{- include "tuneyard.sum" (list (include "tuneyard.plain" (list . "downloadsReservedSize")) (include "tuneyard.plain" (list . "checkpointsReservedSize"))) -}}
{{- end -}}

{{- /* The sum of two quantities, exact where they have the same unit, else in bytes */ -}}
{{- define "tuneyard.sum" -}}
{{- $units := dict "" 1 "k" 1000 "M" 1000000 "G" 1000000000 "T" 1000000000000 "P" 1000000000000000 "Ki" 1024 "Mi" 1048576 "Gi" 1073741824 "Ti" 1099511627776 "Pi" 1125899906842624 -}}
{{- $bytes := 0 -}}
{{- $unit := "" -}}
{{- $number := 0 -}}
{{- $same := true -}}
{{- range $index, $quantity := . -}}
{{- $mine := regexFind "[A-Za-z]*$" $quantity -}}
{{- $many := trimSuffix $mine $quantity | float64 -}}
{{- if not (hasKey $units $mine) -}}{{- fail (printf "%q is no size; write it with Ki, Mi, Gi, Ti, k, M, G or T" $quantity) -}}{{- end -}}
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
