//! Lists the runbooks in `docs/runbooks` for the status page to serve: name and text, sorted by name.

use std::fmt::Write as _;
use std::path::Path;
use std::{env, fs, io};

fn main() -> io::Result<()> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/runbooks");
    println!("cargo::rerun-if-changed={}", folder.display());
    let mut files: Vec<_> = match fs::read_dir(&folder) {
        Ok(entries) => entries.map(|entry| Ok(entry?.path())).collect::<io::Result<_>>()?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(error) => return Err(error),
    };
    files.sort();
    let mut source = String::from("static RUNBOOKS: &[(&str, &str)] = &[\n");
    for file in files.iter().filter(|file| file.extension().is_some_and(|ext| ext == "md")) {
        let Some(name) = file.file_stem().and_then(|name| name.to_str()) else { continue };
        writeln!(source, "    ({name:?}, include_str!({:?})),", file.display().to_string())
            .map_err(io::Error::other)?;
    }
    source.push_str("];\n");
    let target = env::var_os("OUT_DIR").expect("cargo sets it for build scripts");
    fs::write(Path::new(&target).join("runbooks.rs"), source)
}
