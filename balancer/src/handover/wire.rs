//! How a process speaks with the one that follows it: a length, a [`Manifest`] in JSON, and a byte with each socket; one byte comes back.

use std::io::{self, IoSlice, IoSliceMut, Read as _, Write as _};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};

use super::{FORMAT, Manifest};

/// A thousand servers need some 200 KiB.
const MANIFEST_BYTES_MAX: u32 = 16 * 1_024 * 1_024;
/// The other process is on the same machine and has nothing else to do.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Goes with each socket, since no message is empty.
const SOCKET: u8 = b'S';
/// What a process says once it serves.
const READY: u8 = b'R';

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

/// Waits for the new process to say that it serves.
pub(super) fn await_ready(mut stream: &UnixStream, limit: Duration) -> io::Result<()> {
    stream.set_read_timeout(Some(limit))?;
    let mut byte = [0];
    stream.read_exact(&mut byte)?;
    if byte == [READY] { Ok(()) } else { Err(io::ErrorKind::InvalidData.into()) }
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
