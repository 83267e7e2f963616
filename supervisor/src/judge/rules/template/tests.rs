use holdfast_series::Labels;

use super::{QuerySample, Surroundings, Template};

fn found(query: &str) -> Result<Vec<QuerySample>, String> {
    let sample = |server: &str, value| QuerySample {
        labels: Labels::from_pairs([("__name__", "up"), ("server", server), ("__value__", "v")]),
        value,
    };
    match query {
        "up" => Ok(vec![sample("node-10", 1.0), sample("node-9", 0.0)]),
        "nothing" => Ok(Vec::new()),
        other => Err(format!("cannot evaluate {other}")),
    }
}

fn expand(text: &str) -> String {
    let labels = Labels::from_pairs([("server", "node-1"), ("le", "0.5"), ("host", "a.b.c:80")]);
    let surroundings = Surroundings {
        labels: &labels,
        value: 0.123_456,
        external_labels: &Labels::from_pairs([("cluster", "eu")]),
        external_url: "https://ops.example/holdfast",
        now_ms: 1_500_000_000_500,
        query: &found,
    };
    Template::parse(text)
        .map_or_else(|error| format!("fault: {error}"), |template| template.expand(&surroundings))
}

#[test]
fn labels_and_values_are_filled_in() {
    for (text, expected) in [
        ("plain", "plain"),
        ("", ""),
        ("{{ $labels.server }} is down", "node-1 is down"),
        ("{{$labels.server}}{{.Labels.nothing}}!", "node-1!"),
        ("a {{- $value -}} b", "a0.123456b"),
        ("a {{- $value }} b", "a0.123456 b"),
        ("{{ $value | humanizePercentage }}", "12.35%"),
        ("{{ humanizePercentage $value }}", "12.35%"),
        ("{{ .Value | printf \"%.2f\" }}s", "0.12s"),
        ("{{ printf \"%.1f%% of %s\" $value $labels.server }}", "0.1% of node-1"),
        ("{{ $value | printf `%s: %g` $labels.server }}", "node-1: 0.123456"),
        ("{{ $labels.le | humanizeDuration }}", "500ms"),
        ("{{ $value | humanize | toUpper }}", "123.5M"),
        ("{{ \"}} | x\" }}", "}} | x"),
        ("{{ $labels.server | title | printf \"%q\" }}", "\"Node-1\""),
        ("{{ 1500 | humanize }}", "1.5k"),
        ("{{ 1.5e3 }} {{ 7 }} {{ true }}", "1500 7 true"),
        ("{{ $externalLabels.cluster }}{{ .ExternalURL }}", "euhttps://ops.example/holdfast"),
        ("{{ externalURL }}{{ pathPrefix }}", "https://ops.example/holdfast/holdfast"),
        ("{{ $labels }}", "map[host:a.b.c:80 le:0.5 server:node-1]"),
        ("{{ humanizeTimestamp 1435065584.128 }}", "2015-06-23 13:19:44.128 +0000 UTC"),
        ("{{ now | humanizeTimestamp }}", "2017-07-14 02:40:00.5 +0000 UTC"),
        ("{{ (toTime 1435065584) }}", "2015-06-23 13:19:44 +0000 UTC"),
        ("{{ parseDuration \"1m30s\" }}", "90"),
        ("{{ stripPort $labels.host }} {{ stripDomain $labels.host }}", "a.b.c a:80"),
        ("{{ stripDomain \"10.0.0.1:80\" }} {{ stripPort \"[::1]:80\" }}", "10.0.0.1:80 ::1"),
        ("{{ reReplaceAll \"node-(.*)\" \"n$1\" $labels.server }}", "n1"),
        ("{{ match \"^node\" $labels.server }}", "true"),
        (
            "{{ graphLink \"a b\" }} {{ tableLink \"up\" }}",
            "/graph?g0.expr=a+b&g0.tab=0 /graph?g0.expr=up&g0.tab=1",
        ),
        ("{{ print 1 2 \"a\" 3 }}{{ println 1 \"b\" }}", "1 2a31 b\n"),
        ("{{ len $labels }} {{ len \"abc\" }} {{ index $labels \"le\" }}", "3 3 0.5"),
    ] {
        assert_eq!(expand(text), expected, "{text}");
    }
}

#[test]
fn conditions_loops_and_variables_work_as_in_go() {
    for (text, expected) in [
        ("{{ if $labels.server }}a{{ else }}b{{ end }}", "a"),
        ("{{ if $labels.x }}a{{ else if eq $labels.le \"0.5\" }}b{{ else }}c{{ end }}", "b"),
        ("{{ if gt $value 0.1 }}high{{ end }}", "high"),
        ("{{ if and (gt $value 0.1) (lt $value 0.2) (not false) }}mid{{ end }}", "mid"),
        ("{{ or $labels.x $labels.server \"z\" }}", "node-1"),
        ("{{ if ne $labels.le \"1\" }}x{{ end }}{{ eq 1 2 3 1 }}{{ le 1.0 1.0 }}", "xtruetrue"),
        ("{{ with $labels.server }}<{{ . }}>{{ else }}none{{ end }}", "<node-1>"),
        ("{{ with $labels.x }}<{{ . }}>{{ else }}none{{ end }}", "none"),
        ("{{ with $s := $labels.server }}{{ $s }}{{ end }}", "node-1"),
        (
            "{{ range query \"up\" }}{{ .Labels.server }}={{ .Value }} {{ end }}",
            "node-10=1 node-9=0 ",
        ),
        (
            "{{ range $i, $s := query \"up\" }}{{ $i }}:{{ $s | label \"server\" }} {{ end }}",
            "0:node-10 1:node-9 ",
        ),
        (
            "{{ range query \"up\" | sortByLabel \"server\" }}{{ label \"server\" . }} {{ end }}",
            "node-9 node-10 ",
        ),
        ("{{ range query \"nothing\" }}x{{ else }}none{{ end }}", "none"),
        (
            "{{ range $n, $v := $labels }}{{ $n }}={{ $v }},{{ end }}",
            "host=a.b.c:80,le=0.5,server=node-1,",
        ),
        (
            "{{ range query \"up\" }}{{ if eq .Value 0.0 }}{{ break }}{{ end }}{{ .Value }}{{ end }}",
            "1",
        ),
        (
            "{{ range query \"up\" }}{{ if .Value }}{{ continue }}{{ end }}{{ .Value }}{{ end }}",
            "0",
        ),
        ("{{ query \"up\" | first | value }}", "1"),
        ("{{ (query \"up\" | first).Labels.server }}", "node-10"),
        ("{{ query \"up\" | first | strvalue }}", "v"),
        ("{{ $x := 1 }}{{ if true }}{{ $x = 2 }}{{ end }}{{ $x }}", "2"),
        ("{{ $x := 1 }}{{ if true }}{{ $x := 2 }}{{ $x }}{{ end }}{{ $x }}", "21"),
        (
            "{{ define \"t\" }}[{{ .arg0 }}-{{ .arg1 }}]{{ end }}{{ template \"t\" (args 1 \"a\") }}",
            "[1-a]",
        ),
        (
            "{{ define \"t\" }}<{{ . }}>{{ end }}{{ tmpl \"t\" $labels.server | toUpper }}",
            "<NODE-1>",
        ),
        (
            "{{ range $i, $e := query \"up\" }}{{ with $i }}{{ $.Labels.le }}{{ end }}{{ end }}",
            "0.5",
        ),
    ] {
        assert_eq!(expand(text), expected, "{text}");
    }
}

#[test]
fn what_goes_wrong_later_becomes_part_of_the_text() {
    for (text, expected) in [
        (
            "x{{ query \"nothing\" | first }}",
            "error calling first: first() called on vector with no elements",
        ),
        ("{{ query \"bad\" }}", "error calling query: cannot evaluate bad"),
        ("{{ if gt $value 0 }}{{ end }}", "error calling gt: incompatible types for comparison"),
        ("{{ $value.Labels }}", "can't evaluate field Labels in type float64"),
        (
            "{{ toUpper $value }}",
            "error calling toUpper: wrong type for value; expected string; got float64",
        ),
        ("{{ humanize \"x\" }}", "error calling humanize: expected a number, found \"x\""),
        ("{{ template \"x\" }}", "template \"x\" not defined"),
        (
            "{{ define \"t\" }}{{ template \"t\" }}{{ end }}{{ template \"t\" }}",
            "more than 20 templates call each other",
        ),
    ] {
        assert_eq!(expand(text), format!("<error expanding template: {expected}>"), "{text}");
    }
    let doubled = "{{ $x := print $x $x }}".repeat(20);
    let long = expand(&format!("{{{{ $x := \"abcdefgh\" }}}}{doubled}{{{{ $x }}}}"));
    assert!(long.contains("longer than"), "{}", long.len());
}

#[test]
fn what_is_not_known_is_refused() {
    for (text, expected) in [
        ("{{ $value", "expected \"}}\" after \"{{ $value\""),
        ("{{ }}", "expected a value or a function in {{ }}"),
        ("{{ $value | }}", "expected a value or a function in {{ $value | }}"),
        ("{{ humanise $value }}", "function \"humanise\" is not known in {{ humanise $value }}"),
        ("{{ $foo }}", "undefined variable \"$foo\" in {{ $foo }}"),
        ("{{ $foo = 1 }}", "undefined variable \"$foo\" in {{ $foo = 1 }}"),
        ("{{ $labels.a-b }}", "expected a number, found -b in {{ $labels.a-b }}"),
        ("{{ humanize }}", "expected one argument of humanize, found 0 in {{ humanize }}"),
        ("{{ printf \"%f\" }}", "format \"%f\" takes 1 values, found 0 in {{ printf \"%f\" }}"),
        ("{{ if $value }}x", "expected {{ end }} of if in {{ if $value }}"),
        ("x{{ end }}", "{{ end }} without a block that it ends"),
        ("{{ else }}", "{{ else }} without a block that it belongs to"),
        ("{{ break }}", "break outside of a range in {{ break }}"),
        ("{{ if true }}{{ $y := 1 }}{{ end }}{{ $y }}", "undefined variable \"$y\" in {{ $y }}"),
        ("{{ (1 }}", "unclosed ( in {{ (1 }}"),
        ("{{ 1 ) }}", "unexpected ) in {{ 1 ) }}"),
        ("{{ \"x }}", "expected \"}}\" after \"{{ \"x }}\""),
        ("{{ /* x }}", "expected \"}}\" after \"{{ /* x }}\""),
    ] {
        assert_eq!(expand(text), format!("fault: {expected}"), "{text}");
    }
    let unordered = "expected a function before the arguments and after a bar";
    assert_eq!(expand("{{ 1 | 2 }}"), format!("fault: {unordered} in {{{{ 1 | 2 }}}}"));
    let deep = "{{ if true }}".repeat(60) + &"{{ end }}".repeat(60);
    assert_eq!(expand(&deep), "fault: blocks are nested deeper than 50 levels");
}
