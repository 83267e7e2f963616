//! Sentinel's replies and events as facts.

use std::collections::HashMap;
use std::time::Duration;

use holdfast_psync::Reply;

use crate::cluster::Address;
use crate::judge::sentinel::Seen;

/// The new primary in a `+switch-master` message about `name`: `<name> <old ip> <old port> <new ip> <new port>`.
pub(super) fn switched(message: &Reply, name: &str) -> Option<Address> {
    let Reply::Array(Some(parts)) = message else { return None };
    let [kind, _, payload] = &parts[..] else { return None };
    let payload = payload.text().filter(|_| kind.text().as_deref() == Some("message"))?;
    let words: Vec<_> = payload.split(' ').collect();
    let [subject, _, _, host, port] = words[..] else { return None };
    if subject == name { place(host, port) } else { None }
}

/// The reply to `SENTINEL MASTER`: names and values by turns.
pub(super) fn seen(reply: &Reply, no_quorum: Option<String>) -> Option<Seen> {
    let Reply::Array(Some(words)) = reply else { return None };
    let words: Vec<String> = words.iter().filter_map(Reply::text).collect();
    let fields: HashMap<&str, &str> =
        words.chunks_exact(2).map(|pair| (pair[0].as_str(), pair[1].as_str())).collect();
    let number = |name: &str| fields.get(name)?.parse::<u64>().ok();
    Some(Seen {
        primary: place(fields.get("ip")?, fields.get("port")?)?,
        config_epoch: number("config-epoch")?,
        down_after: Duration::from_millis(number("down-after-milliseconds")?),
        no_quorum,
    })
}

fn place(host: &str, port: &str) -> Option<Address> {
    let port = port.parse().ok().filter(|port| *port > 0)?;
    (!host.is_empty()).then(|| Address::new(host, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn array(words: &[&str]) -> Reply {
        let text = |word: &&str| Reply::Bulk(Some(word.as_bytes().to_vec().into()));
        Reply::Array(Some(words.iter().map(text).collect()))
    }

    #[test]
    fn a_switch_is_read_from_its_event() {
        let event = array(&["message", "+switch-master", "main 10.0.0.1 6379 10.0.0.2 6380"]);
        assert_eq!(switched(&event, "main"), Some(Address::new("10.0.0.2", 6380)));
        assert_eq!(switched(&event, "other"), None);
        assert_eq!(switched(&array(&["message", "+switch-master", "main 10.0.0.1"]), "main"), None);
        assert_eq!(switched(&array(&["subscribe", "+switch-master", "1"]), "1"), None);
        assert_eq!(switched(&Reply::Integer(1), "main"), None);
    }

    #[test]
    fn a_primary_is_read_from_its_fields() {
        let fields = [
            "name",
            "main",
            "ip",
            "10.0.0.1",
            "port",
            "6379",
            "flags",
            "master,failover_in_progress",
            "down-after-milliseconds",
            "5000",
            "config-epoch",
            "7",
            "quorum",
            "2",
            "parallel-syncs",
            "1",
        ];
        let found = seen(&array(&fields), None).unwrap();
        assert_eq!(found.primary, Address::new("10.0.0.1", 6379));
        assert_eq!(found.config_epoch, 7);
        assert_eq!(found.down_after, Duration::from_secs(5));
        assert_eq!(seen(&array(&fields[..6]), None), None);
    }
}
