//! Samples, medians and the last line.

use std::collections::BTreeMap;

use clap::ValueEnum;

use super::proxies::Kind;

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(crate) enum Measure {
    /// A request on a kept connection, as fast as it goes.
    Http,
    /// The same at a fixed rate.
    HttpRate,
    /// A new connection with one request.
    New,
    /// A WebSocket message there and back, as fast as it goes.
    Ws,
    /// The same at a fixed rate.
    WsRate,
    /// A WebSocket opened and closed.
    Handshake,
    /// A MiB of a TCP stream.
    Tcp,
    /// A new connection with a full TLS handshake and one request.
    Tls,
    /// A MiB of a stream in TLS towards the client.
    TlsBulk,
    /// An idle WebSocket.
    Idle,
}

impl Measure {
    pub(crate) const ALL: [Self; 10] = [
        Self::Http,
        Self::HttpRate,
        Self::New,
        Self::Ws,
        Self::WsRate,
        Self::Handshake,
        Self::Tcp,
        Self::Tls,
        Self::TlsBulk,
        Self::Idle,
    ];

    fn text(self) -> &'static str {
        match self {
            Self::Http => "HTTP request, kept connection [µs]",
            Self::HttpRate => "HTTP request, fixed rate [µs]",
            Self::New => "new connection + request [µs]",
            Self::Ws => "WebSocket round trip [µs]",
            Self::WsRate => "WebSocket round trip, fixed rate [µs]",
            Self::Handshake => "WebSocket handshake [µs]",
            Self::Tcp => "TCP relay [µs per MiB]",
            Self::Tls => "TLS handshake + request [µs]",
            Self::TlsBulk => "TLS relay [µs per MiB]",
            Self::Idle => "idle WebSocket [bytes]",
        }
    }
}

/// One measurement of one proxy.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sample {
    /// CPU microseconds, instructions, or bytes, per operation.
    pub(crate) value: f64,
    pub(crate) p99_ms: Option<f64>,
    pub(crate) errors: u64,
}

/// All samples.
#[derive(Debug, Default)]
pub(crate) struct Report {
    samples: BTreeMap<(Measure, Kind), Vec<Sample>>,
}

impl Report {
    pub(crate) fn add(&mut self, measure: Measure, kind: Kind, sample: Sample) {
        self.samples.entry((measure, kind)).or_default().push(sample);
    }

    /// The table, then the row.
    pub(crate) fn print(&self) {
        println!("{:40} {:>18} {:>24} {:>24}", "", "HAProxy", "ours", "nginx");
        for measure in Measure::ALL {
            let cell = |kind| match self.value(measure, kind) {
                None => "–".to_owned(),
                Some(value) if kind == Kind::Haproxy => format!("{value:.1}"),
                Some(value) => format!("{value:.1} ({})", ratio(self.ratio(measure, kind))),
            };
            let cells = [Kind::Haproxy, Kind::Ours, Kind::Nginx].map(cell);
            println!("{:40} {:>18} {:>24} {:>24}", measure.text(), cells[0], cells[1], cells[2]);
            let p99 = |kind| match self.p99(measure, kind) {
                Some(ms) => format!("{ms:.2}"),
                None => "–".to_owned(),
            };
            if self.p99(measure, Kind::Haproxy).is_some() {
                let cells = [Kind::Haproxy, Kind::Ours, Kind::Nginx].map(p99);
                println!("{:40} {:>18} {:>24} {:>24}", "  p99 [ms]", cells[0], cells[1], cells[2]);
            }
        }
        for kind in [Kind::Haproxy, Kind::Nginx] {
            println!("errors of {kind:?}: {}", self.errors(kind));
        }
        let ours = |measure| ratio(self.ratio(measure, Kind::Ours));
        println!(
            "bench-balancer http={} ws={} handshake={} idle_bytes={:.0} idle={} tcp={} tls={} errors={}",
            ours(Measure::Http),
            ours(Measure::Ws),
            ours(Measure::Handshake),
            self.value(Measure::Idle, Kind::Ours).unwrap_or(f64::NAN),
            ours(Measure::Idle),
            ours(Measure::Tcp),
            ours(Measure::Tls),
            self.errors(Kind::Ours),
        );
    }

    /// The row of instructions per operation.
    pub(crate) fn print_instructions(&self) {
        let cell = |measure: Measure| {
            let name = measure.to_possible_value()?.get_name().replace('-', "_");
            Some(format!(" {name}={:.0}", self.value(measure, Kind::Ours)?))
        };
        let cells: String = Measure::ALL.into_iter().filter_map(cell).collect();
        println!("bench-balancer-instructions{cells} errors={}", self.errors(Kind::Ours));
    }

    fn value(&self, measure: Measure, kind: Kind) -> Option<f64> {
        median(self.samples.get(&(measure, kind))?.iter().map(|sample| sample.value))
    }

    fn p99(&self, measure: Measure, kind: Kind) -> Option<f64> {
        median(self.samples.get(&(measure, kind))?.iter().filter_map(|sample| sample.p99_ms))
    }

    /// The median of the rounds' ratios: within a round the machine was in the same mood.
    fn ratio(&self, measure: Measure, kind: Kind) -> Option<f64> {
        let ours = self.samples.get(&(measure, kind))?;
        let theirs = self.samples.get(&(measure, Kind::Haproxy))?;
        median(ours.iter().zip(theirs).map(|(ours, theirs)| ours.value / theirs.value))
    }

    fn errors(&self, kind: Kind) -> u64 {
        let of_kind = self.samples.iter().filter(|((_, of), _)| *of == kind);
        of_kind.flat_map(|(_, samples)| samples).map(|sample| sample.errors).sum()
    }
}

fn ratio(value: Option<f64>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| format!("{value:.2}"))
}

fn median(values: impl Iterator<Item = f64>) -> Option<f64> {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied()
}
