//! The runbooks of `docs/runbooks`, built in, so that the link in a mail works when nothing else does.

use pulldown_cmark::{Event, Options, Parser, Tag, TagEnd, html};

include!(concat!(env!("OUT_DIR"), "/runbooks.rs"));

/// Names of all runbooks, sorted.
pub(super) fn names() -> impl Iterator<Item = &'static str> {
    RUNBOOKS.iter().map(|(name, _)| *name)
}

/// The runbook as HTML.
pub(super) fn html(name: &str) -> Option<String> {
    let index = RUNBOOKS.binary_search_by_key(&name, |(name, _)| name).ok()?;
    Some(render(RUNBOOKS[index].1))
}

/// Links between runbooks become links between pages; a link to another file of the project, which is not served, becomes its text.
fn render(markdown: &str) -> String {
    let mut is_dropped = false;
    let events =
        Parser::new_ext(markdown, Options::ENABLE_TABLES).filter_map(|event| match event {
            Event::Start(Tag::Link { link_type, dest_url, title, id }) => {
                let is_elsewhere = dest_url.contains("://") || dest_url.starts_with('#');
                let dest_url = match dest_url.strip_suffix(".md") {
                    _ if is_elsewhere => dest_url,
                    Some(name) if !name.contains('/') => format!("/runbooks/{name}").into(),
                    _ => {
                        is_dropped = true;
                        return None;
                    }
                };
                Some(Event::Start(Tag::Link { link_type, dest_url, title, id }))
            }
            Event::End(TagEnd::Link) if std::mem::take(&mut is_dropped) => None,
            event => Some(event),
        });
    let mut out = String::new();
    html::push_html(&mut out, events);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_runbook_renders_and_is_found_by_its_name() {
        assert!(names().any(|name| name == "NodeDown"));
        for name in names() {
            let html = html(name).unwrap();
            assert!(html.contains("<h1>"), "{name}");
            assert!(!html.contains(".md\""), "{name} links to a file");
        }
        assert_eq!(html("Nothing"), None);
        assert_eq!(html("../../Cargo"), None);
    }

    #[test]
    fn links_lead_to_what_is_served() {
        let text = "[a](NodeSlow.md) [b](../../alerts/nodes.yml) [c](https://example.org/x.md)";
        let html = render(text);
        let expected = "<p><a href=\"/runbooks/NodeSlow\">a</a> b <a href=\"https://example.org/x.md\">c</a></p>\n";
        assert_eq!(html, expected);
    }
}
