{{- /*
What the charts share: names, labels, values as one document, volumes, environment, security.
scripts/schemas.py copies this file into every chart, since a chart has to stand alone; change it in workloads/.

Texts of users go through toJson, which neither changes nor interprets them; a null is the key's default.
*/ -}}

{{- /* The value of a key as a JSON list of one, its default where it is null: list $ "a" "b" */ -}}
{{- define "tuneyard.get" -}}
{{- $root := first . -}}
{{- $keys := rest . -}}
{{- $value := $root.Values -}}
{{- $default := include "tuneyard.defaults" $root | fromJson -}}
{{- range $keys -}}
{{- $value = kindIs "map" $value | ternary (index (kindIs "map" $value | ternary $value dict) .) nil -}}
{{- $default = kindIs "map" $default | ternary (index (kindIs "map" $default | ternary $default dict) .) nil -}}
{{- end -}}
{{- list (kindIs "invalid" $value | ternary $default $value) | toJson -}}
{{- end -}}

{{- /* A text, as a JSON string; whole numbers are their digits */ -}}
{{- define "tuneyard.text" -}}
{{- $value := include "tuneyard.get" . | fromJsonArray | first -}}
{{- if kindIs "float64" $value -}}{{- $value = eq (floor $value) $value | ternary (printf "%.0f" $value) (toString $value) -}}{{- end -}}
{{- toString $value | toJson -}}
{{- end -}}

{{- /* The same without quotes, for conditions and names */ -}}
{{- define "tuneyard.plain" -}}
{{- printf "[%s]" (include "tuneyard.text" .) | fromJsonArray | first -}}
{{- end -}}

{{- /* A whole number */ -}}
{{- define "tuneyard.whole" -}}
{{- $value := include "tuneyard.get" . | fromJsonArray | first -}}
{{- kindIs "string" $value | ternary (trimAll " " (toString $value) | trimPrefix "+") $value | float64 | int64 -}}
{{- end -}}

{{- /* "true" or nothing */ -}}
{{- define "tuneyard.truth" -}}
{{- $value := include "tuneyard.get" . | fromJsonArray | first -}}
{{- if has (toString $value | lower) (list "true" "yes" "on" "1" "t" "y") -}}true{{- end -}}
{{- end -}}

{{- /* A map without its nulls as JSON; {} where there is none */ -}}
{{- define "tuneyard.map" -}}
{{- $value := include "tuneyard.get" . | fromJsonArray | first -}}
{{- $clean := dict -}}
{{- range $key, $item := $value -}}
{{- if not (kindIs "invalid" $item) -}}{{- $_ := set $clean $key $item -}}{{- end -}}
{{- end -}}
{{- toJson $clean -}}
{{- end -}}

{{- /* A map of texts without its nulls as JSON */ -}}
{{- define "tuneyard.texts" -}}
{{- $clean := dict -}}
{{- range $key, $item := include "tuneyard.get" . | fromJsonArray | first -}}
{{- if kindIs "float64" $item -}}{{- $item = eq (floor $item) $item | ternary (printf "%.0f" $item) (toString $item) -}}{{- end -}}
{{- if not (kindIs "invalid" $item) -}}{{- $_ := set $clean $key (toString $item) -}}{{- end -}}
{{- end -}}
{{- toJson $clean -}}
{{- end -}}

{{- /* A name of at most so many characters that two releases never share: list text length */ -}}
{{- define "tuneyard.shortened" -}}
{{- $text := index . 0 -}}
{{- $length := index . 1 | int -}}
{{- if le (len $text) $length -}}
{{- $text -}}
{{- else -}}
{{- printf "%s-%s" ($text | trunc (int (sub $length 9)) | trimSuffix "-") (sha256sum $text | trunc 8) -}}
{{- end -}}
{{- end -}}

{{- /* The merged values as one JSON document */ -}}
{{- define "tuneyard.values" -}}
{{- omit .Values "global" | toJson -}}
{{- end -}}

{{- define "tuneyard.valuesName" -}}
{{- $name := include "tuneyard.shortened" (list (include "tuneyard.fullname" .) 45) -}}
{{- printf "%s-values-%s" $name (include "tuneyard.values" . | sha256sum | trunc 10) -}}
{{- end -}}

{{- define "tuneyard.instance" -}}
{{- include "tuneyard.shortened" (list .Release.Name 63) -}}
{{- end -}}

{{- /* What an object is found by, and what never changes */ -}}
{{- define "tuneyard.selector" -}}
{{- dict "app.kubernetes.io/name" .Chart.Name "app.kubernetes.io/instance" (include "tuneyard.instance" .) | toJson -}}
{{- end -}}

{{- /* Labels of every object, as JSON */ -}}
{{- define "tuneyard.labels" -}}
{{- $given := dict -}}
{{- if hasKey (include "tuneyard.defaults" . | fromJson) "labels" -}}
{{- $given = include "tuneyard.texts" (list . "labels") | fromJson -}}
{{- $_ := include "tuneyard.queueLabel" (list . $given "queueName" "kueue.x-k8s.io/queue-name") -}}
{{- $_ := include "tuneyard.queueLabel" (list . $given "priorityClass" "kueue.x-k8s.io/priority-class") -}}
{{- end -}}
{{- $own := include "tuneyard.selector" . | fromJson -}}
{{- $_ := set $own "app.kubernetes.io/version" .Chart.AppVersion -}}
{{- $_ := set $own "app.kubernetes.io/component" (include "tuneyard.component" .) -}}
{{- $_ := set $own "app.kubernetes.io/part-of" "tuneyard" -}}
{{- $_ := set $own "app.kubernetes.io/managed-by" .Release.Service -}}
{{- $_ := set $own "helm.sh/chart" (printf "%s-%s" .Chart.Name .Chart.Version) -}}
{{- merge $own $given | toJson -}}
{{- end -}}

{{- define "tuneyard.queueLabel" -}}
{{- $root := index . 0 -}}
{{- $labels := index . 1 -}}
{{- $key := index . 2 -}}
{{- $label := index . 3 -}}
{{- $value := include "tuneyard.plain" (list $root $key) -}}
{{- if and $value (hasKey $labels $label) (ne $value (get $labels $label)) -}}
{{- fail (printf "%s is %q and labels[%q] is %q: they mean the same, give one of them" $key $value $label (get $labels $label)) -}}
{{- end -}}
{{- if $value -}}{{- $_ := set $labels $label $value -}}{{- end -}}
{{- end -}}

{{- /* securityContext of the pod */ -}}
{{- define "tuneyard.podSecurity" -}}
{{- $given := include "tuneyard.map" (list . "podSecurityContext") | fromJson -}}
{{- $strict := dict "runAsNonRoot" true "runAsUser" 1000 "runAsGroup" 1000 "fsGroup" 1000 "fsGroupChangePolicy" "OnRootMismatch" -}}
{{- $_ := set $strict "seccompProfile" (dict "type" "RuntimeDefault") -}}
{{- toJson ($given | default $strict) -}}
{{- end -}}

{{- /* securityContext of each container */ -}}
{{- define "tuneyard.security" -}}
{{- dict "allowPrivilegeEscalation" false "readOnlyRootFilesystem" true "capabilities" (dict "drop" (list "ALL")) | toJson -}}
{{- end -}}

{{- /* Where pods run and who they are */ -}}
{{- define "tuneyard.pod" -}}
automountServiceAccountToken: false
enableServiceLinks: false
terminationGracePeriodSeconds: {{ include "tuneyard.whole" (list . "terminationGracePeriodSeconds") }}
securityContext: {{ include "tuneyard.podSecurity" . }}
{{- with include "tuneyard.plain" (list . "serviceAccountName") }}
serviceAccountName: {{ toJson . }}
{{- end }}
{{- $secrets := list }}
{{- range include "tuneyard.get" (list . "imagePullSecrets") | fromJsonArray | first }}
{{- $secrets = append $secrets (dict "name" (toString .)) }}
{{- end }}
{{- with $secrets }}
imagePullSecrets: {{ toJson . }}
{{- end }}
{{- with include "tuneyard.texts" (list . "nodeSelector") | fromJson }}
nodeSelector: {{ toJson . }}
{{- end }}
{{- with include "tuneyard.get" (list . "tolerations") | fromJsonArray | first }}
tolerations: {{ toJson . }}
{{- end }}
{{- end -}}

{{- /* A work volume: list $ claim class size */ -}}
{{- define "tuneyard.workVolume" -}}
{{- $claim := index . 0 -}}
{{- $class := index . 1 -}}
{{- $size := index . 2 -}}
{{- if $claim -}}
{{- dict "name" "work" "persistentVolumeClaim" (dict "claimName" $claim) | toJson -}}
{{- else if $class -}}
{{- $spec := dict "accessModes" (list "ReadWriteOnce") "storageClassName" $class "resources" (dict "requests" (dict "storage" $size)) -}}
{{- dict "name" "work" "ephemeral" (dict "volumeClaimTemplate" (dict "spec" $spec)) | toJson -}}
{{- else -}}
{{- dict "name" "work" "emptyDir" (dict "sizeLimit" $size) | toJson -}}
{{- end -}}
{{- end -}}

{{- /* Volumes besides the work volume: values, authorities, /tmp */ -}}
{{- define "tuneyard.volumes" -}}
- name: values
  configMap: {name: {{ include "tuneyard.valuesName" . | toJson }}}
- name: tmp
  emptyDir: {}
- name: ca
  {{- $bundle := include "tuneyard.plain" (list . "bucketCABundle" "configMap") }}
  {{- if $bundle }}
  configMap:
    name: {{ toJson $bundle }}
    items: [{key: {{ include "tuneyard.text" (list . "bucketCABundle" "key") }}, path: ca.crt}]
  {{- else }}
  projected:
    sources:
      - configMap: {name: tuneyard-site, optional: true, items: [{key: ca.crt, path: ca.crt}]}
  {{- end }}
{{- end -}}

{{- define "tuneyard.mounts" -}}
- {name: work, mountPath: /work}
- {name: tmp, mountPath: /tmp}
- {name: values, mountPath: /etc/tuneyard/values, readOnly: true}
- {name: ca, mountPath: /etc/tuneyard/ca, readOnly: true}
{{- end -}}

{{- /* What every process reads of its environment */ -}}
{{- define "tuneyard.siteEnv" -}}
- {name: HOME, value: /work/home}
- {name: TUNEYARD_TERMINATION_LOG, value: /dev/termination-log}
- {name: TUNEYARD_CA_FILE, value: /etc/tuneyard/ca/ca.crt}
{{- range tuple "HF_ENDPOINT" "HTTP_PROXY" "HTTPS_PROXY" "NO_PROXY" "TUNEYARD_DEVICE" "OMP_NUM_THREADS" "NCCL_SOCKET_IFNAME" "GLOO_SOCKET_IFNAME" }}
- {name: {{ . }}, valueFrom: {configMapKeyRef: {name: tuneyard-site, key: {{ . }}, optional: true}}}
{{- end }}
{{- end -}}

{{- /* One variable of a Secret: list name secret key optional */ -}}
{{- define "tuneyard.secretEnv" -}}
- name: {{ index . 0 }}
  valueFrom: {secretKeyRef: {name: {{ index . 1 | toJson }}, key: {{ index . 2 | toJson }}{{ if index . 3 }}, optional: true{{ end }}}}
{{- end -}}

{{- /* The user's own variables, a text or {name, key} of a Secret, in either of their two forms: list $ "env" */ -}}
{{- define "tuneyard.ownEnv" -}}
{{- $given := include "tuneyard.get" . | fromJsonArray | first -}}
{{- $list := list -}}
{{- if kindIs "slice" $given -}}
{{- $list = $given -}}
{{- else -}}
{{- range $name, $value := $given -}}
{{- if kindIs "map" $value -}}
{{- $list = append $list (dict "name" $name "valueFrom" (dict "secretKeyRef" $value)) -}}
{{- else if not (kindIs "invalid" $value) -}}
{{- $list = append $list (dict "name" $name "value" $value) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- $env := list -}}
{{- range $list -}}
{{- $value := index . "value" -}}
{{- if hasKey . "valueFrom" -}}
{{- $env = append $env (dict "name" .name "valueFrom" .valueFrom) -}}
{{- else -}}
{{- if and (kindIs "float64" $value) (eq (floor (float64 (kindIs "float64" $value | ternary $value 0))) $value) -}}{{- $value = printf "%.0f" $value -}}{{- end -}}
{{- $env = append $env (dict "name" .name "value" (kindIs "invalid" $value | ternary "" (toString $value))) -}}
{{- end -}}
{{- end -}}
{{- range $env }}
- {{ toJson . }}
{{- end -}}
{{- end -}}

{{- /* resources of the main container: list $ accelerators */ -}}
{{- define "tuneyard.resources" -}}
{{- $root := index . 0 -}}
{{- $requests := include "tuneyard.texts" (list $root "resources" "requests") | fromJson -}}
{{- $limits := include "tuneyard.texts" (list $root "resources" "limits") | fromJson -}}
{{- if gt (len .) 1 -}}
{{- $resource := include "tuneyard.plain" (list $root "gpuResource") -}}
{{- if $resource -}}
{{- $_ := set $requests $resource (index . 1 | toString) -}}
{{- $_ := set $limits $resource (index . 1 | toString) -}}
{{- end -}}
{{- end -}}
{{- dict "requests" $requests "limits" $limits | toJson -}}
{{- end -}}

{{- /* What a workload may connect to and who to it: list $ ports */ -}}
{{- define "tuneyard.networkPolicy" -}}
{{- $root := index . 0 -}}
{{- $ports := index . 1 -}}
podSelector: {matchLabels: {{ include "tuneyard.selector" $root }}}
policyTypes: [Ingress, Egress]
ingress:
  {{- $from := include "tuneyard.get" (list $root "networkPolicy" "ingressFrom") | fromJsonArray | first }}
  {{- if $ports }}
  - from: {{ toJson ($from | default (list (dict "podSelector" dict))) }}
    ports: [{{- range $index, $port := $ports }}{{ if $index }}, {{ end }}{port: {{ $port }}, protocol: TCP}{{ end }}]
  {{- end }}
  - from: [{podSelector: {matchLabels: {{ include "tuneyard.selector" $root }}}}]
egress:
  {{- $to := include "tuneyard.get" (list $root "networkPolicy" "egressTo") | fromJsonArray | first }}
  {{- if $to }}
  - to: {{ toJson $to }}
  - ports: [{port: 53, protocol: UDP}, {port: 53, protocol: TCP}]
  - to: [{podSelector: {matchLabels: {{ include "tuneyard.selector" $root }}}}]
  {{- else }}
  - {}
  {{- end }}
{{- end -}}
