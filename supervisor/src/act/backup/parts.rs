//! The stored form of a snapshot: one zstd stream, cut into parts, each with its SHA-256.
//!
//! A reader checks each part's hash at its last byte, so nothing that comes after a damaged part is believed.

use std::fs::File;
use std::io::{self, BufReader, Read, Write};
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

use super::manifest::{Manifest, Part, part_name};

/// Read from disk at once.
const READ_BYTES: usize = 256 * 1024;

/// Largest window accepted from a stored stream, as a power of two: 128 MiB, what level 19 uses and more.
const WINDOW_LOG_MAX: u32 = 27;

/// Writes a stream into parts of bounded size. A part is on disk before the next one begins.
pub(super) struct PartWriter {
    dir: PathBuf,
    part_bytes_max: u64,
    parts: Vec<Part>,
    open: Option<OpenPart>,
}

struct OpenPart {
    file: File,
    path: PathBuf,
    hash: Sha256,
    bytes: u64,
}

/// The cause with the file it happened on, since all passes through `io::Error`.
fn on_file(path: &Path) -> impl FnOnce(io::Error) -> io::Error {
    move |error| io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

impl PartWriter {
    /// Into the folder `dir`, which exists.
    pub(super) fn new(dir: &Path, part_bytes_max: u64) -> Self {
        Self { dir: dir.to_owned(), part_bytes_max, parts: Vec::new(), open: None }
    }

    /// Ends the last part and returns all of them.
    pub(super) fn finish(mut self) -> io::Result<Vec<Part>> {
        self.end_part()?;
        Ok(self.parts)
    }

    fn begin_part(&self) -> io::Result<OpenPart> {
        let path = self.dir.join(part_name(self.parts.len()));
        let file = File::create(&path).map_err(on_file(&path))?;
        Ok(OpenPart { file, path, hash: Sha256::new(), bytes: 0 })
    }

    fn end_part(&mut self) -> io::Result<()> {
        if let Some(part) = self.open.take() {
            part.file.sync_all().map_err(on_file(&part.path))?;
            let (name, sha256) =
                (part_name(self.parts.len()), format!("{:x}", part.hash.finalize()));
            self.parts.push(Part { name, bytes: part.bytes, sha256 });
        }
        Ok(())
    }
}

impl Write for PartWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if bytes.is_empty() {
            return Ok(0);
        }
        let mut part = match self.open.take() {
            Some(part) => part,
            None => self.begin_part()?,
        };
        let room = self.part_bytes_max - part.bytes;
        let take = usize::try_from(room).unwrap_or(usize::MAX).min(bytes.len());
        let written = part.file.write(&bytes[..take]).map_err(on_file(&part.path))?;
        part.hash.update(&bytes[..written]);
        part.bytes += written as u64;
        let full = part.bytes >= self.part_bytes_max;
        self.open = Some(part);
        if full {
            self.end_part()?;
        }
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A part being read: its file, what it should be, what it is so far, and the bytes missing.
type Reading = (File, Part, Sha256, u64);

/// Reads the parts of a backup as one stream.
struct PartReader {
    dir: PathBuf,
    parts: std::vec::IntoIter<Part>,
    open: Option<Reading>,
}

fn damaged(text: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text)
}

impl PartReader {
    /// The part to read from; `None` after the last one.
    fn next_open(&mut self) -> io::Result<Option<Reading>> {
        if let Some(open) = self.open.take() {
            return Ok(Some(open));
        }
        let Some(part) = self.parts.next() else { return Ok(None) };
        let path = self.dir.join(&part.name);
        let file = File::open(&path).map_err(on_file(&path))?;
        let bytes = file.metadata().map_err(on_file(&path))?.len();
        if bytes != part.bytes || bytes == 0 {
            let (name, expected) = (&part.name, part.bytes);
            return Err(damaged(format!("{name} has {bytes} bytes, expected {expected}")));
        }
        Ok(Some((file, part, Sha256::new(), bytes)))
    }
}

impl Read for PartReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Some((mut file, part, mut hash, mut left)) = self.next_open()? else { return Ok(0) };
        let room = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
        let count = file.read(&mut buffer[..room])?;
        if count == 0 && room > 0 {
            return Err(damaged(format!("{} ends early", part.name)));
        }
        hash.update(&buffer[..count]);
        left -= count as u64;
        if left > 0 {
            self.open = Some((file, part, hash, left));
        } else if format!("{:x}", hash.finalize()) != part.sha256 {
            return Err(damaged(format!("{} does not have its SHA-256 any more", part.name)));
        }
        Ok(count)
    }
}

/// The snapshot stored in `dir`, uncompressed.
pub(super) fn open_snapshot(dir: &Path, manifest: &Manifest) -> io::Result<impl Read + use<>> {
    let parts = manifest.parts.clone().into_iter();
    let reader = PartReader { dir: dir.to_owned(), parts, open: None };
    let mut decoder = zstd::Decoder::with_buffer(BufReader::with_capacity(READ_BYTES, reader))?;
    decoder.window_log_max(WINDOW_LOG_MAX)?;
    Ok(decoder)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_cut_at_their_size() {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = PartWriter::new(dir.path(), 10);
        writer.write_all(b"0123456789abcdefghijXYZ").unwrap();
        let parts = writer.finish().unwrap();
        let sizes: Vec<_> = parts.iter().map(|part| (part.name.as_str(), part.bytes)).collect();
        assert_eq!(sizes, [("part-000.zst", 10), ("part-001.zst", 10), ("part-002.zst", 3)]);
        assert_eq!(std::fs::read(dir.path().join("part-002.zst")).unwrap(), b"XYZ");
        let known = "84d89877f0d4041efb6bf91a16f0248f2fd573e6af05c19f96bedb9f882f7882";
        assert_eq!(parts[0].sha256, known);
    }

    #[test]
    fn a_full_disk_is_an_error_that_names_the_file() {
        let dir = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("/dev/full", dir.path().join("part-000.zst")).unwrap();
        let error = PartWriter::new(dir.path(), 10).write_all(b"0123").unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
        assert!(error.to_string().contains("part-000.zst: No space left"), "{error}");
    }
}
