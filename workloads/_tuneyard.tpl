{{- /*
Helpers that the charts share: values, names and labels, pods, environment, network.
scripts/schemas.py copies this file into each chart. `helm template` renders a folder without any build step, which rules
out a library chart, and Helm logs a line for each symbolic link. Edit the original in workloads/.

A template or helper that reads values resolves them first and then names keys as in values.yaml:

    {{- $v := include "tuneyard.resolved" . | fromJson }}
    replicas: {{ $v.replicas }}

Text that users write is printed by tuneyard.json, which neither changes nor interprets it. toYaml and toJson do: YAML
folds U+0085, refuses U+007F and merges "<<".
*/ -}}

{{- /* JSON that is also YAML with the same meaning */ -}}
{{- define "tuneyard.json" -}}
{{- $text := toRawJson . -}}
{{- if regexMatch "[\\x{7f}-\\x{9f}\\x{feff}\\x{fffe}\\x{ffff}]" $text -}}
{{- range concat (untilStep 127 160 1) (list 65279 65534 65535) -}}
{{- $text = replace (printf "%c" (int .)) (printf "\\u%04x" (int .)) $text -}}
{{- end -}}
{{- end -}}
{{- $text -}}
{{- end -}}

{{- /* A scalar as text, formatted as the Python models format it */ -}}
{{- define "tuneyard.scalar" -}}
{{- if and (kindIs "float64" .) (eq (floor .) .) -}}
{{- printf "%.0f" . -}}
{{- else if not (kindIs "invalid" .) -}}
{{- toString . -}}
{{- end -}}
{{- end -}}

{{- /*
The values as JSON, with each null replaced by its default and each scalar converted to its default's type ("yes" to
true, 42 to "42"). Whole numbers are decimal text ("8.0" to "8"), since Go prints the float 1000000 as 1e+06.
Computed once for a chart and kept beside .Values, which stays as the user wrote it.
*/ -}}
{{- define "tuneyard.resolved" -}}
{{- if not (hasKey . "TuneyardResolved") -}}
{{- $v := include "tuneyard.merged" (list .Values (include "tuneyard.defaults" . | fromJson)) | fromJson -}}
{{- range $key, $minimum := include "tuneyard.minimums" . | fromJson -}}
{{- $value := index $v $key -}}
{{- if not (kindIs "invalid" $value) -}}
{{- $_ := set $v $key (include "tuneyard.wholeNumber" (list $key $value $minimum)) -}}
{{- end -}}
{{- end -}}
{{- $_ := set . "TuneyardResolved" (toRawJson $v) -}}
{{- end -}}
{{- .TuneyardResolved -}}
{{- end -}}

{{- /* Values merged over defaults as JSON, without nulls: list values defaults */ -}}
{{- define "tuneyard.merged" -}}
{{- $values := index . 0 -}}
{{- $defaults := index . 1 -}}
{{- $merged := dict -}}
{{- range $key := concat (keys $values) (keys $defaults) | uniq -}}
{{- $default := index $defaults $key -}}
{{- $value := index $values $key -}}
{{- if kindIs "invalid" $value -}}{{- $value = $default -}}{{- end -}}
{{- if and (kindIs "map" $value) (kindIs "map" $default) -}}
{{- $_ := set $merged $key (include "tuneyard.merged" (list $value $default) | fromJson) -}}
{{- else if kindIs "bool" $default -}}
{{- $_ := set $merged $key (has (include "tuneyard.scalar" $value | lower) (list "true" "yes" "on" "1" "t" "y")) -}}
{{- else if kindIs "string" $default -}}
{{- $_ := set $merged $key (include "tuneyard.scalar" $value) -}}
{{- else if not (kindIs "invalid" $value) -}}
{{- $_ := set $merged $key $value -}}
{{- end -}}
{{- end -}}
{{- toRawJson $merged -}}
{{- end -}}

{{- /* A whole number as decimal text: list key value minimum */ -}}
{{- define "tuneyard.wholeNumber" -}}
{{- $text := include "tuneyard.scalar" (index . 1) | trim -}}
{{- $minimum := index . 2 | int -}}
{{- $number := regexReplaceAll "^\\+?0*([0-9]+)(\\.0*)?$" $text "${1}" -}}
{{- if or (not (regexMatch "^[0-9]{1,9}$" $number)) (lt (atoi $number) $minimum) -}}
{{- fail (printf "Invalid value '%s' for '%s'. Allowed: whole numbers from %d to 999999999." $text (index . 0) $minimum) -}}
{{- end -}}
{{- $number -}}
{{- end -}}

{{- /* A map of scalars as JSON, each scalar as text, without nulls */ -}}
{{- define "tuneyard.texts" -}}
{{- $texts := dict -}}
{{- range $key, $item := . -}}
{{- if not (kindIs "invalid" $item) -}}{{- $_ := set $texts $key (include "tuneyard.scalar" $item) -}}{{- end -}}
{{- end -}}
{{- include "tuneyard.json" $texts -}}
{{- end -}}

{{- /* Helm reads numbers from files as 64-bit floats; a number that a float can't hold exactly would change silently */ -}}
{{- define "tuneyard.numbersFit" -}}
{{- $path := index . 0 -}}
{{- $value := index . 1 -}}
{{- if kindIs "map" $value -}}
{{- range $key, $item := $value -}}{{- include "tuneyard.numbersFit" (list (printf "%s.%s" $path $key) $item) -}}{{- end -}}
{{- else if kindIs "slice" $value -}}
{{- range $index, $item := $value -}}{{- include "tuneyard.numbersFit" (list (printf "%s[%d]" $path $index) $item) -}}{{- end -}}
{{- else if or (kindIs "float64" $value) (kindIs "int64" $value) -}}
{{- $number := float64 $value -}}
{{- if or (ge $number 9007199254740992.0) (le $number -9007199254740992.0) -}}
{{- fail (printf "The number at '%s' is too large for Helm to keep exactly. Write it as text: in quotes, or with --set-string." (trimPrefix "." $path)) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- /* The values file that the container's process reads, as JSON */ -}}
{{- define "tuneyard.values" -}}
{{- include "tuneyard.numbersFit" (list "" .Values) -}}
{{- include "tuneyard.document" . | fromJson | include "tuneyard.json" -}}
{{- end -}}

{{- define "tuneyard.valuesName" -}}
{{- printf "%s-values-%s" (include "tuneyard.fullname" .) (include "tuneyard.values" . | sha256sum | trunc 10) -}}
{{- end -}}

{{- /* A name cut to a length, with a hash so that two releases never share it: list name length */ -}}
{{- define "tuneyard.shortened" -}}
{{- $name := index . 0 -}}
{{- $length := index . 1 | int -}}
{{- if le (len $name) $length -}}
{{- $name -}}
{{- else -}}
{{- printf "%s-%s" ($name | trunc (int (sub $length 9)) | trimSuffix "-" | trimSuffix ".") (sha256sum $name | trunc 8) -}}
{{- end -}}
{{- end -}}

{{- /* Selector labels as JSON; they never change */ -}}
{{- define "tuneyard.selector" -}}
{{- dict "app.kubernetes.io/name" .Chart.Name "app.kubernetes.io/instance" .Release.Name | toJson -}}
{{- end -}}

{{- /* Labels that the values set, Kueue's among them, as JSON */ -}}
{{- define "tuneyard.givenLabels" -}}
{{- $v := include "tuneyard.resolved" . | fromJson -}}
{{- $given := include "tuneyard.texts" $v.labels | fromJson -}}
{{- range $key, $value := include "tuneyard.texts" (dig "metadata" "labels" dict $v) | fromJson -}}
{{- $_ := set $given $key $value -}}
{{- end -}}
{{- range list (list "queueName" "kueue.x-k8s.io/queue-name") (list "priorityClass" "kueue.x-k8s.io/priority-class") -}}
{{- $key := index . 0 -}}
{{- $label := index . 1 -}}
{{- with index $v $key -}}
{{- if and (hasKey $given $label) (ne . (get $given $label)) -}}
{{- fail (printf "Conflicting values: '%s' is '%s' and the label '%s' is '%s'. Both set that label; set one of them." $key . $label (get $given $label)) -}}
{{- end -}}
{{- $_ := set $given $label . -}}
{{- end -}}
{{- end -}}
{{- toJson $given -}}
{{- end -}}

{{- /* Labels of every object as JSON */ -}}
{{- define "tuneyard.labels" -}}
{{- $labels := include "tuneyard.selector" . | fromJson -}}
{{- $_ := set $labels "app.kubernetes.io/version" .Chart.AppVersion -}}
{{- $_ := set $labels "app.kubernetes.io/component" (include "tuneyard.component" .) -}}
{{- $_ := set $labels "app.kubernetes.io/part-of" "tuneyard" -}}
{{- $_ := set $labels "app.kubernetes.io/managed-by" .Release.Service -}}
{{- $_ := set $labels "helm.sh/chart" (printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-") -}}
{{- range $key, $value := include "tuneyard.givenLabels" . | fromJson -}}
{{- if and (hasKey $labels $key) (ne $value (get $labels $key)) -}}
{{- fail (printf "Invalid value '%s' for the label '%s'. The chart sets this label to identify its objects; use another one." $value $key) -}}
{{- end -}}
{{- $_ := set $labels $key $value -}}
{{- end -}}
{{- include "tuneyard.json" $labels -}}
{{- end -}}

{{- /* Labels of a Job's pods as JSON; Kueue queues the Job, not its pods */ -}}
{{- define "tuneyard.podLabels" -}}
{{- $labels := dict -}}
{{- range $key, $value := include "tuneyard.labels" . | fromJson -}}
{{- if not (hasPrefix "kueue.x-k8s.io/" $key) -}}{{- $_ := set $labels $key $value -}}{{- end -}}
{{- end -}}
{{- include "tuneyard.json" $labels -}}
{{- end -}}

{{- /* Pod fields that do not depend on the workload */ -}}
{{- define "tuneyard.pod" -}}
{{- $v := include "tuneyard.resolved" . | fromJson -}}
{{- $restricted := dict "runAsNonRoot" true "runAsUser" 1000 "runAsGroup" 1000 "fsGroup" 1000 "fsGroupChangePolicy" "OnRootMismatch" "seccompProfile" (dict "type" "RuntimeDefault") -}}
automountServiceAccountToken: false
enableServiceLinks: false
terminationGracePeriodSeconds: {{ $v.terminationGracePeriodSeconds }}
securityContext: {{ include "tuneyard.json" ($v.podSecurityContext | default $restricted) }}
{{- with $v.serviceAccountName }}
serviceAccountName: {{ include "tuneyard.json" . }}
{{- end }}
{{- with $v.imagePullSecrets }}
{{- $secrets := list }}
{{- range . }}
{{- $secrets = append $secrets (dict "name" (include "tuneyard.scalar" .)) }}
{{- end }}
imagePullSecrets: {{ include "tuneyard.json" $secrets }}
{{- end }}
{{- with $v.nodeSelector }}
nodeSelector: {{ include "tuneyard.texts" . }}
{{- end }}
{{- with $v.tolerations }}
tolerations: {{ include "tuneyard.json" . }}
{{- end }}
{{- with $v.affinity }}
affinity: {{ include "tuneyard.json" . }}
{{- end }}
{{- end -}}

{{- /* securityContext of a container */ -}}
{{- define "tuneyard.security" -}}
{{- dict "allowPrivilegeEscalation" false "readOnlyRootFilesystem" true "capabilities" (dict "drop" (list "ALL")) | toJson -}}
{{- end -}}

{{- /* resources of a container: list $ [key-of-the-number-of-accelerators] */ -}}
{{- define "tuneyard.resources" -}}
{{- $v := include "tuneyard.resolved" (index . 0) | fromJson -}}
{{- $amounts := dict "requests" (include "tuneyard.texts" $v.resources.requests | fromJson) "limits" (include "tuneyard.texts" $v.resources.limits | fromJson) -}}
{{- if and (gt (len .) 1) $v.gpuResource -}}
{{- $key := index . 1 -}}
{{- $count := index $v $key -}}
{{- range $kind := list "requests" "limits" -}}
{{- $given := get $amounts $kind -}}
{{- if and (hasKey $given $v.gpuResource) (ne (get $given $v.gpuResource) $count) -}}
{{- fail (printf "Conflicting values: 'resources.%s' sets '%s' to '%s' and '%s' is '%s'. Set the number of accelerators with '%s' only." $kind $v.gpuResource (get $given $v.gpuResource) $key $count $key) -}}
{{- end -}}
{{- $_ := set $given $v.gpuResource $count -}}
{{- end -}}
{{- end -}}
{{- include "tuneyard.json" $amounts -}}
{{- end -}}

{{- /* The work volume, from a claim, a storage class or the node's disk: dict "claim" "class" "size" */ -}}
{{- define "tuneyard.workVolume" -}}
{{- $volume := dict "name" "work" -}}
{{- if .claim -}}
{{- $_ := set $volume "persistentVolumeClaim" (dict "claimName" .claim) -}}
{{- else if .class -}}
{{- $spec := dict "accessModes" (list "ReadWriteOnce") "storageClassName" .class "resources" (dict "requests" (dict "storage" .size)) -}}
{{- $_ := set $volume "ephemeral" (dict "volumeClaimTemplate" (dict "spec" $spec)) -}}
{{- else -}}
{{- $_ := set $volume "emptyDir" (dict "sizeLimit" .size) -}}
{{- end -}}
{{- include "tuneyard.json" $volume -}}
{{- end -}}

{{- /*
A mount of the work volume. On a named claim, which runs may share, each run has a folder of its own:
dict "root" $ "claim" "path" ["folder" "readOnly"]
*/ -}}
{{- define "tuneyard.workMount" -}}
{{- $v := include "tuneyard.resolved" .root | fromJson -}}
{{- $mount := dict "name" "work" "mountPath" .path -}}
{{- if and .claim (ne ($v.nodes | default "1") "1") -}}
{{- $_ := set $mount "subPathExpr" (printf "%s-$(JOB_COMPLETION_INDEX)" (include "tuneyard.fullname" .root)) -}}
{{- else if .claim -}}
{{- $_ := set $mount "subPath" (list (include "tuneyard.fullname" .root) .folder | compact | join "/") -}}
{{- else if .folder -}}
{{- $_ := set $mount "subPath" .folder -}}
{{- end -}}
{{- if .readOnly -}}{{- $_ := set $mount "readOnly" true -}}{{- end -}}
{{- include "tuneyard.json" $mount -}}
{{- end -}}

{{- /* Volumes besides the work volume: the values file, /tmp, CA certificates */ -}}
{{- define "tuneyard.volumes" -}}
{{- $v := include "tuneyard.resolved" . | fromJson -}}
- name: values
  configMap: {name: {{ include "tuneyard.valuesName" . | include "tuneyard.json" }}}
- name: tmp
  emptyDir: {}
- name: ca
  projected:
    sources:
      {{- if $v.bucketCABundle.configMap }}
      - configMap: {name: {{ include "tuneyard.json" $v.bucketCABundle.configMap }}, items: [{key: {{ include "tuneyard.json" $v.bucketCABundle.key }}, path: ca.crt}]}
      {{- else }}
      - configMap: {name: tuneyard-site, optional: true, items: [{key: ca.crt, path: ca.crt}]}
      {{- end }}
{{- end -}}

{{- define "tuneyard.mounts" -}}
- {name: tmp, mountPath: /tmp}
{{ include "tuneyard.readOnlyMounts" . }}
{{- end -}}

{{- /* Mounts that containers of a pod may share, since none of them can write there */ -}}
{{- define "tuneyard.readOnlyMounts" -}}
- {name: values, mountPath: /etc/tuneyard/values, readOnly: true}
- {name: ca, mountPath: /etc/tuneyard/ca, readOnly: true}
{{- end -}}

{{- /* Variables of every container: fixed ones, and the namespace's settings from the ConfigMap tuneyard-site */ -}}
{{- define "tuneyard.siteEnv" -}}
- {name: HOME, value: /work/home}
- {name: TUNEYARD_CHART, value: {{ include "tuneyard.component" . }}}
- {name: TUNEYARD_TERMINATION_LOG, value: /dev/termination-log}
- {name: TUNEYARD_CA_FILE, value: /etc/tuneyard/ca/ca.crt}
{{- range include "tuneyard.siteVariables" . | fromJsonArray }}
- {name: {{ . }}, valueFrom: {configMapKeyRef: {name: tuneyard-site, key: {{ . }}, optional: true}}}
{{- end }}
{{- end -}}

{{- /* The variables that the ConfigMap tuneyard-site may set */ -}}
{{- define "tuneyard.siteVariables" -}}
["HF_ENDPOINT","HTTP_PROXY","HTTPS_PROXY","NO_PROXY","TUNEYARD_DEVICE","OMP_NUM_THREADS","NCCL_SOCKET_IFNAME","GLOO_SOCKET_IFNAME"]
{{- end -}}

{{- /* A variable from a Secret, or nothing where the Secret has no name: list variable secret key [optional] */ -}}
{{- define "tuneyard.secretEnv" -}}
{{- if index . 1 -}}
- name: {{ index . 0 }}
  valueFrom: {secretKeyRef: {name: {{ index . 1 | include "tuneyard.json" }}, key: {{ index . 2 | include "tuneyard.json" }}{{ if and (gt (len .) 3) (last .) }}, optional: true{{ end }}}}
{{- end -}}
{{- end -}}

{{- /* The user's variables by name as JSON, each a text or the {name, key} of a Secret, from a map or Kubernetes' list */ -}}
{{- define "tuneyard.givenEnv" -}}
{{- $v := include "tuneyard.resolved" . | fromJson -}}
{{- $key := include "tuneyard.envKey" . -}}
{{- $env := index $v $key -}}
{{- if kindIs "slice" $env -}}
{{- $byName := dict -}}
{{- range $env -}}
{{- if or (not (kindIs "map" .)) (not (get . "name")) -}}{{- fail (printf "Missing 'name' in an entry of '%s'. Each entry of the list needs one." $key) -}}{{- end -}}
{{- $name := include "tuneyard.scalar" .name -}}
{{- $source := .valueFrom | default dict -}}
{{- if omit $source "secretKeyRef" -}}{{- fail (printf "Invalid source of the variable '%s' in '%s'. Allowed: a text (value) or a Secret (valueFrom.secretKeyRef)." $name $key) -}}{{- end -}}
{{- $_ := set $byName $name (get $source "secretKeyRef" | default (hasKey . "value" | ternary (index . "value") "")) -}}
{{- end -}}
{{- $env = $byName -}}
{{- end -}}
{{- $given := dict -}}
{{- range $name, $value := $env -}}
{{- if kindIs "map" $value -}}
{{- if or (kindIs "bool" (get $value "name")) (kindIs "bool" (get $value "key")) -}}{{- fail (printf "The Secret's name and key at '%s.%s' must be text. Put them in quotes." $key $name) -}}{{- end -}}
{{- $_ := set $given $name (dict "name" (include "tuneyard.scalar" (get $value "name")) "key" (include "tuneyard.scalar" (get $value "key"))) -}}
{{- else if not (kindIs "invalid" $value) -}}
{{- if eq (toString $value) "(not shown)" -}}{{- fail (printf "The value '(not shown)' at '%s.%s' only stands for a hidden text. Set the text itself." $key $name) -}}{{- end -}}
{{- $_ := set $given $name (include "tuneyard.scalar" $value) -}}
{{- end -}}
{{- end -}}
{{- include "tuneyard.json" $given -}}
{{- end -}}

{{- /* Those of the user's variables that are texts and may be secrets, by name as JSON */ -}}
{{- define "tuneyard.hiddenEnv" -}}
{{- $shown := include "tuneyard.shownEnv" . | fromJsonArray -}}
{{- $hidden := dict -}}
{{- range $name, $value := include "tuneyard.givenEnv" . | fromJson -}}
{{- if and (kindIs "string" $value) (not (has $name $shown)) -}}{{- $_ := set $hidden $name $value -}}{{- end -}}
{{- end -}}
{{- include "tuneyard.json" $hidden -}}
{{- end -}}

{{- /* The name of the chart's own Secret, which holds those texts */ -}}
{{- define "tuneyard.envSecretName" -}}
{{- printf "%s-env-%s" (include "tuneyard.fullname" .) (include "tuneyard.hiddenEnv" . | sha256sum | trunc 10) -}}
{{- end -}}

{{- /* The user's variables by name as JSON, with a reference to that Secret in place of each text that may be a secret */ -}}
{{- define "tuneyard.publicEnv" -}}
{{- $public := include "tuneyard.givenEnv" . | fromJson -}}
{{- $secret := include "tuneyard.envSecretName" . -}}
{{- range $name, $_ := include "tuneyard.hiddenEnv" . | fromJson -}}
{{- $_ := set $public $name (dict "name" $secret "key" $name) -}}
{{- end -}}
{{- include "tuneyard.json" $public -}}
{{- end -}}

{{- /* A container's environment, in which the user's variables replace the chart's: list $ chart's-entries-as-YAML */ -}}
{{- define "tuneyard.env" -}}
{{- $root := index . 0 -}}
{{- $fixed := list "JOB_COMPLETION_INDEX" "TUNEYARD_CHART" "TUNEYARD_TERMINATION_LOG" "TUNEYARD_CA_FILE" "TUNEYARD_WAIT_SECONDS" "TUNEYARD_NODES" "TUNEYARD_NODE_SERVICE" "TUNEYARD_NODE_ADDRESS" "TUNEYARD_NODES_KEY" "TUNEYARD_API_KEY" -}}
{{- $own := dict -}}
{{- with include "tuneyard.envKey" $root -}}{{- $own = include "tuneyard.publicEnv" $root | fromJson -}}{{- end -}}
{{- range $name, $_ := $own -}}
{{- if has $name $fixed -}}{{- fail (printf "The chart sets the variable '%s' itself. Remove it from '%s'." $name (include "tuneyard.envKey" $root)) -}}{{- end -}}
{{- end -}}
{{- range index . 1 | fromYamlArray }}
{{- if not (hasKey $own .name) }}
- {{ include "tuneyard.json" . }}
{{- end }}
{{- end }}
{{- range $name, $value := $own }}
{{- if kindIs "map" $value }}
- {{ dict "name" $name "valueFrom" (dict "secretKeyRef" $value) | include "tuneyard.json" }}
{{- else }}
{{- /* Kubernetes expands $(NAME), and reads $$ as $ */}}
- {{ dict "name" $name "value" ($value | replace "$" "$$") | include "tuneyard.json" }}
{{- end }}
{{- end }}
{{- end -}}

{{- /* spec of a NetworkPolicy: list $ ingress-ports host-of-the-store */ -}}
{{- define "tuneyard.networkPolicy" -}}
{{- $root := index . 0 -}}
{{- $ports := index . 1 -}}
{{- $host := index . 2 -}}
{{- $v := include "tuneyard.resolved" $root | fromJson -}}
{{- $own := list (dict "podSelector" (dict "matchLabels" (include "tuneyard.selector" $root | fromJson))) | toJson -}}
{{- $outside := list -}}
{{- range $v.networkPolicy.egressPorts -}}
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
  - from: {{ $v.networkPolicy.ingressFrom | default (list (dict "podSelector" dict)) | include "tuneyard.json" }}
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
