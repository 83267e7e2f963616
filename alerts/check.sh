#!/bin/sh
# Checks everything in this folder: rule files and their tests by promtool, the Alertmanager sample by amtool, and that each alert
# carries its labels, annotations, runbook and tests. Needs promtool (Debian: prometheus) and amtool (Debian: prometheus-alertmanager).
set -eu

alerts=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
runbooks=$alerts/../docs/runbooks
faults=0

fault() {
    echo "fault: $*" >&2
    faults=$((faults + 1))
}

promtool check rules "$alerts"/*.yml
promtool test rules "$alerts"/tests/*_test.yml
amtool check-config "$alerts/alertmanager/alertmanager.yml"

names=$(sed -n 's/^ *- alert: *//p' "$alerts"/*.yml | sort)

for name in $(echo "$names" | uniq -d); do
    fault "$name is defined twice"
done

for name in $names; do
    # From the line of the alert to the next alert or the end of the file.
    rule=$(sed -n "/^ *- alert: $name\$/,/^ *- alert: /{/^ *- alert: $name\$/p;/^ *- alert: /!p}" "$alerts"/*.yml)
    for part in 'for: ' 'summary: ' 'description: ' "runbook_url: docs/runbooks/$name.md" 'severity: \(critical\|warning\|info\)'; do
        echo "$rule" | grep -q "^ *$part" || fault "$name lacks $part"
    done
    [ -f "$runbooks/$name.md" ] || fault "$name has no page $runbooks/$name.md"

    cases=$(grep -h -A1 "alertname: $name\$" "$alerts"/tests/*_test.yml || true)
    echo "$cases" | grep -q 'exp_alerts:$' || fault "$name has no test in which it fires"
    echo "$cases" | grep -q 'exp_alerts: \[\]$' || fault "$name has no test in which it does not fire"
done

for page in "$runbooks"/*.md; do
    name=$(basename "$page" .md)
    [ "$name" = README ] || echo "$names" | grep -qx "$name" || fault "the page $name.md is about no alert"
done

[ "$faults" -eq 0 ] || exit 1
echo "$(echo "$names" | wc -l) alerts: each with its labels, runbook and tests"
