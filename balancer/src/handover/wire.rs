//! How a process speaks with the one that follows it: a length, a [`Manifest`] in JSON, and a byte with each socket. One byte comes back, and
//! from a process that cannot serve its reasons.

use std::io::{self, IoSlice, IoSliceMut, Read as _, Write as _};
use std::mem::MaybeUninit;
use std::net::Shutdown;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};

use super::{FORMAT, Manifest};

/// A thousand servers need some 300 KiB, as many bans as there may be some 11 MiB.
const MANIFEST_BYTES_MAX: u32 = 16 * 1_024 * 1_024;
/// The other process is on the same machine and has nothing else to do.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Goes with each socket, since no message is empty.
const SOCKET: u8 = b'S';
/// What a process says once it serves.
const READY: u8 = b'R';
/// What a process says that cannot, before its reasons.
const REFUSED: u8 = b'F';
/// The faults of a settings file with hundreds of them; what is beyond is cut.
const REASONS_BYTES_MAX: usize = 64 * 1_024;

/// Why a process cannot take over.
#[derive(Debug, thiserror::Error)]
pub enum HandoverError {
    /// Standard input is not what the process before has given.
    #[error("no process to take over from at standard input")]
    NoProcess(#[source] io::Error),
    /// It cannot be read.
    #[error("read what the process before hands over")]
    Read(#[source] io::Error),
    /// It cannot be understood.
    #[error("understand what the process before hands over")]
    Parse(#[source] serde_json::Error),
    /// It is of another version.
    #[error("the process before hands over in format {0}, {FORMAT} is known")]
    Format(u32),
    /// It is longer than anything sensible.
    #[error("the process before hands over {0} bytes, {MANIFEST_BYTES_MAX} are too many")]
    TooLong(u32),
    /// The service manager's sockets cannot be used.
    #[error("take the service manager's sockets")]
    Activation(#[source] io::Error),
}

/// Our end of the pair, if a process before us has put it there.
pub(super) fn standard_input() -> Result<UnixStream, HandoverError> {
    let open = || {
        let stream = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
        // Fails on whatever is no socket.
        stream.peer_addr()?;
        stream.set_read_timeout(Some(TIMEOUT))?;
        stream.set_write_timeout(Some(TIMEOUT))?;
        Ok(stream)
    };
    open().map_err(HandoverError::NoProcess)
}

/// Sends everything; returns when the other process has read nearly all of it.
pub(super) fn send(
    stream: &UnixStream,
    manifest: &Manifest,
    sockets: &[BorrowedFd<'_>],
) -> io::Result<()> {
    stream.set_write_timeout(Some(TIMEOUT))?;
    let text = serde_json::to_vec(manifest)?;
    let length = u32::try_from(text.len()).map_err(io::Error::other)?;
    let mut writer = stream;
    writer.write_all(&length.to_be_bytes())?;
    writer.write_all(&text)?;
    for socket in sockets {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let rights = [*socket];
        if !control.push(SendAncillaryMessage::ScmRights(&rights)) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        sendmsg(stream, &[IoSlice::new(&[SOCKET])], &mut control, SendFlags::NOSIGNAL)?;
    }
    Ok(())
}

/// Reads everything.
pub(super) fn receive(stream: &UnixStream) -> Result<(Manifest, Vec<OwnedFd>), HandoverError> {
    let mut reader = stream;
    let mut length = [0; 4];
    reader.read_exact(&mut length).map_err(HandoverError::Read)?;
    let length = u32::from_be_bytes(length);
    if length > MANIFEST_BYTES_MAX {
        return Err(HandoverError::TooLong(length));
    }
    let mut text = vec![0; usize::try_from(length).unwrap_or(0)];
    reader.read_exact(&mut text).map_err(HandoverError::Read)?;
    // First alone: the rest may have another shape.
    let value: serde_json::Value = serde_json::from_slice(&text).map_err(HandoverError::Parse)?;
    let format = value["format"].as_u64().and_then(|format| u32::try_from(format).ok());
    if format != Some(FORMAT) {
        return Err(HandoverError::Format(format.unwrap_or(0)));
    }
    let manifest: Manifest = serde_json::from_value(value).map_err(HandoverError::Parse)?;
    let sockets = manifest.sockets.iter().map(|_| receive_socket(stream));
    let sockets = sockets.collect::<io::Result<_>>().map_err(HandoverError::Read)?;
    Ok((manifest, sockets))
}

fn receive_socket(stream: &UnixStream) -> io::Result<OwnedFd> {
    let mut byte = [0];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    recvmsg(stream, &mut [IoSliceMut::new(&mut byte)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
    let socket = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut sockets) => sockets.next(),
        _ => None,
    });
    socket.ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
}

/// Tells the process before us that we serve.
pub(super) fn say_ready(mut stream: &UnixStream) -> io::Result<()> {
    stream.write_all(&[READY])
}

/// Tells the process before us why we do not.
pub(super) fn say_refused(mut stream: &UnixStream, reasons: &str) -> io::Result<()> {
    stream.write_all(&[REFUSED])?;
    stream.write_all(&reasons.as_bytes()[..reasons.floor_char_boundary(REASONS_BYTES_MAX)])?;
    stream.shutdown(Shutdown::Both)
}

/// What the new process has said.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// It serves.
    Ready,
    /// It does not, for these reasons.
    Refused(String),
}

/// Waits for the word of the new process.
pub(super) fn await_answer(mut stream: &UnixStream, limit: Duration) -> io::Result<Answer> {
    stream.set_read_timeout(Some(limit))?;
    let mut byte = [0];
    stream.read_exact(&mut byte)?;
    match byte[0] {
        READY => Ok(Answer::Ready),
        REFUSED => {
            let mut reasons = Vec::new();
            // It has not read what we sent, and the kernel says so after its last word.
            let _ = stream.take(REASONS_BYTES_MAX as u64).read_to_end(&mut reasons);
            Ok(Answer::Refused(String::from_utf8_lossy(&reasons).into_owned()))
        }
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;
    use crate::handover::State;

    #[test]
    fn sockets_and_state_arrive_as_they_were() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let listeners: Vec<_> =
            (0..300).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        let names = (0..300).map(|n| format!("listener-{n}"));
        let state = State { epoch: 7, ..State::default() };
        let manifest = Manifest { format: FORMAT, sockets: names.collect(), state };
        let receiver = std::thread::spawn(move || receive(&theirs).unwrap());
        let sockets: Vec<_> = listeners.iter().map(|listener| listener.as_fd()).collect();
        send(&ours, &manifest, &sockets).unwrap();
        let (arrived, sockets) = receiver.join().unwrap();
        assert_eq!((arrived.state.epoch, arrived.sockets.len()), (7, 300));
        // Who has connected to the one is accepted by the other.
        let client = TcpStream::connect(listeners[299].local_addr().unwrap()).unwrap();
        let same = TcpListener::from(sockets.into_iter().next_back().unwrap());
        assert_eq!(same.accept().unwrap().1, client.local_addr().unwrap());
    }

    #[test]
    fn the_new_process_says_whether_it_serves_and_why_not() {
        let answer = |say: &dyn Fn(&UnixStream) -> io::Result<()>| {
            let (ours, theirs) = UnixStream::pair().unwrap();
            // Much that was sent and never read must not drown the answer.
            (&ours).write_all(&[0; 10_000]).unwrap();
            say(&theirs).unwrap();
            drop(theirs);
            await_answer(&ours, TIMEOUT)
        };
        assert_eq!(answer(&say_ready).unwrap(), Answer::Ready);
        let reasons = "a.toml:1: wrong\na.toml:2: wrong, too";
        let refused = answer(&|stream| say_refused(stream, reasons)).unwrap();
        assert_eq!(refused, Answer::Refused(reasons.to_owned()));
        let long = "é".repeat(REASONS_BYTES_MAX);
        let Answer::Refused(cut) = answer(&|stream| say_refused(stream, &long)).unwrap() else {
            panic!("it serves")
        };
        assert!(long.starts_with(&cut) && cut.len() == REASONS_BYTES_MAX, "{}", cut.len());
        let other = answer(&|mut stream| stream.write_all(b"?")).unwrap_err();
        assert_eq!(other.kind(), io::ErrorKind::InvalidData);
        assert!(answer(&|_| Ok(())).is_err(), "an end without a word");
    }

    #[test]
    fn another_version_is_told_apart_from_a_broken_one() {
        for (text, expected) in [
            (r#"{"format":99,"other":1}"#, "the process before hands over in format 99"),
            (r#"{"format":1,"other":1}"#, "understand what the process before hands over"),
            ("{", "understand what the process before hands over"),
        ] {
            let (mut ours, theirs) = UnixStream::pair().unwrap();
            ours.write_all(&u32::try_from(text.len()).unwrap().to_be_bytes()).unwrap();
            ours.write_all(text.as_bytes()).unwrap();
            drop(ours);
            let error = receive(&theirs).unwrap_err().to_string();
            assert!(error.starts_with(expected), "{error}");
        }
    }
}
