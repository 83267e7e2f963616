//! Settings of nginx, as `holdfast-balancer import` reads them.

use holdfast_balancer::import::{self, Format};

/// Whatever comes of it is TOML, and every note points into the text.
pub fn run(input: &[u8]) {
    import(input, Format::Nginx);
}

pub(super) fn import(input: &[u8], format: Format) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let lines = 1..=text.lines().count().max(1);
    match import::import(text, format) {
        Ok(imported) => {
            let draft = imported.toml.parse::<toml::Table>();
            assert!(draft.is_ok(), "{draft:?}\n{}", imported.toml);
            assert!(imported.notes.iter().all(|note| lines.contains(&note.line)), "{imported:?}");
        }
        Err(note) => assert!(lines.contains(&note.line), "{note:?}"),
    }
}
