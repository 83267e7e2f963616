//! redis-rs with its Sentinel client, writing all the time. Prints a line per attempt: when it ended (ns since 1970), and how.

use std::io::Write as _;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use redis::sentinel::{SentinelClient, SentinelServerType};
use redis::{Connection, RedisError};

fn say(how: &str) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("it is after 1970").as_nanos();
    let mut out = std::io::stdout().lock();
    // Whoever reads has gone, and so do we.
    if writeln!(out, "{now} {how}").and_then(|()| out.flush()).is_err() {
        std::process::exit(0);
    }
}

fn main() -> Result<(), RedisError> {
    let [host, port, name, key] = &std::env::args().skip(1).collect::<Vec<_>>()[..] else {
        panic!("host, port, name, key");
    };
    let sentinels = vec![format!("redis://{host}:{port}")];
    let mut client =
        SentinelClient::build(sentinels, name.clone(), None, SentinelServerType::Master)?;
    let mut connection: Option<Connection> = None;
    let limit = Some(Duration::from_millis(500));
    for number in 1_u64.. {
        let written =
            connection.take().map_or_else(|| client.get_connection(), Ok).and_then(|mut open| {
                open.set_read_timeout(limit)?;
                open.set_write_timeout(limit)?;
                redis::cmd("SET").arg(key).arg(number).exec(&mut open)?;
                Ok(open)
            });
        match written {
            Ok(open) => {
                connection = Some(open);
                say("ok");
                std::thread::sleep(Duration::from_millis(5));
            }
            Err(error) => {
                say(&format!("{:?}", error.kind()).replace(' ', "-"));
                std::thread::sleep(Duration::from_millis(100));
            }
        }
    }
    Ok(())
}
