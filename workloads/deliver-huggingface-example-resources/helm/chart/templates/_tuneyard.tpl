{{- /*
What the charts share: names, labels, values as one document, volumes, environment, security.
scripts/schemas.py copies this file into every chart, since a chart has to stand alone; change it in workloads/.

A null is the key's default. Texts of users go through tuneyard.json, which neither changes nor interprets them: toYaml
and plain toJson do (YAML folds U+0085, refuses U+007F, merges "<<").
*/ -}}

{{- /* Anything as JSON that is YAML too and means the same in both */ -}}
{{- define "tuneyard.json" -}}
{{- $text := toRawJson . -}}
{{- if regexMatch "[\\x{7f}-\\x{9f}\\x{feff}\\x{fffe}\\x{ffff}]" $text -}}
{{- range concat (untilStep 127 160 1) (list 65279 65534 65535) -}}
{{- $text = replace (printf "%c" (int .)) (printf "\\u%04x" (int .)) $text -}}
{{- end -}}
{{- end -}}
{{- $text -}}
{{- end -}}

{{- /* A single value as text, as the models of values write it */ -}}
{{- define "tuneyard.scalar" -}}
{{- if kindIs "float64" . -}}
{{- if eq (floor .) . -}}{{- printf "%.0f" . -}}{{- else -}}{{- toString . -}}{{- end -}}
{{- else if not (kindIs "invalid" .) -}}
{{- toString . -}}
{{- end -}}
{{- end -}}

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
{{- list (kindIs "invalid" $value | ternary $default $value) | toRawJson -}}
{{- end -}}

{{- /* A key as text without quotes, for conditions and names */ -}}
{{- define "tuneyard.plain" -}}
{{- include "tuneyard.get" . | fromJsonArray | first | include "tuneyard.scalar" -}}
{{- end -}}

{{- /* A key as text, as a JSON string */ -}}
{{- define "tuneyard.text" -}}
{{- include "tuneyard.plain" . | include "tuneyard.json" -}}
{{- end -}}

{{- /* A key as a whole number of at least one; of zero too where the key counts seconds that may be none */ -}}
{{- define "tuneyard.whole" -}}
{{- $text := include "tuneyard.plain" . | trim -}}
{{- $number := regexReplaceAll "^\\+?0*([0-9]+)(\\.0*)?$" $text "${1}" -}}
{{- $least := has (last .) (list "waitSeconds" "ttlSecondsAfterFinished") | ternary 0 1 -}}
{{- if or (not (regexMatch "^[0-9]{1,9}$" $number)) (lt (atoi $number) $least) -}}
{{- fail (printf "%s is %q: a whole number from %d to 999999999 is meant" (rest . | join ".") $text $least) -}}
{{- end -}}
{{- $number -}}
{{- end -}}

{{- /* "true" or nothing */ -}}
{{- define "tuneyard.truth" -}}
{{- if has (include "tuneyard.plain" . | lower) (list "true" "yes" "on" "1" "t" "y") -}}true{{- end -}}
{{- end -}}

{{- /* A map without its nulls as JSON; {} where there is none */ -}}
{{- define "tuneyard.map" -}}
{{- $clean := dict -}}
{{- range $key, $item := include "tuneyard.get" . | fromJsonArray | first -}}
{{- if not (kindIs "invalid" $item) -}}{{- $_ := set $clean $key $item -}}{{- end -}}
{{- end -}}
{{- include "tuneyard.json" $clean -}}
{{- end -}}

{{- /* A map of texts without its nulls as JSON */ -}}
{{- define "tuneyard.texts" -}}
{{- $clean := dict -}}
{{- range $key, $item := include "tuneyard.get" . | fromJsonArray | first -}}
{{- if not (kindIs "invalid" $item) -}}{{- $_ := set $clean $key (include "tuneyard.scalar" $item) -}}{{- end -}}
{{- end -}}
{{- include "tuneyard.json" $clean -}}
{{- end -}}

{{- /* A name of at most so many characters that two releases never share: list text length */ -}}
{{- define "tuneyard.shortened" -}}
{{- $text := index . 0 -}}
{{- $length := index . 1 | int -}}
{{- if le (len $text) $length -}}
{{- $text -}}
{{- else -}}
{{- printf "%s-%s" ($text | trunc (int (sub $length 9)) | trimSuffix "-" | trimSuffix ".") (sha256sum $text | trunc 8) -}}
{{- end -}}
{{- end -}}

{{- /* Helm reads numbers of files as 64-bit floats: what doesn't fit would silently be another number */ -}}
{{- define "tuneyard.numbersFit" -}}
{{- $where := index . 0 -}}
{{- $value := index . 1 -}}
{{- if kindIs "map" $value -}}
{{- range $key, $item := $value -}}{{- include "tuneyard.numbersFit" (list (printf "%s.%s" $where $key) $item) -}}{{- end -}}
{{- else if kindIs "slice" $value -}}
{{- range $index, $item := $value -}}{{- include "tuneyard.numbersFit" (list (printf "%s[%d]" $where $index) $item) -}}{{- end -}}
{{- else if or (kindIs "float64" $value) (kindIs "int64" $value) -}}
{{- $number := float64 $value -}}
{{- if or (ge $number 9007199254740992.0) (le $number -9007199254740992.0) -}}
{{- fail (printf "%s is too large a number for Helm to keep exactly: write it as text, in quotes or with --set-string" (trimPrefix "." $where)) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- /* The merged values as one JSON document, for the process to read */ -}}
{{- define "tuneyard.values" -}}
{{- include "tuneyard.numbersFit" (list "" .Values) -}}
{{- include "tuneyard.document" . | fromJson | include "tuneyard.json" -}}
{{- end -}}

{{- define "tuneyard.valuesName" -}}
{{- printf "%s-values-%s" (include "tuneyard.fullname" .) (include "tuneyard.values" . | sha256sum | trunc 10) -}}
{{- end -}}

{{- /* What an object is found by, and what never changes */ -}}
{{- define "tuneyard.selector" -}}
{{- dict "app.kubernetes.io/name" .Chart.Name "app.kubernetes.io/instance" .Release.Name | toJson -}}
{{- end -}}

{{- /* The user's own labels, those of the queue among them, as JSON */ -}}
{{- define "tuneyard.givenLabels" -}}
{{- $given := dict -}}
{{- if hasKey (include "tuneyard.defaults" . | fromJson) "labels" -}}
{{- $given = include "tuneyard.texts" (list . "labels") | fromJson -}}
{{- range $key, $value := include "tuneyard.texts" (list . "metadata" "labels") | fromJson -}}
{{- $_ := set $given $key $value -}}
{{- end -}}
{{- $_ := include "tuneyard.queueLabel" (list . $given "queueName" "kueue.x-k8s.io/queue-name") -}}
{{- $_ := include "tuneyard.queueLabel" (list . $given "priorityClass" "kueue.x-k8s.io/priority-class") -}}
{{- end -}}
{{- toJson $given -}}
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

{{- /* Labels of every object, as JSON */ -}}
{{- define "tuneyard.labels" -}}
{{- $labels := include "tuneyard.selector" . | fromJson -}}
{{- $_ := set $labels "app.kubernetes.io/version" .Chart.AppVersion -}}
{{- $_ := set $labels "app.kubernetes.io/component" (include "tuneyard.component" .) -}}
{{- $_ := set $labels "app.kubernetes.io/part-of" "tuneyard" -}}
{{- $_ := set $labels "app.kubernetes.io/managed-by" .Release.Service -}}
{{- $_ := set $labels "helm.sh/chart" (printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-") -}}
{{- range $key, $value := include "tuneyard.givenLabels" . | fromJson -}}
{{- if and (hasKey $labels $key) (ne $value (get $labels $key)) -}}
{{- fail (printf "labels[%q] is %q: the chart sets it itself, and runs are found by it" $key $value) -}}
{{- end -}}
{{- $_ := set $labels $key $value -}}
{{- end -}}
{{- include "tuneyard.json" $labels -}}
{{- end -}}

{{- /* Labels of a Job's pods: Kueue queues the Job, not them */ -}}
{{- define "tuneyard.podLabels" -}}
{{- $labels := dict -}}
{{- range $key, $value := include "tuneyard.labels" . | fromJson -}}
{{- if not (hasPrefix "kueue.x-k8s.io/" $key) -}}{{- $_ := set $labels $key $value -}}{{- end -}}
{{- end -}}
{{- include "tuneyard.json" $labels -}}
{{- end -}}

{{- /* securityContext of the pod */ -}}
{{- define "tuneyard.podSecurity" -}}
{{- $given := include "tuneyard.map" (list . "podSecurityContext") | fromJson -}}
{{- $strict := dict "runAsNonRoot" true "runAsUser" 1000 "runAsGroup" 1000 "fsGroup" 1000 "fsGroupChangePolicy" "OnRootMismatch" -}}
{{- $_ := set $strict "seccompProfile" (dict "type" "RuntimeDefault") -}}
{{- include "tuneyard.json" ($given | default $strict) -}}
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
serviceAccountName: {{ include "tuneyard.json" . }}
{{- end }}
{{- $secrets := list }}
{{- range include "tuneyard.get" (list . "imagePullSecrets") | fromJsonArray | first }}
{{- $secrets = append $secrets (dict "name" (include "tuneyard.scalar" .)) }}
{{- end }}
{{- with $secrets }}
imagePullSecrets: {{ include "tuneyard.json" . }}
{{- end }}
{{- with include "tuneyard.texts" (list . "nodeSelector") | fromJson }}
nodeSelector: {{ include "tuneyard.json" . }}
{{- end }}
{{- with include "tuneyard.get" (list . "tolerations") | fromJsonArray | first }}
tolerations: {{ include "tuneyard.json" . }}
{{- end }}
{{- with include "tuneyard.map" (list . "affinity") | fromJson }}
affinity: {{ include "tuneyard.json" . }}
{{- end }}
{{- end -}}

{{- /* A work volume: list claim class size */ -}}
{{- define "tuneyard.workVolume" -}}
{{- $claim := index . 0 -}}
{{- $class := index . 1 -}}
{{- $size := index . 2 -}}
{{- if $claim -}}
{{- dict "name" "work" "persistentVolumeClaim" (dict "claimName" $claim) | include "tuneyard.json" -}}
{{- else if $class -}}
{{- $spec := dict "accessModes" (list "ReadWriteOnce") "storageClassName" $class "resources" (dict "requests" (dict "storage" $size)) -}}
{{- dict "name" "work" "ephemeral" (dict "volumeClaimTemplate" (dict "spec" $spec)) | include "tuneyard.json" -}}
{{- else -}}
{{- dict "name" "work" "emptyDir" (dict "sizeLimit" $size) | include "tuneyard.json" -}}
{{- end -}}
{{- end -}}

{{- /* The work volume's mount. Runs that share a named claim have a folder each: list $ claim path folder [readOnly] */ -}}
{{- define "tuneyard.workMount" -}}
{{- $root := index . 0 -}}
{{- $folder := index . 3 -}}
{{- $mount := dict "name" "work" "mountPath" (index . 2) -}}
{{- if index . 1 -}}
{{- $own := include "tuneyard.fullname" $root -}}
{{- if and (hasKey (include "tuneyard.defaults" $root | fromJson) "nodes") (ne (include "tuneyard.whole" (list $root "nodes")) "1") -}}
{{- $_ := set $mount "subPathExpr" (printf "%s-$(JOB_COMPLETION_INDEX)" $own) -}}
{{- else -}}
{{- $_ := set $mount "subPath" (list $own $folder | compact | join "/") -}}
{{- end -}}
{{- else if $folder -}}
{{- $_ := set $mount "subPath" $folder -}}
{{- end -}}
{{- if gt (len .) 4 -}}{{- $_ := set $mount "readOnly" true -}}{{- end -}}
{{- include "tuneyard.json" $mount -}}
{{- end -}}

{{- /* Volumes besides the work volume: values, authorities, /tmp */ -}}
{{- define "tuneyard.volumes" -}}
- name: values
  configMap: {name: {{ include "tuneyard.valuesName" . | include "tuneyard.json" }}}
- name: tmp
  emptyDir: {}
- name: ca
  projected:
    sources:
      {{- $bundle := include "tuneyard.plain" (list . "bucketCABundle" "configMap") }}
      {{- if $bundle }}
      - configMap: {name: {{ include "tuneyard.json" $bundle }}, items: [{key: {{ include "tuneyard.text" (list . "bucketCABundle" "key") }}, path: ca.crt}]}
      {{- else }}
      - configMap: {name: tuneyard-site, optional: true, items: [{key: ca.crt, path: ca.crt}]}
      {{- end }}
{{- end -}}

{{- define "tuneyard.mounts" -}}
- {name: tmp, mountPath: /tmp}
{{ include "tuneyard.readOnlyMounts" . }}
{{- end -}}

{{- /* What containers of a pod may share: nobody writes it */ -}}
{{- define "tuneyard.readOnlyMounts" -}}
- {name: values, mountPath: /etc/tuneyard/values, readOnly: true}
- {name: ca, mountPath: /etc/tuneyard/ca, readOnly: true}
{{- end -}}

{{- /* What every process reads of its environment */ -}}
{{- define "tuneyard.siteEnv" -}}
- {name: HOME, value: /work/home}
- {name: TUNEYARD_CHART, value: {{ include "tuneyard.component" . }}}
- {name: TUNEYARD_TERMINATION_LOG, value: /dev/termination-log}
- {name: TUNEYARD_CA_FILE, value: /etc/tuneyard/ca/ca.crt}
{{- range tuple "HF_ENDPOINT" "HTTP_PROXY" "HTTPS_PROXY" "NO_PROXY" "TUNEYARD_DEVICE" "OMP_NUM_THREADS" "NCCL_SOCKET_IFNAME" "GLOO_SOCKET_IFNAME" }}
- {name: {{ . }}, valueFrom: {configMapKeyRef: {name: tuneyard-site, key: {{ . }}, optional: true}}}
{{- end }}
{{- end -}}

{{- /* One variable of a Secret: list name secret key optional */ -}}
{{- define "tuneyard.secretEnv" -}}
{{- if index . 1 -}}
- name: {{ index . 0 }}
  valueFrom: {secretKeyRef: {name: {{ index . 1 | include "tuneyard.json" }}, key: {{ index . 2 | include "tuneyard.json" }}{{ if index . 3 }}, optional: true{{ end }}}}
{{- end -}}
{{- end -}}

{{- /* The user's own variables by name, each a text or {name, key} of a Secret, from either of their forms: list $ "env" */ -}}
{{- define "tuneyard.givenEnv" -}}
{{- $given := include "tuneyard.get" . | fromJsonArray | first -}}
{{- $where := last . -}}
{{- $env := dict -}}
{{- if kindIs "slice" $given -}}
{{- range $given -}}
{{- if or (not (kindIs "map" .)) (not (get . "name")) -}}{{- fail (printf "%s: each of a list needs a name" $where) -}}{{- end -}}
{{- $name := include "tuneyard.scalar" (get . "name") -}}
{{- $source := get . "valueFrom" | default dict -}}
{{- if omit $source "secretKeyRef" -}}{{- fail (printf "%s: %s comes from what isn't a Secret; a text or a secretKeyRef is meant" $where $name) -}}{{- end -}}
{{- $_ := set $env $name (get $source "secretKeyRef" | default (hasKey . "value" | ternary (index . "value") "")) -}}
{{- end -}}
{{- else -}}
{{- $env = $given -}}
{{- end -}}
{{- $own := dict -}}
{{- range $name, $value := $env -}}
{{- if kindIs "map" $value -}}
{{- if or (kindIs "bool" (get $value "name")) (kindIs "bool" (get $value "key")) -}}{{- fail (printf "%s.%s: the Secret's name and key are texts: put them in quotes" $where $name) -}}{{- end -}}
{{- $_ := set $own $name (dict "name" (include "tuneyard.scalar" (get $value "name")) "key" (include "tuneyard.scalar" (get $value "key"))) -}}
{{- else if not (kindIs "invalid" $value) -}}
{{- if eq (toString $value) "(not shown)" -}}{{- fail (printf "%s.%s was printed without its text: give it again" $where $name) -}}{{- end -}}
{{- $_ := set $own $name (include "tuneyard.scalar" $value) -}}
{{- end -}}
{{- end -}}
{{- include "tuneyard.json" $own -}}
{{- end -}}

{{- /* The texts among them that may be secrets, by name: list $ "env" */ -}}
{{- define "tuneyard.hiddenEnv" -}}
{{- $shown := include "tuneyard.shownEnv" . | fromJsonArray -}}
{{- $hidden := dict -}}
{{- range $name, $value := include "tuneyard.givenEnv" . | fromJson -}}
{{- if and (kindIs "string" $value) (not (has $name $shown)) -}}{{- $_ := set $hidden $name $value -}}{{- end -}}
{{- end -}}
{{- include "tuneyard.json" $hidden -}}
{{- end -}}

{{- /* The Secret that holds those: list $ "env" */ -}}
{{- define "tuneyard.envSecretName" -}}
{{- printf "%s-env-%s" (include "tuneyard.fullname" (first .)) (include "tuneyard.hiddenEnv" . | sha256sum | trunc 10) -}}
{{- end -}}

{{- /* The user's own variables with a reference in place of each text that may be a secret: list $ "env" */ -}}
{{- define "tuneyard.shownValues" -}}
{{- $own := include "tuneyard.givenEnv" . | fromJson -}}
{{- $secret := include "tuneyard.envSecretName" . -}}
{{- range $name, $_ := include "tuneyard.hiddenEnv" . | fromJson -}}
{{- $_ := set $own $name (dict "name" $secret "key" $name) -}}
{{- end -}}
{{- include "tuneyard.json" $own -}}
{{- end -}}

{{- /* The same as entries of a container, by name: list $ "env" */ -}}
{{- define "tuneyard.ownEnv" -}}
{{- $own := dict -}}
{{- range $name, $value := include "tuneyard.shownValues" . | fromJson -}}
{{- if kindIs "map" $value -}}
{{- $_ := set $own $name (dict "name" $name "valueFrom" (dict "secretKeyRef" $value)) -}}
{{- else -}}
{{- /* Kubernetes reads $(NAME) as another variable, and $$ as $ */ -}}
{{- $_ := set $own $name (dict "name" $name "value" ($value | replace "$" "$$")) -}}
{{- end -}}
{{- end -}}
{{- include "tuneyard.json" $own -}}
{{- end -}}

{{- /* What holds the texts of variables: list $ "env" namespace */ -}}
{{- define "tuneyard.envSecret" -}}
{{- $root := index . 0 -}}
{{- $env := slice . 0 2 -}}
{{- $hidden := include "tuneyard.hiddenEnv" $env | fromJson -}}
{{- if $hidden -}}
{{- $data := dict -}}
{{- range $name, $text := $hidden -}}{{- $_ := set $data $name (b64enc $text) -}}{{- end -}}
apiVersion: v1
kind: Secret
metadata:
  name: {{ include "tuneyard.envSecretName" $env | include "tuneyard.json" }}
  {{- with index . 2 }}
  namespace: {{ include "tuneyard.json" . }}
  {{- end }}
  labels: {{ include "tuneyard.labels" $root }}
immutable: true
data: {{ include "tuneyard.json" $data }}
{{- end -}}
{{- end -}}

{{- /* A container's whole environment, each name once: list $ key-of-the-user's-own lines-of-the-chart */ -}}
{{- define "tuneyard.env" -}}
{{- $own := dict -}}
{{- if index . 1 -}}{{- $own = include "tuneyard.ownEnv" (list (index . 0) (index . 1)) | fromJson -}}{{- end -}}
{{- $fixed := list "JOB_COMPLETION_INDEX" "TUNEYARD_CHART" "TUNEYARD_TERMINATION_LOG" "TUNEYARD_CA_FILE" "TUNEYARD_WAIT_SECONDS" "TUNEYARD_NODES" "TUNEYARD_NODE_SERVICE" "TUNEYARD_NODE_ADDRESS" "TUNEYARD_NODES_KEY" "TUNEYARD_API_KEY" -}}
{{- $where := index . 1 -}}
{{- range $name, $_ := $own -}}
{{- if has $name $fixed -}}{{- fail (printf "%s.%s is set by the chart itself" $where $name) -}}{{- end -}}
{{- end -}}
{{- range index . 2 | fromYamlArray }}
{{- if not (hasKey $own .name) }}
- {{ include "tuneyard.json" . }}
{{- end }}
{{- end }}
{{- range $own }}
- {{ include "tuneyard.json" . }}
{{- end }}
{{- end -}}

{{- /* resources of a container: list $ accelerators, or list $ for none */ -}}
{{- define "tuneyard.resources" -}}
{{- $root := index . 0 -}}
{{- $amounts := dict -}}
{{- range $kind := list "requests" "limits" -}}
{{- $_ := set $amounts $kind (include "tuneyard.texts" (list $root "resources" $kind) | fromJson) -}}
{{- end -}}
{{- if gt (len .) 1 -}}
{{- $resource := include "tuneyard.plain" (list $root "gpuResource") -}}
{{- $many := index . 1 | toString -}}
{{- if $resource -}}
{{- range $kind, $given := $amounts -}}
{{- if and (hasKey $given $resource) (ne (get $given $resource) $many) -}}
{{- fail (printf "resources.%s[%q] is %q, and %s accelerators are asked for: they are counted by their own key alone" $kind $resource (get $given $resource) $many) -}}
{{- end -}}
{{- $_ := set $given $resource $many -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- include "tuneyard.json" $amounts -}}
{{- end -}}

{{- /* What a workload may connect to, and who to it: list $ ports host-of-the-store */ -}}
{{- define "tuneyard.networkPolicy" -}}
{{- $root := index . 0 -}}
{{- $ports := index . 1 -}}
{{- $host := index . 2 -}}
{{- $own := list (dict "podSelector" (dict "matchLabels" (include "tuneyard.selector" $root | fromJson))) | toJson -}}
{{- $outside := list -}}
{{- range include "tuneyard.get" (list $root "networkPolicy" "egressPorts") | fromJsonArray | first -}}
{{- $outside = append $outside (include "tuneyard.scalar" . | trim | trimPrefix "+" | trimSuffix ".0" | atoi) -}}
{{- end -}}
{{- if hasPrefix "http" $host -}}
{{- $port := regexFind "^https?://[^/]*:[0-9]+" $host | regexFind "[0-9]+$" -}}
{{- $outside = append $outside ($port | default (hasPrefix "https" $host | ternary "443" "80") | atoi) -}}
{{- end -}}
podSelector: {matchLabels: {{ include "tuneyard.selector" $root }}}
policyTypes: [Ingress, Egress]
ingress:
  {{- if $ports }}
  - from: {{ include "tuneyard.get" (list $root "networkPolicy" "ingressFrom") | fromJsonArray | first | default (list (dict "podSelector" dict)) | include "tuneyard.json" }}
    ports: [{{- range $index, $port := $ports }}{{ if $index }}, {{ end }}{port: {{ $port }}, protocol: TCP}{{ end }}]
  {{- end }}
  - from: {{ $own }}
egress:
  - to: {{ $own }}
  - ports: [{port: 53, protocol: UDP}, {port: 53, protocol: TCP}]
  {{- with $outside | uniq }}
  - ports: [{{- range $index, $port := . }}{{ if $index }}, {{ end }}{port: {{ $port }}, protocol: TCP}{{ end }}]
  {{- end }}
{{- end -}}
